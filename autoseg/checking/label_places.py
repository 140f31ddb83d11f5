"""Whether labels lie on what was imaged, and not in the air around it, and in every slice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, some, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("label_places")


def labels_in_the_dark(cohort: Cohort) -> Iterator[Fault]:
    """Report labels outside of what was imaged, although those of the other cases are inside."""
    known = [(case, case.dark_share) for case in cohort.cases if case.dark_share is not None]
    shares = np.array([share for _, share in known])
    if len(known) < _LIMITS.fewest or np.median(shares) > _LIMITS.usual or np.mean(shares <= _LIMITS.others) < 0.9 - 1 / len(shares):
        return
    for case, share in known:
        if share > _LIMITS.far:
            yield warning(
                "label-place",
                "the label is in the empty part of the image",
                case=case.name,
                file=case.label_file,
                found=f"{share:.0%} of it where the image is as dark as its darkest",
                expected=f"about {np.median(shares):.0%}, as in the other cases",
                remedy=f"check that the label is of this image, and not mirrored or shifted; or leave the case out: {left_out(case.name)}",
            )


def drawn_at_intervals(cohort: Cohort) -> Iterator[Fault]:
    """Report labels that were drawn in every second or fourth slice, with empty slices between."""
    known = [case for case in cohort.cases if case.label_box is not None]
    drawn = [case for case in known if case.drawn_every is not None]
    if len(drawn) < 2 or 2 * len(drawn) < len(known):
        return
    distances = sorted({every for case in drawn if case.drawn_every for every in case.drawn_every[1:]})
    yield warning(
        "intervals",
        "labels are drawn in single slices, with empty ones between",
        found=f"every {' or '.join(map(str, distances))} slices in {len(drawn)} of {len(known)} cases: {some(case.name for case in drawn)}",
        expected="structures in every slice that they cross: what is empty is learnt as background",
        remedy="fill the slices between (3D Slicer: Fill between slices), or give the slices that were not drawn a value of their own and"
        ' declare it in a dataset.json: {"labels": {..., "ignore": 255}}',
    )
