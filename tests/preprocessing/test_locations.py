"""Voxels chosen for foreground patches are the reference's, in its order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.labels import make_labels
from autoseg.preprocessing.locations import ANNOTATED, find_locations, wanted_keys


def test_the_voxels_are_those_of_the_reference(golden: Path) -> None:
    section = json.loads((golden / "golden-numerics.json").read_text())["class_locations"]
    seg = np.array(section["seg"])[0]
    keys = {1: (1,), 2: (2,), 3: (1, 3), ANNOTATED: (0, 1, 2, 3)}  # the reference's (-1, 0, 1, 2, 3): -1 is background outside
    found = find_locations(
        np.where(seg == -1, 0, seg),
        keys,
        outside=seg == -1,
        fewest=section["min_num_samples"],
        share=section["min_percent_coverage"],
    )
    for voxels, expected in zip(found.values(), section["result"].values(), strict=True):
        np.testing.assert_array_equal(voxels, np.array(expected)[:, 1:])


def test_keys_are_classes_or_regions_and_what_was_annotated() -> None:
    values = {"background": 0, "edema": 1, "core": 2, "enhancing": 4}
    assert wanted_keys(make_labels(values)) == {1: (1,), 2: (2,), 3: (3,)}
    regions = {"whole": ((1, 2, 4), 1), "inner": ((2, 4), 2), "active": ((4,), 4)}
    assert wanted_keys(make_labels(values, regions=regions)) == {1: (1, 2, 3), 2: (2, 3), 3: (3,)}
    assert wanted_keys(make_labels(values, ignore=9))[ANNOTATED] == (0, 1, 2, 3)


@pytest.mark.parametrize("labels", [3, 300])
def test_every_voxel_is_of_its_key_none_comes_twice_and_enough_are_kept(labels: int) -> None:
    classes = np.random.default_rng(0).integers(0, labels, size=(21, 19, 23))
    keys = {1: (1,), 2: (2, 1), 7: (labels + 5,), ANNOTATED: (0, 2)}
    found = find_locations(classes, keys, fewest=7, share=0.05)
    assert found[7].shape == (0, 3)
    for key in (1, 2, ANNOTATED):
        total = int(np.isin(classes, keys[key]).sum())
        assert len(found[key]) == max(min(7, total), int(np.ceil(0.05 * total))) > 0
        assert np.isin(classes[tuple(found[key].T)], keys[key]).all()
        assert len(np.unique(found[key], axis=0)) == len(found[key])
        assert found[key].dtype == np.uint16


def test_a_case_without_foreground_has_no_voxels() -> None:
    assert {key: len(v) for key, v in find_locations(np.zeros((3, 4, 5), dtype=np.uint8), {1: (1,), 2: (2,)}).items()} == {1: 0, 2: 0}
