"""Dice, surface distances and their kin on two masks; pure, no files.

Counts come first, scores are taken from counts. A score that has no meaning, such as the Dice of two empty masks, is `None`,
never NaN: who adds scores up decides what it means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Voxels in which a prediction and a reference agree or differ."""

    tp: int
    fp: int
    fn: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def dice(self) -> float | None:
        """2 TP / (2 TP + FP + FN); `None` where both masks are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float | None:
        """TP / (TP + FP + FN); `None` where both masks are empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def volume_error(self) -> float | None:
        """(predicted - reference) / reference, signed: 0.1 is a tenth too much; `None` where the reference is empty."""
        return _ratio(self.predicted - self.reference, self.reference)


def overlap(prediction: Mask, reference: Mask) -> Overlap:
    """Count the voxels of two masks of one shape."""
    tp = int(np.count_nonzero(prediction & reference))
    return Overlap(tp=tp, fp=int(np.count_nonzero(prediction)) - tp, fn=int(np.count_nonzero(reference)) - tp)


def confusion(prediction: NDArray[Any], reference: NDArray[Any], *, classes: int) -> NDArray[np.int64]:
    """Voxels of each predicted class (rows) in each reference class (columns), in one pass over both arrays.

    Parameters
    ----------
    prediction, reference : classes, any integer dtype, one shape
    classes : how many there are, the ignore class of the reference included

    Returns
    -------
    (classes, classes); slab by slab, so the working memory does not grow with the volume.
    """
    counts = np.zeros(classes * classes, dtype=np.int64)
    step = max(1, (1 << 20) // max(1, prediction[:1].size))
    for start in range(0, len(prediction), step):
        slab = slice(start, start + step)
        codes = prediction[slab].astype(np.intp) * classes + reference[slab]
        counts += np.bincount(codes.ravel(), minlength=classes * classes)
    return counts.reshape(classes, classes)


def overlap_of(counts: NDArray[np.int64], members: Iterable[int], *, ignore: int | None = None) -> Overlap:
    """The overlap of one label or region, from a confusion matrix.

    Parameters
    ----------
    counts : as `confusion` returns it
    members : classes that belong to the region
    ignore : class of the reference whose voxels do not count at all
    """
    inside = np.zeros(len(counts), dtype=bool)
    inside[list(members)] = True
    valid = np.ones(len(counts), dtype=bool)
    if ignore is not None:
        valid[ignore] = False
    tp = counts[np.ix_(inside, inside & valid)].sum()
    fp = counts[np.ix_(inside, ~inside & valid)].sum()
    fn = counts[np.ix_(~inside, inside & valid)].sum()
    return Overlap(tp=int(tp), fp=int(fp), fn=int(fn))


def bootstrap_interval(
    values: NDArray[np.float64], *, rng: np.random.Generator, confidence: float = 0.95, repeats: int = 2000
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a mean of means, resampling cases.

    Parameters
    ----------
    values : (cases, labels); NaN where a label has no score in a case
    rng : source of the resampling
    confidence : of the two-sided interval
    repeats : how often the cases are drawn with replacement

    Returns
    -------
    (low, high) of the mean over the labels of the means over the cases; `None` with fewer than two cases. A label without any
    score in a draw is left out of that draw.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    cases = len(values)
    if cases < 2 or not np.isfinite(values).any():
        return None
    weights = rng.multinomial(cases, np.full(cases, 1 / cases), size=repeats).astype(np.float64)  # (repeats, cases)
    means = mean_of_means(values, weights)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means[np.isfinite(means)], [tail, 1 - tail])
    return float(low), float(high)


def mean_of_means(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The mean over the labels of the means over the cases, NaN left out of both.

    Parameters
    ----------
    values : (cases, labels)
    weights : (draws, cases), how often each case counts; once each where it is not given

    Returns
    -------
    (draws,); NaN where nothing counts
    """
    drawn = np.ones((1, len(values))) if weights is None else weights
    scored = np.isfinite(values)
    total = drawn @ np.where(scored, values, 0.0)
    number = drawn @ scored  # (draws, labels)
    means = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
    labels = (number > 0).sum(axis=1)
    return np.divide(means.sum(axis=1), labels, out=np.full(len(drawn), np.nan), where=labels > 0)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
