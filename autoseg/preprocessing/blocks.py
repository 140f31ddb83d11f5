"""Boxes read out of compressed files: only the blocks that a box touches are decoded.

Opening a file takes as long as reading a fifth of a patch, and each open file costs a descriptor, of which a process has 1024 on
most systems: a data set of a thousand cases has more files than that. So the files used last stay open, up to a number. Files are
mapped into memory, which saves two system calls per block. Their contents are handled in `codes`.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UnreadableFile

if TYPE_CHECKING:
    import blosc2

_DAMAGE = (RuntimeError, OSError, AttributeError, ValueError, OverflowError, LookupError, TypeError)  # of blosc2, for damaged headers
MOST_OPEN = 256  # files, of a process; a quarter of the descriptors it usually has, and 60 MB of buffers


def read_box(path: Path, where: tuple[slice, ...], *, size: int, version: str) -> NDArray[Any]:
    """Read a part of an array in a file that `codes.compress` made. Threads may read at the same time, also from the same file.

    Parameters
    ----------
    where : one slice per axis, step 1, inside the array; () for all of it
    size : bytes the file must have: a mapped file that has been cut would end the process instead of raising
    version : anything that changes when the content of this path does

    Raises
    ------
    UnreadableFile : missing, cut or damaged
    """
    key = (str(path), version)
    try:
        found = os.stat(key[0]).st_size
        if found != size:
            raise damaged(path, f"{found} bytes instead of {size}")
        handle = _open_files.take(key)
        if handle is None:
            handle = _opened(key[0])
        box = _decoded(handle, where)
    except _DAMAGE as error:
        raise damaged(path, str(error)) from None
    _open_files.give(key, handle)
    return box


def forget_open_files() -> None:
    """Close the files that are open and not in use: where their folder is about to be replaced, some file systems mind."""
    _open_files.clear()


class _OpenFiles:
    """The files used last. A file is taken out while it is read: a handle of blosc2 serves one thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: OrderedDict[tuple[str, str], blosc2.NDArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._idle)

    def clear(self) -> None:
        """Close all that are idle."""
        with self._lock:
            self._idle.clear()

    def take(self, key: tuple[str, str]) -> blosc2.NDArray | None:
        """Return an idle handle, which no other thread has then; None where all are in use."""
        with self._lock:
            return self._idle.pop(key, None)

    def give(self, key: tuple[str, str], handle: blosc2.NDArray) -> None:
        """Take a handle back after reading; the one used longest ago goes where there are too many."""
        with self._lock:
            self._idle[key] = handle
            while len(self._idle) > self._most:
                self._idle.popitem(last=False)


_open_files = _OpenFiles(MOST_OPEN)


def _opened(path: str) -> blosc2.NDArray:
    import blosc2

    way = {"mode": "r"} if _address_space_is_limited() else {"mmap_mode": "r"}
    try:
        return blosc2.open(path, dparams={"nthreads": 1}, **way)
    except ValueError as error:  # of a header that makes no sense
        raise OSError(str(error)) from None


def _address_space_is_limited() -> bool:
    """Return whether mapped files would count against `ulimit -v`."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return False
    return bool(resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY)


def _decoded(handle: blosc2.NDArray, where: tuple[slice, ...]) -> NDArray[Any]:
    if math.prod(handle.shape) * handle.dtype.itemsize > handle.schunk.nbytes:
        raise ValueError(f"a header that says shape {handle.shape} of {handle.schunk.nbytes} bytes")
    bounds = [part.indices(n) for part, n in zip(where or (slice(None),) * handle.ndim, handle.shape, strict=True)]
    out = np.empty([max(0, stop - start) for start, stop, _ in bounds], dtype=handle.dtype)
    if math.prod(out.shape):
        handle.get_slice_numpy(out, ([start for start, _, _ in bounds], [stop for _, stop, _ in bounds]))
    return out


def damaged(path: Path, found: str) -> UnreadableFile:
    """Return the error for a file of a preprocessed case that is not what was written."""
    return UnreadableFile("a preprocessed case is damaged", file=path, found=found, fix="run `autoseg train` again: it is made again")
