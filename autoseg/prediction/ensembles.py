"""Several configurations as one model: the mean of their probabilities on the scan's own grid, slice by slice.

Every configuration sees the scan at its own spacing. All of them are run together, each one only as far as the next slice of
the scan needs, and a slice is decided as soon as all have reached it. So besides what each needs by itself, a few slices of
scores are held, never all classes of the whole scan::

    scan            slice 7      slice 8      slice 9
    2d              ────●────────────●────────────●────    probabilities of each,
    3d_fullres      ──●─────────●─────────●─────────●──    interpolated to the slices of the scan,
    mean                ▼            ▼            ▼        added, the largest wins
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.geometry import Shape
from autoseg.images import Image
from autoseg.labels import Labels
from autoseg.planning.configuration import Plan
from autoseg.prediction import segmenting
from autoseg.prediction.model import Model, Stage
from autoseg.prediction.scores import classes_of
from autoseg.prediction.segmenting import Clock, Segmentation
from autoseg.preprocessing.case import GridTransform, preprocess_case
from autoseg.preprocessing.resampling import Places, linear_places, nearest_places


@dataclass(frozen=True, kw_only=True)
class Member:
    """One configuration of an ensemble, for one scan."""

    plan: Plan
    stage: Stage
    previous: NDArray[np.integer[Any]] | None = None  # of a cascade: classes of its first stage, canonical, on the scan's own grid


def segment(model: Model, image: Image, *, tta: bool = True, probabilities: bool = False) -> Segmentation:
    """Segment a scan with one configuration, or with several: then the mean of their probabilities decides.

    Parameters, what is returned and what is raised are as for `segmenting.segment`, which one configuration is left to.

    Source: nnU-Net 2.8.1: mean of the softmax, or of the sigmoid of each region, of the configurations; each of these is of the mean
    of its folds' logits.
    """
    if not model.partners:
        return segmenting.segment(model, image, tta=tta, probabilities=probabilities)
    clock = Clock()
    warnings = [*dict.fromkeys(text for one in model.members for text in segmenting.unusual_for(one, image))]
    members = []
    for one in model.members:
        previous = None
        if len(one.stages) > 1:
            first = segmenting.segment(replace(one, stages=one.stages[:-1]), image, tta=tta)
            clock.count(first.seconds)
            previous = first.classes
        members.append(Member(plan=one.plan, stage=one.stages[-1], previous=previous))
    (classes,), chances = combine(members, image, device=model.device, tta=tta, probabilities=probabilities, clock=clock)
    if not classes.any():
        warnings.append(segmenting.NOTHING_FOUND)
    return Segmentation(classes=classes, probabilities=chances, seconds=clock.seconds, warnings=tuple(warnings))


def combine(
    members: Sequence[Member],
    image: Image,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    device: str,
    tta: bool = True,
    probabilities: bool = False,
    clock: Clock | None = None,
) -> tuple[list[NDArray[np.integer[Any]]], NDArray[np.float32] | None]:
    """Run each configuration once, and return the classes that each group of them gives together.

    Parameters
    ----------
    members : configurations of plans with the same labels, channels and axis order
    image : canonical, with the channels of the plans
    groups : members whose mean of probabilities is wanted, by their place in `members`; by default one group of all
    device : of all networks
    tta : also look at the mirror images that each plan allows
    probabilities : also return the mean probabilities of the first group; takes heads x voxels x 4 bytes

    Returns
    -------
    classes `(z, y, x)` of each group, canonical, on the scan's own grid; probabilities `(heads, z, y, x)`, or None

    Raises
    ------
    PlanMismatch : another number of channels than planned for
    ModelError : a network gives values that are not finite
    """
    clock = clock or Clock()
    groups = groups or [range(len(members))]
    labels = members[0].plan.labels
    opened = [_scores(member, image, device=device, tta=tta, clock=clock) for member in members]
    geometry = opened[0][0]  # axes and crop do not depend on the configuration
    assert all(other.box == geometry.box and other.axis_order == geometry.axis_order for other, _ in opened)
    shape = geometry.box.shape
    found = [np.zeros(shape, dtype=np.uint8 if labels.class_count <= 256 else np.int16) for _ in groups]
    chances = np.empty((labels.output_channels, *shape), dtype=np.float32) if probabilities else None
    with clock("resample"):
        streams = [_on_grid(scores, place.shape, shape, place.anisotropic_axis_back, labels) for place, scores in opened]
        for index, slices in enumerate(zip(*streams, strict=True)):
            for number, (classes, group) in enumerate(zip(found, groups, strict=True)):
                mean = (sum((slices[i] for i in group[1:]), slices[group[0]]) / len(group)).cpu()
                classes[index] = classes_of(mean - 0.5 if labels.regions else mean, labels)
                if chances is not None and number == 0:
                    chances[:, index] = mean.numpy()
        if chances is not None:
            chances = geometry.restore(chances, outside=segmenting.beyond_the_crop(labels))
        return [geometry.restore(classes) for classes in found], chances


def _scores(member: Member, image: Image, *, device: str, tta: bool, clock: Clock) -> tuple[GridTransform, Iterator[tuple[int, Tensor]]]:
    """Return the grid of a configuration, and its logits on it, computed slab by slab as they are asked for."""
    plan, configuration = member.plan, member.stage.configuration
    with clock("preprocess"):
        prepared = preprocess_case(image, None, plan=plan, configuration=configuration)
        volume = torch.from_numpy(np.ascontiguousarray(prepared.image))
        if member.previous is not None:
            volume = segmenting.with_previous(volume, prepared.geometry.preprocess_classes(member.previous), plan.labels)
    slabs = segmenting.logits_of(member.stage.networks, volume, plan=plan, configuration=configuration, device=device, tta=tta)
    return prepared.geometry, clock.each("network", slabs)


def _on_grid(
    slabs: Iterable[tuple[int, Tensor]], source: Shape, target: Shape, anisotropic_axis: int | None, labels: Labels
) -> Iterator[Tensor]:
    """Yield the probabilities `(heads, y, x)` of each slice of the target grid, from logits on the source grid.

    Logits are interpolated as for one configuration: linearly, across thick slices the nearest. Source: nnU-Net 2.8.1.
    """
    axes = [(nearest_places if axis == anisotropic_axis else linear_places)(source[axis], target[axis]) for axis in range(3)]
    planes = (plane for _, slab in slabs for plane in slab.unbind(1))
    held: dict[int, Tensor] = {}
    reached = -1
    for lower, upper, share in zip(*axes[0], strict=True):
        held = {index: plane for index, plane in held.items() if index >= lower}
        while reached < upper:
            reached, plane = reached + 1, next(planes)
            if reached >= lower:
                held[reached] = _interpolated(_interpolated(plane, 1, axes[1]), 2, axes[2])
        logits = held[lower] if upper == lower else torch.lerp(held[lower], held[upper], float(share))
        yield logits.sigmoid() if labels.regions else logits.softmax(0)


def _interpolated(plane: Tensor, axis: int, places: Places) -> Tensor:
    """Return logits `(heads, y, x)` at other places along one axis."""
    lower, upper, share = (torch.from_numpy(values).to(plane.device) for values in places)
    if len(lower) == plane.shape[axis]:
        return plane
    below = plane.index_select(axis, lower)
    if not bool(share.any()):
        return below
    return below.lerp_(plane.index_select(axis, upper), share.float()[:, None] if axis == 1 else share.float())
