"""MetaImage: `.mha` (one file) and `.mhd` (header with the voxels next to it).

The world of the file is LPS; the rows of `TransformMatrix` are the directions of the axes. Channels are interleaved
(`ElementNumberOfChannels`) or a fourth axis. Checked against SimpleITK in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4",
    "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items() if name not in ("MET_LONG", "MET_ULONG")}
_LPS = np.diag([-1.0, -1.0, 1.0])  # LPS <-> RAS
_PLACE = ("Offset", "Position", "Origin")
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_SPACING = ("ElementSpacing", "ElementSize")


def read(path: Path, *, voxels: bool = True) -> StoredImage:
    """One MetaImage as stored, axes in our order.

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt, an unsupported type, or the file with the voxels is missing
    GeometryError : no usable spacing or axes
    """
    fields, offset = _fields(path)
    sizes = _integers(fields, "DimSize", path)
    if fields.get("NDims", str(len(sizes))) != str(len(sizes)) or not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise _damaged(path, f"NDims {fields.get('NDims')}, DimSize {fields.get('DimSize')}", "2 to 4 axes with at least one voxel each")
    samples = voxel_data.integer(fields.get("ElementNumberOfChannels", "1"), path)
    frames = sizes[3] if len(sizes) == 4 else 1
    if samples < 1 or (samples > 1 and frames > 1):
        raise GeometryError(
            "channels along two axes", file=path, found=f"{samples} samples, {frames} frames", expected="one of them",
            fix="store each channel in a file of its own",
        )  # fmt: skip
    spatial: Shape = (sizes[2] if len(sizes) > 2 else 1, sizes[1], sizes[0])
    kind = fields.get("ElementType", "")
    if kind not in _KINDS:
        raise _damaged(path, f"ElementType {kind!r}", ", ".join(_NAMES.values()))
    big = any(fields.get(key, "").lower() in ("true", "1") for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    dtype = np.dtype((">" if big else "<") + _KINDS[kind])
    affine, has_position = _affine(fields, len(sizes), path)
    usable, notes = usable_affine(affine, spatial, path=path)
    if not has_position:
        notes = (*notes, "no spacing is stored; 1 mm was taken")
    array = None
    if voxels:
        flat = _body(path, fields, offset=offset, size=math.prod(sizes) * samples * dtype.itemsize).view(dtype)
        flat = flat.astype(dtype.newbyteorder("="), copy=False)
        array = flat.reshape(frames, *spatial) if samples == 1 else np.moveaxis(flat.reshape(*spatial, samples), -1, 0)
    return StoredImage(
        format="metaimage", path=path, shape=spatial, channels=max(frames, samples), dtype=dtype.newbyteorder("="), affine=usable,
        array=array, header=fields, notes=notes, has_position=has_position,
    )  # fmt: skip


def write(path: Path, array: NDArray[Any], *, affine: Affine, header: Mapping[str, str] | None) -> None:
    """Write a stored array `(c, z, y, x)`, deflated, as `.mha`, in place; the caller renames.

    With the header of an input its fields of place, direction and spacing are kept to the letter.

    Raises
    ------
    UnreadableFile : `.mhd`, which would be two files that cannot be renamed at once
    """
    if path.suffix.lower() == ".mhd":
        raise UnreadableFile("pairs of files are not written", file=path, expected=".mha", fix="write the image as .mha or .nii.gz")
    planar = header is not None and len(header["DimSize"].split()) == 2
    fields = _placing_of(header, 2 if planar else 3) if header is not None else _placing(affine)
    channels = array.shape[0]
    sizes = array.shape[:1:-1] if planar else array.shape[:0:-1]
    kind = {"?": "u1", "f2": "f4"}.get(array.dtype.str[1:], array.dtype.str[1:])
    stored = np.moveaxis(array, 0, -1).astype("<" + kind) if channels > 1 else contiguous(array).astype("<" + kind, copy=False)
    lines = {
        "ObjectType": "Image", "NDims": str(len(sizes)), "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "True",
        "CompressedDataSize": " " * 20, **fields, "DimSize": " ".join(str(n) for n in sizes),
        **({"ElementNumberOfChannels": str(channels)} if channels > 1 else {}), "ElementType": _NAMES[kind], "ElementDataFile": "LOCAL",
    }  # fmt: skip
    with open(path, "wb") as file:
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        file.write(text.encode())
        count = voxel_data.deflate(file, stored, wbits=15)
        file.seek(text.index("CompressedDataSize = ") + len("CompressedDataSize = "))
        file.write(str(count).ljust(20).encode())  # the blanks left for it


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and where the voxels begin."""
    text = voxel_data.head(path)
    fields: dict[str, str] = {}
    place = 0
    while True:
        end = text.find(b"\n", place)
        line = text[place:end].decode("latin-1").strip()
        if end < 0 or (line and "=" not in line):
            raise _damaged(path, f"line {line[:60]!r}" if end >= 0 else "no end of the header", "lines of the form Key = Value")
        place = end + 1
        if not line:
            continue
        key, _, value = line.partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields, place


