"""NRRD and MetaImage, whose headers SimpleITK reads; `.nhdr` and `.mhd` are headers with the voxels next to them.

The voxels are unpacked here: SimpleITK returns an array from a MetaImage whose compressed voxels are corrupt. So a stream counts only
with its checksum, and memory is taken only for as many bytes as the file can hold. Headers are written here as well, to the letter of the
input's where it matters, and a full disk is an error.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, MissingPath, UnreadableFile
from autoseg.geometry import Affine, Shape
from autoseg.images import gzipped
from autoseg.images.contiguous import contiguous
from autoseg.images.formats import name_of, suffix_of
from autoseg.images.grids import swap_columns, usable_affine
from autoseg.images.slicer import slicer_fields
from autoseg.images.types import Order, ReadSegment, StoredImage

_zlib: Any
try:
    from isal import isal_zlib

    _zlib = isal_zlib
except ImportError:  # no wheel for this processor: slower, same result
    _zlib = zlib

_IO = {"nrrd": "NrrdImageIO", "metaimage": "MetaImageIO"}
_META_TYPES = {
    "i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT", "i8": "MET_LONG_LONG",
    "u8": "MET_ULONG_LONG", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip
_META_PER_AXIS = {  # numbers: the power of NDims; MetaIO misreads the rest of the header where there are others
    "dimsize": 1, "elementspacing": 1, "elementsize": 1, "offset": 1, "position": 1, "origin": 1,
    "transformmatrix": 2, "rotation": 2, "orientation": 2,
}  # fmt: skip
_SCALE = ("spacings", "spacedirections", "elementspacing", "elementsize", "transformmatrix", "rotation", "orientation")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS <-> RAS
_LONGEST_HEADER = 1 << 20  # bytes of text; a file without an end of its header is no image
_STEP = 1 << 20  # bytes


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read an NRRD or MetaImage as stored, axes in our order.

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt, an unsupported type or encoding, or the file with the voxels is missing
    GeometryError : not 2 or 3 spatial axes and at most one of channels, no usable spacing or axes
    """
    fields, end = _fields(path)
    source, offset, packed = _body(path, fields, end)
    with silent():
        try:
            reader = information(path, itk_io=_IO[name_of(path)])
            dtype = pixel_type(reader)
        except RuntimeError as error:
            reason = re.sub(r"^.*\(0x\w+\): |^\w+::ERROR: ", "", str(error).strip().splitlines()[-1])
            raise _damaged(path, reason, "a valid header") from None
    sizes, samples = reader.GetSize(), reader.GetNumberOfComponents()
    if len(sizes) not in (2, 3, 4) or (samples > 1 and math.prod(sizes[3:]) > 1):
        raise GeometryError(
            "not an image of 2 or 3 spatial axes and at most one of channels",
            file=path,
            found=f"sizes {' '.join(map(str, sizes))}, {samples} values per voxel",
            expected="2 or 3 spatial axes",
            fix="store each channel in a file of its own",
        )
    size = math.prod(sizes) * samples * dtype.itemsize
    if size < 1:
        raise _damaged(path, f"sizes {' '.join(map(str, sizes))}", "at least one voxel along each axis")
    shape: Shape = (sizes[2] if len(sizes) > 2 else 1, sizes[1], sizes[0])
    affine, notes = usable_affine(ras_affine(reader), shape, path=path)
    has_position = any(key in fields for key in _SCALE)
    if not has_position:
        notes = ("no spacing is stored; 1 mm was taken", *notes)
    elif "encoding" in fields and "space" not in fields:
        notes = ("the header does not name its space; left-posterior-superior was taken", *notes)
    position = _nrrd_position(fields, reader) if "encoding" in fields else _meta_position(*_placement(reader))
    array = None
    if voxels:
        flat = (_unpacked if packed else _raw)(source, offset=offset, size=size).view(dtype.newbyteorder(_byte_order(fields)))
        order = list(sizes)
        order.insert(_channel_axis(fields), samples)
        array = np.moveaxis(flat.astype(dtype, copy=False).reshape(order[::-1]), -1 - _channel_axis(fields), 0).reshape(-1, *shape)
    return StoredImage(
        format=name_of(path), path=path, shape=shape, channels=samples * math.prod(sizes[3:]), dtype=dtype, affine=affine,
        array=array, header=(min(len(sizes), 3), position), notes=notes, has_position=has_position,
        segments=_segments(path) if label and "encoding" in fields else (),
    )  # fmt: skip


