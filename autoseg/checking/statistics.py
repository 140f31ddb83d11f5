"""What is kept of each case once it has been read: figures that only mean something next to those of the other cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import Dataset
from autoseg.checking.edges import EdgeFit, edge_fit
from autoseg.checking.faults import Fault
from autoseg.checking.reading import CaseData, ChannelFile
from autoseg.geometry import Shape, Spacing
from autoseg.images import Image

_THUMBNAIL = 12  # blocks along each axis of a volume; a planar image gets the square of it in plane, roughly
_SLAB = 16  # slices
_FEWEST_STEPS = 3  # between labelled slices, to call them regular
_CUT_AT = np.float32(1e20)  # intensities beyond are cut for the thumbnail, so that its sums stay finite


@dataclass(frozen=True, kw_only=True)
class LabelBox:
    """How simple a label is: its foreground, and the box around it."""

    voxels: int  # of the foreground
    filled: bool  # the foreground is the whole box
    positions: int  # places in the volume in which the box would fit


@dataclass(frozen=True, kw_only=True)
class CaseStatistics:
    """What is kept of a case once it has been read."""

    name: str
    group: str | None
    label_file: Path | None = None  # None where the label has several files
    faults: tuple[Fault, ...] = ()
    shape: Shape | None = None  # of the image; None where it could not be read
    spacing: Spacing | None = None
    placed: bool = True  # whether the file says where its voxels are
    minima: tuple[float, ...] = ()  # per channel, finite values only
    maxima: tuple[float, ...] = ()
    image_hash: str = ""
    part_hashes: tuple[tuple[int, str], ...] = ()  # (channel, hash) where each channel has a file of its own
    thumbnail: NDArray[np.float32] | None = field(default=None, compare=False)
    voxels: tuple[int, ...] | None = None  # of each class, background first; None: the label could not be read
    centroids: NDArray[np.float64] | None = field(default=None, compare=False)  # (classes, 3), (x, y, z), mm, RAS+; NaN: absent
    mapped: frozenset[int] = frozenset()  # values of the label that --map-labels turns into others
    label_hash: str = ""  # empty for a label without foreground
    label_box: LabelBox | None = None  # None: no foreground
    drawn_every: tuple[int, int] | None = None  # (axis of z, y, x; slices): drawn at a regular interval, the slices between are empty
    dark_share: float | None = None  # of the foreground, where the image is as dark as its darkest; None: no foreground
    edges: EdgeFit | None = None  # None: no label, no border, or not on the grid of the image


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The data set and its cases, as the checks of the whole data set see them."""

    dataset: Dataset
    cases: tuple[CaseStatistics, ...]  # those that could be examined, in the order of the data set


def statistics_of(data: CaseData, faults: tuple[Fault, ...] = ()) -> CaseStatistics:
    """Return the statistics of a case that has been read, with the faults found in it."""
    found: dict[str, Any] = {}
    if data.parts:
        found = _of_image(data)
    if data.label is not None:
        found |= _of_label(data, data.label)
    if data.parts and data.classes is not None and data.classes.shape == data.parts[0].image.shape:
        if not all(data.constant):
            found["dark_share"] = _share_in_the_dark(data.parts[0].image.array[0], data.classes, data.labels.ignore_class)
        found["edges"] = edge_fit([channel for part in data.parts for channel in part.image.array], data.classes)
    return CaseStatistics(name=data.case.name, group=data.case.group, label_file=data.label_file, faults=faults, **found)


def _of_image(data: CaseData) -> dict[str, Any]:
    first = data.parts[0].image
    hashes = [_hash(part) for part in data.parts]
    return {
        "shape": first.shape,
        "spacing": first.spacing,
        "placed": first.stored is None or first.stored.has_position,
        "minima": tuple(low for part in data.parts for low, _ in part.finite),
        "maxima": tuple(high for part in data.parts for _, high in part.finite),
        "image_hash": "".join(f"{part.number}:{text} " for part, text in zip(data.parts, hashes, strict=True)),
        "part_hashes": tuple(
            (part.number, text)
            for part, text, empty in zip(data.parts, hashes, data.constant, strict=False)  # one single value: the channel is missing
            if len(data.parts) > 1 and not empty
        ),
        "thumbnail": None if all(data.constant) else thumbnail(first.array[0]),
    }


