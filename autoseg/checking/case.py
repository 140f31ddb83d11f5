"""One case read whole: its faults, and the facts that only mean something beside those of the other cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images
from autoseg.cases import Case, left_out, load_label
from autoseg.checking.faults import Fault, fault_of
from autoseg.checking.fit import Fit, fit_of
from autoseg.errors import AutosegError, GridMismatch, MissingChannel
from autoseg.geometry import Orientation, Shape, Spacing
from autoseg.images import Image
from autoseg.labels import Labels

_THUMBNAIL = 12  # blocks along each axis of a volume; a planar image gets the square of it in plane, roughly
_SLAB = 16  # slices
_CUT_AT = np.float32(1e20)  # intensities beyond are cut for the thumbnail, so that its sums stay finite
_MARKER = np.float32(1e18)  # nothing measured is so large, and its square is beyond float32: it marks what was not measured
_FAR = 1000.0  # times the range of 99.8 % of the voxels: a few voxels so far out squeeze all others into one grey
_LISTED = 10
_MANY = 25  # undeclared values; more are no slip of a pen


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is kept of a case once it has been read."""

    name: str
    group: str | None
    label_file: Path | None = None  # None where the label has several files
    faults: tuple[Fault, ...] = ()
    shape: Shape | None = None  # of the image; None where it could not be read
    spacing: Spacing | None = None
    placed: bool = True  # whether the file says where its voxels are
    orientation: Orientation | None = None  # how the first file stores its axes
    minima: tuple[float, ...] = ()  # per channel, finite values only
    maxima: tuple[float, ...] = ()
    image_hash: str = ""
    part_hashes: tuple[tuple[int, str], ...] = ()  # (channel, hash) where each channel has a file of its own
    empty_share: float | None = None  # of the foreground, where the image is as dark as its darkest; None: no foreground
    label_hash: str = ""  # empty for a label without foreground
    thumbnail: NDArray[np.float32] | None = field(default=None, compare=False)
    voxels: dict[str, int] | None = None  # label name -> voxels, only those that occur; None: the label could not be read
    centres: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # label name -> centroid (x, y, z), mm, RAS+
    fit: Fit | None = None  # None: no label, no border, or not on the grid of the image
    middle: tuple[float, float, float] | None = None  # of the volume, (x, y, z), mm


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is given."""

    case: Case
    channels: int
    labels: Labels


def examine(task: Task) -> Facts:
    """Read every file of a case once and collect its faults; whatever the files hold, this does not raise for it.

    Nothing is held back because something else is wrong: the label is examined also where the image cannot be read.
    """
    case = task.case
    faults: list[Fault] = []
    parts = _read_channels(case, task.channels, faults)
    image = parts[0].image if parts else None
    label = _read_label(case, task.labels, image, faults)
    facts: dict[str, Any] = {}
    if parts:
        facts = _image_facts(case, parts, faults)
    if label is not None:
        facts |= _label_facts(label, task.labels)
        _note_label(case, label, task.labels, image, faults)
        _note_same(case, parts, label, faults)
        if image is not None and label.shape == image.shape:
            facts["empty_share"] = (
                _share_in_the_dark(image.array[0], label.array[0], task.labels) if facts["thumbnail"] is not None else None
            )
            facts["fit"] = fit_of(
                [channel for part in parts for channel in part.image.array], _without_aliases(label.array[0], task.labels)
            )
    return Facts(
        name=case.name, group=case.group, label_file=case.label if isinstance(case.label, Path) else None, faults=tuple(faults), **facts
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One file of the image: a channel, or all of them."""

    number: int
    path: Path
    image: Image


