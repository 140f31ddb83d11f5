"""Dice, surface distances and related metrics on two masks; pure, no files.

Counts come first, scores are taken from counts. A score that has no meaning, such as the Dice of two empty masks, is `None`,
never NaN: the caller who adds scores up decides what it means.

`METRICS` holds one record per metric; options, summaries, tables and their explanations follow from it. To add a metric, add a
function of a `Comparison` and its record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.geometry import Spacing

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
    def precision(self) -> float | None:
        """TP / (TP + FP); `None` where nothing is predicted."""
        return _ratio(self.tp, self.predicted)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN), also called sensitivity; `None` where the reference is empty."""
        return _ratio(self.tp, self.reference)

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


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """From every element of each surface the distance to the other surface in mm, and the element's area in mm2."""

    from_prediction: NDArray[np.float64]
    prediction_areas: NDArray[np.float64]
    from_reference: NDArray[np.float64]
    reference_areas: NDArray[np.float64]

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both surfaces together that is within `tolerance` mm of the other one.

        Distances equal to the tolerance count as within it, whatever their last digit became in binary.
        """
        limit = tolerance * (1 + 1e-6) + 1e-9
        near = self.prediction_areas[self.from_prediction <= limit].sum() + self.reference_areas[self.from_reference <= limit].sum()
        return float(near / (self.prediction_areas.sum() + self.reference_areas.sum()))

    def hausdorff(self, percentile: float = 95.0) -> float:
        """The distance that `percentile` percent of each surface does not exceed, in mm; the larger of the two directions."""
        return max(
            _percentile(self.from_prediction, self.prediction_areas, percentile),
            _percentile(self.from_reference, self.reference_areas, percentile),
        )

    @property
    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean over both surfaces together, by area."""
        total = (self.from_prediction * self.prediction_areas).sum() + (self.from_reference * self.reference_areas).sum()
        return float(total / (self.prediction_areas.sum() + self.reference_areas.sum()))


def surface_distances(prediction: Mask, reference: Mask, spacing: Spacing) -> SurfaceDistances | None:
    """How far the surfaces of two masks are from each other.

    Surface elements lie at the corners where voxels meet; each has the area that marching cubes gives to the 2 x 2 x 2 voxels
    around it. What lies outside the array is background, but along an axis of one voxel, so that a planar image has contours.

    Parameters
    ----------
    prediction, reference : (z, y, x), one shape; crop them to what is true in either to save time
    spacing : (z, y, x), mm per voxel

    Returns
    -------
    `None` where either mask is empty: there is no surface to be near to.

    Source: Nikolov et al. 2021, doi:10.2196/26151, and its code google-deepmind/surface-distance: same elements, areas and rules.
    """
    if not prediction.any() or not reference.any():
        return None
    predicted, predicted_areas = _surface(prediction, spacing)
    true, true_areas = _surface(reference, spacing)
    return SurfaceDistances(
        from_prediction=_nearest(predicted, true, spacing),
        prediction_areas=predicted_areas,
        from_reference=_nearest(true, predicted, spacing),
        reference_areas=true_areas,
    )


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
    overlap : a component counts as met when more than this share of its voxels lies in the other mask. Components may meet
        several others: lesions that flow together in the prediction are all found.
    """
    found, missed = _met(reference, prediction, overlap)
    true, false = _met(prediction, reference, overlap)
    return Lesions(found=found, missed=missed, true=true, false=false)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two masks of one label or region in one case, as metrics see them. Surfaces and lesions are measured once, on first use."""

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


def _nsd(pair: Comparison) -> float | None:
    if pair.surfaces is None:
        return 0.0 if pair.counts.predicted or pair.counts.reference else None
    return pair.surfaces.nsd(pair.tolerance)


METRICS: Mapping[str, Metric] = {
    "dice": Metric(title="Dice", quick=True, shown=True, score=lambda pair: pair.counts.dice,
                   meaning="dice is 2 TP / (2 TP + FP + FN), in voxels."),
    "iou": Metric(title="IoU", quick=True, shown=True, score=lambda pair: pair.counts.iou, meaning="iou is TP / (TP + FP + FN)."),
    "precision": Metric(title="precision", quick=True, score=lambda pair: pair.counts.precision, meaning="precision is TP / (TP + FP)."),
    "recall": Metric(title="recall", quick=True, score=lambda pair: pair.counts.recall, meaning="recall (sensitivity) is TP / (TP + FN)."),
    "volume_error": Metric(title="volume error", quick=True, score=lambda pair: pair.counts.volume_error,
                           meaning="volume_error is (predicted - reference) / reference, signed."),
    "nsd": Metric(title="NSD", shown=True, score=_nsd,
                  meaning="nsd is the share of both surfaces within the tolerance of the other one."),
    "hd95": Metric(title="HD95", shown=True, score=lambda pair: None if pair.surfaces is None else pair.surfaces.hausdorff(95),
                   meaning="hd95 is the distance in mm that 95 % of each surface does not exceed; the larger of the two directions."),
    "hd": Metric(title="HD", score=lambda pair: None if pair.surfaces is None else pair.surfaces.hausdorff(100),
                 meaning="hd is the largest distance in mm from one surface to the other."),
    "assd": Metric(title="ASSD", shown=True, score=lambda pair: None if pair.surfaces is None else pair.surfaces.assd,
                   meaning="assd is the mean distance in mm over both surfaces together, by area."),
    "lesion_f1": Metric(title="lesion F1", shown=True, score=lambda pair: pair.lesions.f1,
                        meaning="A lesion is a connected component (26 neighbours); it is found when more than the lesion overlap of its "
                                "voxels is in the other mask. lesion_f1 is the harmonic mean of lesion_recall and lesion_precision."),
    "lesion_recall": Metric(title="lesion recall", score=lambda pair: pair.lesions.recall,
                            meaning="lesion_recall is the share of the reference's lesions that were found."),
    "lesion_precision": Metric(title="lesion precision", score=lambda pair: pair.lesions.precision,
                               meaning="lesion_precision is the share of the predicted lesions that are in the reference."),
}  # fmt: skip
QUICK = tuple(name for name, metric in METRICS.items() if metric.quick)


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


