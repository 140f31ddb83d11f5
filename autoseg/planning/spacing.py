"""Which voxel size the cases are resampled to, in which order the axes go, and how large a case is then. Pure arithmetic.

All triples here are in canonical axes unless a docstring says otherwise; `axis_order` says how they become plan axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.geometry import Axes, Shape, Spacing, permuted, resampled_shape, triple


@dataclass(frozen=True, kw_only=True)
class SpacingChoice:
    """The target spacing, and the figures that led to it."""

    spacing: Spacing  # mm, the target
    median_spacing: Spacing  # mm
    median_shape: tuple[float, float, float]  # voxels, before resampling
    coarse_axis: int  # the axis with the thickest slices
    spacing_ratio: float  # coarse over the larger of the other two
    shape_ratio: float  # smaller of the other two sizes over that of the coarse axis
    anisotropic: bool  # both ratios above the threshold
    percentile: float | None  # of the cases' spacing along the coarse axis, where that was taken in place of the median


def choose_spacing(
    spacings: Sequence[Spacing], shapes: Sequence[Shape], *, anisotropy: float, percentile: float, fixed: Sequence[float] = ()
) -> SpacingChoice:
    """Choose the spacing of the full resolution: the median, but finer across slices that are thick *and* few.

    Parameters
    ----------
    spacings : (z, y, x), mm, one per case
    shapes : (z, y, x), voxels after the crop, one per case
    anisotropy : ratio above which slices count as thick, and as few
    percentile : 0 to 100, of the cases' spacing across the slices, taken in place of the median for such data
    fixed : (z, y, x), mm: a spacing the user wants; empty for none

    Source: nnU-Net 2.8.1, ExperimentPlanner.determine_fullres_target_spacing; Isensee et al. 2021.
    """
    all_spacings, all_shapes = np.asarray(spacings, dtype=float), np.asarray(shapes, dtype=float)
    median = np.percentile(all_spacings, 50, axis=0)
    sizes = np.percentile(all_shapes, 50, axis=0)
    planar = np.flatnonzero(sizes == 1)
    coarse = int(planar[0]) if planar.size else int(np.argmax(median))
    others = [axis for axis in range(3) if axis != coarse]
    thick = bool(median[coarse] > anisotropy * max(median[others]))
    few = bool(anisotropy * sizes[coarse] < min(sizes[others]))
    target, taken = median.copy(), None
    if len(fixed):
        target = np.asarray(fixed, dtype=float)
    elif thick and few and not planar.size:
        fine = float(np.percentile(all_spacings[:, coarse], percentile))
        if fine < max(median[others]):
            fine = float(max(median[others])) + 1e-5  # never finer than in plane; the trace keeps this axis the coarsest
        target[coarse], taken = fine, percentile
    return SpacingChoice(
        spacing=_triple(target),
        median_spacing=_triple(median),
        median_shape=_triple(sizes),
        coarse_axis=coarse,
        spacing_ratio=float(median[coarse] / max(median[others])),
        shape_ratio=float(min(sizes[others]) / sizes[coarse]),
        anisotropic=thick and few,
        percentile=taken,
    )


def axis_order(spacing: Spacing, shape: Sequence[float]) -> Axes:
    """Return the canonical axis of each plan axis: the coarsest first, the other two in their order.

    An axis of one voxel counts as the coarsest.

    >>> axis_order((1.0, 3.0, 1.0), (40, 12, 40))
    (1, 0, 2)

    Source: nnU-Net 2.8.1, ExperimentPlanner.determine_transpose.
    """
    planar = [axis for axis in range(3) if shape[axis] == 1]
    first = planar[0] if planar else int(np.argmax(spacing))
    return triple([first, *(axis for axis in range(3) if axis != first)])


def median_resampled_shape(
    spacings: Sequence[Spacing], shapes: Sequence[Shape], *, target: Spacing, order: Axes
) -> tuple[float, float, float]:
    """Return the median shape of the cases at the target spacing: voxels, in plan axes; a half where two cases share the middle."""
    resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings, strict=True)]
    return _triple(permuted(np.median(resampled, axis=0).tolist(), order))


def coarser_spacing(spacing: Spacing, *, step: float) -> Spacing:
    """Return the spacing one step towards low resolution.

    All axes become coarser by `step`, or, where one is more than twice as coarse as another, only those finer ones.

    Source: nnU-Net 2.8.1, ExperimentPlanner.plan_experiment.
    """
    largest = max(spacing)
    behind = [largest / s > 2 for s in spacing]
    return _triple([s * step if lag or not any(behind) else s for s, lag in zip(spacing, behind, strict=True)])


def _triple(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    return triple(float(value) for value in values)
