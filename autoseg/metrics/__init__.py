"""Dice, surface distances and related metrics on two masks; pure, no files.

Counts come first, scores are taken from counts. A score that has no meaning, such as the Dice of two empty masks, is `None`,
never NaN: the caller who adds scores up decides what it means.

`METRICS` holds one record per metric; options, summaries, tables and their explanations follow from it. To add a metric, add a
function of a `Comparison` and its record.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import Spacing
from autoseg.metrics.surfaces import Mask, SurfaceDistances, surface_distances


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Voxels in which a prediction and a reference agree or differ."""

    tp: int
    fp: int
    fn: int
    tn: int

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
    def precision(self) -> float | None:
        """TP / (TP + FP); `None` where nothing is predicted."""
        return _ratio(self.tp, self.predicted)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN), also called sensitivity; `None` where the reference is empty."""
        return _ratio(self.tp, self.reference)

    @property
    def specificity(self) -> float | None:
        """TN / (TN + FP); `None` where the reference fills the image."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def volume_error(self) -> float | None:
        """(predicted - reference) / reference, signed: 0.1 is a tenth too much; `None` where the reference is empty."""
        return _ratio(self.predicted - self.reference, self.reference)


def overlap(prediction: Mask, reference: Mask) -> Overlap:
    """Count the voxels of two masks of one shape."""
    tp = int(np.count_nonzero(prediction & reference))
    fp, fn = int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp
    return Overlap(tp=tp, fp=fp, fn=fn, tn=prediction.size - tp - fp - fn)


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
    tn = counts[np.ix_(~inside, ~inside & valid)].sum()
    return Overlap(tp=int(tp), fp=int(fp), fn=int(fn), tn=int(tn))


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """Counts of connected components: found and missed ones of the reference, true and false ones of the prediction."""

    found: int
    missed: int
    true: int
    false: int

    @property
    def recall(self) -> float | None:
        """Share of the reference's components that were found; `None` where there are none."""
        return _ratio(self.found, self.found + self.missed)

    @property
    def precision(self) -> float | None:
        """Share of the prediction's components that are there; `None` where there are none."""
        return _ratio(self.true, self.true + self.false)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of recall and precision, 0 where only one of them exists; `None` where both masks are empty."""
        recall, precision = self.recall, self.precision
        if recall is None and precision is None:
            return None
        if not recall or not precision:
            return 0.0
        return 2 * recall * precision / (recall + precision)


def lesions(prediction: Mask, reference: Mask, *, overlap: float = 0.1) -> Lesions:
    """Count connected components (26 neighbours) that meet their counterpart.

    Parameters
    ----------
    prediction, reference : (z, y, x), one shape
    overlap : a component counts as met when more than this share of its voxels is in the other mask. Components may meet
        several others: lesions that flow together in the prediction are all found.
    """
    found, missed = _met(reference, prediction, overlap)
    true, false = _met(prediction, reference, overlap)
    return Lesions(found=found, missed=missed, true=true, false=false)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two masks of one label or region in one case, of which one is not empty. Surfaces and lesions are measured once, on first use."""

    counts: Overlap
    prediction: Mask  # (z, y, x), cropped to where either mask is, without the voxels that were not annotated
    reference: Mask
    spacing: Spacing  # mm
    tolerance: float  # mm, of the NSD
    lesion_overlap: float  # share of a component

    @functools.cached_property
    def surfaces(self) -> SurfaceDistances | None:
        """The distances between the surfaces; `None` where either mask is empty."""
        return surface_distances(self.prediction, self.reference, self.spacing)

    @functools.cached_property
    def lesions(self) -> Lesions:
        """The connected components that meet their counterpart."""
        return lesions(self.prediction, self.reference, overlap=self.lesion_overlap)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is. `METRICS` holds one record each."""

    title: str  # head of its column in a table
    meaning: str  # one sentence for the summary
    score: Callable[[Comparison], float | None]
    quick: bool = False  # from counts alone: costs no more than reading the arrays
    shown: bool = False  # in the table of a terminal
    named: bool = False  # computed only where it is asked for by name: it takes long, or means something for few types of labels
    whole: bool = False  # needs the masks of the whole image, not cropped to the label


def _nsd(pair: Comparison) -> float:
    return 0.0 if pair.surfaces is None else pair.surfaces.nsd(pair.tolerance)


def _volume_error_ml(pair: Comparison) -> float:
    return (pair.counts.predicted - pair.counts.reference) * math.prod(pair.spacing) / 1000


def _boundary_iou(pair: Comparison) -> float | None:
    predicted, true = (boundary(mask, pair.spacing, pair.tolerance) for mask in (pair.prediction, pair.reference))
    return overlap(predicted, true).iou


def boundary(mask: Mask, spacing: Spacing, depth: float) -> Mask:
    """Return the voxels of a mask that are within `depth` mm of its outside, but at least the outermost ones.

    Outside the array is background, but along an axis of one voxel, so that a planar image has contours.
    """
    planar = tuple(axis for axis, size in enumerate(mask.shape) if size == 1)
    padded = np.pad(mask, [(0, 0) if axis in planar else (1, 1) for axis in range(3)])
    distance = ndimage.distance_transform_edt(padded, sampling=spacing)[
        tuple(slice(None) if a in planar else slice(1, -1) for a in range(3))
    ]
    steps = [step for axis, step in enumerate(spacing) if axis not in planar]
    return np.asarray(mask & (distance <= max(depth, *steps) * (1 + 1e-6)))


def rand_score(prediction: Mask, reference: Mask) -> float | None:
    """Return the foreground-restricted Rand F-score of the cells that two masks of membranes leave, slice by slice.

    Parameters
    ----------
    prediction, reference : (z, y, x), one shape; true on membranes. The cells are the 4-connected regions between them.

    Returns
    -------
    1 where the cells agree; lower where cells were merged or split. Voxels of the reference's membranes do not count. `None`
    where the reference has no cell.

    Source: Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142, V_Rand with alpha 0.5, as scikit-image computes it: predicted
    membranes inside a cell of the reference count as one region of their own.
    """
    from skimage.metrics import adapted_rand_error

    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = ndimage.generate_binary_structure(2, 1)
    cells, true = (ndimage.label(~mask, structure=structure)[0] for mask in (prediction, reference))
    return 1.0 - float(adapted_rand_error(true, cells, ignore_labels=(0,))[0]) if true.any() else None


METRICS: Mapping[str, Metric] = {
    "dice": Metric(title="Dice", quick=True, shown=True, score=lambda pair: pair.counts.dice,
                   meaning="dice is 2 TP / (2 TP + FP + FN), in voxels."),
    "iou": Metric(title="IoU", quick=True, shown=True, score=lambda pair: pair.counts.iou, meaning="iou is TP / (TP + FP + FN)."),
    "precision": Metric(title="precision", quick=True, score=lambda pair: pair.counts.precision, meaning="precision is TP / (TP + FP)."),
    "recall": Metric(title="recall", quick=True, score=lambda pair: pair.counts.recall, meaning="recall (sensitivity) is TP / (TP + FN)."),
    "specificity": Metric(title="specificity", quick=True, score=lambda pair: pair.counts.specificity,
                          meaning="specificity is TN / (TN + FP), over all voxels that were annotated."),
    "volume_error": Metric(title="volume error", quick=True, score=lambda pair: pair.counts.volume_error,
                           meaning="volume_error is (predicted - reference) / reference, signed."),
    "volume_error_ml": Metric(title="volume error ml", quick=True, score=_volume_error_ml,
                              meaning="volume_error_ml is predicted - reference in millilitres, signed."),
    "nsd": Metric(title="NSD", shown=True, score=_nsd,
                  meaning="nsd is the share of both surfaces within the tolerance of the other one."),
    "hd95": Metric(title="HD95", shown=True, score=lambda pair: None if pair.surfaces is None else pair.surfaces.hausdorff(95),
                   meaning="hd95 is the distance in mm that 95 % of each surface does not exceed; the larger of the two directions."),
    "hd": Metric(title="HD", score=lambda pair: None if pair.surfaces is None else pair.surfaces.hausdorff(100),
                 meaning="hd is the largest distance in mm from one surface to the other."),
    "assd": Metric(title="ASSD", shown=True, score=lambda pair: None if pair.surfaces is None else pair.surfaces.assd,
                   meaning="assd is the mean distance in mm over both surfaces together, by area."),
    "boundary_iou": Metric(title="boundary IoU", named=True, score=_boundary_iou,
                           meaning="boundary_iou is the IoU of the voxels of both masks that are within the tolerance of their surface."),
    "lesion_f1": Metric(title="lesion F1", shown=True, score=lambda pair: pair.lesions.f1,
                        meaning="A lesion is a connected component (26 neighbours); it is found when more than the lesion overlap of its "
                                "voxels is in the other mask. lesion_f1 is the harmonic mean of lesion_recall and lesion_precision."),
    "lesion_recall": Metric(title="lesion recall", score=lambda pair: pair.lesions.recall,
                            meaning="lesion_recall is the share of the reference's lesions that were found."),
    "lesion_precision": Metric(title="lesion precision", score=lambda pair: pair.lesions.precision,
                               meaning="lesion_precision is the share of the predicted lesions that are in the reference."),
    "false_lesions": Metric(title="false lesions", score=lambda pair: float(pair.lesions.false),
                            meaning="false_lesions is the number of predicted lesions in a case that are not in the reference."),
    "rand": Metric(title="Rand F", named=True, whole=True, score=lambda pair: rand_score(pair.prediction, pair.reference),
                   meaning="rand is the foreground-restricted Rand F-score of the cells between the membranes of this label, per slice."),
}  # fmt: skip
QUICK = tuple(name for name, metric in METRICS.items() if metric.quick)
ALL = tuple(name for name, metric in METRICS.items() if not metric.named)


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
    if len(values) < 2 or not np.isfinite(values).any():
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(bootstrap_means(values, rng=rng, repeats=repeats), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_means(values: NDArray[np.float64], *, rng: np.random.Generator, repeats: int) -> NDArray[np.float64]:
    """The means of means of cases drawn with replacement, as often as asked; draws without any score are left out.

    Parameters
    ----------
    values : (cases, labels); NaN where a label has no score in a case
    """
    cases = len(values)
    weights = rng.multinomial(cases, np.full(cases, 1 / cases), size=repeats).astype(np.float64)  # (repeats, cases)
    means = mean_of_means(values, weights)
    return means[np.isfinite(means)]


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


def _met(mask: Mask, other: Mask, overlap: float) -> tuple[int, int]:
    """How many components of `mask` lie in `other` by more than the share `overlap`, and how many do not."""
    components, number = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(components[mask], minlength=number + 1)[1:]
    shared = np.bincount(components[mask & other], minlength=number + 1)[1:]
    met = int((shared > overlap * sizes).sum())
    return met, number - met