def _surface(mask: Mask, spacing: Spacing) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Surface elements of a mask: index of the corner (elements, 3) and area (elements,).

    ::

        mask      . # #       bits of the two voxels that meet at each corner, along each axis in turn:
        corners  0 1 2 3      corner i lies between voxel i - 1 and voxel i
    """
    codes = mask.view(np.uint8) if mask.flags.c_contiguous else np.ascontiguousarray(mask).view(np.uint8)
    for axis, bits in ((2, 1), (1, 2), (0, 4)):
        codes = _meeting(codes, axis, bits)
    at = np.nonzero((codes != 0) & (codes != 255))
    return np.stack(at, axis=1), _element_areas(spacing)[codes[at]]


def _meeting(codes: NDArray[np.uint8], axis: int, bits: int) -> NDArray[np.uint8]:
    """Join the codes of neighbours along an axis; beyond the ends lies background, or the voxel itself where there is only one."""
    if codes.shape[axis] == 1:
        return np.asarray(codes | (codes << bits), dtype=np.uint8)
    shape = list(codes.shape)
    shape[axis] += 1
    joined = np.zeros(shape, dtype=np.uint8)
    before = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
    behind = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    joined[behind] = codes
    joined[before] |= codes << bits
    return joined


def _nearest(points: NDArray[np.intp], others: NDArray[np.intp], spacing: Spacing) -> NDArray[np.float64]:
    """Distance in mm from each corner in `points` to the nearest one in `others`, both (n, 3)."""
    scale = np.asarray(spacing)
    tree = cKDTree(others * scale, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(points * scale, workers=1)
    # from whole voxels, so that a distance does not depend on where in the image it is
    return np.asarray(np.sqrt((((points - others[nearest]) * scale) ** 2).sum(axis=1)))


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percentile: float) -> float:
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(share, percentile / 100)), len(distances) - 1)])


@functools.lru_cache(maxsize=64)
def _element_areas(spacing: Spacing) -> NDArray[np.float64]:
    """mm2 of the surface element of each of the 256 ways in which 2 x 2 x 2 voxels can be inside or outside."""
    z, y, x = spacing
    scale = np.array([y * x, z * x, z * y])  # what each component of an area vector is stretched by
    return np.array([sum(float(np.linalg.norm(vector * scale)) for vector in vectors) for vectors in _area_vectors()])


@functools.cache
def _area_vectors() -> tuple[tuple[NDArray[np.float64], ...], ...]:
    """Area vectors of the triangles of marching cubes, with voxels of unit length, for each of the 256 codes.

    Bit 4 z + 2 y + x of a code tells whether that corner of the cube is inside. Corners inside that touch along a diagonal
    only are kept apart; with more than half of the corners inside, inside and outside change roles.

    Source: Lorensen & Cline 1987, doi:10.1145/37402.37422.
    """
    listed = []
    for code in range(256):
        inside = [bool(code >> corner & 1) for corner in range(8)]
        if sum(inside) > 4:
            inside = [not i for i in inside]
        listed.append(tuple(vector for loop in _loops(inside) for vector in _triangles(loop)))
    return tuple(listed)


def _loops(inside: list[bool]) -> list[NDArray[np.float64]]:
    """The closed polygons, (corners, 3) each, in which the surface meets the faces of the cube, at the middle of its edges."""
    steps: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for axis in range(3):
        for side in (0, 1):
            ring = [np.insert(np.array(place), axis, side) for place in ((0, 0), (0, 1), (1, 1), (1, 0))]
            flags = [inside[int(place @ (4, 2, 1))] for place in ring]
            middles = [tuple((ring[i] + ring[(i + 1) % 4]) / 2) for i in range(4)]  # of the edge behind corner i
            for first in range(4):
                if flags[first] and not flags[first - 1]:  # a run of corners inside starts here; it is cut off by one line
                    last = next(i % 4 for i in range(first, first + 4) if not flags[(i + 1) % 4])
                    steps.setdefault(middles[first - 1], []).append(middles[last])
                    steps.setdefault(middles[last], []).append(middles[first - 1])
    loops, left = [], set(steps)
    while left:
        loop = [min(left)]
        while True:
            left.discard(loop[-1])
            onward = [place for place in steps[loop[-1]] if place in left]
            if not onward:
                break
            loop.append(onward[0])
        loops.append(np.array(loop))
    return loops


def _triangles(loop: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Area vectors of the fan of triangles that fills a polygon; of those with the largest area, as in surface-distance's table."""
    fans = []
    for start in range(len(loop)):
        turned = np.roll(loop, -start, axis=0) - loop[start]
        fans.append([np.cross(turned[i], turned[i + 1]) / 2 for i in range(1, len(loop) - 1)])
    return max(fans, key=lambda fan: sum(float(np.linalg.norm(vector)) for vector in fan))


def _met(mask: Mask, other: Mask, overlap: float) -> tuple[int, int]:
    """How many components of `mask` lie in `other` by more than the share `overlap`, and how many do not."""
    components, number = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(components[mask], minlength=number + 1)[1:]
    shared = np.bincount(components[mask & other], minlength=number + 1)[1:]
    met = int((shared > overlap * sizes).sum())
    return met, number - met
