"""gzip streams, read fast and never trusted without their checksum, written small and reproducibly.

ISA-L (`isal`) where it is installed, else the standard library; both check CRC and length of every member.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import MissingPath, UnreadableFile

try:
    from isal import igzip, isal_zlib

    _OPEN: Any = igzip.open
    _WRITER: Any = igzip.IGzipFile
    _LEVEL = 1
    BROKEN: Any = (EOFError, zlib.error, isal_zlib.error, gzip.BadGzipFile)
except ImportError:  # no wheel for this processor: slower, same result
    _OPEN = gzip.open
    _WRITER = gzip.GzipFile
    _LEVEL = 4
    BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)

BEST_RATIO = 1032  # deflate cannot shrink further (zlib's technical details); a file that declares more is damaged
_STEP = 1 << 21  # bytes per read: small enough to stay in the cache, large enough to cost no calls


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the bytes of a file, unpacked where it is gzipped: by its first bytes, not by its name.

    Raises
    ------
    MissingPath : no such file
    UnreadableFile : not a file, no right to read it, an empty file, or a stream that breaks while it is read in the block
    """
    try:
        with _OPEN(path, "rb") if is_packed(path) else open(path, "rb") as stream:
            yield stream
    except BROKEN as error:
        raise damaged(path, str(error)) from None
    except OSError as error:
        raise UnreadableFile(
            "the file cannot be read", file=path, found=str(error), fix="check the disk, and copy the file again"
        ) from None


def head(path: Path, length: int) -> bytes:
    """Return the first bytes of a file, at most `length`.

    Raises
    ------
    MissingPath : no such file
    UnreadableFile : a folder, no right to read it, or an empty file
    """
    try:
        with open(path, "rb") as file:
            start = file.read(length)
    except FileNotFoundError:
        raise MissingPath("no such file", file=path, fix="check the spelling of the path") from None
    except OSError as error:
        raise UnreadableFile(
            "the file cannot be read", file=path, found=error.strerror, fix="check its type and its access rights"
        ) from None
    if not start:
        raise broken(path, "the file is empty", found="0 bytes")
    return start


def is_packed(path: Path) -> bool:
    """Whether a file begins as gzip does; raises as `head`."""
    return head(path, 2) == b"\x1f\x8b"


def broken(path: Path, summary: str, *, found: str, expected: str | None = None) -> UnreadableFile:
    """Return the error for a file that another copy may replace."""
    return UnreadableFile(summary, file=path, found=found, expected=expected, fix="copy or download it again")


def wrong_length(path: Path, found: int, size: int) -> UnreadableFile:
    """Return the error for `found` bytes of voxels where `size` are declared."""
    length = "shorter" if found < size else "longer"
    return broken(path, f"the file is {length} than its header declares", found=f"{found} bytes of voxels", expected=f"{size} bytes")


def damaged(path: Path, found: str) -> UnreadableFile:
    """Return the error for a gzip stream that ends early or fails its checksum."""
    early = "end-of-stream" in found or "truncated" in found
    return UnreadableFile(
        "the compressed file ends early" if early else "the compressed file is corrupt",
        file=path,
        found=found,
        expected="a whole gzip stream with a matching checksum",
        fix="copy or download the file again; `gzip -t FILE` shows whether a copy is whole",
    )


def unpacked_length(path: Path, *, expected: int) -> int:
    """Return how many bytes the file truly holds, unpacked; memory use does not depend on what it declares.

    A gzipped file of one member ends with its length modulo 2^32; where that agrees with `expected` it is believed (the reader
    counts and checks again while decoding), else the stream is decoded once to count.

    Raises
    ------
    UnreadableFile : the stream breaks
    """
    length = path.stat().st_size
    if not is_packed(path):
        return length
    with open(path, "rb") as file:
        file.seek(max(0, length - 4))
        said = int.from_bytes(file.read(4), "little")
    if expected <= length * BEST_RATIO and said == expected % (1 << 32):
        return expected
    with opened(path) as stream:
        return skip_to_end(stream, limit=length * BEST_RATIO)


def take(stream: IO[bytes], path: Path, *, size: int, spare: int = 0) -> NDArray[np.uint8]:
    """Return the next `size` bytes of a stream, which must end there or at most `spare` bytes later: only at its end is the CRC compared.

    Raises
    ------
    UnreadableFile : it ends earlier or later
    """
    buffer = np.empty(size, dtype=np.uint8)
    done = fill(stream, buffer)
    if done == size and skip_to_end(stream, limit=spare + 1) <= spare:
        return buffer
    if done < size:
        raise broken(path, "the file ends early", found=f"{done} bytes", expected=f"{size} bytes")
    raise broken(path, "the file holds more than its own length says", found=f"more than {size + spare} bytes", expected=f"{size} bytes")


def fill(stream: IO[bytes], buffer: NDArray[np.uint8]) -> int:
    """Read from `stream` until the flat `buffer` is full or the stream ends; return the number of bytes read."""
    view = buffer.data
    done = 0
    while done < len(view):
        count = stream.readinto(view[done : done + _STEP])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def skip_to_end(stream: IO[bytes], *, limit: int) -> int:
    """Read on to the end, where the stream's CRC is compared; return how many bytes were left, at most `limit`."""
    rest = 0
    while rest < limit:
        chunk = stream.read(min(_STEP, limit - rest))
        if not chunk:
            break
        rest += len(chunk)
    return rest


def verify(path: Path) -> None:
    """Read a gzipped file to its end and compare its checksum; nothing is done with any other file.

    Raises
    ------
    UnreadableFile : the stream breaks
    """
    if path.is_file() and is_packed(path):
        with opened(path) as stream:
            skip_to_end(stream, limit=path.stat().st_size * BEST_RATIO)


@contextlib.contextmanager
def writing(path: Path, *, packed: bool) -> Iterator[IO[bytes]]:
    """Open a file to write to; `packed` streams carry neither time nor name, so equal content gives equal bytes."""
    with open(path, "wb") as file:
        if not packed:
            yield file
            return
        with _WRITER(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as stream:
            yield stream
