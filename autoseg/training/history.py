"""What a run reports: times, one row of figures per epoch, the files of its history."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg import files, schema
from autoseg.errors import UnreadableFile
from autoseg.quantities import format_bytes, format_duration
from autoseg.training.batches import BatchLoader
from autoseg.training.length import RunLength
from autoseg.workspace import Run

REPORT_SECONDS = 2.0  # between two reports within an epoch
WAITING_TOO_LONG = 0.2  # share of the time spent waiting for data from which the cause is reported
_OF_PROGRESS = ("done", "total", "waiting_for")  # of a row, for progress bars; not in the files
_SELDOM = ("learning_rate", "validation_cases")  # of a row, only where there is one


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """The figures of one epoch, or of the part of it that is over."""

    epoch: int
    step: int
    elapsed: float  # s
    loss: float | None  # mean over the epoch
    validation_dice: float | None = None  # None where it was not measured
    learning_rate: float | None = None  # of the last step; None in an earlier version
    seconds_per_step: float
    data_wait: float  # share of the time
    augmentation: float  # share of the time
    memory: int  # bytes
    time_left: float  # s
    done: int = 0
    total: int = 0
    waiting_for: str | None = None  # what keeps the network waiting; None where it hardly waits
    validation_cases: int | None = None  # how many were scored, where a time budget allows fewer than the settings

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EpochRow:
        """Return a row from the saved state of a run."""
        return cls(**schema.pick(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the saved state and for curves."""
        return {name: value for name, value in vars(self).items() if value is not None or name not in _SELDOM}

    def __str__(self) -> str:
        """Return the figures as one line for people."""
        parts = [f"epoch {self.epoch}", "loss -" if self.loss is None else f"loss {self.loss:.3f}"]
        if self.validation_dice is not None:
            parts.append(f"Dice {self.validation_dice:.3f}")
        parts.append(f"{self.seconds_per_step:.3g} s/step")
        parts.append(f"waiting {100 * self.data_wait:.0f} %" + (f" ({self.waiting_for})" if self.waiting_for else ""))
        return ", ".join([*parts, format_bytes(self.memory), f"{format_duration(self.time_left)} left"])


class Clock:
    """Seconds of this run, those before an interruption included."""

    def __init__(self, before: float) -> None:
        self._origin = time.monotonic() - before

    def now(self) -> float:
        """Return the seconds since training began."""
        return time.monotonic() - self._origin


class EpochWatch:
    """Times of the epoch that is running."""

    def __init__(self, clock: Clock, batches: BatchLoader) -> None:
        self._clock, self._batches = clock, batches
        self.begin = self._reported = clock.now()
        self._waited, self._augmented = batches.waited, batches.augmented
        self.steps = 0

    @property
    def seconds(self) -> float:
        """Since the epoch began."""
        return max(self._clock.now() - self.begin, 1e-9)

    @property
    def waiting(self) -> float:
        """Share of the epoch spent waiting for data."""
        return min(1.0, (self._batches.waited - self._waited) / self.seconds)

    @property
    def waiting_for(self) -> str | None:
        """The cause, where it is long."""
        return self._batches.waiting_for if self.waiting > WAITING_TOO_LONG else None

    @property
    def augmenting(self) -> float:
        """Share of the epoch spent on warping and augmentation."""
        return min(1.0, (self._batches.augmented - self._augmented) / self.seconds)

    def due(self) -> bool:
        """Return whether it is time for a report within the epoch."""
        if self._clock.now() - self._reported < REPORT_SECONDS:
            return False
        self._reported = self._clock.now()
        return True


def row_of(
    *,
    epoch: int,
    step: int,
    losses: Sequence[float],
    watch: EpochWatch,
    length: RunLength,
    share: float,
    learning_rate: float,
    device: torch.device,
) -> EpochRow:
    """Return the figures of the epoch that is running, `share` of the whole run being done."""
    seconds_per_step = watch.seconds / max(watch.steps, 1)
    elapsed = watch.begin + watch.seconds
    return EpochRow(
        epoch=epoch,
        step=step,
        elapsed=round(elapsed, 3),
        loss=files.finite_or_none(float(np.mean(losses))) if losses else None,
        learning_rate=learning_rate,
        seconds_per_step=seconds_per_step,
        data_wait=watch.waiting,
        augmentation=watch.augmenting,
        memory=memory_in_use(device),
        time_left=length.time_left(step=step, elapsed=elapsed, seconds_per_step=seconds_per_step),
        done=int(1000 * share) if length.seconds is not None else step,
        total=1000 if length.seconds is not None else length.steps or 0,
        waiting_for=watch.waiting_for,
    )


def memory_in_use(device: torch.device) -> int:
    """Return the largest number of bytes allocated on a GPU so far, else the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * 4096


def read_history(run: Run) -> list[EpochRow]:
    """Return the rows of `history.jsonl`, one per finished epoch; none where there is no file yet.

    Raises
    ------
    UnreadableFile : a line is damaged, or the rows are not those of `history.csv`, which may lack the last ones
    """
    file, fix = run.history_jsonl, "train on: the file is written again from the saved state"
    lines = files.read_utf8(file, kind="JSON").splitlines() if file.exists() else []
    rows = [files.parse_json(line, file=file) for line in lines if line.strip()]
    known = [schema.parse(EpochRow, schema.pick(EpochRow, row), what="a row", fix=fix, file=file, error=UnreadableFile) for row in rows]
    if run.history_csv.exists() and not _table(rows).startswith(files.read_utf8(run.history_csv, kind="CSV", fix=fix)):
        raise UnreadableFile(
            "the two tables of a run differ: one was changed since it was written",
            file=file,
            found=f"{len(rows)} rows",
            expected=f"the rows of {run.history_csv.name}",
            fix=fix,
        )
    return known


def write_history(run: Run, history: Sequence[EpochRow]) -> None:
    """Write `history.jsonl` and `history.csv`, whole, a row per epoch."""
    for path, text in _texts(run, history).items():
        files.write_text(path, text)


def is_written(run: Run, history: Sequence[EpochRow]) -> bool:
    """Return whether both files hold these rows and nothing else."""
    return all(path.is_file() and path.read_bytes() == text.encode() for path, text in _texts(run, history).items())


def _texts(run: Run, history: Sequence[EpochRow]) -> dict[Path, str]:
    rows = [{name: value for name, value in row.to_json().items() if name not in _OF_PROGRESS} for row in history]
    return {run.history_jsonl: "".join(json.dumps(row) + "\n" for row in rows), run.history_csv: _table(rows)} if rows else {}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    table = io.StringIO()
    columns = {name: None for row in rows for name in row}  # in the order in which they first occur
    writer = csv.DictWriter(table, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
