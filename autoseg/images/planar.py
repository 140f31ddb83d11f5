"""PNG, BMP, JPEG: one slice, one to three channels, no spacing (1 mm is assumed for each axis).

An image is read as people see it: palettes become their colours, alpha is dropped with a note. A label map is read as it is
stored: palette indices are the labels.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from autoseg.errors import LabelError, UnreadableFile
from autoseg.geometry import affine_from_spacing
from autoseg.images import gzipped
from autoseg.images.types import Order, StoredImage

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read a planar image as `(c, 1, y, x)`.

    Parameters
    ----------
    path : PNG, BMP or JPEG, distinguished by the first bytes
    voxels : False reads the header alone
    label : as a label map, see the module's docstring

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt (PNG carries checksums; BMP and JPEG do not), or no such format
    """
    magic = gzipped.head(path, 26)
    if len(magic) < 26:
        raise gzipped.broken(path, "the file is too short to be an image", found=f"{len(magic)} bytes")
    notes: tuple[str, ...] = ("no spacing is stored; 1 mm was taken",)
    if magic.startswith(_PNG_MAGIC) and voxels:
        _check_png(path)
    if magic.startswith(_PNG_MAGIC) and magic[24] == 16 and magic[25] in (2, 6):  # Pillow would cut 16-bit colours to 8
        array = _deep_colours(path)
    else:
        array, more = _pillow(path, voxels=voxels, label=label)
        notes = (*notes, *more)
    if magic.startswith(_PNG_MAGIC) and magic[25] == 0 and magic[24] in (2, 4):  # Pillow spreads 2 and 4 bits over 0..255
        array = array // (255 // ((1 << magic[24]) - 1))
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array, notes = array[:, :, :-1], (*notes, "the alpha channel was dropped")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2:
        array = array[:, :, None]
    if label and magic.startswith(b"\xff\xd8"):
        notes = (*notes, "JPEG alters label values at every border: keep label maps as PNG")
    array = np.moveaxis(array, -1, 0)[:, None]  # (c, 1, y, x)
    shape = (1, array.shape[2], array.shape[3])
    return StoredImage(
        format="planar", path=path, shape=shape, channels=array.shape[0], dtype=array.dtype, affine=affine_from_spacing((1, 1, 1)),
        array=array if voxels else None, notes=notes, has_position=False,
    )  # fmt: skip


def write(order: Order) -> None:
    """Write a planar array `(c, 1, y, x)` of 8 or 16 bit.

    Raises
    ------
    LabelError : label values that the format cannot hold, or a label map as JPEG
    UnreadableFile : more than one slice, not 1 or 3 channels, or a type that the format cannot hold
    """
    path, array = order.path, order.array
    suffix = path.suffix.lower()
    if order.label and suffix in (".jpg", ".jpeg"):
        raise LabelError("JPEG would alter the label values", file=path, expected="a lossless format", fix="write the label map as .png")
    if array.shape[1] != 1 or array.shape[0] not in (1, 3):
        raise UnreadableFile(
            "a planar file holds one slice of 1 or 3 channels", file=path, found=f"array {array.shape} (c, z, y, x)",
            expected="(1 or 3, 1, y, x)", fix="write it as .nii.gz",
        )  # fmt: skip
    plane = np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1))
    plane = _fitting(plane[:, :, 0] if plane.shape[2] == 1 else plane, path, label=order.label, deep=suffix == ".png")
    kind = {".png": "PNG", ".bmp": "BMP", ".jpg": "JPEG", ".jpeg": "JPEG"}[suffix]
    Pillow.fromarray(plane).save(path, format=kind)


