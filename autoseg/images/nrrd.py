"""NRRD: `.nrrd` (one file) and `.nhdr` (header with the voxels next to it).

`space` names the world, `space directions` hold the step along each axis; an axis without a direction holds channels.
Checked against SimpleITK in the tests. Source: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, UnreadableFile
from autoseg.geometry import Affine, Shape
from autoseg.images import voxel_data
from autoseg.images.contiguous import contiguous
from autoseg.images.grids import usable_affine
from autoseg.images.types import StoredImage

_KINDS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_NAMES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "i8": "int64", "u8": "uint64"}
_NAMES |= {"f4": "float", "f8": "double"}
_SPACES = {  # signs that turn the file's world into RAS+
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_SPATIAL_KINDS = ("domain", "space")
_DEFLATED = ("gzip", "gz")


def read(path: Path, *, voxels: bool = True) -> StoredImage:
    """One NRRD as stored, axes in our order.

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt, an unsupported type or encoding, or the file with the voxels is missing
    GeometryError : not 2 or 3 spatial axes, no usable spacing
    """
    fields, offset = _fields(path)
    sizes = [voxel_data.integer(text, path) for text in fields.get("sizes", "").split()]
    if fields.get("dimension") != str(len(sizes)) or not sizes or min(sizes) < 1:
        raise _damaged(
            path, f"dimension {fields.get('dimension')}, sizes {fields.get('sizes')}", "as many sizes as dimensions, all positive"
        )
    kind = _KIND_OF.get(fields.get("type", "").lower())
    if kind is None:
        raise _damaged(path, f"type {fields.get('type')!r}", ", ".join(_NAMES.values()))
    dtype = np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<") + kind)
    spatial, other = _axes(fields, sizes, path)
    shape: Shape = tuple(sizes[axis] for axis in spatial[::-1])  # type: ignore[assignment]
    shape = (1, *shape) if len(shape) == 2 else shape  # type: ignore[assignment]
    affine, has_position, notes = _affine(fields, spatial, path)
    usable, mended = usable_affine(affine, shape, path=path)
    array = None
    if voxels:
        flat = _body(path, fields, offset=offset, size=math.prod(sizes) * dtype.itemsize).view(dtype)
        whole = flat.astype(dtype.newbyteorder("="), copy=False).reshape(sizes[::-1])  # slowest axis first
        last = len(sizes) - 1
        whole = whole.transpose([*(last - axis for axis in other), *(last - axis for axis in spatial[::-1])])
        array = whole.reshape(-1, *shape)
    return StoredImage(
        format="nrrd", path=path, shape=shape, channels=math.prod(sizes[axis] for axis in other), dtype=dtype.newbyteorder("="),
        affine=usable, array=array, header=fields | {"_spatial": " ".join(map(str, spatial))},
        notes=(*notes, *mended), has_position=has_position,
    )  # fmt: skip


def write(path: Path, array: NDArray[Any], *, affine: Affine, header: Mapping[str, str] | None) -> None:
    """Write a stored array `(c, z, y, x)`, gzipped, as `.nrrd`, in place; the caller renames.

    With the header of an input its space, directions and origin are kept to the letter.

    Raises
    ------
    UnreadableFile : `.nhdr`, which would be two files that cannot be renamed at once
    """
    if path.suffix.lower() == ".nhdr":
        raise UnreadableFile("pairs of files are not written", file=path, expected=".nrrd", fix="write the image as .nrrd or .nii.gz")
    kind = {"?": "u1", "f2": "f4"}.get(array.dtype.str[1:], array.dtype.str[1:])
    fields = _placing(affine) if header is None else _placing_of(header)
    planar = header is not None and len(header["_spatial"].split()) == 2
    sizes = array.shape[:1:-1] if planar else array.shape[:0:-1]
    kinds = ["domain"] * len(sizes)
    if array.shape[0] > 1:
        sizes, kinds = (*sizes, array.shape[0]), [*kinds, "list"]
        fields = {key: f"{value} none" if key == "space directions" else value for key, value in fields.items()}
        fields = {key: f"{value} nan" if key == "spacings" else value for key, value in fields.items()}
    lines = {"type": _NAMES[kind], "dimension": str(len(sizes))}
    lines |= {key: fields[key] for key in ("space", "space dimension") if key in fields}  # before what is measured in it
    lines |= {"sizes": " ".join(str(n) for n in sizes)}
    lines |= {key: fields[key] for key in ("space directions", "spacings") if key in fields}
    lines |= {"kinds": " ".join(kinds), "endian": "little", "encoding": "gzip"}
    lines |= {"space origin": fields["space origin"]} if "space origin" in fields else {}
    with open(path, "wb") as file:
        file.write(("NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n").encode())
        voxel_data.deflate(file, contiguous(array).astype("<" + kind, copy=False), wbits=31)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, names in lower case, and where the voxels begin."""
    text = voxel_data.head(path)
    if not text.startswith(b"NRRD000"):
        raise _damaged(path, f"first bytes {text[:8]!r}", "'NRRD000'")
    fields: dict[str, str] = {}
    place = text.find(b"\n") + 1
    while place > 0:
        end = text.find(b"\n", place)
        line = text[place : end if end >= 0 else len(text)].decode("latin-1").rstrip("\r")
        place = end + 1
        if not line:
            return fields, place
        if line.startswith("#") or re.match(r"[^:]*:=", line):
            continue
        key, colon, value = line.partition(": ")
        if not colon:
            raise _damaged(path, f"line {line[:60]!r}", "lines of the form key: value")
        fields[key.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:  # a detached header may end without the empty line
        return fields, len(text)
    raise _damaged(path, "no end of the header", "an empty line behind it")


def _axes(fields: Mapping[str, str], sizes: Sequence[int], path: Path) -> tuple[list[int], list[int]]:
    """The spatial axes and the others, fastest first."""
    kinds = fields.get("kinds", "").lower().split()
    directions = _directions(fields, path)
    count = len(sizes)
    if directions and len(directions) != count:
        raise _damaged(path, f"{len(directions)} space directions", f"{count}, one per axis")
    if directions:
        spatial = [axis for axis, direction in enumerate(directions) if direction is not None]
    elif len(kinds) == count and any(kind in _SPATIAL_KINDS for kind in kinds):
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    else:
        spatial = list(range(min(count, 3)))
    other = [axis for axis in range(count) if axis not in spatial]
    if len(spatial) not in (2, 3) or sum(sizes[axis] > 1 for axis in other) > 1:
        raise GeometryError(
            "not an image of 2 or 3 spatial axes and at most one of channels",
            file=path,
            found=f"sizes {' '.join(map(str, sizes))}, kinds {fields.get('kinds', 'not given')}",
            expected="2 or 3 spatial axes",
            fix="store each channel in a file of its own",
        )
    return spatial, other


@np.errstate(all="ignore")  # a damaged header may hold anything; what comes out is checked
def _affine(fields: Mapping[str, str], spatial: Sequence[int], path: Path) -> tuple[Affine, bool, tuple[str, ...]]:
    """Stored index (z, y, x, 1) -> RAS+, whether the file says anything of it, and notes."""
    count = len(spatial)
    directions = _directions(fields, path)
    affine = np.eye(4)
    notes: tuple[str, ...] = ()
    has_position = True
    if directions:
        for column, axis in enumerate(spatial):
            vector = directions[axis]
            if vector is None or len(vector) not in (count, 3):
                raise _damaged(path, f"space directions {fields['space directions']}", "one vector per spatial axis")
            affine[: len(vector), column] = vector
            affine[len(vector) : 3, column] = 0
        if count == 2:
            across = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = across / max(float(np.linalg.norm(across)), 1e-12)  # 1 mm across the single slice
    elif "spacings" in fields:
        spacings = [voxel_data.number(text, path) for text in fields["spacings"].split()]
        if len(spacings) <= max(spatial):
            raise _damaged(path, f"spacings {fields['spacings']}", "one per axis")
        affine[: len(spatial), : len(spatial)] = np.diag([spacings[axis] for axis in spatial])
    else:
        has_position, notes = False, ("no spacing is stored; 1 mm was taken",)
    origin = _vector(fields["space origin"], path) if "space origin" in fields else None
    if origin is not None:
        affine[: min(3, len(origin)), 3] = origin[:3]
    space = re.sub(r"-time$", "", fields.get("space", "").lower()).removesuffix("t" if len(fields.get("space", "")) == 4 else "\0")
    if has_position and space not in _SPACES:
        notes = (*notes, "the header does not name its space; left-posterior-superior was taken")
    affine[:3] = np.diag(_SPACES.get(space, (-1, -1, 1))) @ affine[:3]
    return affine[:, [2, 1, 0, 3]] + 0.0, has_position, notes


def _directions(fields: Mapping[str, str], path: Path) -> list[list[float] | None]:
    """One vector per axis, None where the axis is not spatial; empty where the header has none."""
    words = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    vectors = [None if word == "none" else _vector(word, path) for word in words]
    return [None if vector is None or all(math.isnan(value) for value in vector) else vector for vector in vectors]


def _vector(text: str, path: Path) -> list[float]:
    return [voxel_data.number(word, path) for word in text.strip().strip("()").split(",")]


def _body(path: Path, fields: Mapping[str, str], *, offset: int, size: int) -> NDArray[np.uint8]:
    encoding = fields.get("encoding", "").lower()
    skip = voxel_data.integer(fields.get("byte skip", fields.get("byteskip", "0")), path)
    if encoding not in ("raw", *_DEFLATED) or fields.get("line skip", fields.get("lineskip", "0")) != "0" or (skip and encoding != "raw"):
        raise _damaged(
            path, f"encoding {encoding!r}, line skip {fields.get('line skip', 0)}, byte skip {skip}", "raw or gzip, nothing skipped"
        )
    name = fields.get("data file", fields.get("datafile"))
    source, start = (path, offset) if name is None else (voxel_data.beside(path, name), 0)
    if encoding in _DEFLATED:
        return voxel_data.deflated(source, offset=start, size=size)
    return voxel_data.raw(source, offset=-1 if skip < 0 else start + skip, size=size)


def _placing_of(header: Mapping[str, str]) -> dict[str, str]:
    """Space, directions and origin of an input, of its spatial axes."""
    kept = {key: header[key] for key in ("space", "space dimension", "space origin") if key in header}
    spatial = [int(axis) for axis in header["_spatial"].split()]
    words = re.findall(r"none|\([^)]*\)", header.get("space directions", ""))
    if words:
        kept["space directions"] = " ".join(words[axis] for axis in spatial)
    elif "spacings" in header:
        kept["spacings"] = " ".join(header["spacings"].split()[axis] for axis in spatial)
    return kept


def _placing(affine: Affine) -> dict[str, str]:
    theirs = (np.diag([-1.0, -1.0, 1.0]) @ affine[:3])[:, [2, 1, 0, 3]] + 0.0
    vectors = ["(" + ",".join(repr(float(value)) for value in theirs[:, column]) + ")" for column in range(4)]
    return {"space": "left-posterior-superior", "space directions": " ".join(vectors[:3]), "space origin": vectors[3]}


def _damaged(path: Path, found: str, expected: str) -> UnreadableFile:
    return UnreadableFile("the NRRD header cannot be used", file=path, found=found, expected=expected, fix="convert the image to .nii.gz")
