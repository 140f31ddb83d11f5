"""The sentences of a plan: the numbers in them are those of the data, and each case has its own."""

from __future__ import annotations

import pytest

from autoseg.planning.plan import make_plan
from tests.planning.fingerprints import CPU, card, make_fingerprint, preset


def sentences(shapes, spacings, *, machine=CPU, cases=9, name="default") -> str:
    plan = make_plan(make_fingerprint([shapes] * cases, [spacings] * cases), preset=preset(name), machine=machine)
    return "\n".join([*plan.reasons, *(reason for c in plan.configurations for reason in c.reasons)])


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [
        ((80, 90, 70), (1.0, 1.0, 1.0), "No axis is coarser than the others."),
        (
            (80, 90, 70),
            (2.0, 1.0, 1.0),
            "Voxels are longest along z, 2 times as long as along the others; up to 3 times the median is taken",
        ),
        (
            (46, 111, 115),
            (3.3, 1.0, 1.0),
            "thick (3.3 times the spacing in plane, more than 3) but not few (in plane the image has 2.41 times",
        ),
        (
            (20, 256, 250),
            (6.0, 1.0, 1.0),
            "few (in plane the image has 12.5 times as many voxels as there are slices), both beyond 3 times",
        ),
        ((1, 256, 256), (1.0, 1.0, 1.0), "The images are planar"),
    ],
)
def test_the_spacing_is_explained_by_the_thickness_and_the_number_of_slices(shape, spacing, said):
    assert said in sentences(shape, spacing)


def test_a_card_that_is_not_here_has_no_times():
    told = sentences((80, 90, 70), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "how fast it is, is not known here, so no times are predicted" in told
    assert "s here" not in told


def test_a_batch_that_the_data_set_limits_does_not_say_that_the_patch_did():
    assert "even one patch more would be more than 5% of all voxels" in sentences((80, 90, 70), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "room goes to the patch first" in sentences((80, 90, 70), (1.0, 1.0, 1.0), cases=300)


def test_large_numbers_are_written_out():
    told = sentences((128, 128, 128), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "e+0" not in told


def test_a_brief_training_mirrors_left_and_right_and_only_where_cases_are_drawn_often():
    told = sentences((36, 50, 35), (1.0, 1.0, 1.0))
    assert "mirrored along x only: a brief training" in told and "draws each case fewer than 75 times mirrors none" in told
    assert "mirrors none" not in sentences((36, 50, 35), (1.0, 1.0, 1.0), name="nnunet")
