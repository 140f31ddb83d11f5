"""Hand edits of a plan: good ones pass, each bad one is named with its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoseg.errors import NotEnough, SettingsError
from autoseg.planning.plan import make_plan
from autoseg.planning.validation import validate_plan
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
        ({"patch_size": (16, 56, 40)}, "the smallest feature map has 2 voxels.*make the patch 32"),
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
    import re

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
    assert "8.0 GB" in str(error.value) and "batch 400" in str(error.value)
