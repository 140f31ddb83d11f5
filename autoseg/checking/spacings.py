"""Spacings and shapes that stand out: far from those of the other cases, single slices among volumes, extents that no scan has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, in_mm, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("spacings")


def spacing_outliers(cohort: Cohort) -> Iterator[Fault]:
    """Report spacings far from the median along an axis, by their factor and by the spread of the data set."""
    known = [(case, case.spacing) for case in cohort.cases if case.spacing is not None and case.placed]
    if len(known) < _LIMITS.fewest:
        return
    spacings = np.log([spacing for _, spacing in known])
    median = np.median(spacings, axis=0)
    off = np.abs(spacings - median)
    deviation = 1.4826 * np.median(off, axis=0)  # that of a normal distribution
    far = (off > np.maximum(np.log(_LIMITS.factor), _LIMITS.spread * deviation)).any(axis=1)
    for (case, spacing), is_far in zip(known, far, strict=True):
        if is_far:
            yield warning(
                "spacing",
                "a spacing far from the others",
                case=case.name,
                found=f"{in_mm(spacing)} mm (z, y, x)",
                expected=f"about the median, {in_mm(np.exp(median))} mm",
                remedy="check the header; if it is right, the case is resampled like any other",
            )


def flat_among_volumes(cohort: Cohort) -> Iterator[Fault]:
    """Report single slices where most cases are volumes."""
    read = [(case, case.shape) for case in cohort.cases if case.shape is not None]
    flat = [(case, shape) for case, shape in read if min(shape) == 1]
    if 2 * len(flat) >= len(read):
        return
    for case, shape in flat:
        yield warning(
            "shape",
            "a single slice among volumes",
            case=case.name,
            found=f"shape {shape} (z, y, x)",
            expected="volumes, as the other cases are",
            remedy=f"check that the volume was not cut; or leave the case out: {left_out(case.name)}",
        )


def absurd_extents(cohort: Cohort) -> Iterator[Fault]:
    """Report scans smaller than a grain or larger than a room: a spacing in metres or micrometres that is given as mm."""
    if not any(channel.modality in ("CT", "MR", "PET") for channel in cohort.dataset.channels):
        return
    for case in cohort.cases:
        if case.shape is None or case.spacing is None or not case.placed:
            continue
        extent = max(n * step for n, step in zip(case.shape, case.spacing, strict=True))
        if not _LIMITS.smallest < extent < _LIMITS.largest:
            yield warning(
                "spacing",
                "an extent that no scan has",
                case=case.name,
                found=f"spacing {in_mm(case.spacing)} mm: {extent:.3g} mm along the longest axis",
                expected=f"{_LIMITS.smallest:g} mm to {_LIMITS.largest / 1000:g} m",
                remedy="perhaps the spacing is in metres or micrometres; write it in mm",
            )
