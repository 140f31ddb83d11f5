"""Worker processes that cannot die silently.

`run_cases` does the same work for many cases in several processes. Whatever happens to a process, each case ends as one
`Outcome`: its value, or a `Failure` that names case, stage, cause and the setting to change. The others continue.

A worker is a bare interpreter that talks through its own standard input and output: it starts in the time of an
`import`, needs no shared memory, never runs the user's script a second time, and its death is an end of file, seen at once.
What the work is, is handled in the rooms below.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from autoseg import messages
from autoseg.errors import AutosegError, WorkerDied
from autoseg.resources import available_cores, free_memory, oom_kills, peak_memory, reset_peak_memory

T = TypeVar("T")
R = TypeVar("R")

WORKER_BYTES = 120_000_000  # an interpreter with numpy, scipy and a reader of images, before any case
MEMORY_SHARE = 0.85  # of the free memory that workers may plan with; the rest is for the parent and the page cache

log = logging.getLogger(__name__)


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
        """The failure as an error to raise: the work's own, told which case it was, or `WorkerDied`."""
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
    peak_bytes: int | None = None  # most memory the worker held during this case; None where the system does not tell

    def result(self) -> R:
        """The value.

        Raises
        ------
        AutosegError : the failure, where there is one
        """
        if self.failure is not None:
            raise self.failure.as_error()
        return self.value  # type: ignore[return-value]