def write(order: Order) -> None:
    """Write a stored array, compressed, as `.nrrd` or `.mha`.

    With the header of an input its position, directions and spacing are kept exactly.

    Raises
    ------
    UnreadableFile : `.nhdr` and `.mhd`, which would be two files that cannot be renamed at once
    """
    path, array = order.path, order.array
    single = {".nhdr": ".nrrd", ".mhd": ".mha"}.get(path.suffix.lower())
    if single:
        raise UnreadableFile("pairs of files are not written", file=path, expected=single, fix=f"write the image as {single} or .nii.gz")
    nrrd = name_of(path) == "nrrd"
    axes, position = order.header or (3, _position(order.affine, nrrd=nrrd))
    with open(path, "wb") as file:
        if nrrd:
            named = suffix_of(order.target) == ".seg.nrrd"
            _write_nrrd(file, array, axes, position, slicer_fields(array, order.segments) if named else {})
        else:
            _write_meta(file, array, axes, position)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence ITK's warnings within the block: remarks on tags and headers are no news for the user."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def information(path: Path, *, itk_io: str) -> Any:
    """Return a SimpleITK reader that has read all but the voxels of a file.

    Raises
    ------
    RuntimeError : the file cannot be read
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(itk_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def pixel_type(reader: Any) -> np.dtype[Any]:
    """Return the type of one stored number.

    Raises
    ------
    RuntimeError : neither an integer nor a float
    """
    import SimpleITK as sitk

    name = sitk.GetPixelIDValueAsString(reader.GetPixelID()).removeprefix("vector of ")
    match = re.fullmatch(r"(8|16|32|64)-bit (signed integer|unsigned integer|float)", name)
    if match is None:
        raise RuntimeError(f"voxels of the type {name!r}")
    return np.dtype({"s": "i", "u": "u", "f": "f"}[match[2][0]] + str(int(match[1]) // 8))


def ras_affine(reader: Any) -> Affine:
    """Return stored index (z, y, x, 1) -> RAS+, mm, of a reader's header."""
    spacing, directions, origin = _placement(reader)
    affine = np.eye(4)
    affine[: len(spacing), : len(spacing)] = directions * spacing
    affine[: len(origin), 3] = origin
    return swap_columns(_LPS @ affine) + 0.0


