"""What a scan looks like in some forty numbers, and whether it looks like the scans of the training.

Intensities are z-scored by the scan's own mean and standard deviation, so a scale of intensities does not count. Then the numbers are the
shape of their histogram, how much neighbours differ along each axis (in noise: as much as any two voxels), what is bright where (a
thumbnail of 3 x 3 x 3 cells), and in how many different values the scan is written. Everything that "unlike" means is learnt from the
training scans: the limit is half above the largest distance of one of n scans from all the others. That one more scan of the same kind
is farther away than each of them has a probability of at most 1 / (n + 1) for each of the four parts; the margin lowers it. Measured:
benchmarks/unlike_training.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)  # %
CELLS = 3  # of the thumbnail, along each axis
FEWEST = 5  # scans from which anything can be said about others
MARGIN = 1.5  # times the largest distance in the training; of n scans, 4 / n more
TURNED = 0.7  # a scan is turned or inverted where undoing that brings it this much nearer (squared distance), or as no training scan
NOISY = -0.1  # log10 of the roughness along each axis, above which a scan is noise: 0.8 of that of independent voxels
MOST_LABELS = 128  # different values of a label map
_MOST_SAMPLED = 200_000  # voxels
_LEAST = {"histogram": 0.1, "roughness": 0.1, "thumbnail": 0.2, "values": 0.2, "extent": 0.05}  # standard deviations that are believed
_TURNS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]

Row = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One channel of one scan."""

    histogram: tuple[float, ...]  # z-scores at `QUANTILES`
    roughness: tuple[float, ...]  # per axis (z, y, x): log10 of the difference of neighbours, over that of any two voxels; 0 is noise
    thumbnail: tuple[float, ...]  # z-scores, mean of each cell, x fastest
    values: float  # log10 of the number of different values in a sample


