"""Hand edits of a plan: good ones pass, each bad one is named with its figures."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from autoseg.errors import NotEnough, SettingsError
from autoseg.labels import make_labels
from autoseg.planning.plan import make_plan
from autoseg.planning.validation import check_memory, validate_plan
from tests.planning.fingerprints import CPU, card, make_fingerprint, preset

PLAN = make_plan(make_fingerprint([(36, 50, 35)] * 20, [(1.0, 1.0, 1.0)] * 20), preset=preset(), machine=CPU)
FULL = PLAN.configuration("3d_fullres")


def edited(**changes):
    others = tuple(c for c in PLAN.configurations if c.name != "3d_fullres")
    return replace(PLAN, configurations=(*others, replace(FULL, **changes)))


def test_a_larger_batch_and_a_patch_that_divides_are_fine():
    validate_plan(edited(batch_size=5, patch_size=(48, 64, 32)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": (42, 56, 40)}, "42 is not divisible by 8.*; 40 is"),
        ({"patch_size": (8, 8, 8)}, "the smallest feature map is a single voxel"),
        ({"batch_size": 0}, "at least 1"),
        ({"patch_size": (40.5, 56, 40)}, "whole numbers"),
        ({"features_per_stage": (16, 32, 64)}, "features_per_stage has 3 entries, 4 are needed"),
        ({"normalization": ("zscore", "zscore")}, "normalization has 2 entries, 1 are needed"),
        ({"normalization": ("zsocre",)}, "'zsocre' is unknown"),
        ({"network": "transformer"}, "'transformer' is unknown"),
        ({"strides": ((2, 2, 2), *FULL.strides[1:])}, "the first stride"),
        ({"kernel_sizes": ((2, 3, 3), *FULL.kernel_sizes[1:])}, "odd"),
        ({"spacing": (1.0, -1.0, 1.0)}, "positive"),
        ({"previous_stage": "3d_lowres"}, "follows '3d_lowres', which is not planned"),
    ],
)
def test_each_bad_edit_is_named(changes, said):
    with pytest.raises(SettingsError) as error:
        validate_plan(edited(**changes))
    assert error.match("cannot be used")
    assert re.search(said, str(error.value), re.DOTALL), str(error.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(SettingsError) as error:
        validate_plan(replace(edited(patch_size=(42, 56, 41)), axis_order=(0, 0, 1)))
    assert all(text in str(error.value) for text in ("42 is not", "41 is not", "axis_order"))


def test_a_batch_beyond_the_memory_is_an_error_with_figures():
    plan = edited(batch_size=400)
    validate_plan(plan, machine=card(80e9))
    with pytest.raises(NotEnough, match="takes more memory") as error:
        validate_plan(plan, machine=card(8e9))
    assert "8 GB" in str(error.value) and "batch 400" in str(error.value)


def test_memory_is_asked_for_the_named_configurations_alone():
    plan = edited(batch_size=400)
    check_memory(plan, ["2d"], machine=card(8e9))
    with pytest.raises(NotEnough, match="training 3d_fullres takes more memory"):
        check_memory(plan, ["2d", "3d_fullres"], machine=card(8e9))


def with_cascade(**changes):
    low = replace(FULL, name="3d_lowres", spacing=(2.0, 2.0, 2.0))
    cascade = replace(FULL, name="3d_cascade", previous_stage="3d_lowres", batch_size=1)
    return replace(PLAN, configurations=(low, FULL, replace(cascade, **changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spacing": (1.0, 1.0, 1.5)}, r"3d_cascade: spacing \[1.0, 1.0, 1.5\] differs from that of 3d_fullres"),
        ({"normalization": ("ct",)}, r"3d_cascade: normalization \['ct'\] differs"),
    ],
)
def test_the_cascade_keeps_to_the_arrays_of_the_full_resolution(changes, said):
    validate_plan(with_cascade())
    with pytest.raises(SettingsError, match=said):
        validate_plan(with_cascade(**changes))


PAIRED = make_labels({"background": 0, "left": 1, "right": 2}, pairs=(("left", "right"),))


def mirrored(labels=PAIRED, **changes):
    return replace(PLAN, labels=labels, **{"axis_order": (2, 0, 1), "mirror_axes": (0, 1, 2), "swap_axis": 0, **changes})


def test_a_flip_that_swaps_left_and_right_or_is_not_made_is_fine():
    validate_plan(mirrored())
    validate_plan(mirrored(mirror_axes=(1, 2), swap_axis=None))
    validate_plan(mirrored(swap_axis=None, labels=PLAN.labels))
    planar = tuple(c for c in PLAN.configurations if c.planar)
    validate_plan(mirrored(swap_axis=None, configurations=planar))  # left and right lie across the slices


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"swap_axis": None}, "leaves left/right as they were: make swap_axis 0, or take 0 out of mirror_axes"),
        ({"swap_axis": None, "axis_order": (0, 1, 2)}, "make swap_axis 2"),
        ({"swap_axis": 2}, "swap_axis 2 swaps left/right in a flip that does not: left and right lie along axis 0"),
    ],
)
def test_a_flip_that_mixes_left_and_right_labels_is_refused(changes, said):
    with pytest.raises(SettingsError, match=said):
        validate_plan(mirrored(**changes))


def test_every_channel_needs_its_intensities():
    with pytest.raises(SettingsError, match="intensities has 0 entries, one per channel is needed: 1"):
        validate_plan(replace(PLAN, intensities=()))


def test_the_shortest_edge_is_the_presets_alone():
    """A preset that halves down to two voxels plans something that can be trained."""
    small = make_fingerprint([(12, 16, 12)] * 20, [(1.0, 1.0, 1.0)] * 20)
    plan = make_plan(small, preset=preset("default", "topology.min_edge=2"), machine=CPU)
    c = plan.configuration("3d_fullres")
    assert min(edge // math.prod(stride[axis] for stride in c.strides) for axis, edge in enumerate(c.patch_size)) < 4
    validate_plan(plan)