def _read_channels(case: Case, channels: int, faults: list[Fault]) -> list[_Part]:
    """The files of the channels, as far as they can be read and lie on one grid."""
    if len(case.images) not in (1, channels):
        error = MissingChannel(
            "the number of files is not the number of channels",
            file=case.images[0],
            found=f"{len(case.images)} files",
            expected=f"{channels}",
            fix="complete the case, or leave it out",
        )
        faults.append(fault_of(error, case=case.name))
        return []
    wanted = channels if len(case.images) == 1 else 1
    parts: list[_Part] = []
    for number, path in enumerate(case.images):
        try:
            image = images.read_channels([path], channels=wanted)
            if parts:
                image = _turned_alike(parts[0], image, path, number)
        except AutosegError as error:
            faults.append(fault_of(error, case=case.name))
            continue
        parts.append(_Part(number=number, path=path, image=image))
        faults += [_note(case, path, "mended", note) for note in image.notes]
    return parts


def _turned_alike(first: _Part, image: Image, path: Path, number: int) -> Image:
    """A further channel on the grid of the first. Axes near 45 degrees can turn either way: then the two are read together.

    Raises
    ------
    GridMismatch : another grid
    """
    try:
        images.require_same_grid(first.image, image, kinds=(f"channel {first.number}", f"channel {number}"))
    except GridMismatch:
        if sorted(first.image.shape) != sorted(image.shape):
            raise
        together = images.read_channels([first.path, path], channels=2)
        return replace(together, array=together.array[1:])
    return image


def _read_label(case: Case, labels: Labels, image: Image | None, faults: list[Fault]) -> Image | None:
    """The label map with its values, or one made of the mask files; on the image's grid where there is an image."""
    if isinstance(case.label, Path):
        return _read_on_grid(case, case.label, image, faults)
    joined: Image | None = None
    overlap = 0
    for name, path in case.label or ():
        mask = _read_on_grid(case, path, image, faults)
        value = next((label.value for label in labels.foreground if label.name == name), None)
        if mask is None or value is None:
            continue
        if joined is None:
            joined = Image(array=np.zeros(mask.array.shape, dtype=np.int32), affine=mask.affine, stored=mask.stored)
        elif joined.shape != mask.shape:
            error = GridMismatch(
                "the label files differ in shape",
                file=path,
                found=str(mask.shape),
                expected=str(joined.shape),
                fix="resample them onto the image's grid",
            )
            faults.append(fault_of(error, case=case.name))
            continue
        inside = mask.array != 0
        overlap += int(np.count_nonzero(joined.array[inside]))
        joined.array[inside] = value
    if overlap:
        faults.append(
            Fault(
                case=case.name,
                file=None,
                severity="warning",
                code="overlap",
                summary="label files overlap",
                found=f"{overlap} voxels belong to more than one label",
                remedy="the label that comes later is taken there; declare regions if the overlap is meant",
            )
        )
    return joined


def _read_on_grid(case: Case, path: Path, image: Image | None, faults: list[Fault]) -> Image | None:
    """A label file. One that is off the image's grid is a fault, and its values are examined all the same."""
    try:
        label = load_label(case, path)
    except AutosegError as error:
        faults.append(fault_of(error, case=case.name))
        return None
    faults += [_note(case, path, "mended", note) for note in label.notes]
    if image is None:
        return label
    try:
        if image.stored and label.stored and image.stored.placed != label.stored.placed:  # then positions tell nothing
            paired = load_label(case, path, like=image)
            faults += [replace(_note(case, path, "grid", note), severity="warning") for note in paired.notes if note not in label.notes]
            return paired
        images.require_same_grid(image, label)
    except GridMismatch:
        try:
            fixed = load_label(case, path, like=image)  # axes near 45 degrees can turn either way, or the user chose a fix
        except GridMismatch as error:
            faults.append(replace(fault_of(error, case=case.name), remedy=_grid_remedy(case, label, image)))
            return label
        faults += [replace(_note(case, path, "grid", note), severity="warning") for note in fixed.notes if note not in label.notes]
        return fixed
    return label


