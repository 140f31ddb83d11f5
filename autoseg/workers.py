"""Worker processes that cannot die silently.

`map_cases` does the same work for many cases in several processes. Whatever happens to a process, each case ends as one
`Outcome`: its value, or a `Failure` that names case, stage, cause and the setting to change. The others continue.

A worker is a bare interpreter that talks through its own standard input and output: it starts in the time of an `import`, needs no
shared memory, never runs the user's script a second time, and its death is an end of file, seen at once. Cases and outcomes are
pickled: both ends of the pipe are this version of autoseg, and nobody else can write to it. Nothing else in the package is pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from autoseg.outcomes import Outcome, attempt, cause_of_death, lost
from autoseg.resources import available_cores, free_memory, oom_kills

T = TypeVar("T")
R = TypeVar("R")

WORKER_BYTES = 120_000_000  # an interpreter with numpy, scipy and a reader of images, before any case
MEMORY_SHARE = 0.85  # of the free memory that workers may plan with; the rest is for the parent and the page cache
SILENCE = 120.0  # seconds without any outcome, after which the cases under way are reported; then after twice as long, and so on
LAST_MOMENTS = 5.0  # seconds in which a process must have ended, once its answers have

_GREETING = b"autoseg worker, ready for cases\n"
# One thread in each: the cases are the parallel part, and sums come out the same however many workers there are.
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS", "NUMEXPR_NUM_THREADS",
                    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Job:
    work: Callable[[Any], Any]
    items: Sequence[Any]
    names: Sequence[str]
    stage: str


def map_cases(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    names: Sequence[str],
    stage: str,
    workers: int | None = None,
    peak_bytes: float | Sequence[float] = 0.0,
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
    outcomes: Generator[Outcome[R], None, None]
    if workers == 0:
        outcomes = (attempt(work, item, name, stage) for item, name in zip(items, names, strict=True))
    else:
        peaks = peak_bytes if isinstance(peak_bytes, Sequence) else [peak_bytes] * len(items)
        outcomes = _in_processes(_Job(work=work, items=items, names=names, stage=stage), workers, peaks)
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


def _in_processes(job: _Job, workers: int | None, peaks: Sequence[float]) -> Generator[Outcome[Any], None, None]:
    """Run several processes, one thread here for each; the threads go on while the caller does something else between two outcomes."""
    count = max(1, min(len(job.items), workers if workers is not None else available_cores()))
    waiting = _Queue(peaks, budget=MEMORY_SHARE * free_memory() if workers is None else None)
    done: queue.Queue[Outcome[Any] | BaseException] = queue.Queue()
    threads: list[_WorkerThread] = []
    try:
        while len(threads) < count:
            thread = _WorkerThread(job, waiting, done)
            try:
                thread.start()
            except RuntimeError as error:  # a limit of the system: those that run do the work
                if not threads:
                    thread.give_up(_Ended("start", f"no thread could be started for a worker: {error}"))
                break
            threads.append(thread)
        for _ in job.items:
            yield _next_outcome(done, threads, job.stage)
    finally:
        waiting.close()
        for thread in threads:
            thread.end()
        for thread in threads:
            thread.join(timeout=10)


def _next_outcome(done: queue.Queue[Outcome[Any] | BaseException], threads: Sequence[_WorkerThread], stage: str) -> Outcome[Any]:
    started, silence = time.monotonic(), SILENCE
    while True:
        try:
            outcome = done.get(timeout=min(1.0, silence))
        except queue.Empty:
            if not any(thread.is_alive() for thread in threads) and done.empty():
                raise AssertionError("all threads ended before all cases were done") from None
            now = time.monotonic()
            if now - started > silence:  # a worker that waits for a disk looks like one that has much to do: it is named, not ended
                silence *= 2
                under_way = [f"case '{name}' for {now - since:.0f} s" for name, since in (thread.at_work for thread in threads) if name]
                log.warning("%s: still at work on %s; if that is too long for it, stop with Ctrl-C, look at the disk it is on, and run "
                            "the same command again", stage, ", ".join(under_way) or "the start of a worker")  # fmt: skip
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class _Queue:
    """Which case is next, and whether the memory for it is there. Shared by the threads of one `_in_processes`."""

    def __init__(self, peaks: Sequence[float], *, budget: float | None) -> None:
        self._peaks = peaks
        self._budget = budget
        self._waiting = sorted(range(len(peaks)), key=lambda i: -peaks[i])  # the largest first: the last to end is then a small one
        self._running: dict[int, float] = {}
        self._factor = 1.0  # measured over expected
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """Return the next case that fits into memory next to those that run, waiting for one to end where none does; None: no more."""
        with self._changed:
            while self._waiting:
                for place, index in enumerate(self._waiting):
                    if self._fits(index):
                        self._running[index] = self._need(index)
                        return self._waiting.pop(place)
                self._changed.wait(timeout=1.0)
            return None

    def release(self, index: int, measured: int | None) -> None:
        """Record that a case has ended, having held at most `measured` bytes."""
        with self._changed:
            self._running.pop(index, None)
            if measured and self._peaks[index]:
                self._factor = max(self._factor, measured / (self._peaks[index] + WORKER_BYTES))
            self._changed.notify_all()

    def close(self) -> list[int]:
        """Give out no more cases, and return those that were still waiting."""
        with self._changed:
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
            return left

    def _fits(self, index: int) -> bool:
        return self._budget is None or not self._running or sum(self._running.values()) + self._need(index) <= self._budget

    def _need(self, index: int) -> float:
        return self._factor * (self._peaks[index] + WORKER_BYTES)


class _WorkerThread(threading.Thread):
    """One worker process and the thread that feeds it; a new process after a death, as long as there are cases."""

    def __init__(self, job: _Job, waiting: _Queue, done: queue.Queue[Outcome[Any] | BaseException]) -> None:
        super().__init__(daemon=True, name=f"autoseg-{job.stage}")
        self._job, self._waiting, self._done = job, waiting, done
        self._process: _Process | None = None
        self._over = False
        self.at_work: tuple[str, float] = ("", 0.0)  # the case under way, and since when

    def run(self) -> None:
        """Do case after case, until none is left or it is over."""
        try:
            while not self._over and (index := self._waiting.take()) is not None:
                name, start = self._job.names[index], time.perf_counter()
                self.at_work = (name, time.monotonic())
                try:
                    outcome = self._ask(index)
                except _Ended as ended:
                    self._process = None
                    outcome = lost(name, self._job.stage, *ended.args, seconds=time.perf_counter() - start)
                    if not self._over:
                        log.warning("a worker ended at case '%s': %s", name, ended.message)
                    if ended.cause == "start":
                        self.give_up(ended)
                self.at_work = ("", 0.0)
                self._waiting.release(index, outcome.peak_bytes)
                self._done.put(outcome)
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

    def give_up(self, ended: _Ended) -> None:
        """Report all waiting cases as lost: without a process they would fail in the same way, one slow start after the other."""
        for index in self._waiting.close():
            self._done.put(lost(self._job.names[index], self._job.stage, *ended.args))

    def _ask(self, index: int) -> Outcome[Any]:
        if self._process is None:
            self._process = _Process()
        if self._over:  # `end` may have come before there was a process to kill
            self._process.kill()
        return self._process.ask((self._job.work, self._job.items[index], self._job.names[index], self._job.stage))


class _Ended(Exception):
    """A worker process could not be started, or ended without an answer."""

    def __init__(self, cause: str, message: str, said: str = "") -> None:
        super().__init__(cause, message, said)
        self.cause, self.message = cause, message


class _Process:
    """A worker process, seen from the parent: questions into its standard input, answers from its standard output."""

    def __init__(self) -> None:
        self._kills = oom_kills()
        self._greeted = False
        with contextlib.ExitStack() as opened:
            try:
                self._stderr: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())
                self._process = subprocess.Popen(
                    python_command("from autoseg.workers import serve; serve()"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    env={**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1")},
                )
            except OSError as error:
                raise _Ended("start", f"a worker process could not be started: {error}") from None
            opened.pop_all()  # closed in `close`
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def ask(self, question: tuple[Any, ...]) -> Outcome[Any]:
        """Send a case, and return its outcome.

        Raises
        ------
        _Ended : the process ended without an answer. Only it holds the other end of the pipe, so its end is an end of file.
        """
        message = pickle.dumps(question, protocol=5)
        try:
            if not self._greeted:
                self._greeted = self._answers.read(len(_GREETING)) == _GREETING
                if not self._greeted:
                    raise ValueError("something else was printed before it began (sitecustomize?)")
            self._questions.write(message)
            self._questions.flush()
            answer: Outcome[Any] = pickle.load(self._answers)  # noqa: S301  (of our own process)
            return answer
        except Exception as error:  # noqa: BLE001  (whatever a damaged answer raises, the process is of no more use)
            raise self._post_mortem(error) from None

    def kill(self) -> None:
        """Kill the process if it still runs; the thread that waits for its answer sees its end."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Kill the process and close the files that lead to it."""
        self.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # what was still buffered has no reader any more
            self._questions.close()
        self._answers.close()
        self._stderr.close()

    def _post_mortem(self, error: Exception) -> _Ended:
        """Stop the process, and return why there was no answer: its end, or, where it lives on, what is wrong with the answer."""
        try:
            code = self._process.wait(timeout=LAST_MOMENTS)
            cause, message = "", ""
        except subprocess.TimeoutExpired:
            cause = "oom" if isinstance(error, MemoryError) else "crash" if self._greeted else "start"
            message = f"the answer of the worker cannot be read: {type(error).__name__}: {error}"
            self._process.kill()
            code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read()[-4000:].decode(errors="replace")
        self.close()
        if not cause:
            cause, message = cause_of_death(code, said, greeted=self._greeted, oom_killed=oom_kills() > self._kills)
        return _Ended(cause, message, said)


def serve() -> None:
    """Answer cases from standard input until it ends: the worker's side. Started by `map_cases` only."""
    questions = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")  # our own copy: whatever a library prints must not come between two answers
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # if one must go, a worker before the parent
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG: killed the moment the thread that feeds us is gone
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    answers.write(_GREETING)
    answers.flush()
    while True:
        try:
            work, item, name, stage = pickle.load(questions)  # noqa: S301  (of our own parent)
        except EOFError:
            return
        outcome = attempt(work, item, name, stage)
        try:
            message = pickle.dumps(outcome, protocol=5)
        except Exception as error:  # noqa: BLE001  (a value of any kind, which refuses in a way of its own)
            reason = f"the result of the work cannot be pickled: {error}"
            message = pickle.dumps(lost(name, stage, "defect", reason, seconds=outcome.seconds), protocol=5)
        answers.write(message)
        answers.flush()
        del outcome, item, message  # a case's arrays must not outlive its answer


def _leave_with_parent(parent: int) -> None:
    """End when the parent is gone, on any system: a worker that outlives a killed command would write next to the next one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
