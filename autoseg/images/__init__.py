"""One module per file format; foreign axis orders and orientations end here, nothing below knows them.

Every reader hands over the array as stored with its affine in our axis order; this module turns both to the canonical
orientation, and back when writing. To add a format, add a module and its line in `_FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import files
from autoseg.errors import GeometryError, GridMismatch, LabelError, MissingChannel, MissingPath, NotEnough, UnreadableFile
from autoseg.geometry import Affine, Orientation, Shape, orientation_of, reorient, undo_reorient
from autoseg.images import dicom, grids, gzipped, metaimage, nifti, nrrd, planar, signatures, tiff
from autoseg.images.contiguous import contiguous
from autoseg.images.grids import grid_gap, require_same_grid
from autoseg.images.label_values import as_label_values
from autoseg.images.types import Header, Image, Stored, StoredImage

__all__ = [
    "SUFFIXES",
    "Header",
    "Image",
    "Stored",
    "from_memory",
    "grid_gap",
    "label_suffix",
    "read",
    "read_channels",
    "read_header",
    "read_label",
    "require_same_grid",
    "suffix_of",
    "to_memory",
    "write_image",
    "write_label",
]


@dataclass(frozen=True, kw_only=True)
class _Format:
    """One file format: its suffixes and its two doors."""

    suffixes: tuple[str, ...]
    read: Callable[[Path, bool, bool], StoredImage]  # path, voxels, label
    write: Callable[[_Order], None] | None  # None: read only


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What a format is asked to write."""

    path: Path  # temporary, renamed to `target` afterwards
    target: Path
    array: NDArray[Any]  # (c, z, y, x), axes as stored
    affine: Affine  # of that array
    header: Any  # the input's, when it has the same format; else None
    label: bool


_FORMATS: dict[str, _Format] = {
    "nifti": _Format(
        suffixes=(".nii.gz", ".nii"),
        read=lambda path, voxels, label: nifti.read(path, voxels=voxels, exact=label),
        write=lambda order: nifti.write(order.path, order.array, affine=order.affine, header=order.header),
    ),
    "nrrd": _Format(
        suffixes=(".nrrd", ".nhdr"),
        read=lambda path, voxels, label: nrrd.read(path, voxels=voxels),
        write=lambda order: nrrd.write(order.path, order.array, affine=order.affine, header=order.header),
    ),
    "metaimage": _Format(
        suffixes=(".mha", ".mhd"),
        read=lambda path, voxels, label: metaimage.read(path, voxels=voxels),
        write=lambda order: metaimage.write(order.path, order.array, affine=order.affine, header=order.header),
    ),
    "planar": _Format(
        suffixes=(".png", ".bmp", ".jpg", ".jpeg"),
        read=lambda path, voxels, label: planar.read(path, voxels=voxels, label=label),
        write=lambda order: planar.write(order.path, order.array, label=order.label),
    ),
    "tiff": _Format(
        suffixes=(".tif", ".tiff"),
        read=lambda path, voxels, label: tiff.read(path, voxels=voxels, label=label),
        write=lambda order: tiff.write(order.path, order.array, affine=order.affine, header=order.header, target=order.target),
    ),
    "dicom": _Format(suffixes=(".dcm",), read=lambda path, voxels, label: dicom.read(path, voxels=voxels), write=None),
}

SUFFIXES: tuple[str, ...] = tuple(suffix for kind in _FORMATS.values() for suffix in kind.suffixes)


def suffix_of(path: Path | str) -> str:
    """The suffix that names a file's format, in lower case; empty where it is none we read.

    >>> suffix_of("scans/Liver.v2.NII.GZ")
    '.nii.gz'
    """
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def label_suffix(path: Path | str) -> str:
    """The suffix under which a label map of an image is written: the image's own where it holds label values, else `.nii.gz` or `.png`.

    >>> label_suffix("scan.nrrd"), label_suffix("slide.jpg"), label_suffix("series/")
    ('.nrrd', '.png', '.nii.gz')
    """
    suffix = suffix_of(path)
    return {".jpg": ".png", ".jpeg": ".png", ".dcm": ".nii.gz", "": ".nii.gz", ".mhd": ".mha", ".nhdr": ".nrrd"}.get(suffix, suffix)