def _grid_remedy(case: Case, label: Image, image: Image) -> str:
    """What can be done about a label that is off its image's grid."""
    choices = []
    if label.stored and image.stored and label.stored.shape == image.stored.shape:
        choices.append("--fix-geometry copy-image, if the voxels line up and the header of the label is wrong")
    exchanged = label.shape != image.shape and sorted(label.shape) == sorted(image.shape)
    if exchanged:
        choices.append("nothing, but store the label anew: its shape is that of the image in another order, so its axes seem exchanged")
    else:
        choices.append("--fix-geometry resample-label, if the headers are right and the label was drawn on another grid")
    choices.append(f"{left_out(case.name)}, if it is the label of another scan")
    return "look at the two in a viewer, then give\n" + "\n".join(choices)


def _image_facts(case: Case, parts: Sequence[_Part], faults: list[Fault]) -> dict[str, Any]:
    first = parts[0].image
    digests: list[str] = []
    minima: list[float] = []
    maxima: list[float] = []
    constant = []
    for part in parts:
        array = part.image.array
        digest = hashlib.blake2b(repr((array.dtype.str, array.shape)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(array).data)
        digests.append(digest.hexdigest())
        _note_non_finite(case, array, part.path, faults)
        for channel in array:
            low, high = _finite_range(channel)
            _note_far_out(case, channel, low, high, part.path, faults)
            minima.append(low)
            maxima.append(high)
            constant.append(low == high and not np.isnan(low))
    _note_constant(case, parts, minima, constant, faults)
    middle = first.affine @ np.array([*((n - 1) / 2 for n in first.shape), 1.0])
    return {
        "shape": first.shape,
        "spacing": first.spacing,
        "placed": first.stored is None or first.stored.placed,
        "orientation": None if first.stored is None else first.stored.orientation,
        "minima": tuple(minima),
        "maxima": tuple(maxima),
        "image_hash": "".join(f"{part.number}:{text} " for part, text in zip(parts, digests, strict=True)),
        "part_hashes": tuple(
            (part.number, text)
            for part, text, empty in zip(parts, digests, constant, strict=False)  # a file of one value stands for a missing channel
            if len(parts) > 1 and not empty
        ),
        "thumbnail": None if all(constant) else thumbnail(first.array[0]),
        "middle": tuple(middle[:3].tolist()),
    }


def _note_constant(case: Case, parts: Sequence[_Part], minima: Sequence[float], constant: Sequence[bool], faults: list[Fault]) -> None:
    """An image without content is an error, one empty channel among others a warning."""
    if not any(constant):
        return
    place = constant.index(True)  # among the channels that could be read
    part = parts[place] if len(parts) > 1 else parts[0]
    number = part.number if len(case.images) > 1 else place
    whole = all(constant)
    faults.append(
        Fault(
            case=case.name,
            file=str(part.path),
            severity="error" if whole else "warning",
            code="constant",
            summary="the image holds one single value" if whole else f"channel {number} holds one single value",
            found=f"{minima[place]:g} everywhere",
            expected="an image",
            remedy=f"leave the case out: {left_out(case.name)}" if whole else "it tells the network nothing about this case",
        )
    )


def _note_non_finite(case: Case, array: NDArray[Any], path: Path, faults: list[Fault]) -> None:
    low, high = (array.min(), array.max()) if array.size else (0, 0)  # NaN where there is any
    if array.dtype.kind != "f" or max(-low, high) < _MARKER:
        return
    with np.errstate(invalid="ignore"):
        counts = {
            "NaN": int(np.count_nonzero(np.isnan(array))),
            "+Inf": int(np.count_nonzero(np.isposinf(array))),
            "-Inf": int(np.count_nonzero(np.isneginf(array))),
            f"beyond {_MARKER:g}": int(np.count_nonzero((np.abs(array) >= _MARKER) & np.isfinite(array))),
        }
    faults.append(
        Fault(
            case=case.name,
            file=str(path),
            severity="error",
            code="non-finite",
            summary="the image holds values that are no numbers"
            if any(list(counts.values())[:3])
            else "the image holds absurdly large values",
            found=", ".join(f"{count} {name}" for name, count in counts.items() if count) + f" of {array.size} voxels",
            expected="finite numbers",
            remedy=f"replace them, by 0 where they mean background; or leave the case out with {left_out(case.name)}",
        )
    )


def _note_far_out(case: Case, channel: NDArray[Any], low: float, high: float, path: Path, faults: list[Fault]) -> None:
    """A few voxels that are so far from all others that they alone decide mean and deviation."""
    if not low < high or max(-low, high) >= _MARKER:
        return
    some = channel.ravel()[:: 1 + channel.size // 50_000].astype(np.float32)
    some = some[np.isfinite(some)]
    bottom, top = np.percentile(some, (0.1, 99.9)) if some.size else (low, high)
    usual = float(top - bottom)
    if usual <= 0 or max(high - top, bottom - low) < _FAR * usual:
        return
    faults.append(
        Fault(
            case=case.name,
            file=str(path),
            severity="warning",
            code="far-out",
            summary="a few voxels are absurdly far from all others",
            found=f"from {low:g} to {high:g}, while 99.8 % lie between {bottom:g} and {top:g}",
            expected="intensities of one scale",
            remedy="such values mark what was not measured, or are a defect of the file: replace them; z-score normalisation would leave "
            f"nothing of the rest. Or leave the case out: {left_out(case.name)}",
        )
    )


def _finite_range(channel: NDArray[Any]) -> tuple[float, float]:
    low, high = float(channel.min()), float(channel.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = channel[np.isfinite(channel)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)


def thumbnail(array: NDArray[Any]) -> NDArray[np.float32]:
    """Means over blocks of an image `(z, y, x)`, made comparable: mean 0, length 1.

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


def _label_facts(label: Image, labels: Labels) -> dict[str, Any]:
    values, counts = _count(label.array)
    names = _names_of(labels)
    voxels: dict[str, int] = {}
    for value, count in zip(values, counts, strict=True):
        name = names.get(value)
        if name is not None and name != labels.names[0]:
            voxels[name] = voxels.get(name, 0) + count
    centres = _centres(label, names, labels) if len(voxels) > 1 else {}
    digest = hashlib.blake2b(np.ascontiguousarray(label.array).data, digest_size=16).hexdigest() if voxels else ""
    return {"voxels": voxels, "centres": centres, "label_hash": digest}


def _note_label(case: Case, label: Image, labels: Labels, image: Image | None, faults: list[Fault]) -> None:
    file = str(case.label) if isinstance(case.label, Path) else None
    values, counts = _count(label.array)
    known = {*_names_of(labels), *([] if labels.ignore is None else [labels.ignore])}
    strange = [(value, count) for value, count in zip(values, counts, strict=True) if value not in known]
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in strange[:_LISTED])
        options = " ".join(f"--map-labels {value}={labels.values[0]}" for value, _ in strange[:3])
        remedy = f"declare them; or map them onto the declared ones they stand for, for example {options}; or {left_out(case.name)}"
        if len(strange) > _MANY:
            remedy = f"so many values look like an image: check that this file is the label, or {left_out(case.name)}"
        faults.append(
            Fault(
                case=case.name,
                file=file,
                severity="error",
                code="labels",
                summary="label values that were not declared",
                found=listed + (f", and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""),
                expected=", ".join(f"{item.value} {item.name}" for item in labels.labels[:_LISTED]),
                remedy=remedy,
            )
        )
    means = _names_of(labels)
    if not strange and not any(means.get(value, "") not in ("", labels.names[0]) for value in values):
        faults.append(
            Fault(
                case=case.name,
                file=file,
                severity="warning",
                code="empty-label",
                summary="the label is empty",
                found=f"{'only the ignore value' if labels.ignore in values else 'only background'}",
                remedy="it counts as a case without any of the structures; leave it out if it was never annotated",
            )
        )
    if not strange and labels.values[0] not in values and labels.ignore not in values:
        faults.append(
            Fault(
                case=case.name,
                file=file,
                severity="warning",
                code="no-background",
                summary="the label has no background",
                found="every voxel belongs to a structure",
                remedy="check that the background was not lost; Dice on such a case says little",
            )
        )
    if image is not None and image.stored and label.stored and image.stored.orientation != label.stored.orientation:
        note = "image and label store their axes in different orders or directions; both are turned to one orientation"
        faults.append(_note(case, Path(file) if file else case.images[0], "orientation", note))


def _note_same(case: Case, parts: Sequence[_Part], label: Image, faults: list[Fault]) -> None:
    """An image that holds the label, or a label that holds the image: a copy under the wrong name."""
    for part in parts:
        for channel in part.image.array:
            if channel.shape == label.shape and channel.any() and np.array_equal(channel, label.array[0]):
                summary = "image and label hold the same values"
                other = str(case.label) if isinstance(case.label, Path) else None
                faults.append(
                    Fault(
                        case=case.name,
                        file=str(part.path),
                        severity="error",
                        code="same-file",
                        summary=summary,
                        found=f"also in {other}" if other else None,
                        expected="an image, and what is segmented in it",
                        remedy=f"one of them was copied under the wrong name; restore it, or {left_out(case.name)}",
                    )
                )


def _without_aliases(label: NDArray[Any], labels: Labels) -> NDArray[Any]:
    """The label map with every alias turned into the value that it stands for."""
    turned = label if not labels.aliases else label.copy()
    for alias, value in labels.aliases:
        turned[label == alias] = value
    return turned


def _share_in_the_dark(channel: NDArray[Any], label: NDArray[Any], labels: Labels) -> float | None:
    """How much of the foreground lies where the image is near its darkest, by a fiftieth of its range: air, or padding around a scan."""
    inside = np.flatnonzero((label != labels.values[0]) & (label != (labels.values[0] if labels.ignore is None else labels.ignore)))
    if not inside.size:
        return None
    some = channel.ravel()[:: 1 + channel.size // 50_000].astype(np.float32)
    some = some[np.isfinite(some)]
    if not some.size:
        return None
    low, high = np.percentile(some, (0, 99))
    values = channel.ravel()[inside[:: 1 + inside.size // 50_000]]
    return float(np.mean(values <= low + (high - low) / 50))


def _names_of(labels: Labels) -> dict[int, str]:
    """Value in a file to the name of its label, aliases included."""
    names = {label.value: label.name for label in labels.labels}
    return {
        **names,
        **{alias: names[value] for alias, value in labels.aliases if value in names},
        **{a: "" for a, v in labels.aliases if v == labels.ignore},
    }


def _count(array: NDArray[Any]) -> tuple[list[int], list[int]]:
    """The values of a label map, ascending, and how often each occurs."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if 0 <= low and high < 1 << 16:
        counts = np.bincount(array.ravel(), minlength=1)
        present = np.flatnonzero(counts)
        return present.tolist(), counts[present].tolist()
    values, counts = np.unique(array, return_counts=True)
    return values.tolist(), counts.tolist()


def _centres(label: Image, names: dict[int, str], labels: Labels) -> dict[str, tuple[float, float, float]]:
    """Centroids of the foreground labels, mm."""
    flat = label.array.ravel()
    inside = np.flatnonzero(flat != labels.values[0])
    values, inverse = np.unique(flat[inside], return_inverse=True)
    places = np.unravel_index(inside, label.array.shape[1:])
    counts = np.bincount(inverse)
    means = np.stack([np.bincount(inverse, weights=axis) / counts for axis in places])  # (3, values), voxels, (z, y, x)
    world = label.affine[:3, :3] @ means + label.affine[:3, 3:]
    centres: dict[str, tuple[float, float, float]] = {}
    for index, value in enumerate(values.tolist()):
        name = names.get(value)
        if name:
            centres[name] = tuple(world[:, index].tolist())  # type: ignore[assignment]
    return centres


def _note(case: Case, path: Path, code: str, text: str) -> Fault:
    return Fault(case=case.name, file=str(path), severity="note", code=code, summary=text)
