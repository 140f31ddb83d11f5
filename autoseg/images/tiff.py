"""TIFF: one slice or a stack, grey or RGB. Its spacing is in a JSON file next to it, or in the tags of ImageJ or OME.

`scan.tif` has its spacing in `scan.json` (and `scan_0000.tif` also in `scan.json`): {"spacing": [z, y, x]} in mm, the convention of
nnU-Net's 3D TIFF reader. Without it the file's own tags count, else 1 mm is assumed. A resolution that neither program wrote (72 dpi)
is for printing and says nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from autoseg import files, quantities
from autoseg.errors import GeometryError, UnreadableFile
from autoseg.geometry import affine_from_spacing, spacing_of, triple
from autoseg.images import gzipped, planar
from autoseg.images.contiguous import contiguous
from autoseg.images.formats import spacing_files
from autoseg.images.grids import LARGEST_SPACING, usable_affine
from autoseg.images.types import Order, StoredImage

_SLICES = "ZQIT"  # letters under which tifffile reports a stack's axis
_BROKEN = (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError, struct.error, zlib.error, OverflowError)


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read a TIFF as `(c, z, y, x)`.

    Parameters
    ----------
    voxels : False reads the tags alone

    Raises
    ------
    UnreadableFile : truncated, corrupt, images of several sizes, unknown axes or compression
    GeometryError : a spacing file that cannot be used
    """
    shape, axes, dtype, tagged, array = _series(path, voxels=voxels)
    notes: tuple[str, ...] = ()
    order, kept = _order(path, axes, shape)
    sizes = [shape[axis] for axis in order]
    channels = sizes[0] if kept else 1
    spatial = triple(([1, 1, 1] + sizes[1 if kept else 0 :])[-3:])
    if array is not None:
        array = array.transpose(order).reshape(channels, *spatial)
    if kept == "S" and channels in (2, 4):
        channels, notes = channels - 1, ("the alpha channel was dropped",)
        array = None if array is None else array[:-1]
    spacing = _spacing(path) or tagged
    if spacing is None:
        notes = (*notes, "no spacing is stored, neither in the tags of ImageJ or OME nor next to the file (FILE.json); 1 mm was taken")
    affine, more = usable_affine(affine_from_spacing(spacing or (1, 1, 1)), spatial, path=path)
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder("=")
    return StoredImage(
        format="tiff", path=path, shape=spatial, channels=channels, dtype=dtype, affine=affine,
        array=None if array is None else array.astype(dtype, copy=False), notes=(*notes, *more), has_position=spacing is not None,
        header={"spacing": spacing},
    )  # fmt: skip


def write(order: Order) -> None:
    """Write a stored array, deflated; its spacing goes next to the target, unless the input had none."""
    array = order.array
    rgb = array.shape[0] == 3
    stack = contiguous(np.moveaxis(array, 0, -1) if rgb else array)
    tifffile.imwrite(
        order.path,
        stack[0] if array.shape[0] == 1 else stack,
        photometric="rgb" if rgb else "minisblack",
        compression="zlib",
        metadata={"axes": "ZYXS" if rgb else ("ZYX" if array.shape[0] == 1 else "CZYX")},
    )
    spacing = list(spacing_of(order.affine)) if order.header is None else order.header["spacing"]
    if spacing is not None:
        files.write_json(spacing_files(order.target)[0], {"spacing": list(spacing)})


def _series(
    path: Path, *, voxels: bool
) -> tuple[tuple[int, ...], str, np.dtype[Any], tuple[float, float, float] | None, NDArray[Any] | None]:
    """Shape, axes, type, spacing by the tags and array of the only series."""
    try:
        with _silent(), tifffile.TiffFile(path) as file:
            series = file.series
            if len(series) != 1:
                raise UnreadableFile(
                    "several images in one TIFF", file=path, found=f"{len(series)} of shapes {', '.join(str(s.shape) for s in series[:5])}",
                    expected="one image or one stack", fix="store each image in a file of its own",
                )  # fmt: skip
            only = series[0]
            shape, axes, dtype = tuple(only.shape), str(only.axes), only.dtype
            if dtype is None or dtype.kind not in "buif":
                raise UnreadableFile(
                    "an unsupported pixel type", file=path, found=str(dtype), expected="integers or floats", fix="convert it"
                )
            length = math.prod(shape) * dtype.itemsize
            if length > path.stat().st_size * gzipped.BEST_RATIO * 8:
                found = f"{length} bytes of pixels in {path.stat().st_size} bytes"
                raise gzipped.broken(path, "the TIFF declares more than it can hold", found=found)
            spacing = _tagged_spacing(file)
            if not voxels:
                return shape, axes, dtype, spacing, None
            _check_segments(path, file)
            array = _by_pillow(path, shape, dtype) if _needs_a_codec(file) else np.asarray(only.asarray())
            return shape, axes, dtype, spacing, array
    except _BROKEN as error:
        found = f"{type(error).__name__}: {error}"
        raise gzipped.broken(path, "the TIFF cannot be read", found=found, expected="a whole TIFF") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence tifffile within the block: what is wrong with a file is reported by this module."""
    log = logging.getLogger("tifffile")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _check_segments(path: Path, file: Any) -> None:
    """Raise unless every strip and tile is within the file: the reader fills what is missing with zeros."""
    length = path.stat().st_size
    for page in file.pages:
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if start + count > length:
                expected = f"pixels up to byte {start + count}"
                raise gzipped.broken(path, "the TIFF ends early", found=f"{length} bytes", expected=expected)


def _needs_a_codec(file: Any) -> bool:
    """Whether the pixels are packed in a way that tifffile alone cannot unpack: LZW, JPEG, PackBits without imagecodecs."""
    return int(file.pages[0].compression) not in (1, 8, 32946)


def _by_pillow(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the frames of a TIFF through Pillow, whose libtiff knows every compression."""
    frames = []
    with planar.opened(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture))
    stack = np.stack(frames)
    if stack.size != math.prod(shape):
        raise UnreadableFile(
            "a TIFF whose compression is not understood", file=path, found=f"{stack.shape} of {shape}", expected="all its pixels",
            fix="store it uncompressed or deflated",
        )  # fmt: skip
    return stack.reshape(shape).astype(dtype.newbyteorder("="))