def read(path: Path) -> Image:
    """Read an image in canonical orientation.

    Returns
    -------
    Array (c, z, y, x), integer as stored or float32; scaling stored in the header is applied (then float32).

    Raises
    ------
    MissingPath : no such file
    UnreadableFile : truncated, corrupt, an unknown format, or a size that the file cannot hold
    GeometryError : no usable spacing or axes
    """
    path = Path(path)
    raw = _raw(path, voxels=True, label=False)
    return _canonical(replace(raw, array=_as_image_values(raw)))


def read_channels(paths: Sequence[Path], *, channels: int) -> Image:
    """Read the channels of one case onto the grid of its first file.

    Parameters
    ----------
    paths : one file per channel in their order, or one file with all of them
    channels : how many the data set declares

    Raises
    ------
    MissingChannel : fewer or more files or channels than declared
    GridMismatch : the files are not on the same grid
    GeometryError : a file with several volumes where one channel is expected
    MissingPath, UnreadableFile : as `read`
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise MissingChannel(
                "a channel's file is missing",
                file=path,
                expected=f"{channels} channels",
                fix="add the file, or leave the case out with --exclude",
            )
    if len(paths) not in (1, channels):
        raise MissingChannel(
            "the number of files is not the number of channels",
            file=paths[0] if paths else None,
            found=f"{len(paths)} files: " + ", ".join(path.name for path in paths),
            expected=f"{channels} files, one per channel, or one file with {channels} channels",
            fix="add the missing files, or leave the case out with --exclude",
        )
    first = read(paths[0])
    if len(paths) == 1:
        return _with_channels(first, paths[0], channels)
    first = _with_channels(first, paths[0], 1)
    images = [first]
    for number, path in enumerate(paths[1:], start=1):
        image = _with_channels(_read_onto(path, first), path, 1)
        require_same_grid(first, image, kinds=("channel 0", f"channel {number}"))
        images.append(image)
    notes = tuple(dict.fromkeys(note for image in images for note in image.notes))
    return replace(first, array=np.concatenate([image.array for image in images]), notes=notes)


def read_label(path: Path, *, like: Image | Header | None = None) -> Image:
    """Read a label map in canonical orientation: integers, nearly-integers rounded.

    Parameters
    ----------
    path : of the label map
    like : the image it belongs to. Then the label must be on the image's grid, and takes over its geometry

    Returns
    -------
    Array (1, z, y, x) of label values in the smallest of uint8, int16, uint16, int32.

    Raises
    ------
    LabelError : values between integers or not finite, or more than one channel
    GridMismatch : not on the grid of `like`
    MissingPath, UnreadableFile, GeometryError : as `read`
    """
    path = Path(path)
    raw = _raw(path, voxels=True, label=True)
    if raw.channels != 1:
        raise LabelError(
            "a label map with several volumes",
            file=path,
            found=f"{raw.channels} volumes of shape {raw.shape}",
            expected="one volume whose values are the labels",
            fix="join the volumes into one map with one value per label",
        )
    assert raw.array is not None
    raw = replace(raw, array=as_label_values(raw.array, path=path))
    if like is None:
        return _canonical(raw)
    image = _canonical(raw, orientation=_orientation_on(raw, like))
    require_same_grid(like, image, kinds=("image", "label"))
    if like.stored is not None and raw.has_position != like.stored.has_position and orientation_of(raw.affine) != like.stored.orientation:
        silent = "image" if raw.has_position else "label"
        image = replace(image, notes=(*image.notes, f"the {silent}'s file stores no position: image and label were paired voxel by voxel"))
    return replace(image, affine=like.affine)


def read_header(path: Path) -> Header:
    """Shape, affine, channels and type of an image, without decoding its voxels.

    Raises
    ------
    MissingPath, UnreadableFile, GeometryError : as `read`; damage within the voxels goes unseen
    """
    raw = _raw(Path(path), voxels=False, label=False)
    orientation = orientation_of(raw.affine)
    dtype = np.dtype(np.float32) if raw.dtype == np.float64 else raw.dtype
    return Header(
        shape=tuple(raw.shape[axis] for axis in orientation.axes),  # type: ignore[arg-type]
        affine=grids.canonical_affine(raw.affine, raw.shape, orientation),
        channels=raw.channels,
        dtype=dtype,
        stored=_stored(raw, orientation),
        notes=raw.notes,
    )


def write_label(path: Path, array: NDArray[Any], *, like: Image) -> None:
    """Write a label map on exactly the grid of an image: shape, affine and header codes of its file.

    Parameters
    ----------
    path : its suffix chooses the format
    array : (z, y, x), integer label values, canonical; written in the smallest type that holds them
    like : the image as it was read

    Raises
    ------
    LabelError : values that the format cannot hold
    UnreadableFile : a format that is not written
    NotEnough : the disk is full
    """
    if array.shape != like.shape:
        raise GridMismatch(
            "the label map has another shape than its image", file=path, found=f"{array.shape}", expected=f"{like.shape} (z, y, x)"
        )
    values = as_label_values(array, path=Path(path))
    _write(Path(path), values[None], affine=like.affine, stored=like.stored, label=True)


def write_image(path: Path, array: NDArray[Any], *, affine: Affine, like: Image | None = None) -> None:
    """Write an image; the type is kept where the format can hold it.

    Parameters
    ----------
    path : its suffix chooses the format
    array : (c, z, y, x), canonical
    affine : canonical index (z, y, x, 1) -> world, mm, RAS+
    like : an image on the same grid; then the file gets the orientation and header codes of that one's file

    Raises
    ------
    UnreadableFile : a format that is not written, or that cannot hold the array
    NotEnough : the disk is full
    """
    _write(Path(path), array, affine=affine, stored=None if like is None else like.stored, label=False)


def from_memory(array: NDArray[Any], affine: NDArray[Any], *, channels: int = 1) -> Image:
    """An image from an array and its affine as nibabel holds them, in canonical orientation.

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
            "an array that is no image",
            found=f"{array.dtype} array of shape {array.shape}, affine of shape {affine.shape}",
            expected="numbers of shape (x, y, z) or (x, y, z, channels), and a 4 x 4 affine",
            fix="give the array and the affine of a nibabel image",
        )
    spatial = array.reshape(*array.shape, *(1,) * (4 - array.ndim))  # (x, y, z, c)
    turned = spatial.transpose(3, 2, 1, 0)  # (c, z, y, x)
    shape: Shape = turned.shape[1:]  # type: ignore[assignment]
    usable, notes = grids.usable_affine(affine[:, [2, 1, 0, 3]], shape, path=None)
    turned = turned.astype(turned.dtype.newbyteorder("="), copy=False)
    raw = StoredImage(
        format="memory", path=None, shape=shape, channels=turned.shape[0], dtype=turned.dtype, affine=usable,
        array=turned, header=array.ndim, notes=notes,
    )  # fmt: skip
    return _with_channels(_canonical(replace(raw, array=_as_image_values(raw).copy())), None, channels)


