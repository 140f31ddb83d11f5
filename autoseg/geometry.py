"""Pure arithmetic on shapes, spacings, affines, axis orders and bounding boxes. numpy only, no files.

The one convention: arrays are `(z, y, x)`, an affine maps the voxel index `(z, y, x, 1)` to the world `(x, y, z, 1)`
in mm, RAS+. *Canonical* is the orientation in which z runs to Superior, y to Anterior, x to Right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError

Spacing = tuple[float, float, float]  # mm per voxel, (z, y, x)
Shape = tuple[int, int, int]  # voxels, (z, y, x)
Affine = NDArray[np.float64]  # 4 x 4, (z, y, x, 1) -> world (x, y, z, 1), mm, RAS+
Axes = tuple[int, int, int]  # a permutation of (0, 1, 2)

T = TypeVar("T")


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return three values, one per axis, as a tuple of that type."""
    first, second, third = values
    return first, second, third


@dataclass(frozen=True, kw_only=True)
class Box:
    """A half-open box of voxels: `start` belongs to it, `stop` does not."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        return triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into an array `(z, y, x)`."""
        return triple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How a stored array turns into the canonical one: axes are permuted by `axes`, then those in `flips` are reversed.

    `axes[i]` is the stored axis that becomes canonical axis i; `flips[i]` says whether canonical axis i is then reversed.
    """

    axes: Axes
    flips: tuple[bool, bool, bool]


def spacing_of(affine: Affine) -> Spacing:
    """Lengths of the affine's columns: mm per voxel along each array axis.

    >>> spacing_of(np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]))
    (3.0, 0.8, 0.8)
    """
    lengths = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return triple(float(np.round(length, 9)) for length in lengths)


def affine_from_spacing(spacing: Sequence[float]) -> Affine:
    """The canonical affine with its origin at zero."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[3, 3] = 1
    return affine


def orientation_of(affine: Affine) -> Orientation:
    """The permutation and flips that bring an array with this affine nearest to the canonical orientation.

    The nearest is the assignment of array axes to world axes with the largest sum of absolute direction cosines, so it is
    the same whichever way the array is stored.

    Raises
    ------
    GeometryError : a column of the affine is zero or not finite
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.all(np.isfinite(columns)) or np.any(lengths == 0):
        raise GeometryError(
            "spacing must be positive and finite",
            found=f"spacing {tuple(lengths.tolist())} mm along the stored axes",
            expected="three positive lengths",
            fix="correct the affine in the file's header",
        )
    cosines = columns / lengths
    world_of_canonical = (2, 1, 0)  # canonical z is world axis 2 (S), y is 1 (A), x is 0 (R)
    best: tuple[float, Axes] | None = None
    for axes in itertools.permutations(range(3)):
        score = float(sum(abs(cosines[world, axis]) for world, axis in zip(world_of_canonical, axes, strict=True)))
        if best is None or score > best[0] + 1e-6:
            best = (score, triple(axes))
    assert best is not None
    flips = triple(bool(cosines[world, axis] < 0) for world, axis in zip(world_of_canonical, best[1], strict=True))
    return Orientation(axes=best[1], flips=flips)


def reorient(array: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Return a view of `array` `(..., z, y, x)` as stored, turned to canonical."""
    lead = array.ndim - 3
    turned = array.transpose(*range(lead), *(lead + axis for axis in orientation.axes))
    steps = (slice(None),) * lead + tuple(slice(None, None, -1) if flip else slice(None) for flip in orientation.flips)
    return turned[steps]


