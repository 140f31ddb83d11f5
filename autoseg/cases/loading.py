"""Reading the files of one case: its channels as one image, its label files as one map of classes on the same grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images
from autoseg.cases.stacks import is_stack, read_stack
from autoseg.cases.values import Case, left_out
from autoseg.errors import AutosegError, GridMismatch, LabelError, MissingLabel
from autoseg.geometry import reorient, undo_reorient
from autoseg.images import Image
from autoseg.labels import Labels


def load_image(case: Case, *, channels: int) -> Image:
    """Read all channels of a case, canonical, `(c, z, y, x)`.

    Raises
    ------
    UnreadableFile, GeometryError, MissingChannel, GridMismatch : with the case's name
    """
    try:
        return images.read_channels(case.images, channels=channels)
    except AutosegError as error:
        error.case = error.case or case.name
        raise


def load_classes(case: Case, labels: Labels, *, like: Image | None = None) -> NDArray[np.integer[Any]]:
    """Read the label of a case as classes, canonical `(z, y, x)`; of one file per label, where masks overlap the later label stays.

    Parameters
    ----------
    case : with a label map, or with one mask file per label
    labels : what the values mean; the ignore value becomes `labels.ignore_class`
    like : the case's image; the label must be on its grid

    Raises
    ------
    MissingLabel : the case has none
    UnreadableFile, GeometryError, LabelError, GridMismatch : with the case's name
    """
    try:
        if case.label is None:
            raise MissingLabel("the case has no label", file=case.images[0], fix=f"leave the case out with {left_out(case.name)}")
        if isinstance(case.label, Path):
            return labels.encode(by_name(load_label(case, case.label, like=like), labels).array[0])
        return _from_masks(case, case.label, labels, like)
    except AutosegError as error:
        error.case = error.case or case.name
        raise


def load_label(case: Case, path: Path, *, like: Image | None = None) -> Image:
    """Read one label file of a case with its values, canonical `(1, z, y, x)`; also a folder with one picture per slice.

    Parameters
    ----------
    case : its `grid_fix` says what becomes of a label that is off the grid of `like`
    path : of the label file
    like : the case's image

    Raises
    ------
    as `images.read_label` and `stacks.read_stack`
    """
    if is_stack(path):
        label = read_stack(path, series=case.images[0], case=case.name)
        if like is not None:
            label = replace(label, notes=(*label.notes, *images.require_same_grid(like, label)))
        return label
    try:
        return images.read_label(path, like=like, painted=True)
    except GridMismatch:
        if like is None or case.grid_fix is None:
            raise
        label = images.read_label(path, painted=True)
        fixed = _copied_onto(label, like) if case.grid_fix == "copy-image" else _resampled_onto(label, like)
        if fixed is None:
            raise
        return fixed


def by_name(label: Image, labels: Labels) -> Image:
    """Return a label map whose file names its values with the values of those names; as it is unless all names are declared."""
    names = label.stored.names if label.stored is not None else ()
    value_of = {known.name.casefold(): known.value for known in labels.all}
    present = [(value, name.casefold()) for value, name in names if (label.array == value).any()]
    if any(name not in value_of for _, name in present) or all(value == value_of[name] for value, name in present):
        return label
    array = label.array.astype(np.int32)
    for value, name in present:
        array[label.array == value] = value_of[name]
    return replace(label, array=array)


def _copied_onto(label: Image, like: Image) -> Image | None:
    """Return the label's voxels as stored, in the place of the image's voxels as stored; `None` where the shapes differ."""
    assert label.stored is not None
    stored = undo_reorient(label.array, label.stored.orientation)
    turned = reorient(stored, like.stored.orientation) if like.stored is not None else stored
    if turned.shape[1:] != like.shape:
        return None
    return replace(
        label, array=np.ascontiguousarray(turned), affine=like.affine, notes=(*label.notes, "took over the geometry of its image")
    )


def _resampled_onto(label: Image, like: Image) -> Image | None:
    """Return the label's nearest voxel at every voxel of the image, 0 beyond its edge; `None` where no labelled voxel is inside."""
    from scipy import ndimage

    step = np.linalg.solve(label.affine, like.affine)  # index in the image -> index in the label
    array = ndimage.affine_transform(
        label.array[0], step[:3, :3], offset=step[:3, 3], output_shape=like.shape, order=0, mode="constant", cval=0
    )
    before, after = (
        np.count_nonzero(part) * abs(np.linalg.det(affine)) for part, affine in ((label.array, label.affine), (array, like.affine))
    )
    if before and not after:
        return None
    share = f", and {after / before:.0%} of its labelled volume lies there" if before else ""
    return replace(label, array=array[None], affine=like.affine, notes=(*label.notes, f"was resampled onto the grid of its image{share}"))


def _refuse_several(values: NDArray[Any], name: str, path: Path) -> None:
    """Raise unless the voxels of a mask have one value."""
    if values.size and values.min() != values.max():
        raise LabelError(
            f"the mask of '{name}' holds several values",
            file=path,
            found=f"values {values.min()} to {values.max()}",
            expected="0, and one other value",
            fix="if it is a label map, put it next to its image as CASE_label or CASE/label, or write a CSV list with the column 'label'",
        )


def _from_masks(case: Case, masks: tuple[tuple[str, Path], ...], labels: Labels, like: Image | None) -> NDArray[np.integer[Any]]:
    paths = dict(masks)
    classes: NDArray[np.integer[Any]] | None = None
    for index, name in enumerate(labels.names):
        if name in paths:
            values = load_label(case, paths[name], like=like).array[0]
            mask = values != 0
            _refuse_several(values[mask], name, paths[name])
            if classes is None:
                classes = np.zeros(mask.shape, dtype=np.uint8 if labels.class_count < 256 else np.int16)
            classes[mask] = index
    if classes is None:
        raise MissingLabel(
            "none of the case's label files is of a declared label",
            found=", ".join(paths),
            expected=", ".join(labels.names),
            fix="give the files the names of the labels",
        )
    return classes
