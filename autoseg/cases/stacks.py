"""Label maps stored as a folder of planar pictures, one per slice of a DICOM series (CHAOS and similar sets)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images
from autoseg.cases.values import left_out
from autoseg.errors import GridMismatch, LabelError
from autoseg.geometry import reorient, undo_reorient
from autoseg.images import Image


def is_stack(path: Path) -> bool:
    """Whether a path is a folder with planar pictures in it."""
    return path.is_dir() and any(images.is_label_picture(entry) for entry in path.iterdir())


def read_stack(folder: Path, *, series: Path, case: str) -> Image:
    """Read the pictures of a folder as one label map on the grid of a DICOM series, canonical.

    A picture belongs to the slice whose file has the same name, or else they are paired in the order of their names. The place of a
    slice comes from its own header.

    Parameters
    ----------
    folder : of the pictures
    series : folder of the DICOM slices
    case : its name, for the message

    Raises
    ------
    LabelError : no series to be placed on, values that are no labels
    GridMismatch : another number of pictures than of slices, or a picture of another shape
    UnreadableFile, GeometryError : as the readers of images
    """
    if not series.is_dir():
        raise LabelError(
            "a folder of planar labels needs a folder of DICOM slices",
            case=case,
            file=folder,
            found=f"the image is {series}",
            expected="one picture per slice of a DICOM series",
            fix="convert the pictures into one label map on the grid of the image",
        )
    grid = images.read_header(series)
    pictures = sorted(entry for entry in folder.iterdir() if images.is_label_picture(entry) and not entry.name.startswith("."))
    slices = sorted(entry for entry in series.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if len(pictures) != len(slices):
        raise GridMismatch(
            "the label has another number of slices than the image",
            case=case,
            file=folder,
            details={"image": f"{series}   {len(slices)} slices", "label": f"{folder}   {len(pictures)} pictures"},
            expected="one picture per slice",
            fix=f"complete the one or the other, or leave the case out with {left_out(case)}",
        )
    by_name = {path.stem: path for path in slices}
    same_names = all(picture.stem in by_name for picture in pictures)
    array: NDArray[Any] | None = None
    for picture, path in zip(pictures, slices, strict=True):
        place = images.read_header(by_name[picture.stem] if same_names else path)
        plane = images.read_label(picture)
        assert plane.stored is not None
        turned = reorient(undo_reorient(plane.array, plane.stored.orientation), place.orientation)  # (1, z, y, x), one of them 1
        if turned.shape[1:] != place.shape:
            raise GridMismatch(
                "a picture differs in shape from its slice",
                case=case,
                file=picture,
                found=str(turned.shape[1:]),
                expected=str(place.shape),
                fix=f"take the label that belongs to this image, or leave the case out with {left_out(case)}",
            )
        corner = np.linalg.solve(grid.affine, place.affine[:, 3])[:3]
        start = np.rint(corner).astype(int)
        if array is None:
            array = np.zeros((1, *grid.shape), dtype=np.int32)
        array[(slice(None), *(slice(a, a + n) for a, n in zip(start, place.shape, strict=True)))] = turned
    assert array is not None, "a series has slices"
    return Image(array=array, affine=grid.affine, stored=grid.stored)