def measure(array: NDArray[np.generic]) -> Look | None:
    """Return the look of one channel `(z, y, x)`; None where it has the same value everywhere, or values that are no numbers."""
    flat = array.reshape(-1)
    sample = flat[:: -(-flat.size // _MOST_SAMPLED)].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, std = float(sample.mean()), float(sample.std())
    if not np.isfinite([mean, std]).all() or std == 0:
        return None
    return Look(
        histogram=_rounded((np.percentile(sample, QUANTILES) - mean) / std),
        roughness=_rounded([_roughness(array, axis, std) for axis in range(3)]),
        thumbnail=_rounded((_thumbnail(array) - mean) / std),
        values=round(float(np.log10(len(np.unique(sample)))), 3),
    )


def _rounded(values: Sequence[float] | Row) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _roughness(array: NDArray[np.generic], axis: int, std: float) -> float:
    """Look at some `_MOST_SAMPLED` pairs of neighbours, on lines along the axis."""
    if array.shape[axis] < 2:
        return 0.0
    stride = max(1, round((array.size / _MOST_SAMPLED) ** 0.5))
    lines = array[tuple(slice(None) if one == axis else slice(None, None, stride) for one in range(3))].astype(np.float64)
    return float(np.log10(max(1e-3, np.sqrt(np.mean(np.diff(lines, axis=axis) ** 2) / 2) / std)))


def _thumbnail(array: NDArray[np.generic]) -> Row:
    steps = tuple(slice(None, None, max(1, size // 48)) for size in array.shape)
    small = array[steps].astype(np.float64)
    for axis in range(3):
        parts = np.array_split(np.arange(small.shape[axis]), CELLS)
        means = [small.take(part if len(part) else [small.shape[axis] - 1], axis=axis).mean(axis=axis) for part in parts]
        small = np.stack(means, axis=axis)
    return small.reshape(-1)


@dataclass(frozen=True)
class _Part:
    """One part of the looks of the training scans, and how far from their mean a scan may be."""

    mean: Row
    std: Row
    limit: float

    @staticmethod
    def of(rows: Row, least: float) -> _Part:
        """Learn from training scans `(n, numbers)`."""
        n = len(rows)
        mean, variance = rows.mean(0), rows.var(0)
        others = (n * mean - rows) / (n - 1)  # mean and deviation without the scan itself
        spread = np.sqrt(np.maximum(0, (n * (variance + mean**2) - rows**2) / (n - 1) - others**2))
        distances = np.sqrt(np.mean(((rows - others) / np.maximum(spread, least)) ** 2, axis=1))
        return _Part(mean, np.maximum(np.sqrt(variance), least), max(1.0, float(distances.max())) * (MARGIN + 4 / n))

    def square(self, row: Row) -> float:
        return float(np.mean(((row - self.mean) / self.std) ** 2))

    def is_far(self, row: Row) -> bool:
        return self.square(row) > self.limit**2


class Familiar:
    """How one channel of the training scans looks.

    Parameters
    ----------
    looks : of at least `FEWEST` scans
    extents : (n, 3), mm, (z, y, x)
    """

    def __init__(self, looks: Sequence[Look], extents: Row) -> None:
        scans = [_rows(look, extent) for look, extent in zip(looks, extents, strict=True)]
        self._parts = {name: _Part.of(np.array([scan[name] for scan in scans]), least) for name, least in _LEAST.items()}
        self._turned = min(TURNED, TURNED * min(self._turns(scan)[0] for scan in scans))
        self._inverted = min(TURNED, TURNED * min(self._inversion(scan) for scan in scans))

    def unusual(self, look: Look, extent: Row) -> list[str]:
        """Return what is unusual about a scan: its cause, where one is known; else what differs; nothing for a familiar one.

        Parameters
        ----------
        extent : mm, (z, y, x)
        """
        scan = _rows(look, extent)
        far = {name for name, part in self._parts.items() if part.is_far(scan[name])}
        count, usual = round(10**look.values), round(10 ** float(self._parts["values"].mean[0]))
        if "values" in far and count <= MOST_LABELS and count < usual:
            return [f"looks like a label map: it has {count} different values, the training scans about {usual}"]
        if "roughness" in far and min(look.roughness) > NOISY:
            return ["looks like noise: neighbouring voxels differ as much as any two"]
        if self._inversion(scan) < self._inverted:
            return ["looks inverted, dark where the training scans are bright"]
        ratio, turn = self._turns(scan)
        if ratio < self._turned:
            return [f"looks as if {turn}: after that it resembles the training scans more"]
        words = {
            "histogram": "its histogram is unlike that of the training scans: another modality or sequence, or other contents",
            "thumbnail": "what is bright where is unlike the training scans: another part of the body, or another field of view",
            "roughness": "it is much smoother or noisier than the training scans",
        }
        return [text for name, text in words.items() if name in far][:1]

    def _turns(self, scan: dict[str, Row]) -> tuple[float, str]:
        """Return how near another orientation is over this one (squared distances), of the nearest, and what undoes it."""
        thumbnail, found = scan["thumbnail"].reshape(CELLS, CELLS, CELLS), {}
        for order, signs in _TURNS:
            turned = thumbnail.transpose(order)[tuple(slice(None, None, sign) for sign in signs)].reshape(-1)
            sides = sum(self._parts[name].square(scan[name][list(order)]) for name in ("roughness", "extent"))
            found[order, signs] = self._parts["thumbnail"].square(turned) + sides
        here = found.pop(((0, 1, 2), (1, 1, 1)))
        best = min(found, key=lambda turn: found[turn])
        names = ["zyx"[axis] for axis in range(3) if best[0][axis] != axis]
        mirrored = ["zyx"[axis] for axis in range(3) if best[1][axis] < 0]
        turns = [f"the axes {', '.join(names)} were exchanged"] if names else []
        return found[best] / max(here, 1e-9), " and ".join(turns or [f"it were mirrored along {', '.join(mirrored)}"])

    def _inversion(self, scan: dict[str, Row]) -> float:
        """Return how near the inverted scan is over this one (squared distances)."""
        histogram, thumbnail = self._parts["histogram"], self._parts["thumbnail"]
        here = histogram.square(scan["histogram"]) + thumbnail.square(scan["thumbnail"])
        return (histogram.square(-scan["histogram"][::-1]) + thumbnail.square(-scan["thumbnail"])) / max(here, 1e-9)


def _rows(look: Look, extent: Row) -> dict[str, Row]:
    return {
        "histogram": np.array(look.histogram),
        "roughness": np.array(look.roughness),
        "thumbnail": np.array(look.thumbnail),
        "values": np.array([look.values]),
        "extent": np.log10(np.maximum(extent, 1e-6)),
    }
