"""Several folds at once, each on a device of its own and in a process of its own, which is the command for that fold alone.

A process that fails takes no other with it. All end when this one ends, however it ends: they save their state first.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from autoseg.errors import Interrupted, TrainingFailed
from autoseg.pipeline.reporter import Reporter
from autoseg.resources import available_cores
from autoseg.workers import python_command

LAST_LINES = 12  # of a fold that failed, kept for the message
_PROGRAM = "from autoseg.pipeline import parallel_folds; parallel_folds.follow(); from autoseg.cli import main; sys.exit(main())"


def train_folds(commands: Mapping[int, Sequence[str]], *, devices: Sequence[str], reporter: Reporter, started: float | None = None) -> None:
    """Run the command of every fold, as many at once as there are devices.

    Parameters
    ----------
    commands : fold -> arguments of `autoseg`, the device apart
    devices : each has one fold at a time
    reporter : gets every line that the commands print
    started : `time.monotonic()` from which the time budgets of the folds that begin first count; None: now

    Raises
    ------
    TrainingFailed : some folds ended with an error; the others are finished. The last lines that they printed are in its details
    Interrupted : some folds were stopped from outside
    """
    waiting, first = list(commands), list(commands)[: len(devices)]
    spent = 0.0 if started is None else time.monotonic() - started
    free, running = list(devices), dict[int, tuple[str, subprocess.Popen[str]]]()
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()  # of which fold; None: it has ended
    last: dict[int, deque[str]] = {fold: deque(maxlen=LAST_LINES) for fold in commands}
    failed: dict[int, int] = {}
    try:
        while waiting or running:
            while waiting and free:
                fold, device = waiting.pop(0), free.pop(0)
                reporter.say(f"fold {fold} on {device}")
                sharing = ["--device", device, "--folds-at-once", str(len(devices))]
                sharing += ["--time-spent", f"{spent:f}"] if fold in first else []
                running[fold] = device, _start([*commands[fold], *sharing], fold, lines, shared_by=len(devices))
            fold, line = lines.get()
            if line is not None:
                last[fold].append(line)
                reporter.say(line)
                continue
            device, process = running.pop(fold)
            free.append(device)
            if code := _end(process):
                failed[fold] = code
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in running.values():
            _end(process)
    if failed and set(failed.values()) == {Interrupted.exit_code}:
        raise Interrupted(f"{len(failed)} of {len(commands)} folds were stopped", fix="run the same command again: it resumes from there")
    if failed:
        raise TrainingFailed(
            f"{len(failed)} of {len(commands)} folds did not finish",
            found="; ".join(f"fold {fold}: exit code {code}" for fold, code in sorted(failed.items())),
            expected="every fold trained and validated",
            fix="fix what they report, then run the same command again for what is missing",
            details={f"fold {fold}": "\n".join(last[fold]) for fold in sorted(failed)},
        )


def follow() -> None:
    """Stop this process of a fold as SIGTERM does once the starting process is gone: that one holds our standard input open."""

    def watch() -> None:
        """Wait for the end of the standard input."""
        while os.read(0, 1024):  # not sys.stdin: its lock, held here, would block the end of the program
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent watcher", daemon=True).start()


def _start(arguments: Sequence[str], fold: int, lines: queue.Queue[tuple[int, str | None]], *, shared_by: int) -> subprocess.Popen[str]:
    threads = {"OMP_NUM_THREADS": str(max(1, available_cores() // shared_by))}
    process = subprocess.Popen(
        python_command(_PROGRAM, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**threads, **os.environ},
    )

    def pass_on() -> None:
        """Return pass on every line that the fold prints, then its end."""
        assert process.stdout is not None
        try:
            with process.stdout:
                for line in process.stdout:
                    lines.put((fold, line.rstrip("\n")))
        finally:
            lines.put((fold, None))

    threading.Thread(target=pass_on, name=f"fold {fold}", daemon=True).start()
    return process


def _end(process: subprocess.Popen[str]) -> int:
    """Wait for it; its exit code."""
    code = process.wait()
    assert process.stdin is not None
    process.stdin.close()
    return code
