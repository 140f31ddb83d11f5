"""Whether there are enough cases for the folds."""

from __future__ import annotations

from collections.abc import Iterator

from autoseg.checking.faults import Fault, error, note
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("cohort_size")


def few_cases(cohort: Cohort) -> Iterator[Fault]:
    """Report a data set without cases, or with fewer than there are folds."""
    cases = cohort.dataset.cases
    if not cases and not cohort.dataset.problems:
        yield error("no-case", "there is no case with image and label", file=cohort.dataset.root, remedy="check the data set")
    groups = len({case.group or case.name for case in cases})
    if 0 < groups < _LIMITS.folds:
        what = "case" if groups == len(cases) else "group"
        summary = f"with {groups} {what}s there are {groups} folds" if groups > 1 else f"a single {what} cannot be validated"
        yield note("few-cases", summary, expected=f"{_LIMITS.folds} or more for five folds")
