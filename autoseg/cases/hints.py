"""Hints for messages: the files whose names come nearest to one that is missing, and a few examples of many names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_SHOWN = 3  # examples in a message
_SEARCHED = 3  # missing files that get a hint; each is compared with every name in its folder


class NearestFiles:
    """Finds names like those of missing files, for the first few of one data set only: thousands of searches would take minutes."""

    def __init__(self) -> None:
        self._left = _SEARCHED
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def __call__(self, missing: Path) -> list[str]:
        """Return the names nearest to a missing file in its folder, at most three, in any letter case."""
        if not self._left:
            return []
        self._left -= 1
        names = self._names(missing.parent)
        alike = difflib.get_close_matches(missing.name.casefold(), names, n=_SHOWN, cutoff=0.5)
        return [name for key in alike for name in names[key]][:_SHOWN]

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """Names in small letters to names as they are stored."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
                if not name.startswith("."):
                    names.setdefault(name.casefold(), []).append(name)
            self._folders[folder] = names
        return self._folders[folder]


def some(names: Iterable[str]) -> str:
    """Return the first few names with commas between them.

    >>> some("abcd")
    'a, b, c, ...'
    """
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
