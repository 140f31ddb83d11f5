"""One module per file format; foreign axis orders and orientations end here, nothing below knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import Affine, Orientation, Shape, Spacing, spacing_of


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a file held its image: what a writer needs to give a label map exactly the grid of its input."""

    format: str  # "nifti", "png", ...
    orientation: Orientation  # stored -> canonical
    shape: Shape  # of the stored array, in our (z, y, x) order of the stored axes
    header: Any  # what the format's own module needs to write the same grid back


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in canonical orientation."""

    array: NDArray[Any]  # (c, z, y, x)
    affine: Affine  # canonical index (z, y, x, 1) -> world (x, y, z, 1), mm, RAS+
    stored: Stored | None = None  # None for an array that came from memory
    notes: tuple[str, ...] = ()  # what was mended or assumed while reading

    @property
    def shape(self) -> Shape:
        """Voxels, (z, y, x)."""
        return self.array.shape[1:]  # type: ignore[return-value]

    @property
    def spacing(self) -> Spacing:
        """mm per voxel, (z, y, x)."""
        return spacing_of(self.affine)
