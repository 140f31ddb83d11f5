"""The voxels behind a text header: raw or deflated, in the file itself or in one next to it. For NRRD and MetaImage.

The other readers of these formats accept a deflated body that ends early or fails its checksum, so the bytes are unpacked here:
whole, checked, and never more memory than the file can fill.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import MissingPath, UnreadableFile
from autoseg.images import gzipped

_zlib: Any
try:
    from isal import isal_zlib

    _zlib = isal_zlib
except ImportError:  # no wheel for this processor: slower, same result
    _zlib = zlib

LONGEST_HEADER = 1 << 20  # bytes of text; a file without an end of its header is none of ours
_STEP = 1 << 20  # bytes


def head(path: Path, length: int = LONGEST_HEADER) -> bytes:
    """The first bytes of a file.

    Raises
    ------
    MissingPath : no such file
    UnreadableFile : a folder, no right to read it, or an empty file
    """
    gzipped.is_packed(path)
    with open(path, "rb") as file:
        return file.read(length)


def number(text: str, path: Path) -> float:
    """A number from a text header.

    Raises
    ------
    UnreadableFile : it is none
    """
    try:
        return float(text)
    except ValueError:
        raise _no_number(path, text, "a number") from None


def integer(text: str, path: Path) -> int:
    """A whole number of a believable size from a text header.

    Raises
    ------
    UnreadableFile : it is none
    """
    value = number(text, path)
    if not abs(value) < 1e15 or value != int(value):
        raise _no_number(path, text, "an integer")
    return int(value)


def raw(path: Path, *, offset: int, size: int) -> NDArray[np.uint8]:
    """`size` bytes from `offset` on; negative: the last `size` bytes of the file.

    Raises
    ------
    MissingPath, UnreadableFile : no such file, or it holds fewer or more bytes
    """
    gzipped.is_packed(path)
    length = path.stat().st_size
    offset = length - size if offset < 0 else offset
    if offset < 0 or length - offset != size:
        raise wrong_length(path, max(0, length - max(0, offset)), size)
    with open(path, "rb") as file:
        file.seek(offset)
        return gzipped.take(file, path, size=size)


def deflated(path: Path, *, offset: int, size: int) -> NDArray[np.uint8]:
    """`size` bytes from the zlib or gzip stream that begins at `offset`, its checksum compared.

    Raises
    ------
    MissingPath, UnreadableFile : no such file; a stream that ends early, fails its checksum or unpacks to another length
    """
    packed_length = path.stat().st_size - offset
    if size > max(0, packed_length) * gzipped.BEST_RATIO:
        raise wrong_length(path, packed_length, size)
    buffer = np.empty(size, dtype=np.uint8)
    done = 0
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read(_STEP)
            stream: Any = _zlib.decompressobj(wbits=31 if chunk[:2] == b"\x1f\x8b" else 15)
            while chunk and not stream.eof:
                piece = stream.decompress(chunk, _STEP)
                if done + len(piece) > size:
                    raise wrong_length(path, done + len(piece), size)
                buffer[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                done += len(piece)
                chunk = stream.unconsumed_tail or file.read(_STEP)
                if not chunk and not stream.eof:  # the input is used up; what is still inside comes now
                    rest = stream.decompress(b"", size - done + 1)
                    if not rest:
                        break
                    buffer[done : done + len(rest)] = np.frombuffer(rest[: size - done], dtype=np.uint8)
                    done += len(rest)
    except gzipped.BROKEN as error:
        raise gzipped.damaged(path, str(error)) from None
    if not stream.eof:
        raise gzipped.damaged(path, f"the stream is truncated after {done} of {size} bytes")
    if done != size:
        raise wrong_length(path, done, size)
    return buffer


def deflate(file: Any, array: NDArray[Any], *, wbits: int) -> int:
    """Write an array's bytes as one zlib (`wbits` 15) or gzip (31) stream; the number of bytes written."""
    from autoseg.images.contiguous import contiguous

    stream = _zlib.compressobj(1, _zlib.DEFLATED, wbits)
    data = memoryview(contiguous(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    count = 0
    for start in range(0, len(data), _STEP):
        count += file.write(stream.compress(data[start : start + _STEP]))
    return count + int(file.write(stream.flush()))


def beside(path: Path, name: str) -> Path:
    """The data file that a header names, in the header's own folder or below.

    Raises
    ------
    UnreadableFile : a list or pattern of files, or a path elsewhere
    MissingPath : it is not there
    """
    if name.split()[:1] == ["LIST"] or "%" in name or name.startswith(("/", "\\")) or ".." in Path(name).parts:
        raise UnreadableFile(
            "the voxels are in a list of files or in another folder",
            file=path,
            found=f"data file {name!r}",
            expected="one file next to the header",
            fix="convert the image to a single file (.nrrd, .mha or .nii.gz)",
        )
    found = path.parent / name
    if not found.is_file():
        raise MissingPath(
            "the file with the voxels is missing", file=path, found=f"no {name!r} next to it", fix="copy both files of the pair"
        )
    return found


def wrong_length(path: Path, found: int, size: int) -> UnreadableFile:
    """The error for `found` bytes of voxels where `size` are declared."""
    return UnreadableFile(
        "the file is shorter than its header declares" if found < size else "the file is longer than its header declares",
        file=path,
        found=f"{found} bytes of voxels",
        expected=f"{size} bytes",
        fix="the file is truncated or its header damaged: copy or download it again",
    )


def _no_number(path: Path, text: str, expected: str) -> UnreadableFile:
    return UnreadableFile(
        "the header cannot be used", file=path, found=repr(text[:60]), expected=expected, fix="convert the image again from its source"
    )
