"""Reading files: the format's module reads, the image is turned to the canonical orientation and checked."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.errors import GeometryError, GridMismatch, LabelError, MissingChannel, MissingPath, NotEnough, UnreadableFile
from autoseg.geometry import Orientation, corner_distance, orientation_of, permuted, spacing_of
from autoseg.images import grids, gzipped, signatures
from autoseg.images.canonical import canonical, joined_layers, stored_of, with_channels, without_colours
from autoseg.images.formats import FORMATS, name_of, suffix_of
from autoseg.images.grids import require_same_grid
from autoseg.images.label_values import as_label_values
from autoseg.images.types import Header, Image, StoredImage
from autoseg.quantities import format_bytes


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
    return canonical(_raw(path, voxels=True, label=False))


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
        return with_channels(first, paths[0], channels)
    first = with_channels(first, paths[0], 1)
    images = [first]
    for number, path in enumerate(paths[1:], start=1):
        image = with_channels(_read_onto(path, first), path, 1)
        notes = require_same_grid(first, image, kinds=("channel 0", f"channel {number}"))
        images.append(replace(image, notes=(*image.notes, *notes)))
    notes = tuple(dict.fromkeys(note for image in images for note in image.notes))
    return replace(first, array=np.concatenate([image.array for image in images]), notes=notes)


def read_label(path: Path, *, like: Image | Header | None = None, painted: bool = False) -> Image:
    """Read a label map in canonical orientation: integers, nearly-integers rounded.

    Parameters
    ----------
    path : of the label map
    like : the image it belongs to. Then the label must be on the image's grid, and takes over its geometry
    painted : read a picture in a few colours, each as a value of its own (`label_values.COLOUR` + 0xRRGGBB), instead of refusing it

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
    raw = joined_layers(without_colours(_raw(path, voxels=True, label=True), painted=painted))
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
        return canonical(raw)
    image = canonical(raw, orientation=_orientation_on(raw, like))
    try:
        image = replace(image, notes=(*image.notes, *require_same_grid(like, image)))
    except GridMismatch as error:
        if agreement := _agreement(like, raw):
            error.details["agrees"] = agreement
        raise
    if like.stored is not None and raw.has_position != like.stored.has_position and orientation_of(raw.affine) != like.stored.orientation:
        silent = "image" if raw.has_position else "label"
        image = replace(image, notes=(*image.notes, f"the {silent}'s file stores no position: image and label were paired voxel by voxel"))
    return replace(image, affine=like.affine)


def _agreement(like: Image | Header, label: StoredImage) -> str:
    """What the other form of one of two NIfTI headers agrees with, where the forms that were taken disagree; empty where nothing does."""
    image = like.stored
    if image is None or image.shape != label.shape:
        return ""
    sides = (("image", "label", image.format, image.header, label.affine), ("label", "image", label.format, label.header, image.affine))
    for whose, other, kind, header, affine in sides:
        form = importlib.import_module("autoseg.images.nifti").other_form(header, image.shape) if kind == "nifti" else None
        if form is not None and corner_distance(form, affine, image.shape) <= grids.NOTED * min(spacing_of(affine)):
            return (
                f"the {other} agrees with the {whose}'s qform, and disagrees with its sform, which was taken: a registration\n"
                "(SPM, for example) rewrote the sform after the label was drawn, and the voxels line up: --fix-geometry copy-image"
            )
    return ""


def read_header(path: Path) -> Header:
    """Read shape, affine, channels and type of an image, without decoding its voxels.

    Raises
    ------
    MissingPath, UnreadableFile, GeometryError : as `read`; damage within the voxels goes unseen
    """
    raw = _raw(Path(path), voxels=False, label=False)
    orientation = orientation_of(raw.affine)
    dtype = np.dtype(np.float32) if raw.dtype == np.float64 else raw.dtype
    return Header(
        shape=permuted(raw.shape, orientation.axes),
        affine=grids.canonical_affine(raw.affine, raw.shape, orientation),
        channels=raw.channels,
        dtype=dtype,
        stored=stored_of(raw, orientation),
        notes=raw.notes,
    )


def _raw(path: Path, *, voxels: bool, label: bool) -> StoredImage:
    """Return an image as its format's module reads it."""
    if not path.exists():
        raise MissingPath("no such file", file=path, fix="check the spelling of the path")
    _refuse_special(path)
    try:
        unnamed = path.is_file() and not suffix_of(path) and signatures.begins_as_dicom(path)
        module = importlib.import_module(f"autoseg.images.{FORMATS['dicom' if unnamed else name_of(path)].module}")
        raw: StoredImage = module.read(path, voxels=voxels, label=label)
        return raw
    except (UnreadableFile, GeometryError) as error:
        if isinstance(error, UnreadableFile):
            signatures.refuse(path)  # a web page or a placeholder under an image's name: then that is the news
        if voxels:
            gzipped.verify(path)  # an odd header is often but a corrupt stream, and then that is the news
        raise
    except MemoryError:
        raise NotEnough(
            "not enough memory to read the image", file=path, found=f"{format_bytes(path.stat().st_size)} on disk",
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


def _read_onto(path: Path, first: Image) -> Image:
    """Read a further channel, its axes turned as those of the first."""
    raw = _raw(path, voxels=True, label=False)
    return canonical(raw, orientation=_orientation_on(raw, first))


def _orientation_on(raw: StoredImage, like: Image | Header) -> Orientation | None:
    """How to turn an array as stored onto the grid of another: by its position, or, where one of the two has none, voxel by voxel."""
    if raw.has_position and (like.stored is None or like.stored.has_position):
        return grids.aligned(raw.affine, raw.shape, to=like.affine)
    return None if like.stored is None else like.stored.orientation
