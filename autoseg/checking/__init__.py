"""All faults of a data set at once, before anything expensive starts: each case by itself, then the cases beside each other.

`check` never raises for what a user's files hold. A fault of severity "error" stops planning (`faulty`), a warning does not, a
note tells what was assumed or mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from autoseg import images, workers
from autoseg.cases import Case, Dataset
from autoseg.checking import cohort
from autoseg.checking.case import Facts, Task, examine
from autoseg.checking.faults import Fault, fault_of, faulty, ordered, sentence, table
from autoseg.errors import AutosegError

__all__ = ["Fault", "check", "examine_all", "fault_of", "faulty", "sentence", "table"]

_SMALL = 20_000_000  # bytes that a case may need without being asked for its header first
_COMPRESSED = 4  # a gzipped image may be so many times larger once it is read, without being asked


def check(dataset: Dataset, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> tuple[Fault, ...]:
    """Read every case of a data set, each file once, and report all faults: errors first, then warnings, then notes.

    Parameters
    ----------
    dataset : as found; the cases that could not be made whole are reported too
    workers : processes; None: as many as cores and memory allow; 0: none
    progress : called with (done, total)
    """
    facts, faults = examine_all(dataset, workers=workers, progress=progress)
    return ordered([*faults, *cohort.compare(dataset, facts)])


def examine_all(
    dataset: Dataset, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[Facts, ...], tuple[Fault, ...]]:
    """The facts of every case that could be examined, in the order of the cases, and the faults of single cases."""
    faults = [fault_of(problem) for problem in dataset.problems]
    facts: dict[str, Facts] = {}
    tasks = [Task(case=case, channels=len(dataset.channels), labels=dataset.labels) for case in dataset.cases]
    names = [case.name for case in dataset.cases]
    needed = [_bytes_needed(case, len(dataset.channels)) for case in dataset.cases]
    for outcome in _run(tasks, names, needed, workers, progress):
        if outcome.value is not None:
            facts[outcome.name] = outcome.value
            faults += outcome.value.faults
        elif outcome.failure is not None:
            error = outcome.failure.as_error()
            faults.append(fault_of(error, case=outcome.name))
    return tuple(facts[name] for name in names if name in facts), tuple(faults)


def _run(
    tasks: list[Task], names: list[str], needed: list[float], count: int | None, progress: Callable[[int, int], None] | None
) -> Iterator[workers.Outcome[Facts]]:
    return workers.run_cases(examine, tasks, names=names, stage="check", workers=count, peak_bytes=needed, progress=progress)


def _bytes_needed(case: Case, channels: int) -> float:
    """Memory to examine a case: every channel at once, the label, and the largest of the steps."""
    try:
        size = sum(path.stat().st_size for path in case.images if path.is_file())
        if size * _COMPRESSED < _SMALL:
            return _SMALL
        header = images.read_header(case.images[0])
    except (AutosegError, OSError):  # the worker will meet the same and report it
        return _SMALL
    voxels = header.shape[0] * header.shape[1] * header.shape[2]
    return _SMALL + voxels * (channels * (header.dtype.itemsize + 1) + header.dtype.itemsize + 12)
