"""What the readers hand out: an image, its header alone, and how the file held it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.colours import Segment
from autoseg.geometry import Affine, Orientation, Shape, Spacing, spacing_of, triple


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a file held its image: what a writer needs to give a label map exactly the grid of its input."""

    format: str  # "nifti", "png", ...: the name of the format's module entry
    orientation: Orientation  # stored -> canonical
    shape: Shape  # of the stored array, in our (z, y, x) order of the stored axes
    affine: Affine  # of the stored array: its index (z, y, x, 1) -> world, mm, RAS+
    header: Any  # what the format's own module needs to write the same grid back
    path: Path | None = None  # None: it came from memory
    has_position: bool = True  # False: the format says nothing of spacing and place, 1 mm per voxel was assumed
    names: tuple[tuple[int, str], ...] = ()  # label value and name of each segment, where the file states them (.seg.nrrd)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in canonical orientation."""

    array: NDArray[Any]  # (c, z, y, x), contiguous, native byte order, writable
    affine: Affine  # canonical index (z, y, x, 1) -> world (x, y, z, 1), mm, RAS+
    stored: Stored | None = None  # None for an array that was made canonical
    notes: tuple[str, ...] = ()  # what was corrected or assumed while reading

    @property
    def shape(self) -> Shape:
        """Voxels, (z, y, x)."""
        return triple(self.array.shape[1:])

    @property
    def spacing(self) -> Spacing:
        """mm per voxel, (z, y, x)."""
        return spacing_of(self.affine)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What can be known of an image without decoding its voxels."""

    shape: Shape  # voxels, canonical (z, y, x)
    affine: Affine  # canonical index (z, y, x, 1) -> world (x, y, z, 1), mm, RAS+
    channels: int
    dtype: np.dtype[Any]  # of the array that `read` would give
    stored: Stored
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> Spacing:
        """mm per voxel, (z, y, x)."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> Orientation:
        """How the file stores its axes: stored -> canonical."""
        return self.stored.orientation


@dataclass(frozen=True, kw_only=True)
class DicomObject:
    """What becomes of a label map that is written as DICOM, and what it says of its making."""

    form: Literal["binary", "labelmap", "rtstruct"] = "binary"  # the two types of SEG; contours
    model: str = ""
    identity: str = ""  # of the model: its digest


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a format's module is asked to write; in place, the caller renames."""

    path: Path  # temporary, renamed to `target` afterwards
    target: Path
    array: NDArray[Any]  # (c, z, y, x), axes as stored; little endian, neither bool nor float16
    affine: Affine  # of that array
    header: Any  # the input's, when it has the same format; else None
    label: bool
    segments: tuple[Segment, ...] = ()  # of a label map, where they are known: names and colours for `.seg.nrrd`
    dicom: DicomObject = DicomObject()
    scale: float = 1.0  # what the numbers are multiplied with to give values; NIfTI alone


@dataclass(frozen=True, kw_only=True)
class ReadSegment:
    """A structure that the header of a `.seg.nrrd` describes: its voxels have `value` in the volume `layer`."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """What one format's module hands to the room: the image as stored, only the order of the axes made ours.

    Either `array` or, when only the header was read, None.
    """

    format: str
    path: Path | None
    shape: Shape  # stored (z, y, x)
    channels: int
    dtype: np.dtype[Any]
    affine: Affine  # stored index (z, y, x, 1) -> world, mm, RAS+
    array: NDArray[Any] | None  # (c, z, y, x), stored axes; values as the user means them (scaling applied)
    header: Any = None
    notes: tuple[str, ...] = ()
    has_position: bool = True
    segments: tuple[ReadSegment, ...] = ()  # of a label map whose header names them
    names: tuple[tuple[int, str], ...] = ()  # label value and name of each, once the layers are joined