def run_cases(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    names: Sequence[str],
    stage: str,
    workers: int | None = None,
    peak_bytes: float | Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[Outcome[R], None, None]:
    """Do `work` for every item and yield what became of each, as they finish.

    Parameters
    ----------
    work : a function (or a `functools.partial` of one) that a new process can import; given one item
    items, names : what to work on, and what to call it in messages
    stage : what is being done, in the user's words
    workers : processes; None: as many as cores and free memory allow; 0: none, in this process
    peak_bytes : memory one case needs, or one figure per item: cases that do not fit together run one after the other. Where a
        case is measured to need more, the figures of those to come grow by the same factor.
    progress : called with (done, total) after each case

    Yields
    ------
    One `Outcome` per item, in the order in which they finish. Never raises for what happens inside a case; an interrupt
    ends the workers and passes on.
    """
    assert len(items) == len(names)
    outcomes = _alone(work, items, names, stage) if workers == 0 else _together(work, items, names, stage, workers, peak_bytes)
    with contextlib.closing(outcomes):
        for done, outcome in enumerate(outcomes, 1):
            if progress is not None:
                progress(done, len(items))
            yield outcome


def python_command(program: str, *arguments: str) -> list[str]:
    """Return the command that runs `program` in a new interpreter with this one's module search path.

    The current folder is often the user's data folder, so nothing in it may replace a module: the interpreter starts without it
    (`-P`) and, if this process has it on its own search path, it comes last. `sys.argv[1:]` of the program are `arguments`.
    """
    here = {""}
    with contextlib.suppress(OSError):  # the current folder may have been deleted
        here.add(os.getcwd())
    path = sorted(sys.path, key=here.__contains__)
    start = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    return [sys.executable, "-P", "-X", "faulthandler", "-c", start + program, json.dumps(path), *arguments]


def _alone(work: Callable[[T], R], items: Sequence[T], names: Sequence[str], stage: str) -> Generator[Outcome[R], None, None]:
    for item, name in zip(items, names, strict=True):
        yield _attempt(work, item, name, stage)


def _attempt(work: Callable[[T], R], item: T, name: str, stage: str) -> Outcome[R]:
    """One case, here. Every exception becomes a failure: that is this function's purpose."""
    reset_peak_memory()
    start = time.perf_counter()
    value, failure = None, None
    try:
        value = work(item)
    except AutosegError as error:
        failure = Failure(case=name, stage=stage, cause="data", message=str(error), remedy=error.fix or "", error=error)
    except Exception as error:  # noqa: BLE001  (reported to the caller, whatever it is)
        cause, remedy = _diagnose(error)
        message = f"{type(error).__name__}: {error}"
        failure = Failure(case=name, stage=stage, cause=cause, message=message, remedy=remedy, traceback=traceback.format_exc())
    return Outcome(name=name, value=value, failure=failure, seconds=time.perf_counter() - start, peak_bytes=peak_memory())


def _diagnose(error: BaseException) -> tuple[str, str]:
    """Cause class of an exception, and what to change."""
    if isinstance(error, MemoryError):
        return "oom", _REMEDIES["oom"]
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            shared = "/dev/shm" in str(error.filename or error)
            return ("shm", _REMEDIES["shm"]) if shared else ("disk", _REMEDIES["disk"])
        if error.errno == errno.ENOMEM:
            return "oom", _REMEDIES["oom"]
        return "io", f"{_REMEDIES['io']} ({error.filename})" if error.filename else _REMEDIES["io"]
    return "defect", _REMEDIES["defect"]


_REMEDIES = {
    "oom": "use fewer workers (--workers 1), or a machine with more memory",
    "killed": "if memory ran out, use fewer workers (--workers 1); if someone stopped it, run the same command again",
    "shm": "give the container more shared memory (docker run --shm-size), or use --workers 0",
    "disk": "free some space, then run the same command again: it continues",
    "io": "check that the disk is there and the file can be read",
    "crash": "run that case alone with --workers 0 to see where it crashes",
    "start": "run with --workers 0; if that works, please report it",
    "defect": "this is a defect of autoseg: please report it with the trace above; --workers 0 shows it in the main process",
}


def _together(
    work: Callable[[T], R],
    items: Sequence[T],
    names: Sequence[str],
    stage: str,
    workers: int | None,
    peak_bytes: float | Sequence[float] | None,
) -> Generator[Outcome[R], None, None]:
    """Several processes, one thread here for each; the threads go on while the caller does something else between two outcomes."""
    peaks = list(peak_bytes) if isinstance(peak_bytes, Sequence) else [float(peak_bytes or 0)] * len(items)
    count = max(1, min(len(items), workers if workers is not None else available_cores()))
    queue_ = _Queue(peaks, budget=MEMORY_SHARE * free_memory() if workers is None else None)
    done: queue.Queue[Outcome[R] | BaseException] = queue.Queue()
    crew = [_Lane(work, items, names, stage, queue_, done) for _ in range(count)]
    try:
        for lane in crew:
            lane.start()
        for _ in items:
            yield _next_outcome(done, crew, stage)
    finally:
        queue_.close()
        for lane in crew:
            lane.end()
        for lane in crew:
            lane.join(timeout=10)


SILENCE = 120.0  # seconds without any outcome, after which it is told what is being waited for; then after twice as long, and so on


def _next_outcome(done: queue.Queue[Outcome[R] | BaseException], crew: Sequence[_Lane], stage: str) -> Outcome[R]:
    started, silence = time.monotonic(), SILENCE
    while True:
        try:
            outcome = done.get(timeout=min(1.0, silence))
        except queue.Empty:
            if not any(lane.is_alive() for lane in crew) and done.empty():
                raise AssertionError("all lanes ended before all cases were done") from None
            if time.monotonic() - started > silence:
                silence *= 2
                _tell_waiting(crew, stage)
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _tell_waiting(crew: Sequence[_Lane], stage: str) -> None:
    """A worker that waits for a disk cannot be told from one that has much to do: it is named and not ended."""
    now = time.monotonic()
    waited = [f"case '{name}' for {now - since:.0f} s" for name, since in (lane.at_work for lane in crew) if name]
    log.warning("%s: still at work on %s; if that is too long for it, stop with Ctrl-C, look at the disk it is on, and give the same "
                "command again", stage, ", ".join(waited) or "the start of a worker")  # fmt: skip


class _Queue:
    """Which case is next, and whether the memory for it is there. Shared by the threads of one `_together`."""

    def __init__(self, peaks: Sequence[float], *, budget: float | None) -> None:
        self._peaks = peaks
        self._budget = budget
        self._waiting = sorted(range(len(peaks)), key=lambda i: -peaks[i])  # the largest first: the last to end is then a small one
        self._running: dict[int, float] = {}
        self._factor = 1.0  # measured over expected
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The next case that fits beside those that run, waiting for one to end where none does; None: no more."""
        with self._changed:
            while self._waiting:
                for place, index in enumerate(self._waiting):
                    if self._fits(index):
                        self._running[index] = self._need(index)
                        return self._waiting.pop(place)
                self._changed.wait(timeout=1.0)
            return None

    def release(self, index: int, measured: int | None) -> None:
        """The case has ended, having held at most `measured` bytes."""
        with self._changed:
            self._running.pop(index, None)
            expected = self._peaks[index] + WORKER_BYTES
            if measured and self._peaks[index]:
                self._factor = max(self._factor, measured / expected)
            self._changed.notify_all()

    def close(self) -> list[int]:
        """No more cases; returns those that were still waiting."""
        with self._changed:
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
            return left

    def _fits(self, index: int) -> bool:
        return self._budget is None or not self._running or sum(self._running.values()) + self._need(index) <= self._budget

    def _need(self, index: int) -> float:
        return self._factor * (self._peaks[index] + WORKER_BYTES)


class _Lane(threading.Thread):
    """One worker process and the thread that feeds it; a new process after a death, as long as there are cases."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        items: Sequence[Any],
        names: Sequence[str],
        stage: str,
        waiting: _Queue,
        done: queue.Queue[Any],
    ) -> None:
        super().__init__(daemon=True, name=f"autoseg-{stage}")
        self._work, self._items, self._names, self._stage = work, items, names, stage
        self._waiting, self._done = waiting, done
        self._process: _Process | None = None
        self._over = False
        self.at_work: tuple[str, float] = ("", 0.0)  # the case under way, and since when

    def run(self) -> None:
        """Case after case, until none is left or it is over."""
        try:
            while not self._over and (index := self._waiting.take()) is not None:
                self.at_work = (self._names[index], time.monotonic())
                outcome = self._one(index)
                self.at_work = ("", 0.0)
                self._waiting.release(index, outcome.peak_bytes)
                self._done.put(outcome)
                if outcome.failure is not None and outcome.failure.cause == "start":
                    self._fail_all(outcome.failure)
        except BaseException as error:  # noqa: BLE001  (our own defect: handed to the caller, who would otherwise wait forever)
            self._done.put(error)
        finally:
            if self._process is not None:
                self._process.close()

    def end(self) -> None:
        """Stop at once; a case under way is lost. Called from another thread."""
        self._over = True
        process = self._process
        if process is not None:
            process.kill()

    def _one(self, index: int) -> Outcome[Any]:
        name, start = self._names[index], time.perf_counter()
        if self._process is None:
            self._process = _Process()
        if self._over:  # `end` may have come before there was a process to kill
            self._process.kill()
        try:
            return self._process.ask((self._work, self._items[index], name, self._stage))
        except _Ended as ended:
            self._process = None
            if not self._over:
                log.warning("a worker ended at case '%s': %s", name, ended.message)
            failure = Failure(case=name, stage=self._stage, cause=ended.cause, message=ended.message,
                              remedy=_REMEDIES[ended.cause], traceback=ended.said)  # fmt: skip
            return Outcome(name=name, value=None, failure=failure, seconds=time.perf_counter() - start)

    def _fail_all(self, failure: Failure) -> None:
        """No process can be started: the cases still waiting would fail in the same way, one slow start after the other."""
        for index in self._waiting.close():
            same = Failure(case=self._names[index], stage=self._stage, cause=failure.cause, message=failure.message,
                           remedy=failure.remedy, traceback=failure.traceback)  # fmt: skip
            self._done.put(Outcome(name=self._names[index], value=None, failure=same, seconds=0.0))


