"""Reading every file of a case once: its channels and its label as far as they can be read, and the faults met on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images
from autoseg.cases import Case, left_out, load_label
from autoseg.cases.loading import by_name
from autoseg.checking.faults import Fault, fault_of, note, warning
from autoseg.errors import AutosegError, GridMismatch, MissingChannel
from autoseg.images import Image
from autoseg.labels import Labels


@dataclass(frozen=True, kw_only=True)
class ChannelFile:
    """One file of the image: a channel, or all of them."""

    number: int
    path: Path
    image: Image

    @cached_property
    def extremes(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value of each channel; NaN where there is any."""
        return tuple((float(channel.min()), float(channel.max())) for channel in self.image.array)

    @cached_property
    def finite(self) -> tuple[tuple[float, float], ...]:
        """Return the lowest and highest finite value of each channel; NaN for a channel without any."""
        return tuple(
            extremes if np.isfinite(extremes).all() else _finite_range(channel)
            for channel, extremes in zip(self.image.array, self.extremes, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class CaseData:
    """A case read whole, as the checks of single cases see it. The label is examined also where the image cannot be read."""

    case: Case
    labels: Labels
    parts: tuple[ChannelFile, ...]  # those that could be read, on one grid
    label: Image | None  # with the values of the files
    classes: NDArray[np.integer[Any]] | None  # (z, y, x), of the label; undeclared values are background
    undeclared: dict[int, int]  # value of the label -> voxels
    faults: tuple[Fault, ...]  # met while reading

    @property
    def label_file(self) -> Path | None:
        """The label map; `None` where the label has several files."""
        return self.case.label if isinstance(self.case.label, Path) else None

    @cached_property
    def voxels(self) -> tuple[int, ...] | None:
        """Voxels of each class, the ignored ones last; `None` where the label could not be read."""
        if self.classes is None:
            return None
        return tuple(np.bincount(self.classes.ravel(), minlength=self.labels.class_count + 1).tolist())

    @cached_property
    def constant(self) -> tuple[bool, ...]:
        """Whether each channel holds one single value."""
        return tuple(low == high for part in self.parts for low, high in part.finite)


def read_case(case: Case, *, channels: int, labels: Labels) -> CaseData:
    """Read every file of a case once; whatever the files hold, this does not raise for it."""
    faults: list[Fault] = []
    parts = _read_channels(case, channels, faults)
    image = parts[0].image if parts else None
    label = _read_label(case, labels, image, faults)
    classes, undeclared = (None, {}) if label is None else labels.classify(label.array[0])
    if image and label and image.stored and label.stored and image.stored.orientation != label.stored.orientation:
        text = "image and label store their axes in different orders or directions; both are turned to one orientation"
        faults.append(note("orientation", text, case=case.name, file=case.label if isinstance(case.label, Path) else case.images[0]))
    return CaseData(case=case, labels=labels, parts=tuple(parts), label=label, classes=classes, undeclared=undeclared, faults=tuple(faults))


def _read_channels(case: Case, channels: int, faults: list[Fault]) -> list[ChannelFile]:
    """The files of the channels, as far as they can be read and are on one grid."""
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
    parts: list[ChannelFile] = []
    for number, path in enumerate(case.images):
        try:
            image = images.read_channels([path], channels=wanted)
            if parts:
                image = _turned_alike(parts[0], image, path, number)
        except AutosegError as error:
            faults.append(fault_of(error, case=case.name))
            continue
        parts.append(ChannelFile(number=number, path=path, image=image))
        faults += [note("corrected", text, case=case.name, file=path) for text in image.notes]
    return parts


def _turned_alike(first: ChannelFile, image: Image, path: Path, number: int) -> Image:
    """A further channel on the grid of the first. Axes near 45 degrees can turn either way: then the two are read together.

    Raises
    ------
    GridMismatch : another grid
    """
    try:
        notes = images.require_same_grid(first.image, image, kinds=(f"channel {first.number}", f"channel {number}"))
    except GridMismatch:
        if sorted(first.image.shape) != sorted(image.shape):
            raise
        together = images.read_channels([first.path, path], channels=2)
        return replace(together, array=together.array[1:])
    return replace(image, notes=(*image.notes, *notes))


def _read_label(case: Case, labels: Labels, image: Image | None, faults: list[Fault]) -> Image | None:
    """The label map with its values, or one made of the mask files; on the image's grid where there is an image."""
    if isinstance(case.label, Path):
        label = _read_on_grid(case, case.label, image, faults)
        return None if label is None else by_name(label, labels)
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
            warning(
                "overlap",
                "label files overlap",
                case=case.name,
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
    faults += [note("corrected", text, case=case.name, file=path) for text in label.notes]
    if image is None:
        return label
    try:
        if image.stored and label.stored and image.stored.has_position != label.stored.has_position:  # then positions mean nothing
            paired = load_label(case, path, like=image)
            faults += _grid_notes(case, path, label, paired)
            return paired
        faults += [note("corrected", text, case=case.name, file=path) for text in images.require_same_grid(image, label)]
    except GridMismatch:
        try:
            fixed = load_label(case, path, like=image)  # axes near 45 degrees can turn either way, or the user chose a fix
        except GridMismatch as error:
            faults.append(replace(fault_of(error, case=case.name), remedy=_grid_remedy(case, label, image)))
            return label
        faults += _grid_notes(case, path, label, fixed)
        return fixed
    return label


def _grid_notes(case: Case, path: Path, label: Image, fixed: Image) -> list[Fault]:
    return [warning("grid", text, case=case.name, file=path) for text in fixed.notes if text not in label.notes]


def _grid_remedy(case: Case, label: Image, image: Image) -> str:
    """What can be done about a label that is off its image's grid."""
    choices = []
    if label.stored and image.stored and label.stored.shape == image.stored.shape:
        choices.append("--fix-geometry copy-image, if the voxels line up and the header of the label is wrong")
    exchanged = label.shape != image.shape and sorted(label.shape) == sorted(image.shape)
    if exchanged:
        choices.append("nothing, but store the label again: its shape is that of the image in another order, so its axes seem exchanged")
    else:
        choices.append("--fix-geometry resample-label, if the headers are right and the label was drawn on another grid")
    choices.append(f"{left_out(case.name)}, if it is the label of another scan")
    return "look at the two in a viewer, then give\n" + "\n".join(choices)


def _finite_range(channel: NDArray[Any]) -> tuple[float, float]:
    low, high = float(channel.min()), float(channel.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = channel[np.isfinite(channel)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
