"""What `predict` notes while it runs: one file of lines per process in the folder `records` next to the results.

A file of lines only grows, by one line per case, so that a case costs the same in a cohort of any size, and two commands that write into
one folder lose nothing. The first line has what all cases share; the second names the results before the first is made; a last line
without an end, of a process that was killed, is skipped. When a command is done, the record (prediction.json) takes in what the lines
say, and those of processes that have ended are removed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import files
from autoseg.errors import FULL, DiskFull
from autoseg.shards import Shard

FOLDER = "records"
_SUFFIX = ".jsonl"
_WHOLE = "all"


class Journal:
    """The lines of this process; the file is made with the first one.

    Parameters
    ----------
    folder : where the files of lines are
    shard : the part of the cohort that this process predicts; it is in the file's name
    head : what all cases share: settings, labels
    """

    def __init__(self, folder: Path, *, shard: Shard | None, head: Mapping[str, Any]) -> None:
        self.path = folder / f"{shard or _WHOLE}.{files.writer()}{_SUFFIX}"
        self._head = head
        self._descriptor: int | None = None

    def note(self, *, flush: bool = False, **facts: Any) -> None:
        """Append one line.

        Parameters
        ----------
        flush : also wait until it is on the disk

        Raises
        ------
        DiskFull : there is no room
        """
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                self._append({"head": self._head})
            self._append(facts)
            if flush:
                os.fsync(self._descriptor)
        except OSError as error:
            if error.errno in FULL:
                raise files.disk_full(self.path) from error
            raise

    def _append(self, facts: Mapping[str, Any]) -> None:
        assert self._descriptor is not None
        line = (json.dumps(facts, allow_nan=False, default=files.plain) + "\n").encode()
        while line:  # a disk that fills up takes the first part, and refuses the rest
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Note the end, if anything was noted: whoever reads it later knows that no line follows."""
        if self._descriptor is not None:
            with contextlib.suppress(DiskFull):
                self.note(end=True)
            os.close(self._descriptor)
            self._descriptor = None


@dataclass
class Lines:
    """What files of lines say."""

    head: Mapping[str, Any] = field(default_factory=dict)  # of the newest file
    results: dict[str, str] = field(default_factory=dict)  # name of a result's file, also of one that is still to be made -> model
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    over: list[Path] = field(default_factory=list)  # files whose process has ended


def read(folder: Path, *, shard: Shard | None = None) -> Lines:
    """Return what the processes noted; a shard needs what was noted of its own cases, so those of its siblings are not read."""
    lines = Lines()
    for path in _files(folder, shard):
        ended = files.is_dead_writer(path.name.partition(".")[2].removesuffix(_SUFFIX), path)
        model, settings = "", dict[str, Any]()
        for line in _lines(path):
            ended = ended or "end" in line
            if "head" in line:
                lines.head = line["head"]
                settings = lines.head.get("settings", {})
                model = str(settings.get("model", ""))
            elif "results" in line:
                lines.results.update(dict.fromkeys(line["results"], model))
            elif "facts" in line:
                lines.cases[line["case"]] = {**line["facts"], "settings": settings}
                lines.failed.pop(line["case"], None)
            elif "failed" in line:
                lines.failed[line["case"]] = line["failed"]
        if ended:
            lines.over.append(path)
    return lines


def remove(paths: Iterable[Path]) -> None:
    """Remove files of lines, and their folder where it is empty then."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _files(folder: Path, shard: Shard | None) -> list[Path]:
    """Return the files of lines, the oldest first."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        number, between, count = path.name.partition(".")[0].partition("-of-")
        if shard is None or not between or count != str(shard.count) or number == str(shard.number):
            with contextlib.suppress(FileNotFoundError):  # taken in by its own command meanwhile
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and line.endswith(b"\n"):
                    yield value
