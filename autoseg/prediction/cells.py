"""Scores inside the cells between voxels: only in cells along borders, and only of the classes that can win there.

A cell has a corner on each of the (up to eight) voxels around it, and every score inside is a mean of those at its corners,
with weights that are positive and sum to one. So a class whose largest corner is below the smallest corner of some other class
wins nowhere in the cell, and needs no interpolation. Of a hundred classes two to four are left::

    corner     1    2    3    4
    class a   5.0  4.0  2.0  3.0    never below 2.0
    class b   1.0  2.0  4.0  3.5    may win
    class c   1.9  0.5  1.0  1.5    never above 1.9: cannot win

The cells of a layer are worked off in pieces that fit into the processor's cache. The arrays have the cells last, so that
NumPy's inner loops are long. NumPy and not torch: its operations run in the thread that calls them, and several pieces side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.labels import Labels

_PIECE_BYTES = 2**21  # of the scores at the corners of the cells that are worked off together
_FEW = 512  # cells that are alike in some way: fewer are worked off with the others, since each operation has a cost of its own


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One slice of scores on the network's grid."""

    scores: NDArray[np.float32]  # (y, x, heads)
    classes: NDArray[np.integer[Any]]  # (y, x)
    decided: NDArray[Any]  # (y, x) or (y, x, m): what all corners of a cell must agree on; the winner, or which regions are above one half


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The voxels of the target between those of the source, along one axis."""

    lower: NDArray[np.intp]  # for each voxel of the target: the voxel of the source at or before it
    share: NDArray[np.float32]  # how far it is on the way to the next one
    first: NDArray[np.intp]  # for each voxel of the source: the first voxel of the target that is at or after it
    count: NDArray[np.intp]  # and how many are before the next one
    nearest: bool  # nothing is interpolated

    @classmethod
    def between(cls, n: int, lower: NDArray[np.intp], share: NDArray[np.floating[Any]], *, nearest: bool) -> Axis:
        """Return the axis of `n` voxels of the source."""
        edges = np.searchsorted(lower, np.arange(n + 1))
        return cls(lower=lower, share=share.astype(np.float32), first=edges[:-1], count=np.diff(edges), nearest=nearest)

    def within(self, start: int, stop: int) -> tuple[slice, Axis]:
        """Return the voxels of the target from `start` up to the last of these voxels of the source, and their axis."""
        last = stop if stop == len(self.count) else stop - 1  # what is after the last one is between it and the next
        begin, end = (np.append(self.first, len(self.lower))[[start, last]]).tolist()
        lower, share = self.lower[begin:end] - start, self.share[begin:end]
        return slice(begin, end), Axis.between(stop - start, lower, share, nearest=self.nearest)


def mixed_cells(below: Plane, above: Plane) -> NDArray[np.bool_]:
    """Return for each voxel of a slice whether the corners of the cell that begins there disagree: `(y, x)`."""
    mixed = np.zeros(below.classes.shape, dtype=bool)
    for plane in (below,) if above is below else (below, above):
        along_x = _any(plane.decided[:, 1:] != plane.decided[:, :-1])
        along_y = _any(plane.decided[1:] != plane.decided[:-1])
        mixed[:, :-1] |= along_x
        mixed[:-1, :-1] |= along_x[1:]
        mixed[:-1] |= along_y
    if above is not below:
        mixed |= _any(below.decided != above.decided)  # the edges of both faces agree, so one upright edge speaks for four
    return mixed


def _any(differences: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return differences if differences.ndim == 2 else np.asarray(differences.any(2))


def pieces(cells: NDArray[np.intp], below: Plane, rows: Axis, columns: Axis) -> Iterator[NDArray[np.intp]]:
    """Yield cells, given by the voxel where they begin, in pieces of a good size: those with as many rows and columns inside together."""
    height, width, heads = below.scores.shape
    i, j = np.divmod(cells, width)
    numbers = np.bincount(pattern := rows.count[i] * (int(columns.count.max()) + 1) + columns.count[j])
    rest = (numbers < _FEW)[pattern]
    groups = [cells[rest], *(cells[pattern == common] for common in np.flatnonzero(numbers >= _FEW))]
    most = max(1, _PIECE_BYTES // (4 * max(8 * heads, 4 * int(rows.count.max()) * int(columns.count.max()))))
    for group in groups:
        for start in range(0, len(group), most):
            yield group[start : start + most]


def fill_cells(
    outs: Sequence[NDArray[np.integer[Any]]],
    shares: Sequence[float],
    below: Plane,
    above: Plane,
    cells: NDArray[np.intp],
    rows: Axis,
    columns: Axis,
    labels: Labels,
) -> None:
    """Write the classes of all voxels inside some cells.

    Parameters
    ----------
    outs, shares : contiguous slices `(y, x)` of the target, and how far each is on the way from `below` to `above`
    cells : where they begin, as indices into the flat slice of the source
    """
    height, width, heads = below.scores.shape
    i, j = np.divmod(cells, width)
    inside = _Inside.of(i, j, rows, columns)
    down = np.minimum(i + (not rows.nearest), height - 1) * width
    right = np.minimum(j + (not columns.nearest), width - 1)
    corners = np.stack((i * width + j, i * width + right, down + j, down + right))  # (4, n)
    planes = (below,) if above is below else (below, above)
    scores = np.empty((4 * len(planes), len(cells), heads), dtype=np.float32)
    for index, plane in enumerate(planes):
        np.take(plane.scores.reshape(-1, heads), corners, axis=0, out=scores[4 * index : 4 * index + 4], mode="clip")
    if labels.regions:
        for out, share in zip(outs, shares, strict=True):
            found = inside.interpolated(np.ascontiguousarray(scores.transpose(0, 2, 1)), share)
            out.reshape(-1)[inside.voxels] = labels.paint(np.moveaxis(found > 0, 2, 0))
        return
    winners = (below.classes.reshape(-1)[corners[0]], above.classes.reshape(-1)[corners[3]])
    for chosen, candidates in _candidates(scores, winners):
        part = inside.of_cells(chosen)
        of_candidates = _at_corners(scores, chosen, candidates)
        names = candidates.astype(outs[0].dtype)
        for out, share in zip(outs, shares, strict=True):
            out.reshape(-1)[part.voxels] = _winners(part.interpolated(of_candidates, share), names)


def _candidates(
    scores: NDArray[np.float32], winners: Iterable[NDArray[np.integer[Any]]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield cells with similarly many classes that can win, and these classes `(k, cells)`, in order; the first again to make up k.

    Parameters
    ----------
    scores : (4 or 8, n, heads), at the corners of the cells
    winners : of opposite corners, (n,) each
    """
    _, n, heads = scores.shape
    surest = functools.reduce(np.maximum, (scores[:, np.arange(n), winner].min(0) for winner in winners))  # what a winner has at least
    owner, label = np.divmod(np.flatnonzero(scores.max(0) >= surest[:, None]), heads)
    counts = np.bincount(owner, minlength=n)
    begin = np.cumsum(counts) - counts
    place = np.arange(len(owner)) - begin[owner]
    fewest, most = 0, 2
    while fewest < counts.max():
        is_chosen = (counts > fewest) & (counts <= most)
        chosen, mine = np.flatnonzero(is_chosen), is_chosen[owner]
        if len(chosen) < _FEW and most < counts.max():
            most += 1
            continue
        if len(chosen):
            table = np.repeat(label[begin[chosen]][None], most, axis=0)
            table[place[mine], (np.cumsum(is_chosen) - 1)[owner[mine]]] = label[mine]
            yield chosen, table
        fewest, most = most, most + 1 if most < 4 else 2 * most


