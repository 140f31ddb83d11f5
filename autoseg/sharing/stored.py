"""Where the files of a model are: in the folder of a workspace, or in a model file. Both are asked for the same paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from autoseg import files
from autoseg.errors import UnreadableFile


class Stored(Protocol):
    """Reads files of a workspace by their paths; those in a model file have its path in the place of the workspace's folder."""

    def exists(self, path: Path) -> bool:
        """Return whether there is such a file."""
        ...

    def read(self, path: Path) -> bytes:
        """Return the content of a file."""
        ...

    def children(self, folder: Path) -> list[str]:
        """Return the names of what is in a folder; none where there is no such folder."""
        ...


class Disk:
    """The files of a workspace, in their folder."""

    def exists(self, path: Path) -> bool:
        """Return whether there is such a file."""
        return path.exists()

    def read(self, path: Path) -> bytes:
        """Return the content of a file."""
        return path.read_bytes()

    def children(self, folder: Path) -> list[str]:
        """Return the names of what is in a folder; none where there is no such folder."""
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


DISK = Disk()


def read_json(stored: Stored, path: Path, *, fix: str) -> Any:
    """Return what a JSON file holds, wherever it is stored.

    Raises
    ------
    MissingPath, UnreadableFile : there is no such file, or it is not JSON
    """
    if isinstance(stored, Disk):
        return files.read_json(path, fix=fix)
    try:
        return files.parse_json(stored.read(path).decode(), file=path, fix=fix)
    except UnicodeDecodeError:
        raise UnreadableFile("the text is not UTF-8", file=path, expected="JSON in UTF-8", fix=fix) from None