def to_memory(array: NDArray[Any], *, like: Image) -> NDArray[Any]:
    """A canonical array `(z, y, x)` on the grid of `like`, turned back to the axes of the array or file that `like` came from.

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


def _raw(path: Path, *, voxels: bool, label: bool) -> StoredImage:
    """Find the format and read."""
    if not path.exists():
        raise MissingPath("no such file", file=path, fix="check the spelling of the path")
    _refuse_special(path)
    try:
        return _format_of(path).read(path, voxels, label)
    except (UnreadableFile, GeometryError) as error:
        if isinstance(error, UnreadableFile):
            signatures.refuse(path)  # a web page or a placeholder under an image's name: then that is the news
        if voxels:
            gzipped.verify(path)  # an odd header is often but a corrupt stream, and then that is the news
        raise
    except MemoryError:
        raise NotEnough(
            "not enough memory to read the image", file=path, found=f"{path.stat().st_size / 1e6:.0f} MB on disk",
            fix="use fewer --workers, or a machine with more memory",
        ) from None  # fmt: skip


def _refuse_special(path: Path) -> None:
    """Pipes and devices would be waited for; a folder under a file's name holds no series."""
    if path.is_dir():
        if suffix_of(path) and suffix_of(path) != ".dcm":
            inside = sorted(entry.name for entry in path.iterdir())
            raise UnreadableFile(
                "a folder that is named like an image file",
                file=path,
                found=f"{len(inside)} files inside" + (f", such as {inside[0]}" if inside else ""),
                expected=f"a {suffix_of(path)} file, or a folder of DICOM slices under a name without that suffix",
                fix="put the file itself in the place of the folder",
            )
    elif not path.is_file():
        raise UnreadableFile(
            "neither a file nor a folder",
            file=path,
            found="a pipe, socket or device",
            expected="an image file",
            fix="put the file itself there",
        )