def _placement(reader: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return spacing, directions (one per column) and origin of the first three axes, LPS."""
    axes = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (axes, axes))
    return np.abs(reader.GetSpacing()[:3]), directions[:3, :3], np.array(reader.GetOrigin()[:3])


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's fields, keys in lower case without blanks, and where its text ends."""
    nrrd = name_of(path) == "nrrd"
    fields: dict[str, str] = {}
    text = io.BytesIO(gzipped.head(path, _LONGEST_HEADER))
    if nrrd and not (first := text.readline()).startswith(b"NRRD000"):
        raise _damaged(path, f"first bytes {first[:8]!r}", "'NRRD000'")
    for raw in text:
        line = raw.decode("latin-1").strip()
        if nrrd and not line:
            return fields, text.tell()
        if not line or (nrrd and re.match(r"#|[^:]*:=", line)):
            continue
        key, separator, value = line.partition(":" if nrrd else "=")
        if not separator:
            raise _damaged(path, f"line {line[:60]!r}", f"lines of the form {'key: value' if nrrd else 'Key = Value'}")
        fields[key.lower().replace(" ", "")] = value.strip()
        if "elementdatafile" in fields:
            _check_numbers(path, fields)
            return fields, text.tell()
    if "datafile" in fields:  # a detached NRRD header may end without the empty line
        return fields, text.tell()
    raise _damaged(path, "no end of the header", "an empty line behind it" if nrrd else "ElementDataFile in the last line")


def _segments(path: Path) -> tuple[ReadSegment, ...]:
    """Return the structures that 3D Slicer describes in the header of a `.seg.nrrd`."""
    head = gzipped.head(path, _LONGEST_HEADER).partition(b"\n\n")[0].replace(b"\r", b"").decode("utf-8", "replace")
    found: dict[int, dict[str, str]] = {}
    for number, key, value in re.findall(r"^Segment(\d{1,6})_(Name|LabelValue|Layer):=(.*)$", head, re.MULTILINE):
        found.setdefault(int(number), {})[key] = value.strip()
    return tuple(
        ReadSegment(name=keys["Name"], layer=int(keys.get("Layer", "0")), value=int(keys["LabelValue"]))
        for _, keys in sorted(found.items())
        if keys.get("Name") and re.fullmatch(r"\d{1,6}", keys.get("LabelValue", "")) and re.fullmatch(r"\d{1,6}", keys.get("Layer", "0"))
    )


def _check_numbers(path: Path, fields: Mapping[str, str]) -> None:
    """Raise unless a MetaImage has as many numbers as axes wherever MetaIO reads them without checking."""
    axes = fields.get("ndims", str(len(fields.get("dimsize", "").split())))
    number = r"\s*[-+.0-9][-+.0-9eE]*"
    for key, power in _META_PER_AXIS.items():
        count = int(axes) ** power if axes in ("2", "3", "4") else 0
        values = fields.get(key, "" if key == "dimsize" else None)
        if values is not None and not (count and re.fullmatch(f"({number}){{{count}}}", values)):
            raise _damaged(path, f"NDims {axes}, {key} {values[:60]}", "2 to 4 axes with as many numbers")


def _body(path: Path, fields: Mapping[str, str], end: int) -> tuple[Path, int, bool]:
    """Return the file that holds the voxels, where they begin (negative: at the end), and whether they are compressed."""
    encoding = fields.get("encoding", "text" if fields.get("binarydata", "").lower() == "false" else "raw").lower()
    packed = encoding in ("gzip", "gz") or fields.get("compresseddata", "").lower() == "true"
    skip = fields.get("byteskip", fields.get("headersize", "0"))
    lines = fields.get("lineskip", "0")
    is_known = encoding == "raw" or (encoding in ("gzip", "gz") and skip == "0")
    if not is_known or lines != "0" or not re.fullmatch(r"-1|\d{1,15}", skip):
        raise _damaged(path, f"encoding {encoding!r}, line skip {lines}, byte skip {skip}", "raw or gzip, nothing skipped")
    name = fields.get("elementdatafile", fields.get("datafile", "LOCAL"))
    source, start = (path, end) if name.upper() == "LOCAL" else (_next_to(path, name), 0)
    return source, -1 if skip == "-1" and not packed else start + max(0, int(skip)), packed


def _next_to(path: Path, name: str) -> Path:
    """Return the data file that a header names, in the header's own folder or below."""
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


def _byte_order(fields: Mapping[str, str]) -> Literal["<", ">"]:
    msb = any(fields.get(key, "").lower() in ("true", "1") for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    return ">" if msb or fields.get("endian", "").lower() == "big" else "<"


def _channel_axis(fields: Mapping[str, str]) -> int:
    """Return which axis holds the channels, fastest first: the one without a direction, of an NRRD; MetaImage interleaves them."""
    words = _vectors(fields)
    unplaced = [index for index, word in enumerate(words) if "(" not in word or "nan" in word.lower()]
    kinds = fields.get("kinds", "").lower().split()
    unplaced = unplaced if words else [index for index, kind in enumerate(kinds) if kind not in ("domain", "space", "time")]
    return unplaced[0] if len(unplaced) == 1 else 0


def _vectors(fields: Mapping[str, str]) -> list[str]:
    return re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""))


