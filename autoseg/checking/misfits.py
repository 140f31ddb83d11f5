"""Labels that are not at the edges of their image although those of the other cases are: mirrored, shifted, or of another image.

Where the labels of a data set do not follow edges at all (tumours without contrast), nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import left_out
from autoseg.checking.edges import EdgeFit
from autoseg.checking.faults import Fault, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("misfits")


def misfits(cohort: Cohort) -> Iterator[Fault]:
    """Report labels whose borders are not at the edges of their image, although those of the other cases are."""
    known = [(case, fit) for case in cohort.cases if (fit := case.edges) is not None and fit.mirrored > 0 and fit.count >= _LIMITS.border]
    if len(known) < _LIMITS.fewest:
        return
    here, mirrored, shifted = np.array([(fit.here, fit.mirrored, fit.shifted) for _, fit in known]).T
    mirrors = (here < _LIMITS.mirrored * mirrored) & _most_others(here > mirrored)
    shifts = (here < _LIMITS.shifted * shifted) & _most_others(here > _LIMITS.sound * shifted)
    for place, (case, fit) in enumerate(known):
        others = np.delete(here, place) - 1
        usual = float(np.median(others))
        if usual < _LIMITS.usual:
            continue
        mirror = mirrors[place] and fit.mirrored - 1 > _LIMITS.regained * usual
        shift = shifts[place] and fit.shifted - 1 > _LIMITS.regained * usual
        foreign = len(known) >= _LIMITS.fewest_foreign and fit.here - 1 < _LIMITS.foreign * usual and others.min() > _LIMITS.even * usual
        if not (mirror or shift or foreign):
            continue
        summary, better = _described(fit, mirror=mirror and (not shift or fit.mirrored > fit.shifted), shift=shift)
        yield warning(
            "label-place",
            summary,
            case=case.name,
            file=case.label_file,
            found=f"its borders lie on edges {fit.here:.2f} times as strong as around{better}",
            expected=f"about {usual + 1:.2f} times, as in the other cases",
            remedy=f"look at image and label in a viewer; correct the label, or leave the case out: {left_out(case.name)}",
        )


def _described(fit: EdgeFit, *, mirror: bool, shift: bool) -> tuple[str, str]:
    if mirror:
        return "the label seems mirrored", f"; mirrored along {fit.mirror} they would lie on {fit.mirrored:.2f} times"
    if shift:
        return "the label seems shifted", f"; shifted by 3 voxels along {fit.shift} they would lie on {fit.shifted:.2f} times"
    return "the label seems to belong to another image", ""


def _most_others(judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether it holds of nine in ten of the others; of few, of all."""
    return np.asarray(np.count_nonzero(judged) - judged.astype(int) >= _LIMITS.share * (len(judged) - 1))
