"""All faults of a data set at once, before anything expensive starts: each case by itself, then all cases together.

`check` never raises for what a user's files hold. A fault of severity "error" stops planning (`faulty`), a warning does not, a
note reports what was assumed or fixed. The checks themselves are listed in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from autoseg import workers
from autoseg.cases import Case, Dataset
from autoseg.cases.memory import reading_bytes
from autoseg.checking.faults import Fault, fault_of, faulty, ordered, sentence, some, table
from autoseg.checking.reading import read_case
from autoseg.checking.registry import CASE_CHECKS, COHORT_CHECKS
from autoseg.checking.statistics import CaseStatistics, Cohort, statistics_of
from autoseg.labels import Labels

__all__ = ["Fault", "check", "examine", "fault_of", "faulty", "sentence", "some", "table"]


def check(dataset: Dataset, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> tuple[Fault, ...]:
    """Read every case of a data set, each file once, and return all faults: errors first, then warnings, then notes.

    Parameters
    ----------
    dataset : as found; the incomplete cases are reported too
    workers : processes; None: as many as cores and memory allow; 0: none
    progress : called with (done, total)
    """
    statistics, faults = _examine_all(dataset, workers, progress)
    cohort = Cohort(dataset=dataset, cases=statistics)
    return ordered([*faults, *(fault for find in COHORT_CHECKS for fault in find(cohort))])


def examine(case: Case, *, channels: int, labels: Labels) -> CaseStatistics:
    """Read every file of a case once and return its statistics and faults; whatever the files hold, this does not raise for it."""
    data = read_case(case, channels=channels, labels=labels)
    return statistics_of(data, (*data.faults, *(fault for find in CASE_CHECKS for fault in find(data))))


def _examine_all(
    dataset: Dataset, count: int | None, progress: Callable[[int, int], None] | None
) -> tuple[tuple[CaseStatistics, ...], list[Fault]]:
    """The statistics of every case that could be examined, in the order of the cases, and the faults of single cases."""
    faults = [fault_of(problem) for problem in dataset.problems]
    faults += [replace(fault_of(unused), severity="warning", code="unused") for unused in dataset.warnings]
    statistics: dict[str, CaseStatistics] = {}
    names = [case.name for case in dataset.cases]
    work = partial(examine, channels=len(dataset.channels), labels=dataset.labels)
    needed = [reading_bytes(case, len(dataset.channels)) for case in dataset.cases]
    for outcome in workers.map_cases(work, dataset.cases, names=names, stage="check", workers=count, peak_bytes=needed, progress=progress):
        if outcome.value is not None:
            statistics[outcome.name] = outcome.value
            faults += outcome.value.faults
        elif outcome.failure is not None:
            faults.append(fault_of(outcome.failure.as_error(), case=outcome.name))
    return tuple(statistics[name] for name in names if name in statistics), faults
