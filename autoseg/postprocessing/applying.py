"""Applying post-processing rules to a label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.errors import SettingsError
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.postprocessing import shapes
from autoseg.postprocessing.rules import PostprocessingRules, Rule


def apply(classes: NDArray[Any], rules: PostprocessingRules, labels: Labels, spacing: Spacing) -> NDArray[Any]:
    """Return the label map with the rules applied, one after the other.

    Parameters
    ----------
    classes : (z, y, x), classes
    rules : as chosen
    labels : what the classes mean
    spacing : (z, y, x), mm per voxel

    Returns
    -------
    A new array of the same dtype; the very same array where no rule changes anything.

    Raises
    ------
    SettingsError : a rule is about a label that there is not
    """
    boxes = ndimage.find_objects(classes) if rules.rules else []
    changed = classes
    for rule in rules.rules:
        members = members_of(rule.target, labels)
        box = joint_box(boxes, members)
        if box is None:
            continue
        if not rule.of_components:
            edited = reshaped(changed, box, rule, labels, spacing)
            if edited is not None:
                changed = classes.copy() if changed is classes else changed
                changed[box] = edited
                boxes = ndimage.find_objects(changed)
            continue
        components, volumes = components_of(changed[box], members, spacing)
        dropped = np.append(False, dropped_by(rule, volumes))  # by number of the component; number 0 is what is outside
        if not dropped.any():
            continue
        if changed is classes:
            changed = classes.copy()
        gone = dropped[components]
        changed[box][gone] = beneath(members, labels).astype(classes.dtype)[changed[box][gone]]
    return changed


def reshaped(classes: NDArray[Any], box: tuple[slice, ...], rule: Rule, labels: Labels, spacing: Spacing) -> NDArray[Any] | None:
    """Return the classes in a box after holes were filled, or gaps closed, or thin parts opened; None where nothing changes.

    What is added was background: no other label is ever replaced. Where regions are nested, a voxel of the region around may also
    become part of the one that grows. With all foreground together, a voxel gets the label that is nearest to it.

    Parameters
    ----------
    classes : (z, y, x), of the whole scan
    box : the smallest one around the rule's target
    rule : not of components
    """
    members, before = members_of(rule.target, labels), classes[box]
    mask, flat = _mask(before, members), [n == 1 for n in classes.shape]
    sides = [(part.start == 0, part.stop == n) for part, n in zip(box, classes.shape, strict=True)]
    if rule.fill_holes:
        after = shapes.fill_holes(mask, flat=flat)
    elif rule.closing is not None:
        after = shapes.closed(mask, rule.closing, spacing, flat=flat, sides=sides)
    else:
        assert rule.opening is not None
        after = shapes.opened(mask, rule.opening, spacing, flat=flat, sides=sides)
    edited = before.copy()
    gone, added = mask & ~after, after & ~mask
    edited[gone] = beneath(members, labels).astype(classes.dtype)[before[gone]]
    if rule.target is None:
        edited[added] = _nearest(before, added, spacing)
    else:
        edited[added] = _joined(rule.target, labels).astype(classes.dtype)[before[added]]
    return edited if (edited != before).any() else None


def members_of(target: str | None, labels: Labels) -> tuple[int, ...]:
    """Return classes of a target; all foreground classes for None."""
    if target is None:
        return tuple(range(1, labels.class_count))
    for name, members in labels.scored:
        if name == target:
            return members
    raise SettingsError(
        "a post-processing rule about an unknown label",
        found=target,
        expected=", ".join(name for name, _ in labels.scored),
        fix="correct the rule in postprocessing.json, or use the rules made for this data set",
    )


def joint_box(boxes: Sequence[Any], members: Sequence[int]) -> tuple[slice, ...] | None:
    """Return the smallest box around all classes in `members`; `None` where none of them occurs."""
    found = [boxes[c - 1] for c in members if c <= len(boxes) and boxes[c - 1] is not None]
    if not found:
        return None
    return tuple(slice(min(box[a].start for box in found), max(box[a].stop for box in found)) for a in range(3))


def components_of(classes: NDArray[Any], members: Sequence[int], spacing: Spacing) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """Return the numbers of the components, 0 outside, and their volumes in mm3."""
    components, _ = ndimage.label(_mask(classes, members), structure=np.ones((3, 3, 3), dtype=bool))
    return components, np.bincount(components.ravel())[1:].astype(np.float64) * float(np.prod(spacing))


def dropped_by(rule: Rule, volumes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which components a rule removes."""
    if volumes.size == 0:
        return np.zeros(0, dtype=bool)
    if rule.keep_largest:
        return volumes < volumes.max() * (1 - 1e-9)
    assert rule.drop_below is not None
    return volumes < rule.drop_below * (1 - 1e-9)


def beneath(members: Sequence[int], labels: Labels) -> NDArray[np.intp]:
    """Return what a voxel of each class becomes where the target is removed: the regions that also hold it, else background.

    ::

        regions    whole = {1, 2, 3}   core = {2, 3}   enhancing = {3}
        removed    core: 2 -> 1, 3 -> 1       enhancing: 3 -> 2       whole: all -> 0
    """
    becomes = np.arange(labels.class_count)
    gone = set(members)
    around = [not set(labels.classes_of(region.members)) <= gone for region in labels.regions]
    for index in members:
        value = labels.values[index]
        active = [[keep and value in region.members] for region, keep in zip(labels.regions, around, strict=True)]
        becomes[index] = labels.paint(np.array(active))[0] if labels.regions else 0
    return becomes


def _mask(classes: NDArray[Any], members: Sequence[int]) -> NDArray[np.bool_]:
    return np.asarray(classes == members[0] if len(members) == 1 else np.isin(classes, members))


def _joined(target: str, labels: Labels) -> NDArray[np.intp]:
    """Return what a voxel of each class becomes where a target is added: background becomes a label, regions are painted over."""
    becomes = np.arange(labels.class_count)
    if not labels.regions:
        becomes[0] = members_of(target, labels)[0]
        return becomes
    for index, value in enumerate(labels.values):
        active = [[region.name == target or (index > 0 and value in region.members)] for region in labels.regions]
        becomes[index] = labels.paint(np.array(active))[0]
    return becomes


def _nearest(classes: NDArray[Any], added: NDArray[np.bool_], spacing: Spacing) -> NDArray[Any]:
    """Return for each added voxel the class of the nearest foreground voxel."""
    border = (classes > 0) & ndimage.binary_dilation(added, np.ones((3, 3, 3), dtype=bool))
    if not border.any():
        return classes[added]
    _, nearest = cKDTree(np.argwhere(border) * spacing).query(np.argwhere(added) * spacing)
    return np.asarray(classes[border][nearest])
