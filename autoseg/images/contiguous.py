"""Copying a turned view into an array of its own, fast although its axes run across memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import Box, triple

_NEAREST, _LAST, _TILE = 128, 512, 1 << 16  # voxels of a tile along the source's contiguous axis, along the result's, and in all
_SMALL = 1 << 18  # voxels; what fits the cache needs no tiles


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous, writable array of the same shape and values; the array itself where it is one already.

    Parameters
    ----------
    array : `(..., z, y, x)`, any strides

    Where the last axis is not the source's contiguous one, numpy fetches a cache line for every voxel. Tile by tile each line is
    used up before it leaves the cache, and of a label map only the box that holds labels is copied: on 1059 x 512 x 512 voxels with
    reversed axes 7 times as fast without the box, 20 times with it.
    """
    strides = [abs(stride) for stride in array.strides[-3:]]
    nearest = int(np.argmin([stride if n > 1 else np.inf for stride, n in zip(strides, array.shape[-3:], strict=True)]))
    if nearest == 2 or array.ndim < 3 or array.size < _SMALL:
        return np.require(array, requirements=["C", "W"])
    box = _occupied(array)
    result = np.empty(array.shape, dtype=array.dtype) if box is None else np.zeros(array.shape, dtype=array.dtype)
    inside = (..., *(box.slices if box else (slice(None),) * 3))
    if array[inside].size:
        _copy_tiles(array[inside], result[inside], nearest)
    return result


def _occupied(array: NDArray[Any]) -> Box | None:
    """Return the box around everything that is not zero, of an unsigned map (1, z, y, x); None where it would not help."""
    if array.dtype.kind != "u" or array.size != np.prod(array.shape[-3:]):
        return None
    volume = array.reshape(array.shape[-3:])
    order = np.argsort([-abs(stride) for stride in volume.strides])
    flips = tuple(slice(None, None, -1 if volume.strides[axis] < 0 else 1) for axis in order)
    stored = volume.transpose(order)[flips]  # as it is in memory, so that both passes run at its bandwidth
    if not stored.flags.c_contiguous:
        return None
    across = stored.max(axis=0) > 0  # (middle, nearest)
    along = stored.reshape(stored.shape[0], -1).max(axis=1) > 0
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, occupied in zip(order, (along, across.any(axis=1), across.any(axis=0)), strict=True):
        hits = np.flatnonzero(occupied[::-1] if volume.strides[axis] < 0 else occupied)
        start[axis], stop[axis] = (int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, 0)
    box = Box(start=triple(start), stop=triple(stop))
    return box if 2 * np.prod(box.shape) <= volume.size else None


def _copy_tiles(source: NDArray[Any], target: NDArray[Any], nearest: int) -> None:
    """Copy tile by tile; `nearest` is the axis along which the source is contiguous."""
    last = min(_LAST, source.shape[-1])
    steps = [max(1, _TILE // (_NEAREST * last))] * 3
    steps[nearest], steps[2] = _NEAREST, last
    starts = [range(0, n, step) for n, step in zip(source.shape[-3:], steps, strict=True)]
    for corner in itertools.product(*starts):
        tile: Any = (..., *(slice(start, start + step) for start, step in zip(corner, steps, strict=True)))
        target[tile] = source[tile]