class _Ended(Exception):
    """A worker process ended without an answer."""

    def __init__(self, cause: str, message: str, said: str) -> None:
        super().__init__(message)
        self.cause, self.message, self.said = cause, message, said


class _Process:
    """A worker process, seen from the parent: questions into its standard input, answers from its standard output."""

    def __init__(self) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # closed in `close`
        self._kills = oom_kills()
        self._process = subprocess.Popen(
            python_command("from autoseg.workers import serve; serve()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1")},
        )
        self._greeted = False

    def ask(self, question: tuple[Any, ...]) -> Outcome[Any]:
        """Send a case, wait for its outcome.

        Raises
        ------
        _Ended : the process ended first. Only the process holds the other end of the pipe, so its end is an end of file.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        message = messages.packed(question)
        try:
            if not self._greeted:
                self._greeted = messages.receive(self._process.stdout) == "ready"
            messages.send(self._process.stdin, message)
            answer: Outcome[Any] = messages.receive(self._process.stdout)
            return answer
        except (EOFError, OSError, ValueError):
            raise self._post_mortem() from None

    def kill(self) -> None:
        """Kill the process if it still runs; who waits for an answer sees its end."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Kill the process and close what leads to it."""
        self.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # what was still buffered has no reader any more
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._said.close()

    def _post_mortem(self) -> _Ended:
        """Why there was no answer. A process that lives on has answered what is none: something else speaks on its standard output."""
        babbled = False
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            babbled = True
            self._process.kill()
            code = self._process.wait()
        self._said.seek(0)
        said = self._said.read()[-4000:].decode(errors="replace")
        self.close()
        if babbled:
            before = "" if self._greeted else " before it began (sitecustomize?)"
            return _Ended("crash" if self._greeted else "start", f"the worker said what is no answer{before}", said)
        return _Ended(*_cause_of_death(code, said, greeted=self._greeted, oom_killed=oom_kills() > self._kills), said)


