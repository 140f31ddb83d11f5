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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.images import Image
from autoseg.planning.configuration import Plan
from autoseg.prediction import segmenting
from autoseg.prediction.logits import Observer, logits_of
from autoseg.prediction.model import Model, Stage
from autoseg.prediction.scores import class_type, decided, probabilities_on_grid
from autoseg.prediction.segmenting import Clock, Receive, Segmentation
from autoseg.preprocessing.case import GridTransform, preprocess_case


@dataclass(frozen=True, kw_only=True)
class Member:
    """One configuration of an ensemble, for one scan."""

    plan: Plan
    stage: Stage
    previous: NDArray[np.integer[Any]] | None = None  # of a cascade: classes of its first stage, canonical, on the scan's own grid
    observer: Observer | None = None  # sees its logits


def segment(
    model: Model,
    image: Image,
    *,
    tta: bool = True,
    probabilities: bool = False,
    receive: Receive | None = None,
    max_memory: int | None = None,
) -> Segmentation:
    """Segment a scan with one configuration, or with several: then the mean of their probabilities decides.

    Parameters, what is returned and what is raised are as for `segmenting.segment`, which one configuration is left to. Several
    configurations take the memory they need, whatever `max_memory` says.

    Source: nnU-Net 2.8.1: mean of the softmax, or of the sigmoid of each region, of the configurations; each of these is of the mean
    of its folds' logits.
    """
    if not model.partners:
        return segmenting.segment(model, image, tta=tta, probabilities=probabilities, receive=receive, max_memory=max_memory)
    clock = Clock()
    warnings = [*dict.fromkeys(text for one in model.members for text in segmenting.unusual_for(one, image))]
    members = []
    watched = [segmenting.opinions_for(one) for one in model.members]
    for one, opinions in zip(model.members, watched, strict=True):
        previous = None
        if len(one.stages) > 1:
            first = segmenting.segment(replace(one, stages=one.stages[:-1], calibration=None), image, tta=tta)
            clock.count(first.seconds)
            previous = first.classes
        members.append(Member(plan=one.plan, stage=one.stages[-1], previous=previous, observer=opinions))
    (classes,), chances = combine(members, image, device=model.device, tta=tta, probabilities=probabilities, receive=receive, clock=clock)
    if not classes.any():
        warnings.append(segmenting.NOTHING_FOUND)
    seen = tuple(opinions.result() for opinions in watched if opinions is not None)
    return Segmentation(classes=classes, probabilities=chances, seconds=clock.seconds, warnings=tuple(warnings), opinions=seen)


def combine(
    members: Sequence[Member],
    image: Image,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    device: str,
    tta: bool = True,
    probabilities: bool = False,
    receive: Receive | None = None,
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
    receive : is given them piece by piece instead, as by `segmenting.segment`

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
    found = [np.zeros(shape, dtype=class_type(labels)) for _ in groups]
    chances = None
    if probabilities:
        chances, receive = segmenting.collected(labels, image.shape)
    with clock("resample"):
        streams = [
            probabilities_on_grid(scores, source=place.shape, target=shape, anisotropic_axis=place.anisotropic_axis_back, labels=labels)
            for place, scores in opened
        ]
        for index, pieces in enumerate(zip(*streams, strict=True)):
            slices = [piece for _, _, piece in pieces]
            for number, (classes, group) in enumerate(zip(found, groups, strict=True)):
                mean = (sum((slices[i] for i in group[1:]), slices[group[0]]) / len(group)).cpu()
                classes[index] = decided(mean, labels)
                if receive is not None and number == 0:
                    receive(*segmenting.placed(geometry, (0, 1, 2), index, slice(0, shape[1]), mean))
        return [geometry.restore(classes) for classes in found], chances


def _scores(member: Member, image: Image, *, device: str, tta: bool, clock: Clock) -> tuple[GridTransform, Iterator[tuple[int, Tensor]]]:
    """Return the grid of a configuration, and its logits on it, computed slab by slab as they are asked for."""
    plan, configuration = member.plan, member.stage.configuration
    with clock("preprocess"):
        prepared = preprocess_case(image, None, plan=plan, configuration=configuration)
        volume = torch.from_numpy(np.ascontiguousarray(prepared.image))
        if member.previous is not None:
            volume = segmenting.with_previous(volume, prepared.geometry.preprocess_classes(member.previous), plan.labels)
    slabs = logits_of(
        member.stage.networks, volume, plan=plan, configuration=configuration, device=device, tta=tta, observer=member.observer
    )
    return prepared.geometry, clock.each("network", slabs)
