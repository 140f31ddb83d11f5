"""What became of a case that was given to a worker: its value, or why it has none, by exception, signal or what the kernel counted."""

from __future__ import annotations

import contextlib
import errno
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from autoseg.errors import AutosegError, WorkerDied
from autoseg.resources import peak_memory, reset_peak_memory

T = TypeVar("T")
R = TypeVar("R")

REMEDIES = {
    "oom": "use fewer workers (--workers 1), or a machine with more memory",
    "killed": "if memory ran out, use fewer workers (--workers 1); if someone stopped it, run the same command again",
    "shm": "give the container more shared memory (docker run --shm-size), or use --workers 0",
    "disk": "free some space, then run the same command again: it continues",
    "io": "check that the disk is there and the file can be read",
    "crash": "run that case alone with --workers 0 to see where it crashes",
    "start": "run with --workers 0, or with fewer workers; the limits of processes and open files (ulimit -u, ulimit -n) or a missing "
    "temporary folder (TMPDIR) may be the reason",
    "defect": "this is a defect of autoseg: please report it with the trace above; --workers 0 shows it in the main process",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a case has no value."""

    case: str
    stage: str  # what was being done, in the user's words: "preprocessing"
    cause: str  # "data", "oom", "killed", "shm", "disk", "io", "crash" (of a library), "start" (of a worker) or "defect" (of autoseg)
    message: str  # what happened, one or more lines
    remedy: str  # the one thing to change
    traceback: str = ""  # of the worker; empty where the data is at fault or nothing was left to read
    error: AutosegError | None = None  # the error raised by the work itself

    def as_error(self) -> AutosegError:
        """Return the failure as an error to raise: the work's own, with the name of the case, or `WorkerDied`."""
        if self.error is not None:
            self.error.case = self.error.case or self.case
            return self.error
        details = {"stage": self.stage, "cause": self.cause}
        if self.traceback:
            details["trace"] = self.traceback.strip()
        died = WorkerDied("no result", case=self.case, found=self.message, fix=self.remedy, details=details)
        if self.cause == "defect":
            died.exit_code = AutosegError.exit_code  # ours, not the user's
        return died


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[R]):
    """What became of one case."""

    name: str
    value: R | None
    failure: Failure | None
    seconds: float
    peak_bytes: int | None = None  # most memory the worker held during this case; None where the system does not say

    def result(self) -> R:
        """Return the value.

        Raises
        ------
        AutosegError : the failure, where there is one
        """
        if self.failure is not None:
            raise self.failure.as_error()
        return self.value  # type: ignore[return-value]


def attempt(work: Callable[[T], R], item: T, name: str, stage: str) -> Outcome[R]:
    """Do one case here. Every exception becomes a failure: that is this function's purpose."""
    reset_peak_memory()
    start = time.perf_counter()
    value, failure = None, None
    try:
        value = work(item)
    except AutosegError as error:
        failure = Failure(case=name, stage=stage, cause="data", message=str(error), remedy=error.fix or "", error=error)
    except Exception as error:  # noqa: BLE001  (reported to the caller, whatever it is)
        cause, remedy = diagnose(error)
        message = f"{type(error).__name__}: {error}"
        failure = Failure(case=name, stage=stage, cause=cause, message=message, remedy=remedy, traceback=traceback.format_exc())
    return Outcome(name=name, value=value, failure=failure, seconds=time.perf_counter() - start, peak_bytes=peak_memory())


def diagnose(error: Exception) -> tuple[str, str]:
    """Return the cause class of an exception, and what to change."""
    cause, number = "defect", getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        cause = "oom"
    elif isinstance(error, OSError) and number in (errno.ENOSPC, errno.EDQUOT):
        cause = "shm" if "/dev/shm" in str(error.filename or error) else "disk"
    elif isinstance(error, OSError):
        return "io", f"{REMEDIES['io']} ({error.filename})" if error.filename else REMEDIES["io"]
    return cause, REMEDIES[cause]


def lost(name: str, stage: str, cause: str, message: str, trace: str = "", *, seconds: float = 0.0) -> Outcome[Any]:
    """Return the outcome of a case whose worker has given no answer, or none that can be read."""
    failure = Failure(case=name, stage=stage, cause=cause, message=message, remedy=REMEDIES[cause], traceback=trace)
    return Outcome(name=name, value=None, failure=failure, seconds=seconds)


def cause_of_death(code: int, said: str, *, greeted: bool, oom_killed: bool) -> tuple[str, str]:
    """Return cause class and message for a process that ended with `code`."""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            if name == "SIGKILL" and oom_killed:
                return "oom", "the worker was killed by the system: memory ran out (SIGKILL by the kernel)"
            return {
                "SIGKILL": ("killed", "the worker was killed (SIGKILL): memory ran out, or someone stopped it"),
                "SIGBUS": ("shm", "the worker was killed (SIGBUS): shared memory or a mapped file ran out"),
                "SIGTERM": ("killed", "the worker was stopped (SIGTERM)"),
            }.get(name, ("crash", f"the worker crashed ({name})"))
    if "MemoryError" in said or "Cannot allocate memory" in said:
        return "oom", f"the worker ran out of memory (exit code {code})"
    if not greeted:
        return "start", f"a worker process could not be started (exit code {code})"
    return "crash", f"the worker ended without an answer (exit code {code})"
