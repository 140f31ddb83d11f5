"""The file formats and their suffixes, in one table; which files belong to an image.

To add a format, add its line in `FORMATS` and a module with `read` and, unless the format is read only, `write`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from autoseg import files
from autoseg.errors import MissingPath, UnreadableFile


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format."""

    suffixes: tuple[str, ...]  # in lower case; names have them in any case
    module: str  # of this room


FORMATS: dict[str, Format] = {
    "nifti": Format(suffixes=(".nii.gz", ".nii", ".hdr"), module="nifti"),  # .hdr: with its voxels in an .img
    "mgh": Format(suffixes=(".mgz", ".mgh"), module="mgh"),
    "nrrd": Format(suffixes=(".seg.nrrd", ".nrrd", ".nhdr"), module="itk"),
    "metaimage": Format(suffixes=(".mha", ".mhd"), module="itk"),
    "planar": Format(suffixes=(".png", ".bmp", ".jpg", ".jpeg"), module="planar"),
    "tiff": Format(suffixes=(".ome.tif", ".ome.tiff", ".tif", ".tiff"), module="tiff"),
    "dicom": Format(suffixes=(".dcm",), module="dicom"),
}
SUFFIXES: tuple[str, ...] = tuple(suffix for kind in FORMATS.values() for suffix in kind.suffixes)
PICTURES: tuple[str, ...] = FORMATS["planar"].suffixes + FORMATS["tiff"].suffixes
_DATA_FILE = re.compile(r"^(?:ElementDataFile[ \t]*=|data ?file[ \t]*:)[ \t]*(\S[^\r\n]*?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)


def suffix_of(path: Path | str) -> str:
    """Return the suffix that names a file's format, in lower case; empty where we do not read it.

    >>> suffix_of("scans/Liver.v2.NII.GZ")
    '.nii.gz'
    """
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def stem_of(path: Path | str) -> str:
    """Return a file's name without the suffix of its format.

    >>> stem_of("scans/Liver.v2.NII.GZ"), stem_of("liver.seg.nrrd"), stem_of("series.1")
    ('Liver.v2', 'liver', 'series.1')
    """
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))]


def label_suffix(path: Path | str) -> str:
    """Return the suffix under which a label map of an image is written: the image's own where it holds label values.

    >>> label_suffix("scan.nrrd"), label_suffix("slide.jpg"), label_suffix("series/")
    ('.nrrd', '.png', '.nii.gz')
    """
    suffix = suffix_of(path)
    if suffix in ("", ".dcm", ".hdr", ".mgz", ".mgh"):
        return ".nii.gz"
    return {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha", ".nhdr": ".nrrd"}.get(suffix, suffix)


def voxels_of(path: Path) -> Path:
    """Return the file with the voxels of a NIfTI or Analyze image: the `.img` next to a `.hdr`, else the file itself.

    Raises
    ------
    MissingPath : there is no `.img`
    """
    if suffix_of(path) != ".hdr":
        return path
    found = _partner(path, ".img")
    if found is None:
        raise MissingPath(
            "the file with the voxels is missing", file=path, found=f"no '{path.stem}.img' next to it", fix="copy both files of the pair"
        )
    return found


def header_of(path: Path) -> Path:
    """Return the `.hdr` next to an `.img`, which stands for the pair; any other file itself."""
    found = _partner(path, ".hdr") if path.suffix.casefold() == ".img" else None
    return found or path


def _partner(path: Path, suffix: str) -> Path | None:
    names = (path.with_suffix(suffix), path.with_suffix(suffix.upper()))
    return next((name for name in names if name.is_file()), None)


def is_label_picture(path: Path) -> bool:
    """Whether a file is named as a picture of a format that keeps label values."""
    suffix = suffix_of(path)
    return suffix in PICTURES and label_suffix(path) == suffix


def name_of(path: Path) -> str:
    """Return the name in `FORMATS` of a file's format; a folder holds a DICOM series.

    Raises
    ------
    UnreadableFile : an unknown suffix
    """
    if path.is_dir():
        return "dicom"
    suffix = suffix_of(path)
    for name, kind in FORMATS.items():
        if suffix in kind.suffixes:
            return name
    raise UnreadableFile(
        "an unknown image format",
        file=path,
        found=path.suffix or "no suffix",
        expected=", ".join(SUFFIXES),
        fix="convert the image to .nii.gz",
    )


def hash_image(path: Path) -> str:
    """Return the SHA-256 of an image's files as hexadecimal digits; of a DICOM series, of its files' names and hashes.

    What belongs to a file is part of it: the voxels next to a MetaImage or NRRD header, the spacing next to a TIFF.
    """
    path = Path(path)
    parts = _parts(path)
    listing = [f"{item.name} {hash_image(item)}" for item in parts]
    if not path.is_dir():
        listing.append(files.hash_file(path))
    return hashlib.sha256("\n".join(listing).encode()).hexdigest() if path.is_dir() or parts else listing[0]


def size_and_time(path: Path) -> tuple[int, int]:
    """Return the bytes of all files of an image, and when the last of them changed, in nanoseconds: different where `hash_image` is,
    unless somebody has set the time back."""
    facts = [item.stat() for item in (*_parts(path), *(() if path.is_dir() else (path,)))]
    return sum(item.st_size for item in facts), max((item.st_mtime_ns for item in facts), default=0)


def _parts(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else _companions(path)


def spacing_files(path: Path) -> list[Path]:
    """Return where the spacing of a TIFF may be stored: `scan.json` for `scan.tif` and for `scan_0000.tif`, too."""
    stem = stem_of(path)
    return [path.with_name(f"{name}.json") for name in dict.fromkeys((stem, re.sub(r"_\d{4}$", "", stem)))]


def _companions(path: Path) -> list[Path]:
    """Return the files that hold another part of an image whose header or picture `path` is."""
    suffix = suffix_of(path)
    found: list[Path] = []
    if suffix in (".mhd", ".nhdr"):
        with open(path, "rb") as file:
            head = file.read(1 << 16).decode("utf-8", "replace")
        found = [path.parent / name for name in dict.fromkeys(_DATA_FILE.findall(head))]
    elif suffix == ".hdr":
        found = [name for ending in (".img", ".mat") if (name := _partner(path, ending)) is not None]
    elif suffix in FORMATS["tiff"].suffixes:
        found = spacing_files(path)
    return [item for item in found if item.is_file() and item != path]
