"""Holes, closing and opening of a mask on a grid with unequal spacings: distances are mm.

A mask is given in the smallest box around it, which is all that these need to see. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import Shape, Spacing, triple

Mask = NDArray[np.bool_]
Sides = Sequence[tuple[bool, bool]]  # of each axis: whether the box touches the first and the last voxel of the scan

WITHIN: Sides = ((False, False),) * 3  # the box touches no end of the scan
_FEW = 500  # voxels of a ball up to which it is moved over the mask; with more, distances are computed
_SLACK = 1 + 1e-6  # a voxel at the very radius belongs to the ball, whatever rounding says


def fill_holes(mask: Mask, *, flat: Sequence[bool] = (False, False, False)) -> Mask:
    """Return a mask with what it encloses on all sides, by faces.

    Parameters
    ----------
    mask : (z, y, x), in its box
    flat : of each axis, whether the scan has a single voxel along it: holes are then looked for in the other axes
    """
    around = [(0, 0) if thin else (1, 1) for thin in flat]
    outside, _ = ndimage.label(np.pad(~mask, around, constant_values=True))
    inner = outside[tuple(slice(before, before + n) for (before, _), n in zip(around, mask.shape, strict=True))]
    return np.asarray(inner != outside[0, 0, 0]) if not all(flat) else mask


def closed(mask: Mask, radius: float, spacing: Spacing, *, flat: Sequence[bool] = (False, False, False), sides: Sides = WITHIN) -> Mask:
    """Return the morphological closing of a mask with a ball: gaps into which the ball does not fit are filled.

    Parameters
    ----------
    mask : (z, y, x), in its box, which the closing does not leave
    radius : mm
    spacing : (z, y, x), mm per voxel
    flat : as for `fill_holes`
    sides : where the scan ends; there the structure is taken to go on as it is
    """
    reach = _reach(radius, spacing, flat)
    grown = _dilated(_padded(mask, reach, sides), radius, spacing, reach)
    return _cut(~_dilated(~grown, radius, spacing, reach), reach, mask.shape)


def opened(mask: Mask, radius: float, spacing: Spacing, *, flat: Sequence[bool] = (False, False, False), sides: Sides = WITHIN) -> Mask:
    """Return the morphological opening of a mask with a ball: parts into which the ball does not fit are removed.

    Parameters are those of `closed`: a structure that the scan cuts off keeps its edges.
    """
    reach = _reach(radius, spacing, flat)
    kept = ~_dilated(~_padded(mask, reach, sides), radius, spacing, reach)
    return _cut(_dilated(kept, radius, spacing, reach), reach, mask.shape)


def _padded(mask: Mask, reach: Shape, sides: Sides) -> Mask:
    """Return a mask with what is around it, as far as two balls reach: nothing, or where the scan ends the mask continued."""
    for axis, (n, ends) in enumerate(zip(reach, sides, strict=True)):
        for place, ends_here in enumerate(ends):
            width = [(0, 0)] * 3
            width[axis] = (2 * n, 0) if place == 0 else (0, 2 * n)
            mask = np.pad(mask, width, mode="edge") if ends_here else np.pad(mask, width)
    return mask


def _reach(radius: float, spacing: Spacing, flat: Sequence[bool]) -> Shape:
    """Return how many voxels the ball reaches along each axis."""
    return triple(0 if thin else int(radius * _SLACK / mm) for mm, thin in zip(spacing, flat, strict=True))


def _dilated(mask: Mask, radius: float, spacing: Spacing, reach: Shape) -> Mask:
    """Return all voxels within the radius of a mask."""
    offsets = np.meshgrid(*(np.arange(-n, n + 1) * mm for n, mm in zip(reach, spacing, strict=True)), indexing="ij")
    ball = sum(offset**2 for offset in offsets) <= (radius * _SLACK) ** 2
    if np.count_nonzero(ball) <= _FEW:
        return np.asarray(ndimage.binary_dilation(mask, ball))
    if not mask.any():
        return mask
    apart = [mm if n else 1e3 * radius for n, mm in zip(reach, spacing, strict=True)]  # no way along an axis that the ball does not reach
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=apart) <= radius * _SLACK)


def _cut(mask: Mask, reach: Shape, shape: Sequence[int]) -> Mask:
    return mask[tuple(slice(2 * margin, 2 * margin + n) for margin, n in zip(reach, shape, strict=True))]
