"""How strong the edges of an image are at the borders of its label: the sign that it belongs there, and is not mirrored or shifted.

Only a comparison means something: with the same label mirrored or shifted, and with the other cases of the data set (`misfits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 1500  # border voxels looked at along each axis; the strength is then good to about 2 %
_CHANNELS = 4  # looked at
_MARGIN = 4  # voxels around the label, where the usual step between neighbours is measured
_SHIFTS = (3,)  # voxels
_AXES = ("z (up and down)", "y (front and back)", "x (left and right)")


@dataclass(frozen=True, kw_only=True)
class EdgeFit:
    """Strength of the edges at the borders of a label; 1 is as strong as anywhere around it."""

    count: int  # places at the border that were looked at
    here: float
    mirrored: float  # at the best of the borders mirrored along one axis
    mirror: str  # that axis
    shifted: float  # at the best of the borders shifted along one axis
    shift: str  # that axis


def edge_fit(channels: Sequence[NDArray[Any]], label: NDArray[Any]) -> EdgeFit | None:
    """Return how strong the edges of an image are at the borders of its label.

    Parameters
    ----------
    channels : of the image, each (z, y, x); the one with the strongest edges counts
    label : (z, y, x), canonical; classes

    Returns
    -------
    None where there is no border or no edge
    """
    borders = _borders(label)
    if borders is None:
        return None
    turns = [(axis, 0) for axis in range(3) if label.shape[axis] > 1]
    moves = [(axis, way * step) for axis, _ in turns if label.shape[axis] > 8 for step in _SHIFTS for way in (1, -1)]
    placed = {axis: _steps_at(_placed(at, axis, label.shape, turns, moves), axis, label.shape) for axis, at in borders.items()}
    around = _nearby(label)
    nearby = {axis: _steps_at(around[None], axis, label.shape) for axis in borders}
    best: EdgeFit | None = None
    for channel in channels[:_CHANNELS]:
        strengths = _strengths(channel, placed, nearby)
        if strengths is None or (best is not None and strengths[0] <= best.here):
            continue
        turned = [(strength, _AXES[axis]) for strength, (axis, _) in zip(strengths[1:], turns, strict=False)]
        moved = [(strength, _AXES[axis]) for strength, (axis, _) in zip(strengths[1 + len(turns) :], moves, strict=True)]
        mirrored, shifted = max(turned, default=(0.0, "")), max(moved, default=(0.0, ""))
        best = EdgeFit(
            count=sum(at.shape[1] for at in borders.values()),
            here=strengths[0],
            mirrored=mirrored[0],
            mirror=mirrored[1],
            shifted=shifted[0],
            shift=shifted[1],
        )
    return best


Borders = dict[int, NDArray[np.intp]]  # axis -> (3, n), the lower of the two neighbouring voxels between which the label changes


def _borders(label: NDArray[Any]) -> Borders | None:
    box = _box(label, 1)
    if box is None:
        return None
    inner = label[box]
    found: Borders = {}
    for axis in range(3):
        if inner.shape[axis] < 2:
            continue
        lower, upper = (inner[tuple(slice(a, inner.shape[k] - 1 + a) if k == axis else slice(None) for k in range(3))] for a in (0, 1))
        flat = np.flatnonzero(lower != upper)
        flat = flat[:: 1 + flat.size // _MOST]
        if flat.size:
            found[axis] = np.stack(np.unravel_index(flat, lower.shape)) + np.array([[part.start] for part in box])
    return found or None


def _box(label: NDArray[Any], margin: int) -> tuple[slice, ...] | None:
    """Where the label changes, and some voxels around it."""
    inside = label != label.flat[0]
    rows = [np.flatnonzero(inside.any(axis=(1, 2)))]
    if not rows[0].size:
        return None
    plane = inside[rows[0][0] : rows[0][-1] + 1].any(axis=0)
    rows += [np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))]
    return tuple(slice(max(0, int(row[0]) - margin), int(row[-1]) + 1 + margin) for row in rows)


def _nearby(label: NDArray[Any]) -> NDArray[np.intp]:
    """(3, n): a sample of the voxels around the label, where the usual step between neighbours is measured."""
    box = _box(label, _MARGIN)
    assert box is not None, "there are borders"
    shape = [min(part.stop, n) - part.start for part, n in zip(box, label.shape, strict=True)]
    every = 1 + int(np.prod(shape)) // (4 * _MOST)
    flat = np.arange(0, int(np.prod(shape)), every)
    return np.asarray(np.stack(np.unravel_index(flat, shape)) + np.array([[part.start] for part in box]))


def _placed(
    at: NDArray[np.intp], along: int, shape: tuple[int, ...], turns: Sequence[tuple[int, int]], moves: Sequence[tuple[int, int]]
) -> NDArray[np.intp]:
    """(1 + turns + moves, 3, n): the borders across one axis as they are, then mirrored along each axis, then moved by some voxels."""
    placed = np.repeat(at[None], 1 + len(turns) + len(moves), axis=0)
    for row, (axis, _) in enumerate(turns, start=1):
        # mirrored, the lower of two neighbours becomes the upper one
        placed[row, axis] = shape[axis] - 1 - at[axis] - (1 if along == axis else 0)
    for row, (axis, by) in enumerate(moves, start=1 + len(turns)):
        placed[row, axis] += by
    return placed


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Pairs of neighbouring voxels, as indices into the flat image; those outside of it are marked, and are at its start."""

    lower: NDArray[np.intp]  # (rows, n)
    upper: NDArray[np.intp]
    inside: NDArray[np.bool_]


def _steps_at(places: NDArray[np.intp], axis: int, shape: tuple[int, ...]) -> _Steps:
    """The steps along an axis from places `(rows, 3, n)` on."""
    strides = (shape[1] * shape[2], shape[2], 1)
    inside = np.ones((len(places), places.shape[2]), dtype=bool)
    lower = np.zeros(inside.shape, dtype=np.intp)
    for index, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        at = places[:, index]
        inside &= (at >= 0) & (at < n - (1 if index == axis else 0))
        lower += at * stride
    lower[~inside] = 0
    return _Steps(lower=lower, upper=np.where(inside, lower + strides[axis], 0), inside=inside)


def _strengths(channel: NDArray[Any], placed: dict[int, _Steps], nearby: dict[int, _Steps]) -> list[float] | None:
    """Steps at the borders by the usual steps, the mean of the axes, one for each way in which they are placed; `None` without edges."""
    flat = channel.ravel()
    ratios = []
    inside = []
    for axis, steps in placed.items():
        usual = _mean_steps(flat, nearby[axis])[0]
        if usual > 0:
            ratios.append(_mean_steps(flat, steps) / usual)
            inside.append(steps.inside.any(axis=1))
    if not ratios:
        return None
    means: list[float] = (np.sum(ratios, axis=0) / np.maximum(np.sum(inside, axis=0), 1)).tolist()
    return means


def _mean_steps(flat: NDArray[Any], steps: _Steps) -> NDArray[np.float64]:
    """(rows,): mean absolute difference between neighbours; 0 where none of them is inside, or finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(flat[steps.upper].astype(np.float32) - flat[steps.lower].astype(np.float32))
    used = steps.inside
    if flat.dtype.kind == "f":
        used = used & np.isfinite(size)
        size[~used] = 0  # those outside are at one place, a step of 0
    return np.asarray(size.sum(axis=1, dtype=np.float64) / np.maximum(np.count_nonzero(used, axis=1), 1))