def _check_png(path: Path) -> None:
    """Walk the chunks: every CRC must match, IEND must come, and the pixels declared must be possible.

    Pillow checks the CRC of some chunks only.
    """
    data = path.read_bytes()
    place = len(_PNG_MAGIC)
    pixels = 0
    while place + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 4 : place + 8 + length]
        crc = data[place + 8 + length : place + 12 + length]
        if len(crc) < 4:
            break
        if zlib.crc32(body) != int.from_bytes(crc, "big"):
            raise gzipped.broken(path, "the PNG file is corrupt", found=f"chunk {name!r} fails its checksum")
        if name == b"IHDR":
            width, height, depth = struct.unpack(">IIB", body[4:13])
            pixels = width * height * depth // 8
        if name == b"IEND":
            if pixels > len(data) * gzipped.BEST_RATIO:
                found = f"{pixels} bytes of pixels in {len(data)} bytes"
                raise gzipped.broken(path, "the PNG file declares more than it can hold", found=found)
            return
        place += 12 + length
    raise gzipped.broken(path, "the PNG file ends early", found=f"{len(data)} bytes and no end", expected="an IEND chunk")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Pillow image with Pillow's limit on pixels lifted within the block, because the size was checked against the file's.

    Raises
    ------
    UnreadableFile : Pillow cannot read it
    """
    limit = Pillow.MAX_IMAGE_PIXELS
    Pillow.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(path) as picture:
                width, height = picture.size
                if width * height > max(1, path.stat().st_size) * gzipped.BEST_RATIO * 8:
                    found = f"{width} x {height} pixels in {path.stat().st_size} bytes"
                    raise gzipped.broken(path, "the file declares more than it can hold", found=found)
                yield picture
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error, OverflowError) as error:
        found = str(error).replace(str(path), path.name)
        raise gzipped.broken(path, "the image cannot be read", found=found, expected="a whole image file") from None
    finally:
        Pillow.MAX_IMAGE_PIXELS = limit


def _pillow(path: Path, *, voxels: bool, label: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the picture as (y, x) or (y, x, samples); without `voxels` an array of that shape that holds nothing."""
    with opened(path) as picture:
        mode = picture.mode
        notes: tuple[str, ...] = ()
        if not voxels:
            bands = {"P": 1 if label else 3}.get(mode, len(picture.getbands()))
            plane = (picture.size[1], picture.size[0])
            return np.broadcast_to(np.zeros(1, _mode_dtype(mode)), plane if bands == 1 else (*plane, bands)), ()
        if mode in ("P", "PA"):
            notes = ("palette: the indices are the labels",) if label else ("palette: turned into its colours",)
            if mode == "PA" or not label:
                picture = picture if label else picture.convert("RGB")
        elif mode not in ("L", "LA", "RGB", "RGBA", *_GREY):
            picture, notes = picture.convert("RGB"), (f"colours of mode {mode} were turned into RGB",)
        array = np.asarray(picture)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return array.astype(array.dtype.newbyteorder("="), copy=False), notes


def _mode_dtype(mode: str) -> type[Any]:
    return {"I": np.int32, "F": np.float32}.get(mode, np.uint16 if mode.startswith("I;16") else np.uint8)


def _deep_colours(path: Path) -> NDArray[Any]:
    """Read 16-bit RGB(A)."""
    import SimpleITK as sitk

    try:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="PNGImageIO")))
    except RuntimeError as error:
        raise gzipped.broken(path, "the PNG file cannot be read", found=str(error).splitlines()[-1]) from None


def _fitting(plane: NDArray[Any], path: Path, *, label: bool, deep: bool) -> NDArray[Any]:
    """Return the plane as uint8, or uint16 where the format can hold it."""
    low, high = (float(plane.min()), float(plane.max())) if plane.size else (0.0, 0.0)
    whole = plane.dtype.kind in "bui"
    if whole and low >= 0 and high <= 255 and (label or plane.dtype.itemsize == 1):
        return plane.astype(np.uint8)
    if whole and low >= 0 and high <= 65535 and deep and plane.ndim == 2:
        return plane.astype(np.uint16)
    kind = LabelError if label else UnreadableFile
    raise kind(
        f"values that {path.suffix} cannot hold",
        file=path,
        found=f"{plane.dtype} from {low:g} to {high:g}",
        expected="integers from 0 to 255" + (" (0 to 65535 in one channel)" if deep else ""),
        fix="write the result as .nii.gz",
    )
