"""The tiled copy against numpy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoseg.images.contiguous import contiguous


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_turned_view_becomes_contiguous_without_a_changed_voxel(axes, kind) -> None:
    stored = np.arange(2 * 67 * 130 * 33, dtype=np.uint32).reshape(2, 67, 130, 33).astype(kind)
    view = stored.transpose(0, *(1 + axis for axis in axes))[:, ::-1, :, ::-1]
    copy = contiguous(view)
    assert copy.flags.c_contiguous and copy.flags.writeable and copy.dtype == kind
    assert np.array_equal(copy, view)


def test_an_array_that_lies_right_is_not_copied() -> None:
    array = np.zeros((1, 70, 80, 90), np.int16)
    assert contiguous(array) is array
    frozen = array.copy()
    frozen.flags.writeable = False
    assert contiguous(frozen).flags.writeable


def test_single_slices_along_any_axis_are_turned_too() -> None:
    for shape in ((1, 700, 800), (700, 1, 800), (700, 800, 1)):
        array = np.arange(560000).reshape(1, *shape)
        for axes in itertools.permutations(range(3)):
            view = array.transpose(0, *(1 + axis for axis in axes))
            assert np.array_equal(contiguous(view), np.ascontiguousarray(view))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_sparse_label_map_is_turned_without_a_changed_voxel(axes) -> None:
    rng = np.random.default_rng(0)
    for corners in ([], [(0, 0, 0)], [(66, 129, 39)], [(5, 20, 30), (30, 60, 31)]):
        stored = np.zeros((1, 67, 130, 40), np.uint8)
        for corner in corners:
            stored[(0, *corner)] = rng.integers(1, 256)
        for flips in itertools.product((1, -1), repeat=3):
            view = stored.transpose(0, *(1 + axis for axis in axes))[:, :: flips[0], :: flips[1], :: flips[2]]
            assert np.array_equal(contiguous(view), view)
