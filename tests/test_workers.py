"""Every case ends as one outcome, whatever happens to the process that worked on it."""

from __future__ import annotations

import enum
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg import errors, workers
from autoseg.errors import GridMismatch, WorkerDied
from autoseg.geometry import Box
from autoseg.outcomes import Outcome
from autoseg.workers import map_cases

pytestmark = pytest.mark.slow


def double(item: int) -> int:
    return 2 * item


def own_process(item: int) -> int:
    return os.getpid()


def fail_as_data(item: int) -> int:
    if item == 1:
        raise GridMismatch("not on the same grid", found="3", expected="4", fix="resample")
    return item


def fail_as_defect(item: int) -> int:
    return 1 // item


def kill_itself(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def stop_itself(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def crash(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def chatter(item: int) -> int:
    sys.stdout.write("a library that prints")
    os.write(1, b"and one that writes to the descriptor\n")
    return item


def out_of_memory(item: int) -> int:
    raise MemoryError


def unsendable(item: int) -> object:
    return lambda: item


def identity(item: Any) -> Any:
    return item


class Colour(enum.Enum):
    RED = "r"


@dataclass(frozen=True, kw_only=True)
class Pair:
    left: Any
    right: Any

    def __post_init__(self) -> None:
        assert self.left is not None, "the constructor does not run again"


class Bomb:
    """A value that comes apart when it is read."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, (self.error,)


def explode(error: type[Exception]) -> None:
    raise error("while reading")


def bomb(item: int) -> Any:
    return Bomb((MemoryError, IndexError, OverflowError, KeyError)[item - 1]) if item else item


def interval(folder: str) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(0.2)
    return start, time.monotonic()


def by_name(outcomes: list[Outcome[int]]) -> dict[str, Outcome[int]]:
    return {outcome.name: outcome for outcome in outcomes}


@pytest.mark.parametrize("count", [0, 1, 2, None])
def test_every_item_gives_its_own_value_whatever_the_number_of_workers(count: int | None) -> None:
    calls: list[tuple[int, int]] = []
    outcomes = map_cases(double, [3, 4, 5], names=["a", "b", "c"], stage="doubling", workers=count, progress=lambda *c: calls.append(c))
    assert {o.name: o.result() for o in outcomes} == {"a": 6, "b": 8, "c": 10}
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_items_give_no_outcomes() -> None:
    assert list(map_cases(double, [], names=[], stage="doubling")) == []


def test_zero_workers_stay_in_this_process_and_others_do_not() -> None:
    assert next(iter(map_cases(own_process, [1], names=["a"], stage="s", workers=0))).result() == os.getpid()
    assert next(iter(map_cases(own_process, [1], names=["a"], stage="s", workers=1))).result() != os.getpid()


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_of_the_data_comes_back_as_itself_and_knows_its_case(count: int) -> None:
    found = by_name(list(map_cases(fail_as_data, [0, 1, 2], names=["a", "b", "c"], stage="s", workers=count)))
    assert (found["a"].value, found["c"].value) == (0, 2)
    failure = found["b"].failure
    assert failure is not None and failure.cause == "data" and failure.remedy == "resample"
    with pytest.raises(GridMismatch, match="not on the same grid") as raised:
        found["b"].result()
    assert "case 'b'" in str(raised.value) and raised.value.found == "3"


@pytest.mark.parametrize("count", [0, 1])
def test_a_defect_comes_back_with_the_trace_of_the_worker(count: int) -> None:
    found = by_name(list(map_cases(fail_as_defect, [0, 1], names=["a", "b"], stage="halving", workers=count)))
    failure = found["a"].failure
    assert failure is not None and failure.cause == "defect"
    assert "ZeroDivisionError" in failure.message and "return 1 // item" in failure.traceback
    assert failure.as_error().exit_code == 1
    assert found["b"].value == 1


def test_a_killed_worker_is_reported_at_once_and_the_other_cases_finish() -> None:
    start = time.monotonic()
    found = by_name(list(map_cases(kill_itself, range(5), names=list("abcde"), stage="preprocessing", workers=2)))
    assert time.monotonic() - start < 30
    failure = found["b"].failure
    assert failure is not None and failure.cause in ("killed", "oom") and "SIGKILL" in failure.message
    error = failure.as_error()
    assert isinstance(error, WorkerDied) and error.exit_code == 3
    assert all(word in str(error) for word in ("case 'b'", "preprocessing", "--workers 1"))
    assert [found[name].value for name in "acde"] == [0, 2, 3, 4]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_worker_that_hangs_is_named_while_the_others_go_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    outcomes = map_cases(stop_itself, [0, 1, 2], names=["a", "b", "c"], stage="preprocessing", workers=2)
    assert {next(outcomes).name, next(outcomes).name} == {"a", "c"}
    monkeypatch.setattr(workers, "SILENCE", 0.2)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(next, outcomes)
        time.sleep(1.5)
        for place in Path("/proc").glob("[0-9]*"):
            if _is_stopped_child(place):
                os.kill(int(place.name), signal.SIGKILL)
        failure = hanging.result(timeout=20).failure
    assert "preprocessing: still at work on case 'b' for" in caplog.text
    assert failure is not None and failure.case == "b" and failure.cause in ("killed", "oom")


def _is_stopped_child(place: Path) -> bool:
    try:
        state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    return state == "T" and int(parent) == os.getpid()


def test_a_crash_of_a_library_leaves_its_stack() -> None:
    found = by_name(list(map_cases(crash, range(3), names=list("abc"), stage="s", workers=1)))
    failure = found["b"].failure
    assert failure is not None and failure.cause == "crash" and "SIGSEGV" in failure.message
    assert "in crash" in failure.traceback
    assert (found["a"].value, found["c"].value) == (0, 2)


def test_what_a_library_prints_does_not_disturb_the_answers() -> None:
    assert sorted(o.result() for o in map_cases(chatter, [1, 2, 3], names=list("abc"), stage="s", workers=1)) == [1, 2, 3]


def test_a_memory_error_is_reported_as_such() -> None:
    outcome = next(iter(map_cases(out_of_memory, [1], names=["a"], stage="s", workers=1)))
    assert outcome.failure is not None and outcome.failure.cause == "oom" and "--workers 1" in outcome.failure.remedy


def test_a_value_that_cannot_be_pickled_is_a_failure_and_not_a_hang() -> None:
    outcome = next(iter(map_cases(unsendable, [1], names=["a"], stage="s", workers=1)))
    assert outcome.failure is not None and outcome.failure.cause == "defect" and "cannot be pickled" in outcome.failure.message


VALUES = [None, -(10**30), math.inf, "Größe\n\ud800", b"\x00\xff", (1, ("a", [2])), {1, 2}, frozenset({"x"}), {"a": 1, (4, 5): None},
          slice(1, None, -2), Path("a/b"), np.dtype("<u2"), Colour.RED, Box(start=(0, 0, 0), stop=(1, 2, 3)), np.float32(0.1),
          Pair(left=1, right=Pair(left="x", right=(Path("y"),)))]  # fmt: skip


def test_a_value_comes_back_equal_and_of_its_own_type() -> None:
    found = {o.name: o.result() for o in map_cases(identity, VALUES, names=list(map(repr, VALUES)), stage="s", workers=1)}
    for value in VALUES:
        assert found[repr(value)] == value and type(found[repr(value)]) is type(value)


def test_an_array_comes_back_with_its_values_and_can_be_written_to() -> None:
    base = [np.arange(12).reshape(4, 3).astype(dtype) for dtype in ("u1", "?", "<i2", ">f4", "<f8", "<U3")]
    arrays = [view for array in base for view in (array, array[::2, ::-1], array.T, array[:0])] + [np.zeros(3_000_000)]
    for outcome in map_cases(identity, arrays, names=list(map(str, range(len(arrays)))), stage="s", workers=1):
        again, array = outcome.result(), arrays[int(outcome.name)]
        assert again.dtype.newbyteorder("=") == array.dtype.newbyteorder("=") and again.flags.writeable
        np.testing.assert_array_equal(again, array)


def test_an_error_as_a_value_comes_back_with_all_it_says() -> None:
    for error in (
        errors.MissingLabel("no label", file="a", found="x", fix="y", case="c", details={"k": "v"}),
        errors.FaultyCases([errors.GridMismatch("grids", case="a"), errors.LabelError("label")], fix="correct them"),
    ):
        again = next(map_cases(identity, [error], names=["a"], stage="s", workers=1)).result()
        assert type(again) is type(error) and str(again) == str(error) and again.args == error.args


def test_an_answer_that_cannot_be_read_loses_its_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LAST_MOMENTS", 0.2)
    found = by_name(list(map_cases(bomb, range(5), names=list("abcde"), stage="s", workers=1)))
    assert found["a"].value == 0
    failures = [found[name].failure for name in "bcde"]
    assert [failure.cause for failure in failures if failure] == ["oom", "crash", "crash", "crash"]
    assert all(failure and "while reading" in failure.message and failure.as_error().exit_code == 3 for failure in failures)


def test_without_a_temporary_folder_every_case_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(workers.tempfile, "TemporaryFile", refuse)
    _all_fail_to_start("No usable temporary directory")


def test_a_limit_of_processes_or_open_files_fails_every_case_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(workers.subprocess, "Popen", refuse)
    _all_fail_to_start("Too many open files")


def test_a_limit_of_threads_fails_every_case_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers._WorkerThread, "start", _refuse_to_start)
    _all_fail_to_start("can't start new thread")


def _refuse_to_start(self: object) -> None:
    raise RuntimeError("can't start new thread")


def _all_fail_to_start(reason: str) -> None:
    found = list(map_cases(double, range(5), names=list("abcde"), stage="s", workers=2))
    assert sorted(outcome.name for outcome in found) == list("abcde")
    for failure in (outcome.failure for outcome in found):
        assert failure is not None and failure.cause == "start" and reason in failure.message
        assert failure.as_error().exit_code == 3 and "ulimit -u" in str(failure.as_error())


def test_where_one_thread_can_be_started_it_does_the_work_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = workers._WorkerThread.start, []

    def start_one(self: workers._WorkerThread) -> None:
        if started:
            _refuse_to_start(self)
        started.append(self)
        start(self)

    monkeypatch.setattr(workers._WorkerThread, "start", start_one)
    assert sorted(o.result() for o in map_cases(double, range(4), names=list("abcd"), stage="s", workers=3)) == [0, 2, 4, 6]


def test_workers_that_cannot_start_fail_every_case_without_a_start_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    found = list(map_cases(double, range(50), names=[str(i) for i in range(50)], stage="s", workers=2))
    assert len(found) == 50 and {o.failure.cause for o in found if o.failure} == {"start"}


def test_a_worker_whose_start_prints_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('2026: the profile of this site was loaded', flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = list(map_cases(double, [1, 2, 3], names=list("abc"), stage="s", workers=1))
    assert {outcome.failure.cause for outcome in found if outcome.failure} == {"start"} and len(found) == 3
    assert "something else was printed before it began" in found[0].failure.message  # type: ignore[union-attr]


def test_cases_that_do_not_fit_into_memory_together_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "free_memory", lambda: 10 * workers.WORKER_BYTES)
    monkeypatch.setattr(workers, "available_cores", lambda: 3)
    big = 6.0 * workers.WORKER_BYTES
    spans = sorted(o.result() for o in map_cases(interval, ["", "", ""], names=list("abc"), stage="s", peak_bytes=big))
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_a_case_larger_than_all_memory_still_gets_its_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "free_memory", lambda: 1)
    assert [o.result() for o in map_cases(double, [1], names=["a"], stage="s", peak_bytes=[1e15])] == [2]


def test_a_case_that_needs_more_than_expected_raises_what_is_planned_for_the_next() -> None:
    waiting = workers._Queue([100.0, 100.0, 100.0], budget=3.5 * (100 + workers.WORKER_BYTES))
    assert waiting.take() == 0
    waiting.release(0, 3 * (100 + workers.WORKER_BYTES))
    assert waiting.take() == 1
    assert waiting._fits(2) is False


def test_stopping_half_way_ends_the_workers() -> None:
    outcomes = map_cases(own_process, range(6), names=list("abcdef"), stage="s", workers=2)
    pids = {next(outcomes).result(), next(outcomes).result()}
    outcomes.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from autoseg.workers import map_cases
        from test_workers import note_and_sleep
        list(map_cases(note_and_sleep, [sys.argv[2]], names=["a"], stage="s", workers=1))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    deadline = time.monotonic() + 20
    while not (notes := list(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    worker = int(notes[0].name)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def note_and_sleep(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def test_a_worker_starts_without_the_heavy_libraries() -> None:
    script = "import sys; import autoseg.workers; print([m for m in ('torch', 'numpy', 'scipy', 'nibabel') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True)
    assert done.stdout.strip() == "[]"