def _raw(path: Path, *, offset: int, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes, which must be all from `offset` on; negative: the last of the file."""
    length = path.stat().st_size
    offset = length - size if offset < 0 else offset
    if offset < 0 or length - offset != size:
        raise gzipped.wrong_length(path, max(0, length - max(0, offset)), size)
    with open(path, "rb") as file:
        file.seek(offset)
        return gzipped.take(file, path, size=size)


def _unpacked(path: Path, *, offset: int, size: int) -> NDArray[np.uint8]:
    """Return the `size` bytes of the zlib or gzip stream that begins at `offset`, its checksum compared."""
    packed_length = path.stat().st_size - offset
    if size > max(0, packed_length) * gzipped.BEST_RATIO:
        raise gzipped.wrong_length(path, packed_length, size)
    buffer = np.empty(size, dtype=np.uint8)
    done = 0
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read(_STEP)
            stream: Any = _zlib.decompressobj(wbits=31 if chunk[:2] == b"\x1f\x8b" else 15)
            while done <= size and not stream.eof:
                piece = stream.decompress(chunk, _STEP)
                if not piece and not chunk:
                    raise gzipped.damaged(path, f"the stream is truncated after {done} of {size} bytes")
                kept = piece[: size - done]
                buffer[done : done + len(kept)] = np.frombuffer(kept, dtype=np.uint8)
                done += len(piece)
                chunk = stream.unconsumed_tail or (b"" if len(piece) == _STEP else file.read(_STEP))  # "": more is inside
    except gzipped.BROKEN as error:
        raise gzipped.damaged(path, str(error)) from None
    if done != size:
        raise gzipped.wrong_length(path, done, size)
    return buffer


def _nrrd_position(fields: Mapping[str, str], reader: Any) -> dict[str, str]:
    """Return the lines of a header that place its spatial axes, to the letter, for another NRRD on the same grid."""
    kept = {"space": fields.get("space"), "space dimension": fields.get("spacedimension"), "space origin": fields.get("spaceorigin")}
    kept["space directions"] = " ".join(word for word in _vectors(fields) if "(" in word and "nan" not in word.lower())
    if "spacings" in fields:
        kept["spacings"] = _text(reader.GetSpacing()[:3])
    return {key: value for key, value in kept.items() if value}


def _meta_position(spacing: NDArray[np.float64], directions: NDArray[np.float64], origin: NDArray[np.float64]) -> dict[str, str]:
    """Return the lines of a header that place axes whose directions are the columns of a matrix."""
    return {"TransformMatrix": _text(directions.T.ravel()), "Offset": _text(origin), "ElementSpacing": _text(spacing)}


def _position(affine: Affine, *, nrrd: bool) -> dict[str, str]:
    """Return the lines of a header that place the axes of a stored array."""
    lps = (_LPS @ swap_columns(affine) + 0.0)[:3]
    if nrrd:
        vectors = [f"({_text(column).replace(' ', ',')})" for column in lps.T]
        return {"space": "left-posterior-superior", "space directions": " ".join(vectors[:3]), "space origin": vectors[3]}
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    return _meta_position(spacing, lps[:, :3] / spacing, lps[:, 3])


def _write_nrrd(file: IO[bytes], array: NDArray[Any], axes: int, position: Mapping[str, str], fields: Mapping[str, str]) -> None:
    channels = array.shape[0]
    lines = {
        "type": {"float32": "float", "float64": "double"}.get(array.dtype.name, array.dtype.name),
        "dimension": str(axes + (channels > 1)),
    }
    lines |= {key: position[key] for key in ("space", "space dimension") if key in position}  # before what is measured in it
    lines |= {"sizes": _text((*array.shape[:0:-1][:axes], *([channels] if channels > 1 else [])))}
    for key, none in (("space directions", " none"), ("spacings", " nan")):
        lines |= {key: position[key] + (none if channels > 1 else "")} if key in position else {}
    lines |= {"kinds": " ".join(["domain"] * axes + ["list"] * (channels > 1)), "endian": "little", "encoding": "gzip"}
    lines |= {"space origin": position["space origin"]} if "space origin" in position else {}
    file.write(("NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items())).encode())
    file.write(("".join(f"{key}:={value}\n" for key, value in fields.items()) + "\n").encode())
    _pack(file, array, wbits=31)


def _write_meta(file: IO[bytes], array: NDArray[Any], axes: int, position: Mapping[str, str]) -> None:
    channels = array.shape[0]
    lines = {
        "ObjectType": "Image", "NDims": str(axes), "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "True",
        "CompressedDataSize": " " * 20, **position, "DimSize": _text(array.shape[:0:-1][:axes]),
        "ElementNumberOfChannels": str(channels), "ElementType": _META_TYPES[array.dtype.str[1:]], "ElementDataFile": "LOCAL",
    }  # fmt: skip
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    file.write(text.encode())
    count = _pack(file, np.moveaxis(array, 0, -1), wbits=15)
    file.seek(text.index(" " * 20))
    file.write(str(count).ljust(20).encode())


def _pack(file: IO[bytes], array: NDArray[Any], *, wbits: int) -> int:
    """Write an array's bytes as one zlib (`wbits` 15) or gzip (31) stream; return the number of bytes written."""
    stream = _zlib.compressobj(1, _zlib.DEFLATED, wbits)
    data = contiguous(array).reshape(-1).view(np.uint8).data
    count = sum(file.write(stream.compress(data[start : start + _STEP])) for start in range(0, len(data), _STEP))
    return count + file.write(stream.flush())


def _text(values: Iterable[float]) -> str:
    return " ".join(repr(value) for value in np.asarray(values).tolist())


def _damaged(path: Path, found: str, expected: str) -> UnreadableFile:
    kind = "NRRD" if name_of(path) == "nrrd" else "MetaImage"
    return UnreadableFile(
        f"the {kind} header cannot be used", file=path, found=found, expected=expected, fix="convert the image again from its source"
    )
