"""Spacings and shapes that stand out: far from those of the other cases, single slices among volumes, extents that no scan has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, in_mm, some, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds
from autoseg.geometry import Spacing
from autoseg.images.formats import FORMATS, spacing_files, suffix_of

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


def exchanged_spacings(cohort: Cohort) -> Iterator[Fault]:
    """Report spacings next to TIFFs by which pixels would be oblong, and square if they were in the order x, y, z."""
    first_file = {case.name: case.images[0] for case in cohort.dataset.cases}
    found: dict[str, tuple[Path, Spacing]] = {}
    for case in cohort.cases:
        if (
            case.spacing is None
            or case.shape is None
            or case.shape[0] == 1
            or suffix_of(first_file[case.name]) not in FORMATS["tiff"].suffixes
        ):
            continue
        z, y, x = case.spacing
        file = next((file for file in spacing_files(first_file[case.name]) if file.is_file()), None)
        if file and max(z / y, y / z) < _LIMITS.square and max(y / x, x / y) > _LIMITS.oblong:
            found[case.name] = (file, case.spacing)
    if found:
        file, (z, y, x) = next(iter(found.values()))
        yield warning(
            "spacing",
            "the spacing next to the images seems to be written in the order x, y, z",
            file=file,
            found=f"{in_mm((z, y, x))} mm (z, y, x), so pixels {max(y / x, x / y):.3g} times as long as wide, in {some(found)}",
            expected="square pixels, and slices that may be further apart",
            remedy=f'if so, write {{"spacing": [{x:.6g}, {y:.6g}, {z:.6g}]}}, the order z, y, x',
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
