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
            "The voxels are longest along z, 2 times as long as along the other axes; the median is used for every axis",
        ),
        (
            (46, 111, 115),
            (3.3, 1.0, 1.0),
            "thick (3.3 times the in-plane spacing, more than 3) but not few (an image has 2.41 times",
        ),
        (
            (20, 256, 250),
            (6.0, 1.0, 1.0),
            "few (an image has 12.5 times as many voxels in plane as slices), both above the threshold of 3",
        ),
        ((1, 256, 256), (1.0, 1.0, 1.0), "The images are 2D"),
    ],
)
def test_the_spacing_is_explained_by_the_thickness_and_the_number_of_slices(shape, spacing, said):
    assert said in sentences(shape, spacing)


def test_a_card_that_is_not_here_has_no_times():
    told = sentences((80, 90, 70), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "Its speed is unknown here, so no training times are predicted" in told
    assert "s here" not in told
    assert "s here" in sentences((80, 90, 70), (1.0, 1.0, 1.0))


def test_a_batch_that_the_data_set_limits_does_not_say_that_the_patch_did():
    assert "one more patch would exceed 5% of all voxels" in sentences((80, 90, 70), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "go to a larger patch first" in sentences((80, 90, 70), (1.0, 1.0, 1.0), cases=300)


def test_large_numbers_are_written_out():
    told = sentences((128, 128, 128), (1.0, 1.0, 1.0), machine=card(24e9))
    assert "e+0" not in told


def test_a_brief_training_mirrors_left_and_right_and_only_where_cases_are_drawn_often():
    told = sentences((36, 50, 35), (1.0, 1.0, 1.0))
    assert "mirrored along x only: a short training run" in told and "fewer than 75 times does not mirror" in told
    assert "does not mirror" not in sentences((36, 50, 35), (1.0, 1.0, 1.0), name="nnunet")
