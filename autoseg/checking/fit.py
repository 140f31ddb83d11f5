"""Whether a label lies where its image has edges: the sign that it belongs there, and neither mirrored nor shifted.

Only a comparison means something: with the same label mirrored or shifted, and with the other cases of the data set. Where the
labels of a data set do not follow edges at all (tumours without contrast), nothing is said.
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
class Fit:
    """How strong the edges of an image are at the borders of its label; 1 is as strong as anywhere around it."""

    count: int  # places at the border that were looked at
    here: float
    mirrored: float  # at the best of the borders mirrored along one axis
    mirror: str  # that axis
    shifted: float  # at the best of the borders shifted along one axis
    shift: str  # that axis


def fit_of(channels: Sequence[NDArray[Any]], label: NDArray[Any]) -> Fit | None:
    """How a label map fits its image.

    Parameters
    ----------
    channels : of the image, each (z, y, x); the one with the strongest edges counts
    label : (z, y, x), canonical; values

    Returns
    -------
    None where there is no border or no edge
    """
    borders = _borders(label)
    if borders is None:
        return None
    flips = [axis for axis in range(3) if label.shape[axis] > 1]
    moves = [(axis, way * step) for axis in flips if label.shape[axis] > 8 for step in _SHIFTS for way in (1, -1)]
    best: Fit | None = None
    for channel in channels[:_CHANNELS]:
        usual = _usual_steps(channel, label)
        here = _strength(channel, borders, usual)
        if here is None or (best is not None and here <= best.here):
            continue
        turned = [(_strength(channel, _mirrored(borders, axis, label.shape), usual) or 0.0, _AXES[axis]) for axis in flips]
        moved = [(_strength(channel, _moved(borders, axis, by, label.shape), usual) or 0.0, _AXES[axis]) for axis, by in moves]
        mirrored, shifted = max(turned, default=(0.0, "")), max(moved, default=(0.0, ""))
        best = Fit(
            count=sum(at.shape[1] for at in borders.values()),
            here=here,
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


def _usual_steps(channel: NDArray[Any], label: NDArray[Any]) -> dict[int, float]:
    """The mean step between neighbours around the label, along each axis."""
    box = _box(label, _MARGIN)
    assert box is not None, "there are borders"
    shape = [min(part.stop, n) - part.start for part, n in zip(box, channel.shape, strict=True)]
    every = 1 + int(np.prod(shape)) // (4 * _MOST)
    flat = np.arange(0, int(np.prod(shape)), every)
    at = np.stack(np.unravel_index(flat, shape)) + np.array([[part.start] for part in box])
    return {axis: _mean_step(channel, at, axis) for axis in range(3) if channel.shape[axis] > 1}


def _mean_step(channel: NDArray[Any], at: NDArray[np.intp], axis: int) -> float:
    """Mean absolute difference between voxels and their next neighbours; those at the edge are left out."""
    at = at[:, (at.min(axis=0) >= 0) & (at[axis] + 1 < channel.shape[axis])]
    if not at.shape[1]:
        return 0.0
    beside = at.copy()
    beside[axis] += 1
    step = np.abs(channel[tuple(beside)].astype(np.float32) - channel[tuple(at)].astype(np.float32))
    return float(np.mean(step, where=np.isfinite(step))) if np.isfinite(step).any() else 0.0


def _strength(channel: NDArray[Any], borders: Borders, usual: dict[int, float]) -> float | None:
    """Steps at the borders by the usual steps, the mean of the axes."""
    ratios = [_mean_step(channel, at, axis) / usual[axis] for axis, at in borders.items() if at.shape[1] and usual.get(axis, 0) > 0]
    return float(np.mean(ratios)) if ratios else None


def _mirrored(borders: Borders, axis: int, shape: tuple[int, ...]) -> Borders:
    turned = {}
    for along, at in borders.items():
        moved = at.copy()
        moved[axis] = shape[axis] - 1 - at[axis] - (1 if along == axis else 0)  # the lower neighbour becomes the upper one
        turned[along] = moved
    return turned


def _moved(borders: Borders, axis: int, by: int, shape: tuple[int, ...]) -> Borders:
    moved = {}
    for along, at in borders.items():
        there = at.copy()
        there[axis] += by
        moved[along] = there[:, (there[axis] >= 0) & (there[axis] < shape[axis])]
    return moved
