"""All checks, in the order in which they run. A new check is a module of this folder and a line here.

A check of single cases takes the `CaseData`, one of the whole data set the `Cohort`; both yield faults. Numbers are in `thresholds.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from autoseg.checking import (
    cohort_size,
    duplicates,
    intensities,
    label_places,
    label_values,
    misfits,
    modalities,
    near_duplicates,
    patients,
    same_values,
    sides,
    spacings,
)
from autoseg.checking.faults import Fault
from autoseg.checking.reading import CaseData
from autoseg.checking.statistics import Cohort

CASE_CHECKS: tuple[Callable[[CaseData], Iterable[Fault]], ...] = (
    intensities.non_finite,
    intensities.far_out,
    intensities.constant,
    label_values.undeclared_values,
    label_values.empty_label,
    same_values.image_equals_label,
)

COHORT_CHECKS: tuple[Callable[[Cohort], Iterable[Fault]], ...] = (
    label_values.unused_labels,
    label_values.unused_mappings,
    duplicates.equal_images,
    duplicates.shared_channels,
    duplicates.equal_labels,
    near_duplicates.near_duplicates,
    patients.repeated_patients,
    spacings.spacing_outliers,
    spacings.flat_among_volumes,
    spacings.absurd_extents,
    spacings.exchanged_spacings,
    modalities.contradicted_modalities,
    sides.exchanged_sides,
    label_places.labels_in_the_dark,
    label_places.drawn_at_intervals,
    misfits.misfits,
    cohort_size.few_cases,
)