def undo_reorient(array: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Return a view of the canonical `array` `(..., z, y, x)`, turned back to how it was stored: exact inverse of `reorient`."""
    lead = array.ndim - 3
    steps = (slice(None),) * lead + tuple(slice(None, None, -1) if flip else slice(None) for flip in orientation.flips)
    return array[steps].transpose(*range(lead), *(lead + axis for axis in inverse_axes(orientation.axes)))


def reoriented_affine(affine: Affine, shape: Sequence[int], orientation: Orientation) -> Affine:
    """The affine of the canonical array, from that of the array as stored with `shape` voxels."""
    canonical_shape = [shape[axis] for axis in orientation.axes]
    turn = np.zeros((4, 4))  # canonical index -> stored index
    turn[3, 3] = 1
    for canonical, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        turn[axis, canonical] = -1 if flip else 1
        turn[axis, 3] = canonical_shape[canonical] - 1 if flip else 0
    return np.asarray(affine, dtype=np.float64) @ turn


def inverse_axes(axes: Sequence[int]) -> Axes:
    """The permutation that undoes `axes`.

    >>> inverse_axes((2, 0, 1))
    (1, 2, 0)
    """
    return triple(int(i) for i in np.argsort(axes))


def permuted(values: Sequence[T], axes: Sequence[int]) -> tuple[T, T, T]:
    """Return `values` in the order of `axes`: the shape or spacing of an array transposed by `axes`.

    >>> permuted((40, 50, 60), (2, 0, 1))
    (60, 40, 50)
    """
    return triple(values[axis] for axis in axes)


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Voxels along each axis once an array is resampled from `spacing` to `target`.

    Parameters
    ----------
    shape : (z, y, x), voxels, of the array as it is
    spacing : (z, y, x), mm per voxel, of the array as it is
    target : (z, y, x), mm per voxel, wanted

    Returns
    -------
    (z, y, x), voxels, each at least 1; otherwise the extent is kept to within half a target voxel.

    Raises
    ------
    GeometryError : the three differ in number of axes, or a spacing is not positive.

    >>> resampled_shape((60, 512, 512), (5.0, 0.8, 0.8), (2.5, 0.8, 0.8))
    (120, 512, 512)

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; order of operations as in nnU-Net 2.8.1.
    """
    if not len(shape) == len(spacing) == len(target):
        raise GeometryError(
            "shape, spacing and target must have the same number of axes",
            found=f"shape {tuple(shape)}, spacing {tuple(spacing)}, target {tuple(target)}",
            expected="three axes each",
            fix="give one number per axis",
        )
    if min(*spacing, *target) <= 0:
        raise GeometryError(
            "spacing must be positive",
            found=f"{tuple(spacing)} mm, target {tuple(target)} mm",
            expected="three positive lengths each",
            fix="correct the affine in the file's header, or the target spacing in the plan",
        )
    return triple(max(1, round(old / new * n)) for old, new, n in zip(spacing, target, shape, strict=True))


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds every true voxel of `mask` `(z, y, x)`; the whole array where none is true.

    Source: crop to non-zero of nnU-Net 2.8.1.
    """
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if hits.size == 0:
            return Box(start=(0, 0, 0), stop=mask.shape)
        start.append(int(hits[0]))
        stop.append(int(hits[-1]) + 1)
    return Box(start=triple(start), stop=triple(stop))


def nonzero_box(array: NDArray[Any], *, fill: bool = True) -> tuple[Box, NDArray[np.bool_]]:
    """The box around everything that is not zero in any channel, and the mask itself, its holes filled.

    Parameters
    ----------
    array : (c, z, y, x), any numeric type
    fill : False where only the box is wanted, which does not depend on the holes

    Returns
    -------
    the half-open box (the whole array where all is zero), and the mask (z, y, x) of the whole array

    Source: crop to non-zero of nnU-Net 2.8.1. A single slice is never filled: each of its voxels lies on the border along z.
    """
    mask = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    if mask.all():
        return Box(start=(0, 0, 0), stop=mask.shape), mask
    box = bounding_box(mask)
    if min(box.shape) < 3 or not fill:
        return box, mask  # every voxel of the box touches its border: there is no hole to fill
    if not mask[box.slices].all():
        mask[box.slices] = fill_holes(mask[box.slices])
    return box, mask


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`mask` `(z, y, x)` with everything set that is enclosed: that no path over faces of unset voxels joins to the border.

    Nearly all that lies outside is seen from the border along z or y; only what hides from these rays is searched step by step.
    The same result as scipy's `binary_fill_holes`, in a third of the time on a head and without importing it.
    """
    outside = np.zeros(mask.shape, dtype=bool)
    for axis in (0, 1):
        solid, seen = np.moveaxis(mask, axis, 0), np.moveaxis(outside, axis, 0)
        for order in (range(len(solid)), range(len(solid) - 1, -1, -1)):
            front = np.ones(solid.shape[1:], dtype=bool)
            for index in order:
                front &= ~solid[index]
                if not front.any():
                    break
                seen[index] |= front
    outside[:, :, [0, -1]] |= ~mask[:, :, [0, -1]]
    flat = outside.reshape(-1)
    hidden = ~(mask | outside).reshape(-1)
    front = _neighbours(np.flatnonzero(hidden), mask.shape, flat, back=True)
    while front.size:
        flat[front], hidden[front] = True, False
        front = _neighbours(front, mask.shape, hidden)
    return ~outside


def _neighbours(voxels: NDArray[np.intp], shape: Sequence[int], wanted: NDArray[np.bool_], *, back: bool = False) -> NDArray[np.intp]:
    """Flat indices of the voxels across a face that are `wanted`; with `back`, of those in `voxels` that have one."""
    found = []
    for axis, step in enumerate((shape[1] * shape[2], shape[2], 1)):
        place = voxels // step % shape[axis]
        for sign, inside in ((-1, place > 0), (1, place < shape[axis] - 1)):
            here = voxels[inside]
            there = here + sign * step
            hits = wanted[there]
            found.append(here[hits] if back else there[hits])
    return np.unique(np.concatenate(found))


def corner_distance(first: Affine, second: Affine, shape: Sequence[int]) -> float:
    """The largest distance in mm between where two affines put the corners of a volume with `shape` voxels.

    One figure for shift, rotation and scale together: "how far apart do the two files think the same voxel is".
    """
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in shape))]).T
    gap = (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)) @ corners
    return float(np.linalg.norm(gap[:3], axis=0).max())
