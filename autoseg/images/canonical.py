"""Arrays as stored become images in canonical orientation, and go back; arrays in memory enter here, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, LabelError, MissingChannel, UnreadableFile
from autoseg.geometry import Orientation, orientation_of, reorient, triple, undo_reorient
from autoseg.images import grids
from autoseg.images.contiguous import contiguous
from autoseg.images.label_values import value_text
from autoseg.images.types import Image, Stored, StoredImage
from autoseg.quantities import COLOUR

_COLOURS = 64  # of a painted label map; more are the borders of a smoothed one
_GREY = "equal colour channels; one was kept"


def from_memory(array: NDArray[Any], affine: NDArray[Any], *, channels: int = 1) -> Image:
    """Return an image from an array and its affine as nibabel holds them, in canonical orientation.

    Parameters
    ----------
    array : (x, y), (x, y, z) or (x, y, z, c): first axis first in the affine, channels last
    affine : voxel index (x, y, z, 1) -> world (x, y, z, 1), mm, RAS+
    channels : how many are expected

    Raises
    ------
    GeometryError : another number of axes, no usable affine, or several volumes where one channel is expected
    MissingChannel : fewer channels than expected
    """
    array, affine = np.asarray(array), np.asarray(affine, dtype=np.float64)
    if array.ndim not in (2, 3, 4) or affine.shape != (4, 4) or array.dtype.kind not in "buif":
        raise GeometryError(
            "not an image array",
            found=f"{array.dtype} array of shape {array.shape}, affine of shape {affine.shape}",
            expected="numbers of shape (x, y, z) or (x, y, z, channels), and a 4 x 4 affine",
            fix="give the array and the affine of a nibabel image",
        )
    spatial = array.reshape(*array.shape, *(1,) * (4 - array.ndim))  # (x, y, z, c)
    turned = spatial.transpose(3, 2, 1, 0)  # (c, z, y, x)
    shape = triple(turned.shape[1:])
    usable, notes = grids.usable_affine(grids.swap_columns(affine), shape, path=None)
    turned = turned.astype(turned.dtype.newbyteorder("="))  # a copy: the image must not change with the caller's array
    raw = StoredImage(
        format="memory", path=None, shape=shape, channels=turned.shape[0], dtype=turned.dtype, affine=usable,
        array=turned, header=array.ndim, notes=notes,
    )  # fmt: skip
    return with_channels(canonical(raw), None, channels)


def to_memory(array: NDArray[Any], *, like: Image) -> NDArray[Any]:
    """Return a canonical array `(z, y, x)` on the grid of `like`, turned back to the axes of the array or file that `like` came from.

    Returns
    -------
    (x, y, z) as stored, as nibabel holds it; (x, y) where `from_memory` was given a plane.
    """
    if like.stored is not None:
        array = undo_reorient(array, like.stored.orientation)
    turned = array.transpose(2, 1, 0)
    if like.stored is not None and like.stored.format == "memory" and like.stored.header == 2:
        turned = turned[:, :, 0]
    return np.ascontiguousarray(turned)


def canonical(raw: StoredImage, *, orientation: Orientation | None = None) -> Image:
    """Turn an array as stored to the canonical orientation, or to a given one; float64 becomes float32.

    Raises
    ------
    UnreadableFile : finite values that float32 would turn into infinity
    """
    orientation = orientation or orientation_of(raw.affine)
    return Image(
        array=contiguous(reorient(_as_image_values(raw), orientation)),
        affine=grids.canonical_affine(raw.affine, raw.shape, orientation),
        stored=stored_of(raw, orientation),
        notes=raw.notes,
    )


def stored_of(raw: StoredImage, orientation: Orientation) -> Stored:
    """Return what a writer needs to put a label map on the grid of an image as read."""
    return Stored(
        format=raw.format,
        orientation=orientation,
        shape=raw.shape,
        affine=raw.affine,
        header=raw.header,
        path=raw.path,
        has_position=raw.has_position,
        names=raw.names,
    )


def _as_image_values(raw: StoredImage) -> NDArray[Any]:
    array = raw.array
    assert array is not None
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32)
    if np.isinf(cast).any() and (lost := np.isinf(cast) & np.isfinite(array)).any():
        raise UnreadableFile(
            "the intensities are too large",
            file=raw.path,
            found=f"{int(lost.sum())} of {array.size} voxels beyond, up to {float(np.abs(array[lost]).max()):.3g}",
            expected=f"at most {np.finfo(np.float32).max:.3g}, the largest float32",
            fix="such values mark voxels that were not measured: replace them, by 0 where they mean background",
        )
    return cast


def with_channels(image: Image, path: Path | None, channels: int) -> Image:
    """Return the image if it has as many channels as wanted; a grey picture stored as three equal colours counts as one."""
    found = image.array.shape[0]
    if found == channels:
        return image
    assert image.stored is not None
    if channels == 1 and image.stored.format != "nifti" and found == 3 and _are_equal(image.array):
        return replace(image, array=image.array[:1], notes=(*image.notes, _GREY))
    if image.stored.format == "planar" and found == 3:
        raise GeometryError(
            f"a picture in colours where {channels} {'channel is' if channels == 1 else 'channels are'} declared",
            file=path,
            found="3 channels: red, green, blue",
            expected=f"{channels} channel{'s' if channels > 1 else ''}",
            fix="convert the picture to grey, or all of them to colours",
        )
    if channels == 1 or found > channels:
        raise GeometryError(
            f"the file holds {found} volumes (a 4D image) where {channels} {'channel is' if channels == 1 else 'channels are'} declared",
            file=path,
            found=f"{found} volumes of shape {image.shape} (z, y, x)",
            expected=f"{channels} channel{'s' if channels > 1 else ''}",
            fix=f"declare {found} channels if each volume is one; else store each channel as a 3D file of its own "
            "(CASE_0000.nii.gz, CASE_0001.nii.gz, ...), and split time series into single volumes",
        )
    raise MissingChannel(
        "the file holds too few channels",
        file=path,
        found=f"{found} of {channels} channels",
        expected=f"{channels} files, one per channel, or one file with {channels} channels",
        fix="add the missing channels, or leave the case out with --exclude",
    )


def joined_layers(raw: StoredImage) -> StoredImage:
    """Return a label map with the layers of a `.seg.nrrd` joined, and the names of its values; what comes later covers what was before."""
    segments = [segment for segment in raw.segments if segment.layer < raw.channels]
    if raw.channels == 1 or not segments:
        return replace(raw, names=tuple((segment.value, segment.name) for segment in segments))
    assert raw.array is not None
    joined = np.zeros((1, *raw.shape), dtype=np.uint8 if len(segments) < 256 else np.int16)
    overlap = 0
    for number, segment in enumerate(segments, start=1):
        inside = raw.array[segment.layer] == segment.value
        overlap += int(np.count_nonzero(joined[0][inside]))
        joined[0][inside] = number
    names = tuple((number, segment.name) for number, segment in enumerate(segments, start=1))
    notes = (*raw.notes, f"{raw.channels} layers of segments were joined" + (f"; {overlap} voxels belong to several" if overlap else ""))
    return replace(raw, array=joined, channels=1, dtype=joined.dtype, notes=notes, names=names)


def without_colours(raw: StoredImage, *, painted: bool = False) -> StoredImage:
    """Return a label map without equal colour channels but the first; `painted`: different ones become a value per colour.

    Raises
    ------
    LabelError : different colour channels, unless `painted` and they hold few colours
    """
    if raw.format not in ("planar", "tiff") or raw.channels != 3:
        return raw
    assert raw.array is not None
    if _are_equal(raw.array):
        return replace(raw, array=raw.array[:1], channels=1, notes=(*raw.notes, _GREY))
    deep = raw.array.dtype != np.uint8
    red, green, blue = raw.array.astype(np.int32) >> (8 if deep else 0)
    codes = (red << 16) + (green << 8) + blue
    codes[codes > 0] += COLOUR
    values, counts = np.unique(codes, return_counts=True)
    if painted and len(values) <= _COLOURS:
        return replace(raw, array=codes[None], channels=1, dtype=codes.dtype, notes=(*raw.notes, "each colour is one label value"))
    most = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)[:8]
    raise LabelError(
        "a label map in colours",
        file=raw.path,
        found=f"{len(values)} colours: "
        + ", ".join(f"{value_text(value) if value else '000000'} ({count} pixels)" for count, value in most)
        + (", ..." if len(values) > len(most) else ""),
        expected="one channel whose values are the labels" + (f", or at most {_COLOURS} colours" if painted else ""),
        fix="store the masks again as PNG without smoothing" if painted else "store them as a grey or palette picture of label values",
    )


def _are_equal(channels: NDArray[Any]) -> bool:
    return all(np.array_equal(channels[0], other) for other in channels[1:])
