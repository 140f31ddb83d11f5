"""Files that have an image suffix but are not images: what they really are, and how to get the image.

Asked only once a reader has given up, so that sound files pay nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from autoseg.errors import UnreadableFile
from autoseg.images import gzipped
from autoseg.images.formats import suffix_of

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_START = 512  # bytes
_BARE = re.compile(rb"[\x02\x08]\x00[^\xff]\x00(?:[A-Z]{2}|.\x00\x00\x00)", re.DOTALL)  # DICOM without preamble: a tag, then type or length
_DOUBLE = b"\x1f\x8b"  # of gzip
_TEXTUAL = (".mhd", ".mha", ".nhdr")  # a header of these is text


def refuse(path: Path) -> None:
    """Raise unless a file may well be a damaged image.

    Raises
    ------
    UnreadableFile : a web page, a pointer of git-lfs or git-annex, other text, the AppleDouble half of a file, or a stream that was
        compressed twice
    """
    if not path.is_file():
        return
    start = _unpacked_start(path)
    reason = _what(start, textual=path.suffix.casefold() in _TEXTUAL)
    if reason is not None:
        summary, fix = reason
        line = start[:40].partition(b"\n")[0]
        found = f"it begins with {line.decode('ascii')!r}" if _is_prose(line) else f"it begins with {start[:4]!r}"
        raise UnreadableFile(summary, file=path, found=found, expected="an image", fix=fix)


def begins_as_dicom(path: Path) -> bool:
    """Return whether DICM comes after the preamble, or the first tag is one of group 0002 or 0008 with a type or a short length."""
    start = _start(path)
    return start[128:132] == b"DICM" or _BARE.match(start) is not None


def looks_like_dicom(path: Path) -> bool:
    """Whether DICM comes after the preamble, or, in files without one, a tag of group 0002 or 0008 first."""
    start = _start(path)
    return start[128:132] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM slices: files named so, or files without an image suffix that begin as DICOM does."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            if path.suffix.casefold() in DICOM_SUFFIXES or (not suffix_of(path) and path.name != "DICOMDIR" and begins_as_dicom(path)):
                return True
    return False


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_START)


def _unpacked_start(path: Path) -> bytes:
    try:
        with gzipped.opened(path) as stream:
            return stream.read(_START)
    except UnreadableFile:  # damaged: the reader has reported it
        return b""


def _what(start: bytes, *, textual: bool) -> tuple[str, str] | None:
    """Return summary and remedy, `None` for what looks like the binary, or the header in words, that it should be."""
    if start.startswith(b"version https://git-lfs"):
        return "a placeholder of git-lfs, not the image itself", "fetch the file: git lfs pull"
    if start.lstrip(b"./").startswith((b"annex/objects", b"git/annex")):
        return "a placeholder of git-annex, not the image itself", "fetch the file: git annex get FILE, or datalad get FILE"
    if start.startswith(b"\0\5\x16\7"):
        return "the resource half of a file (AppleDouble), not the image itself", "delete it; the image has the same name without ._"
    if start.startswith(_DOUBLE):
        return "the file was compressed twice", "unpack it once with gzip -d, under a name that ends in .gz twice"
    lowered = start.lstrip().lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page, not an image", "the download failed, often for want of a login: download the file again"
    if len(start) >= 16 and not textual and _is_prose(start) and not start.startswith((b"NRRD", b"ObjectType", b"NDims")):
        return "a text file, not an image", "put the image itself there"
    return None


def _is_prose(start: bytes) -> bool:
    """Printable characters and line ends only."""
    return all(32 <= byte < 127 or byte in (9, 10, 13) for byte in start)