# One thread in each: the cases are the parallel part, and sums come out the same however many workers there are.
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS", "NUMEXPR_NUM_THREADS",
                    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")  # fmt: skip


def _cause_of_death(code: int, said: str, *, greeted: bool, oom_killed: bool) -> tuple[str, str]:
    """Cause class and message for a process that ended with `code`."""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            if -code == getattr(signal, "SIGKILL", 9):
                if oom_killed:
                    return "oom", "the worker was killed by the system: memory ran out (SIGKILL by the kernel)"
                return "killed", "the worker was killed (SIGKILL): memory ran out, or someone stopped it"
            if name == "SIGBUS":
                return "shm", "the worker was killed (SIGBUS): shared memory or a mapped file ran out"
            if name == "SIGTERM":
                return "killed", "the worker was stopped (SIGTERM)"
            return "crash", f"the worker crashed ({name})"
    if "MemoryError" in said or "Cannot allocate memory" in said:
        return "oom", f"the worker ran out of memory (exit code {code})"
    if not greeted:
        return "start", f"a worker process could not be started (exit code {code})"
    return "crash", f"the worker ended without an answer (exit code {code})"


def serve() -> None:
    """The worker's side: answer cases from standard input until it ends. Started by `run_cases`, by nobody else."""
    questions = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")  # our own copy: whatever a library prints must not come between two answers
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # if one must go, a worker before the parent
    _die_with_parent()
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    messages.send(answers, messages.packed("ready"))
    while True:
        try:
            work, item, name, stage = messages.receive(questions)
        except EOFError:
            return
        outcome = _attempt(work, item, name, stage)
        messages.send(answers, _packed(outcome, name, stage))
        del outcome, item  # a case's arrays must not outlive its answer


def _packed(outcome: Outcome[Any], name: str, stage: str) -> messages.Parts:
    """The answer for a case, or the failure that says why its value cannot travel."""
    try:
        return messages.packed(outcome)
    except TypeError as error:
        message = f"the result of the work cannot travel between processes: {error}"
        failure = Failure(case=name, stage=stage, cause="defect", message=message, remedy=_REMEDIES["defect"])
        return messages.packed(Outcome(name=name, value=None, failure=failure, seconds=outcome.seconds))


def _die_with_parent() -> None:
    """Have the kernel (Linux) kill us the moment the parent's thread that feeds us is gone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG


def _leave_with_parent(parent: int) -> None:
    """End when the parent is gone, on any system: a worker that outlives a killed command would write beside the next one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