def _at_corners(scores: NDArray[np.float32], cells: NDArray[np.intp], candidates: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the scores `(corners, k, cells)` of each cell's own candidates `(k, cells)`."""
    _, n, heads = scores.shape
    return np.stack([corner.reshape(-1)[cells * heads + candidates] for corner in scores])


def _winners(scores: NDArray[np.float32], names: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the names `(k, n)` of the largest of scores `(rows, columns, k, n)`, the first of several."""
    best, winner = scores[:, :, 0], np.broadcast_to(names[0], (*scores.shape[:2], scores.shape[3])).copy()
    for k in range(1, len(names)):
        np.copyto(winner, names[k], where=scores[:, :, k] > best)
        best = np.maximum(best, scores[:, :, k])
    return winner


@dataclass(frozen=True)
class _Inside:
    """The voxels of the target inside cells: as many rows and columns for each as the fullest has, the last ones several times."""

    voxels: NDArray[np.intp]  # (rows, columns, n), in the flat slice of the target
    down: NDArray[np.float32]  # (rows, 1, n), how far on the way to the lower corners
    right: NDArray[np.float32]  # (columns, 1, n)

    @classmethod
    def of(cls, i: NDArray[np.intp], j: NDArray[np.intp], rows: Axis, columns: Axis) -> _Inside:
        """Return those of the cells that begin at row `i` and column `j`."""
        y = rows.first[i] + np.minimum(np.arange(rows.count[i].max())[:, None], rows.count[i] - 1)
        x = columns.first[j] + np.minimum(np.arange(columns.count[j].max())[:, None], columns.count[j] - 1)
        return cls(y[:, None] * len(columns.lower) + x, rows.share[y][:, None], columns.share[x][:, None])

    def of_cells(self, cells: NDArray[np.intp]) -> _Inside:
        """Return those of some of the cells."""
        return _Inside(self.voxels[:, :, cells], self.down[:, :, cells], self.right[:, :, cells])

    def interpolated(self, corners: NDArray[np.float32], share: float) -> NDArray[np.float32]:
        """Return the scores `(rows, columns, k, n)` of corners `(4 or 8, k, n)`, `share` of the way from the first four to the others."""
        face = corners[:4] if len(corners) == 4 else _between(corners[:4], corners[4:], np.float32(share))
        left = _between(face[0], face[2], self.down)  # (rows, k, n)
        right = _between(face[1], face[3], self.down)
        return _between(left[:, None], right[:, None], self.right)


def _between(first: NDArray[np.float32], second: NDArray[np.float32], share: Any) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (second - first) * share
    result += first
    return result
