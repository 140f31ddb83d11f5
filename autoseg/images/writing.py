"""Writing files: the array is turned back to the orientation of its input's file, and written by the format's module."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import files
from autoseg.colours import Segment
from autoseg.errors import GridMismatch, UnreadableFile
from autoseg.geometry import Affine, undo_reorient
from autoseg.images.formats import FORMATS, name_of
from autoseg.images.label_values import as_label_values
from autoseg.images.types import DicomObject, Image, Order, Stored


def write_label(
    path: Path, array: NDArray[Any], *, like: Image, segments: tuple[Segment, ...] = (), dicom: DicomObject | None = None
) -> None:
    """Write a label map on exactly the grid of an image: shape, affine and header codes of its file.

    Parameters
    ----------
    path : its suffix chooses the format
    array : (z, y, x), integer label values, canonical; written in the smallest type that holds them
    like : the image as it was read
    segments : names and colours of the labels, which a `.seg.nrrd` or a DICOM object shows in viewers
    dicom : for `.dcm`: which object is written, and by which model

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
    _write(Path(path), values[None], affine=like.affine, stored=like.stored, label=True, segments=segments, dicom=dicom)


def write_image(path: Path, array: NDArray[Any], *, affine: Affine, like: Image | None = None, scale: float = 1.0) -> None:
    """Write an image; the type is kept where the format can hold it.

    Parameters
    ----------
    path : its suffix chooses the format
    array : (c, z, y, x), canonical
    affine : canonical index (z, y, x, 1) -> world, mm, RAS+
    like : an image on the same grid; then the file gets the orientation and header codes of that one's file
    scale : what the numbers in the file are to be multiplied with, for NIfTI alone: its readers do

    Raises
    ------
    UnreadableFile : a format that is not written, or that cannot hold the array
    NotEnough : the disk is full
    """
    _write(Path(path), array, affine=affine, stored=None if like is None else like.stored, label=False, scale=scale)


def _write(
    path: Path,
    array: NDArray[Any],
    *,
    affine: Affine,
    stored: Stored | None,
    label: bool,
    segments: tuple[Segment, ...] = (),
    scale: float = 1.0,
    dicom: DicomObject | None = None,
) -> None:
    """Turn a canonical array back to the stored orientation and write it, whole or not at all."""
    name = name_of(path)
    assert scale == 1 or name == "nifti", "other formats have no scale"
    module = importlib.import_module(f"autoseg.images.{FORMATS[name].module}")
    if not hasattr(module, "write"):
        raise UnreadableFile(
            "a format that is read only", file=path, found=path.suffix, expected=".nii.gz", fix="write the image as .nii.gz"
        )
    header = None
    if stored is not None:
        array, affine = undo_reorient(array, stored.orientation), stored.affine
        header = stored.header if stored.format == name else None
    kind = {"bool": "uint8", "float16": "float32"}.get(array.dtype.name, array.dtype)
    array = array.astype(np.dtype(kind).newbyteorder("<"), copy=False)
    with files.atomic_write(path) as temporary:
        order = Order(
            path=temporary,
            target=path,
            array=array,
            affine=affine,
            header=header,
            label=label,
            segments=segments,
            scale=scale,
            dicom=dicom or DicomObject(),
        )
        module.write(order)
