"""Crop to what is not zero, and what becomes of background outside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from autoseg.preprocessing.crop import MASKED_OUT, crop, mark_outside, split_outside


def test_box_and_marks_are_those_of_the_reference(golden: Path) -> None:
    section = json.loads((golden / "golden-numerics.json").read_text())["crop"]
    cropped, mask, box = crop(np.array(section["image"]))
    assert [list(pair) for pair in zip(box.start, box.stop, strict=True)] == section["bbox"]
    assert cropped.shape[1:] == box.shape == mask.shape
    seg = np.array(section["seg"])[0][box.slices]
    np.testing.assert_array_equal(mark_outside(seg, mask), np.array(section["seg_cropped"])[0])


def test_an_image_of_zeros_is_kept_whole() -> None:
    _, mask, box = crop(np.zeros((1, 3, 4, 5)))
    assert box.start == (0, 0, 0) and box.stop == (3, 4, 5) and not mask.any()


def test_marks_come_apart_again_and_foreground_outside_stays() -> None:
    classes = np.array([[[0, 1, 0, 300]]], dtype=np.uint16)
    mask = np.array([[[True, True, False, False]]])
    marked = mark_outside(classes, mask)
    assert marked.ravel().tolist() == [0, 1, MASKED_OUT, 300]
    again, inside = split_outside(marked)
    assert again.ravel().tolist() == [0, 1, 0, 300] and again.dtype == np.uint16
    assert inside.ravel().tolist() == [True, True, False, True]


def test_few_classes_take_one_byte() -> None:
    again, _ = split_outside(mark_outside(np.array([[[0, 255]]]), np.ones((1, 1, 2), dtype=bool)))
    assert again.dtype == np.uint8 and again.ravel().tolist() == [0, 255]
