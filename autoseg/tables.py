"""Results that are shown as a table on a terminal and as plain lines everywhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A result to show.

    Parameters
    ----------
    text : the result as plain lines, for files, logs and pipes; `str(table)` returns it
    columns : heads of the columns
    rows : the cells of each row, one per column; a cell may have several lines
    figures : whether the cells after the first column are numbers, set to the right
    title : what is written above the table
    remarks : what is written below the table: a head, and the sentences under it
    """

    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: bool = False
    title: str = ""
    remarks: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        return self.text