def _body(path: Path, fields: Mapping[str, str], *, offset: int, size: int) -> NDArray[np.uint8]:
    if fields.get("BinaryData", "True").lower() == "false":
        raise _damaged(path, "voxels written as text", "binary voxels")
    name = fields["ElementDataFile"]
    local = name.upper() == "LOCAL"
    source = path if local else voxel_data.beside(path, name)
    start = offset if local else 0
    header_size = voxel_data.integer(fields.get("HeaderSize", "0"), path)
    if fields.get("CompressedData", "False").lower() == "true":
        return voxel_data.deflated(source, offset=start + max(0, header_size), size=size)
    return voxel_data.raw(source, offset=-1 if header_size < 0 else start + header_size, size=size)


@np.errstate(all="ignore")  # a damaged header may hold anything; what comes out is checked
def _affine(fields: Mapping[str, str], axes: int, path: Path) -> tuple[Affine, bool]:
    """Stored index (z, y, x, 1) -> RAS+, and whether the file says anything of it."""
    keys = [next((key for key in group if key in fields), None) for group in (_SPACING, _DIRECTIONS, _PLACE)]
    spacing = _numbers(fields, keys[0], [1.0] * axes, path)
    directions = _numbers(fields, keys[1], np.eye(axes).ravel().tolist(), path)
    place = _numbers(fields, keys[2], [0.0] * axes, path)
    count = min(axes, 3)
    affine = np.eye(4)
    with np.errstate(all="ignore"):
        cosines = np.reshape(directions, (axes, axes))[:count, :count].T  # rows of the file are our columns
        affine[:count, :count] = cosines * np.abs(spacing[:count])
        affine[:count, 3] = place[:count]
        affine[:3] = _LPS @ affine[:3]
    return affine[:, [2, 1, 0, 3]] + 0.0, keys[0] is not None or keys[1] is not None


def _placing_of(header: Mapping[str, str], axes: int) -> dict[str, str]:
    """The fields of place, direction and spacing of an input, cut to its spatial axes."""
    old = len(header["DimSize"].split())
    kept = {}
    for key in (*_DIRECTIONS, *_PLACE, *_SPACING, "CenterOfRotation", "AnatomicalOrientation"):
        if key not in header:
            continue
        values = header[key].split()
        if key in _DIRECTIONS and len(values) == old * old:
            values = [values[row * old + column] for row in range(axes) for column in range(axes)]
        kept[key] = " ".join(values[:axes] if key not in _DIRECTIONS and len(values) == old else values)
    return kept


def _placing(affine: Affine) -> dict[str, str]:
    theirs = (_LPS @ affine[:3])[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(theirs[:, :3], axis=0)
    return {
        "TransformMatrix": _text((theirs[:, :3] / spacing).T.ravel()),
        "Offset": _text(theirs[:, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(spacing),
    }


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(repr(float(value) + 0.0) for value in values)


def _numbers(fields: Mapping[str, str], key: str | None, default: list[float], path: Path) -> NDArray[np.float64]:
    if key is None:
        return np.array(default)
    values = [voxel_data.number(text, path) for text in fields[key].split()]
    if len(values) != len(default):
        raise _damaged(path, f"{key} = {fields[key]}", f"{len(default)} numbers")
    return np.array(values)


def _integers(fields: Mapping[str, str], key: str, path: Path) -> list[int]:
    values = [voxel_data.integer(text, path) for text in fields.get(key, "").split()]
    if not values:
        raise _damaged(path, f"{key} = {fields.get(key)}", "integers")
    return values


def _damaged(path: Path, found: str, expected: str) -> UnreadableFile:
    return UnreadableFile(
        "the MetaImage header cannot be used", file=path, found=found, expected=expected, fix="convert the image again from its source"
    )