def _format_of(path: Path) -> _Format:
    if path.is_dir():
        return _FORMATS["dicom"]
    suffix = suffix_of(path)
    for kind in _FORMATS.values():
        if suffix in kind.suffixes:
            return kind
    raise UnreadableFile(
        "an unknown image format",
        file=path,
        found=path.suffix or "no suffix",
        expected=", ".join(SUFFIXES),
        fix="convert the image to .nii.gz",
    )


def _name_of(kind: _Format) -> str:
    return next(name for name, value in _FORMATS.items() if value is kind)


def _as_image_values(raw: StoredImage) -> NDArray[Any]:
    """float64 becomes float32; all else stays.

    Raises
    ------
    UnreadableFile : finite values that float32 would turn into infinity
    """
    array = raw.array
    assert array is not None
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32)
    if np.isinf(cast).any() and (lost := np.isinf(cast) & np.isfinite(array)).any():
        raise UnreadableFile(
            "the intensities are absurdly large",
            file=raw.path,
            found=f"{int(lost.sum())} of {array.size} voxels beyond, up to {float(np.abs(array[lost]).max()):.3g}",
            expected=f"at most {np.finfo(np.float32).max:.3g}, the largest float32",
            fix="such values mark voxels that were not measured: replace them, by 0 where they mean background",
        )
    return cast


def _canonical(raw: StoredImage, *, orientation: Orientation | None = None) -> Image:
    """Turn an array as stored to the canonical orientation, or to a given one."""
    assert raw.array is not None
    orientation = orientation or orientation_of(raw.affine)
    return Image(
        array=contiguous(reorient(raw.array, orientation)),
        affine=grids.canonical_affine(raw.affine, raw.shape, orientation),
        stored=_stored(raw, orientation),
        notes=raw.notes,
    )


def _stored(raw: StoredImage, orientation: Orientation) -> Stored:
    return Stored(
        format=raw.format,
        orientation=orientation,
        shape=raw.shape,
        affine=raw.affine,
        header=raw.header,
        path=raw.path,
        has_position=raw.has_position,
    )


def _read_onto(path: Path, first: Image) -> Image:
    """Read a further channel, its axes turned as those of the first."""
    raw = _raw(path, voxels=True, label=False)
    raw = replace(raw, array=_as_image_values(raw))
    return _canonical(raw, orientation=_orientation_on(raw, first))


def _orientation_on(raw: StoredImage, like: Image | Header) -> Orientation | None:
    """How to turn an array as stored onto the grid of another: by its position, or, where one of the two has none, voxel by voxel."""
    if raw.has_position and (like.stored is None or like.stored.has_position):
        return grids.aligned(raw.affine, raw.shape, to=like.affine)
    return None if like.stored is None else like.stored.orientation


def _with_channels(image: Image, path: Path | None, channels: int) -> Image:
    """The image if it has as many channels as wanted; a grey picture stored as three equal colours counts as one."""
    found = image.array.shape[0]
    if found == channels:
        return image
    assert image.stored is not None
    if (
        channels == 1
        and image.stored.format != "nifti"
        and found == 3
        and all(np.array_equal(image.array[0], image.array[k]) for k in (1, 2))
    ):
        return replace(image, array=image.array[:1], notes=(*image.notes, "equal colour channels; one was kept"))
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


def _write(path: Path, array: NDArray[Any], *, affine: Affine, stored: Stored | None, label: bool) -> None:
    """Turn a canonical array back to the stored orientation and write it, whole or not at all."""
    kind = _format_of(path)
    header = None
    if stored is not None:
        array, affine = undo_reorient(array, stored.orientation), stored.affine
        header = stored.header if stored.format == _name_of(kind) else None
    write = kind.write
    if write is None:
        raise UnreadableFile(
            "a format that is read only", file=path, found=path.suffix, expected=".nii.gz", fix="write the image as .nii.gz"
        )
    with files.whole(path) as temporary:
        write(_Order(path=temporary, target=path, array=array, affine=affine, header=header, label=label))
