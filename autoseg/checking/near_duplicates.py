"""Images that are almost the same: a copy with other noise, resampled, or mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.checking.duplicates import leak
from autoseg.checking.faults import Fault, some
from autoseg.checking.statistics import CaseStatistics, Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("near_duplicates")
_FLIPS = ((3,), (2,), (1,), (2, 3), (1, 3), (1, 2), (1, 2, 3))  # axes of a stack (n, z, y, x)


def near_duplicates(cohort: Cohort) -> Iterator[Fault]:
    """Report images that are almost the same, once for all that are linked: the frames of a film are one family, not n^2 / 2 pairs."""
    by_shape: dict[tuple[int, ...], list[tuple[CaseStatistics, NDArray[np.float32]]]] = {}
    for case in cohort.cases:
        if case.thumbnail is not None:
            by_shape.setdefault(case.thumbnail.shape, []).append((case, case.thumbnail))
    for shape, alike in by_shape.items():
        flips = [()] + [axes for axes in _FLIPS if all(shape[axis - 1] > 1 for axis in axes)]
        stacked = np.stack([thumbnail for _, thumbnail in alike])
        families, nearest, flip = _families(stacked, [case.image_hash for case, _ in alike], flips)
        for family in families:
            same = [alike[index][0] for index in family]
            linked = [index for index in family if nearest[index] > 0]
            turned = [flips[flip[index]] for index in linked if flips[flip[index]]]
            summary, found = _described(same, turned, min(nearest[index] for index in linked))
            yield leak("near-duplicate", summary, same, found)


def _described(same: Sequence[CaseStatistics], turned: Sequence[tuple[int, ...]], lowest: float) -> tuple[str, str]:
    if len(same) == 2:
        mirrored = f", mirrored along {' and '.join('zyx'[axis - 1] for axis in turned[0])}" if turned else ""
        return "two images are almost the same", f"{same[0].name} and {same[1].name}{mirrored}, correlation {lowest:.5f}"
    mirrored = f", {len(turned)} of them mirrored" if turned else ""
    return "images are almost the same", f"{some(case.name for case in same)}{mirrored}, correlation {lowest:.5f} or more"


def _families(
    stacked: NDArray[np.float32], hashes: Sequence[str], flips: Sequence[tuple[int, ...]]
) -> tuple[list[list[int]], NDArray[np.float32], NDArray[np.intp]]:
    """Group thumbnails `(n, z, y, x)` that are alike, directly or through others, perhaps mirrored; equal images are not linked.

    Returns
    -------
    the families, each ascending; and for every thumbnail that has an earlier one like it, the highest correlation with such a one (0 for
    all others) and the number of the flip that it takes
    """
    n = len(stacked)
    flat = stacked.reshape(n, -1)
    _, identity = np.unique(hashes, return_inverse=True)
    family = np.arange(n)
    nearest, flip = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.intp)
    for number, axes in enumerate(flips):
        mirrored = np.flip(stacked, axes).reshape(n, -1) if axes else flat
        for start in range(0, n, 512):
            close = flat[start : start + 512] @ mirrored.T  # (512, n) at a time
            rows = np.arange(start, start + len(close))
            alike = (close > _LIMITS.correlation) & (rows[:, None] < np.arange(n)) & (identity[rows, None] != identity)
            if not alike.any():
                continue
            alike &= _own_correlations(flat, mirrored, rows) > _LIMITS.own
            close[~alike] = 0
            best = close.max(axis=0)
            flip[best > nearest] = number
            nearest = np.maximum(nearest, best)
            first, second = np.nonzero(alike)
            if first.size:
                from scipy.sparse import coo_array  # half a second, and rarely needed
                from scipy.sparse.csgraph import connected_components

                links = coo_array((np.ones(first.size, dtype=bool), (family[first + start], family[second])), shape=(n, n))
                family = connected_components(links, directed=False)[1][family]
    order = np.argsort(family, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(family[order])) + 1)
    return sorted(part.tolist() for part in members if len(part) > 1), nearest, flip


def _own_correlations(flat: NDArray[np.float32], mirrored: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Correlate what is own to two thumbnails: with the mean of all others subtracted from both.

    All scans of one kind may have an outline in common, such as the air around a body in CT, which makes every pair of them alike. Of
    two independent scans, the rest has a correlation of 1 / (n - 1), since both lack the same mean; of two copies, nearly 1.

    Parameters
    ----------
    flat, mirrored : (n, blocks), the thumbnails, of length 1, as they are and mirrored
    rows : the thumbnails that are compared with all mirrored ones

    Returns
    -------
    (rows, n); 1 where there are no others
    """
    others = len(flat) - 2
    if others < 1:
        return np.ones((len(rows), len(flat)))
    total = flat.sum(axis=0, dtype=np.float64).astype(np.float32)
    between, apart = (np.asarray(flat[rows] @ other.T, dtype=np.float64) for other in (mirrored, flat))
    with_total, turned_with_total = (np.asarray(some @ total, dtype=np.float64) for some in (flat, mirrored))
    with_itself = np.einsum("ij,ij->i", flat, mirrored, dtype=np.float64)
    first = (with_total[rows, None] - 1 - apart) / others  # inner products with the mean
    second = (turned_with_total - between - with_itself) / others
    mean = (float(total @ total) + 2 - 2 * with_total[rows, None] - 2 * with_total + 2 * apart) / others**2
    lengths = (1 - 2 * first + mean) * (1 - 2 * second + mean)
    return np.asarray((between - first - second + mean) / np.sqrt(lengths.clip(1e-12)))