def _hash(part: ChannelFile) -> str:
    array = part.image.array
    digest = hashlib.blake2b(repr((array.dtype.str, array.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _of_label(data: CaseData, label: Image) -> dict[str, Any]:
    assert data.classes is not None and data.voxels is not None
    count = data.labels.class_count
    mapped = frozenset(value for value, _ in data.labels.aliases if (label.array == value).any())
    found: dict[str, Any] = {"voxels": data.voxels[:count], "mapped": mapped}
    if any(data.voxels[1:count]):
        found["label_hash"] = hashlib.blake2b(np.ascontiguousarray(data.classes).data, digest_size=16).hexdigest()
        labelled = data.classes > 0
        slices = [np.flatnonzero(labelled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        found["label_box"] = _label_box(slices, int(np.count_nonzero(labelled)), data.classes.shape)
        found["drawn_every"] = _interval(slices)
        if np.count_nonzero(data.voxels[1:count]) > 1:
            inside = np.flatnonzero(labelled)
            places = np.unravel_index(inside, data.classes.shape)
            found["centroids"] = _centroids(data.classes.ravel()[inside], places, label.affine, count)
    return found


def _interval(slices: Sequence[NDArray[np.intp]]) -> tuple[int, int] | None:
    """Return the one axis along which labelled slices alternate with a fixed number of empty ones, and their distance."""
    steps = [np.diff(numbers) for numbers in slices]
    regular = [axis for axis, step in enumerate(steps) if len(step) >= _FEWEST_STEPS and step[0] > 1 and (step == step[0]).all()]
    if len(regular) != 1 or any(len(step) < _FEWEST_STEPS or (step > 1).any() for axis, step in enumerate(steps) if axis != regular[0]):
        return None
    return regular[0], int(steps[regular[0]][0])


def _label_box(slices: Sequence[NDArray[np.intp]], count: int, shape: tuple[int, ...]) -> LabelBox:
    """Return the box around what is labelled, from the labelled slices along each axis and the number of labelled voxels."""
    sides = [int(np.ptp(axis)) + 1 for axis in slices]
    positions = np.prod([n - side + 1 for n, side in zip(shape, sides, strict=True)])
    return LabelBox(voxels=count, filled=count == np.prod(sides), positions=int(positions))


def _centroids(classes: NDArray[Any], places: Sequence[NDArray[np.intp]], affine: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(classes, 3): centroid of each class, (x, y, z) in mm, from the class and the place of every voxel that is not background."""
    voxels = np.bincount(classes, minlength=count)
    with np.errstate(invalid="ignore"):
        means = np.stack([np.bincount(classes, weights=axis, minlength=count) / voxels for axis in places])  # (3, classes), (z, y, x)
    return np.asarray((affine[:3, :3] @ means + affine[:3, 3:]).T[:count])


def _share_in_the_dark(channel: NDArray[Any], classes: NDArray[Any], ignored: int | None) -> float | None:
    """How much of the foreground is near the darkest of the image, by a fiftieth of its range: air, or padding around a scan."""
    inside = np.flatnonzero(classes if ignored is None else (classes > 0) & (classes != ignored))
    some = channel.ravel()[:: 1 + channel.size // 50_000].astype(np.float32)
    some = some[np.isfinite(some)]
    if not inside.size or not some.size:
        return None
    low, high = np.percentile(some, (0, 99))
    values = channel.ravel()[inside[:: 1 + inside.size // 50_000]]
    return float(np.mean(values <= low + (high - low) / 50))


def thumbnail(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return means over blocks of an image `(z, y, x)`, made comparable: mean 0, length 1.

    Returns
    -------
    at most 12 blocks along each axis of a volume, 40 along those of a planar image
    """
    blocks = _THUMBNAIL if array.shape[0] > 1 else round(_THUMBNAIL**1.5)
    along_z, along_y, along_x = (_block_weights(n, min(n, blocks)) for n in array.shape)
    small = np.zeros((len(along_z), len(along_y), len(along_x)), dtype=np.float32)
    for start in range(0, array.shape[0], _SLAB):  # a slab at a time: the whole volume as float32 would be too large
        slab = np.asarray(array[start : start + _SLAB], dtype=np.float32)
        slab = np.nan_to_num(slab.clip(-_CUT_AT, _CUT_AT), copy=False)
        small += np.einsum("zs,syx->zyx", along_z[:, start : start + _SLAB], along_y @ slab @ along_x.T)
    small = small - small.mean()
    length = float(np.linalg.norm(small.astype(np.float64)))
    return small / length if length > 0 else small


def _block_weights(n: int, blocks: int) -> NDArray[np.float32]:
    """(blocks, n): the mean over each of some equal blocks; a voxel that two blocks share counts in part for each."""
    edges = np.linspace(0, n, blocks + 1)
    voxel = np.arange(n)
    overlap = np.minimum(edges[1:, None], voxel + 1) - np.maximum(edges[:-1, None], voxel)
    return (overlap.clip(0) * blocks / n).astype(np.float32)