def _order(path: Path, axes: str, shape: tuple[int, ...]) -> tuple[list[int], str]:
    """Return the axes in the order (channels, slices, y, x), and the letter of the channels ('' where there are none)."""
    found = {letter: axis for axis, letter in enumerate(axes) if shape[axis] > 1 or letter in "YX"}
    channels = [letter for letter in "SC" if letter in found]
    slices = [letter for letter in _SLICES if letter in found]
    rest = set(found) - set("YXSC" + _SLICES)
    if rest or len(channels) > 1 or len(slices) > 1 or not {"Y", "X"} <= set(axes) or len(set(axes)) != len(axes):
        raise UnreadableFile(
            "a TIFF with axes that are not understood", file=path, found=f"axes {axes}, shape {shape}",
            expected="slices, y, x, and channels or colours", fix="store one stack (z, y, x) per channel",
        )  # fmt: skip
    empty = [axis for axis in range(len(axes)) if axis not in found.values()]  # of one voxel: anywhere in front
    order = [*(found[letter] for letter in channels), *empty, *(found[letter] for letter in slices), found["Y"], found["X"]]
    return order, channels[0] if channels else ""


def _spacing(path: Path) -> tuple[float, float, float] | None:
    """Return the spacing next to a file, (z, y, x) in mm."""
    for companion in spacing_files(path):
        if not companion.is_file():
            continue
        value = files.read_json(companion, fix='write {"spacing": [z, y, x]} in mm')
        spacing = quantities.parse_spacing(value.get("spacing") if isinstance(value, dict) else None)
        if spacing is None:
            raise GeometryError(
                "the spacing next to the TIFF cannot be used", file=companion,
                found=f"spacing {value.get('spacing') if isinstance(value, dict) else value!r}",
                expected="three positive numbers, mm (z, y, x)",
                fix='write {"spacing": [z, y, x]}',
            )  # fmt: skip
        return spacing
    return None


def _tagged_spacing(file: Any) -> tuple[float, float, float] | None:
    """Return the spacing that ImageJ or OME wrote into a file, (z, y, x) in mm; a single plane is as thick as its pixels are high."""
    with contextlib.suppress(*_BROKEN, ZeroDivisionError):  # damaged tags are no tags
        lengths = _ome_lengths(file) if file.is_ome else _imagej_lengths(file) if file.is_imagej else {}
        mm = {axis: abs(float(length)) * unit for axis, (length, word) in lengths.items() if (unit := quantities.millimetres(word))}
        z, y, x = mm.get("Z", mm.get("Y", 0.0)), mm.get("Y", 0.0), mm.get("X", 0.0)
        if all(1 / LARGEST_SPACING <= length <= LARGEST_SPACING for length in (z, y, x)):
            return z, y, x
    return None


def _ome_lengths(file: Any) -> dict[str, tuple[str, str]]:
    """Return the length of a voxel along each axis, and its unit, as the XML of OME states it."""
    head = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
    found = dict(re.findall(r'PhysicalSize([XYZ](?:Unit)?)="([^"]*)"', head[0] if head else ""))
    return {axis: (found[axis], found.get(f"{axis}Unit", "um")) for axis in "ZYX" if axis in found}


def _imagej_lengths(file: Any) -> dict[str, tuple[float, str]]:
    """Return the length of a voxel along each axis, and its unit: pixels per unit in the tags, the distance of slices in ImageJ's text."""
    known, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = str(known.get("unit", "pixel")).replace("\\u00B5", "u")
    per_unit = {axis: tags[f"{axis}Resolution"].value for axis in "YX" if f"{axis}Resolution" in tags}
    found = {axis: (count / pixels, unit) for axis, (pixels, count) in per_unit.items()}
    if int(known.get("slices", known.get("images", 1))) > 1:
        found["Z"] = (float(known.get("spacing", 1.0)), unit)  # ImageJ leaves out a distance of 1
    return found
