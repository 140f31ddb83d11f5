"""Locks on folders, which end with the process that holds them, however it ends.

`exclusive_lock` also takes a lease (see `leases`), because locks of a file system may reach one machine only, or not exist. The others do
nothing where a file system has no locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from autoseg import leases
from autoseg.errors import SettingsError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive_lock(folder: Path, *, doing: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Lock `folder` for this process.

    Parameters
    ----------
    doing : what is done there, in the user's words, for the message of the one who comes second
    waiting : given a sentence before the sign of life of a process on another machine is awaited, which takes up to a minute

    Raises
    ------
    SettingsError : another process holds it, on whichever machine
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        if not _locked(file.fileno()):
            raise SettingsError(
                f"another process is {doing}", file=folder, fix="wait for it, end it, or choose another fold or workspace"
            ) from None
        with leases.lease(folder, doing=doing, waiting=waiting):
            yield


def is_locked(folder: Path) -> bool:
    """Return whether a process holds `exclusive_lock` on a folder."""
    with contextlib.suppress(OSError), open(folder / ".lock") as file:
        return not _locked(file.fileno()) or leases.is_held(folder)
    return False


@contextlib.contextmanager
def in_turn(folder: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `folder` for this process; where another one holds it, call `waiting`, and wait for that one."""
    with _opened(folder) as descriptor:
        if not _locked(descriptor):
            if waiting is not None:
                waiting()
            _locked(descriptor, wait=True)
        yield


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark `folder` as read by this process, by several at once: see `is_in_use`."""
    with _opened(folder) as descriptor:
        _locked(descriptor, shared=True, wait=True)
        yield


def is_in_use(folder: Path) -> bool:
    """Return whether a process reads a folder."""
    with _opened(folder) as descriptor:
        return not _locked(descriptor)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The folder itself, which is locked without a file in it; -1 where folders cannot be opened."""
    descriptor = os.open(folder, os.O_RDONLY) if fcntl is not None else -1
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _locked(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock what is open; return False where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
