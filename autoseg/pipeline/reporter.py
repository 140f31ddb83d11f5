"""What long work reports to its caller: sentences and progress. The command line draws it, Python callers get it by logging."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from autoseg.tables import Table

log = logging.getLogger("autoseg")


class Reporter(Protocol):
    """Receives what a stage has to say while it works."""

    def say(self, text: str | Table) -> None:
        """A finished fact: one or more lines to keep, or a table."""

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` items of `stage` are finished; replaces the last such line."""


class LoggingReporter:
    """The reporter of Python callers: everything goes to the `autoseg` logger."""

    def say(self, text: str | Table) -> None:
        """A finished fact goes to the log."""
        log.info("%s", text)

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Progress goes to the log at a lower level."""
        log.debug("%s %d/%d %s", stage, done, total, detail)


class NullReporter:
    """The reporter of a process that another one speaks for."""

    def say(self, text: str | Table) -> None:
        """Nothing."""

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Nothing."""


def counter(reporter: Reporter, stage: str) -> Callable[[int, int], None]:
    """A `(done, total)` callback for `workers.map_cases`, bound to one stage."""
    return lambda done, total: reporter.progress(stage, done, total)
