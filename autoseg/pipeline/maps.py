"""What `predict` writes besides the label map: the uncertainty and the probabilities, taken piece by piece while a scan is segmented.

Never are the probabilities of all labels held for the whole scan: they go to a temporary file as they come, and from there label by
label into the image. The uncertainty is stored in 8 bits with a scale, which every reader of NIfTI applies; probabilities as float32,
so that the largest is that of the label map also where two are almost equal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images
from autoseg.images import Image
from autoseg.labels import Labels

_UNCERTAINTY = np.dtype(np.uint8)
_SCALE = float(np.nextafter(np.float32(1 / np.iinfo(_UNCERTAINTY).max), np.float32(0)))  # as a header's float32, so that none is above one
_PROBABILITY = np.dtype("<f4")


def uncertainty_file(target: Path) -> Path:
    """Return where the uncertainty of a result goes."""
    return target.with_name(f"{images.stem_of(target)}_uncertainty.nii.gz")


def probabilities_file(target: Path) -> Path:
    """Return where the probabilities of a result go."""
    return target.with_name(f"{images.stem_of(target)}_probabilities.nii.gz")


class Maps:
    """Collects the maps of one scan; pieces of it are given to `receive`.

    Parameters
    ----------
    scratch : a folder for a temporary file of heads x voxels x 4 bytes; None: no probabilities are wanted
    uncertainty : whether it is wanted
    tempered : probabilities as they are -> at the temperature for the uncertainty; may overwrite what it is given
    """

    def __init__(
        self,
        image: Image,
        labels: Labels,
        *,
        scratch: Path | None,
        uncertainty: bool,
        tempered: Callable[[NDArray[np.float32]], NDArray[np.float32]] = np.copy,
    ) -> None:
        self._image, self._labels, self._tempered = image, labels, tempered
        self._doubt = np.zeros(image.shape, dtype=_UNCERTAINTY) if uncertainty else None  # beyond the crop all is sure to be background
        self._scratch = None if scratch is None else scratch / "probabilities"
        if self._scratch is not None:
            self._make_scratch(self._scratch)

    def receive(self, where: tuple[slice, slice, slice], probabilities: NDArray[np.float32]) -> None:
        """Take the probabilities `(heads, z, y, x)` of a piece of the scan."""
        if self._doubt is not None:
            doubtful = self._tempered(probabilities.copy())
            self._doubt[where] = np.rint(entropy(doubtful, regions=bool(self._labels.regions)) * np.iinfo(_UNCERTAINTY).max)
        if self._scratch is not None:
            self._append(self._scratch, where, probabilities.astype(_PROBABILITY, copy=False))

    def write(self, target: Path) -> None:
        """Write the maps next to the label map `target`."""
        image = self._image
        if self._scratch is not None:
            shape = (self._labels.output_channels, *image.shape)
            array = np.memmap(self._scratch, dtype=_PROBABILITY, mode="r", shape=shape)
            images.write_image(probabilities_file(target), array, affine=image.affine, like=image)
        if self._doubt is not None:
            images.write_image(uncertainty_file(target), self._doubt[None], affine=image.affine, like=image, scale=_SCALE)

    def _make_scratch(self, path: Path) -> None:
        """Write a file of zeros; of labels, the first head has one everywhere, which is what holds beyond the crop."""
        voxels = int(np.prod(self._image.shape))
        with open(path, "wb") as file:
            plane = np.ones(voxels // self._image.shape[0], dtype=_PROBABILITY)
            for _ in range(0 if self._labels.regions else self._image.shape[0]):
                file.write(plane.data)
            file.truncate(voxels * self._labels.output_channels * _PROBABILITY.itemsize)

    def _append(self, path: Path, where: tuple[slice, slice, slice], values: NDArray[Any]) -> None:
        """Write a piece to its place in the file: for each head and slice, its rows together where they are whole."""
        _, height, width = self._image.shape
        depth = self._image.shape[0]
        slices, rows, columns = where
        whole = columns == slice(0, width)
        with open(path, "r+b", buffering=0) as file:
            for head, of_head in enumerate(values):
                for z, plane in zip(range(slices.start, slices.stop), of_head, strict=True):
                    for y, part in [(rows.start, plane)] if whole else zip(range(rows.start, rows.stop), plane, strict=True):
                        place = ((head * depth + z) * height + y) * width + columns.start
                        file.seek(place * _PROBABILITY.itemsize)
                        file.write(np.ascontiguousarray(part).data)


def entropy(probabilities: NDArray[np.float32], *, regions: bool) -> NDArray[np.float32]:
    """Return the uncertainty: the entropy of the labels over its largest possible value; of regions, that of the most doubtful one.

    Parameters
    ----------
    probabilities : (heads, z, y, x), each in 0..1; over labels they add up to 1

    Returns
    -------
    (z, y, x), 0..1

    >>> entropy(np.array([[0.5, 1.0], [0.5, 0.0]], dtype=np.float32).reshape(2, 1, 1, 2), regions=False).round(3).tolist()
    [[[1.0, 0.0]]]
    """
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    if regions:
        single = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return single.max(axis=0).astype(np.float32)
    return (-(p * np.log(p)).sum(axis=0) / np.log(len(p))).clip(0, 1).astype(np.float32)
