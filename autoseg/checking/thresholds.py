"""The numbers of the checks, with their units and sources, as they are in `thresholds.toml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

from autoseg import files, presets

FILE = Path(__file__).with_name("thresholds.toml")


@cache
def thresholds(check: str) -> SimpleNamespace:
    """Return the numbers of one check's table by their names.

    >>> thresholds("near_duplicates").correlation
    0.998
    """
    return SimpleNamespace(**presets.plain(files.read_toml(FILE))[check])
