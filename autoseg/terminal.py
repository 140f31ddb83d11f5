"""What a command shows: drawn by rich on a terminal (bars, tables, colours), as plain lines in files, pipes and logs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import IO, TYPE_CHECKING

from autoseg.errors import FULL, DiskFull
from autoseg.quantities import format_duration
from autoseg.tables import Table
from autoseg.version import other_autoseg

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_REDRAW = 0.1  # seconds between two states of a bar
_LINE_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
_BAR = 24  # columns of a bar
_NARROW = 60  # columns below which a bar leaves no room for the figures
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


class Terminal:
    """The `Reporter` of the command line: results and sentences go to stdout, progress to stderr.

    Work continues if nobody reads any more (`autoseg train ... | head`, a closed stderr).

    Parameters
    ----------
    quiet : print only results, warnings and errors
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        if sys.stderr is None:  # closed by who started us, as daemons do
            sys.stderr = open(os.devnull, "w")
        self._live: Live | None = None  # the bar on the screen
        self._full = False  # stdout: what could not be printed is reported at the end
        self._stage = ""
        self._started = 0.0
        self._last = 0.0

    def __enter__(self) -> Terminal:
        if (folder := other_autoseg()) is not None:
            self.say(f"warning: another project called autoseg is installed as well and may replace parts of this one ({folder}): "
                     "pip uninstall autoseg, then install this one from its checkout again")  # fmt: skip
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_bar(erase=False)
        if self._full and exception[0] is None:
            raise DiskFull("the disk is full to which the output goes", found="lines that could not be written there",
                           fix="free some space and run the same command again: the work is done, and will not be done again")  # fmt: skip

    def show(self, what: str | Table) -> None:
        """Print the result of a command, even where the rest is quiet."""
        self._end_bar(erase=True)
        try:
            if not _draws(sys.stdout):
                print(what, flush=True)
            elif isinstance(what, Table):
                _console(sys.stdout).print(*_drawn(what))
            else:
                _print_coloured(what)
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and error.errno not in FULL:
                raise
            self._full = self._full or error.errno in FULL
            sys.stdout = open(os.devnull, "w")

    def say(self, text: str | Table) -> None:
        """Print a finished fact; `--quiet` keeps warnings only."""
        if not self.quiet or str(text).lstrip().startswith("warning"):
            self.show(text)

    def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Show done of total, rate and time left: at most ten times a second as a bar, elsewhere every ten seconds and at the end."""
        now = time.monotonic()
        if stage != self._stage:
            self._end_bar(erase=False)
            self._stage, self._started, self._last = stage, now, 0.0
        finished = done >= total
        try:
            draws = _draws(sys.stderr)
            if self.quiet or (now - self._last < (_REDRAW if draws else _LINE_EVERY) and not finished):
                return
            self._last = now
            figures = detail or _rate(done, total, now - self._started)
            if draws:
                self._draw_bar(stage, done, total, figures)
            else:
                print(f"{stage} {done}/{total}{'  ' if figures else ''}{figures}", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads any more; the work continues, and a stopped training still saves its state
            self._live = None
            sys.stderr = open(os.devnull, "w")
        if finished:
            self._end_bar(erase=False)
            self._stage = ""

    def _draw_bar(self, stage: str, done: int, total: int, figures: str) -> None:
        from rich.live import Live

        if self._live is None:
            # a thread of rich's own is not needed, and stdout stays stdout: it may be a file
            self._live = Live(console=_console(sys.stderr), auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(_bar(stage, done, total, figures), refresh=True)

    def _end_bar(self, *, erase: bool) -> None:
        """Leave the bar on the screen as it is, or take it away because it will be drawn again below what is printed now."""
        live, self._live = self._live, None
        if live is None:
            return
        live.transient = erase
        try:
            live.stop()
        except (OSError, ValueError):
            sys.stderr = open(os.devnull, "w")


def _draws(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal that can place text."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _console(stream: IO[str]) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _bar(stage: str, done: int, total: int, figures: str) -> RenderableType:
    """Return one line: stage, bar, done of total, rate and time left; cut to the width of the terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    cells: list[RenderableType] = [Text(stage, style="bold"), Text(f"{done}/{total}", style="cyan"), Text(figures)]
    if shutil.get_terminal_size().columns >= _NARROW:
        cells.insert(1, ProgressBar(total=max(total, 1), completed=done, width=_BAR))
    grid = Grid.grid(padding=(0, 1))
    for _ in cells:
        grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(*cells)
    return grid


def _drawn(table: Table) -> list[RenderableType]:
    """Return a table, and the remarks below it, as rich draws them."""
    from rich.box import SIMPLE_HEAD
    from rich.padding import Padding
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_header=any(table.columns))
    for index, head in enumerate(table.columns):
        right = table.figures and index > 0
        drawn.add_column(Text(head), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    parts: list[RenderableType] = [Text(table.title, style="bold"), drawn] if table.title else [drawn]
    for head, sentences in table.remarks:
        parts.append(Text(head, style="bold"))
        for sentence in sentences:
            line = Drawn.grid(padding=(0, 1))
            line.add_row(Text("-"), Text(sentence))
            parts.append(Padding(line, (0, 0, 0, 2)))
    return parts


def _print_coloured(text: str) -> None:
    """Print lines as they are, a warning in its colour; a path is never broken, so that it can be copied."""
    from rich.text import Text

    console = _console(sys.stdout)
    for line in text.split("\n"):
        console.print(Text(line, style=_COLOURS["warning"] if line.lstrip().startswith("warning") else ""), soft_wrap=True)


def _rate(done: int, total: int, elapsed: float) -> str:
    """Return how fast it goes and how long it still takes.

    >>> _rate(30, 90, 10)
    '3.0/s, 20 s left'
    """
    if not done or elapsed <= 0.5:
        return ""
    rate = done / elapsed
    text = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
    return text if done >= total else f"{text}, {format_duration((total - done) / rate)} left"
