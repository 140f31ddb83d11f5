"""What training minimises: a voxel loss and a region loss (`autoseg.losses`), summed over the outputs of the network.

Shapes: logits `(n, heads, z, y, x)`, targets `(n, z, y, x)` of classes, with `Labels.ignore_class` where nothing was annotated.
With regions the heads are regions and each has its own sigmoid; else the heads are classes and share a softmax.
All sums are float32, whatever the precision of the network.

Ignored voxels, classes that a case does not annotate, regions and the other processes are handled here, once for all losses:
`_of_labels` and `_of_regions` prepare what the losses are computed from, and `_voxel_term` and `_region_term` average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from autoseg import losses
from autoseg.labels import Labels
from autoseg.training.process_group import SINGLE_PROCESS, ProcessGroup
from autoseg.training.settings import LossSettings


class Loss(Protocol):
    """What `make_loss` returns."""

    def __call__(self, outputs: Sequence[Tensor], target: Tensor, annotated: Tensor | None = None) -> Tensor:
        """Return the loss of the outputs of a network."""


def make_loss(
    labels: Labels,
    *,
    batch_dice: bool,
    settings: LossSettings,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Loss:
    """Return the loss of a plan.

    Parameters
    ----------
    labels : classes, regions and ignore class
    batch_dice : overlap sums run over the whole batch instead of over each sample
    spacing : mm, (z, y, x), for the term of shapes
    processes : those among which the batch is divided; each gets the loss of all of it

    Returns
    -------
    A function of (outputs, target, annotated):
    outputs : logits `(n, heads, z, y, x)`, the highest resolution first
    target : classes `(n, z, y, x)`, integers
    annotated : `(n, classes)`, whether a class was annotated in the sample's case; None: all were

    Source: nnU-Net 2.8.1 (Dice + cross-entropy, weights 1/2^i, the lowest resolution left out).
    """

    voxel_loss, region_loss = losses.load(settings.voxel_loss), losses.load(settings.region_loss)
    further = None if settings.further == "none" or not settings.further_weight else losses.load(settings.further)

    def loss(outputs: Sequence[Tensor], target: Tensor, annotated: Tensor | None = None) -> Tensor:
        nested = len(outputs) > 1 and outputs[1].shape == outputs[0].shape
        weights = deep_supervision_weights(len(outputs), nested=nested)
        weights = weights if settings.deep_supervision else (1.0,) + (0.0,) * (len(outputs) - 1)
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for output, weight in zip(outputs, weights, strict=True):
            if weight:
                at_scale = downsampled(target, output.shape[2:])
                total = total + weight * at_one_scale(output.float(), at_scale, annotated, finest=output is outputs[0])
        return total

    def at_one_scale(logits: Tensor, target: Tensor, annotated: Tensor | None, *, finest: bool) -> Tensor:
        valid = None if labels.ignore_class is None else target != labels.ignore_class
        if valid is not None:
            target = target.where(valid, 0)
        if labels.regions:
            compared = _of_regions(logits, target, valid, annotated, labels, settings)
        else:
            everywhere = annotated is None or (processes.size == 1 and bool(annotated.all()))
            compared = _of_labels(logits, target, valid, None if everywhere else annotated, settings)
        voxels = _voxel_term(voxel_loss, compared, settings, processes)
        total = settings.voxel_weight * voxels + settings.region_weight * _region_term(
            region_loss, compared, batch_dice, settings, processes
        )
        if further is not None and finest:
            total = total + settings.further_weight * _shape_term(further, compared, spacing, settings, processes)
        return total

    return loss


def deep_supervision_weights(outputs: int, *, nested: bool = False) -> tuple[float, ...]:
    """Return the weight of each output: 1/2^i, none for the lowest resolution, together 1. A single output has weight 1.

    Parameters
    ----------
    nested : the outputs are all of the full resolution, and weigh the same

    Source: nnU-Net 2.8.1; there two stages give 0/0. Nested: Zhou et al. 2018, arXiv:1807.10165.

    >>> deep_supervision_weights(4)
    (0.5714285714285714, 0.2857142857142857, 0.14285714285714285, 0.0)
    """
    if nested:
        return (1 / outputs,) * outputs
    raw = [0.5**i for i in range(outputs)]
    if outputs > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def downsampled(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Return class maps `(n, z, y, x)` at a lower resolution, each voxel the one nearest to its centre."""
    if tuple(target.shape[1:]) == tuple(shape):
        return target
    for axis, (old, new) in enumerate(zip(target.shape[1:], shape, strict=True), start=1):
        centres = ((torch.arange(new, device=target.device) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        target = target.index_select(axis, centres)
    return target


def boundary_weights(target: Tensor, *, weight: float, sigma: float) -> Tensor:
    """Return the weight `(n, z, y, x)` of each voxel: 1 plus `weight` where two structures nearly touch.

    1 + w0 * exp(-(d1 + d2)^2 / (2 sigma^2)) on background voxels, d1 and d2 the distances in voxels to the two nearest
    components of foreground. Source: Ronneberger et al. 2015, arXiv:1505.04597, equation 2.
    """
    import numpy as np
    from scipy import ndimage

    maps = []
    for sample in target.cpu().numpy():
        components, count = ndimage.label(sample > 0)
        extra = np.zeros(sample.shape, dtype=np.float32)
        if count > 1:
            first, second = np.full((2, *sample.shape), np.inf, dtype=np.float32)  # the two smallest distances so far
            for i in range(1, count + 1):
                distance = ndimage.distance_transform_edt(components != i).astype(np.float32)
                np.minimum(second, np.maximum(first, distance), out=second)
                np.minimum(first, distance, out=first)
            extra = np.where(sample > 0, 0, weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))).astype(np.float32)
        maps.append(1 + extra)
    return torch.from_numpy(np.stack(maps)).to(target.device)


@dataclass(frozen=True)
class _Compared:
    """Scores and target at one scale, as the losses need them. Channels are foreground classes, or regions."""

    entropy: Tensor  # cross-entropy of each voxel, (n, z, y, x) or (n, channels, z, y, x)
    smoothing: Tensor | None  # entropy of a target that knows nothing, of which label smoothing takes its share
    weight: Tensor | None  # of each voxel, in the shape of the entropy; None: all count alike
    keep: Tensor | None  # (n, channels), which were annotated; None: all
    counts: Callable[[], tuple[Tensor, Tensor, Tensor]]  # overlapping, predicted and true voxels, (n, channels)
    maps: Callable[[], tuple[Tensor, Tensor]]  # probabilities and truth, (n, channels, z, y, x)


def _of_labels(logits: Tensor, target: Tensor, valid: Tensor | None, annotated: Tensor | None, settings: LossSettings) -> _Compared:
    scores = functional.log_softmax(logits, dim=1)
    # A voxel marked background in a case where some classes were not annotated may be any of those: its score is their sum.
    scores = scores if annotated is None else _merge_unannotated(scores, annotated)
    of_target = scores.gather(1, target[:, None])[:, 0]  # (n, z, y, x)
    inside = valid.float() if valid is not None else None
    heads = logits.shape[1]

    def counts() -> tuple[Tensor, Tensor, Tensor]:
        probabilities = scores.exp()
        hits = of_target.exp() if inside is None else of_target.exp() * inside
        flat = target.flatten(1)
        overlap = hits.new_zeros((len(hits), heads)).scatter_add(1, flat, hits.flatten(1))
        truth_weights = torch.ones_like(hits) if inside is None else inside
        truth = hits.new_zeros((len(hits), heads)).scatter_add(1, flat, truth_weights.flatten(1))
        predicted = (probabilities if inside is None else probabilities * inside[:, None]).flatten(2).sum(dim=2)
        return overlap[:, 1:], predicted[:, 1:], truth[:, 1:]  # background is left out

    def maps() -> tuple[Tensor, Tensor]:
        probabilities = scores[:, 1:].exp()
        truth = torch.stack([target == i for i in range(1, heads)], dim=1).float()
        if inside is not None:
            probabilities, truth = probabilities * inside[:, None], truth * inside[:, None]
        return probabilities, truth

    return _Compared(
        entropy=-of_target,
        smoothing=-_mean_of_annotated(scores.clamp(min=-1e4), annotated) if settings.label_smoothing else None,
        weight=_voxel_weights(target, valid, settings),
        keep=None if annotated is None else annotated[:, 1:],
        counts=counts,
        maps=maps,
    )


def _of_regions(
    logits: Tensor, target: Tensor, valid: Tensor | None, annotated: Tensor | None, labels: Labels, settings: LossSettings
) -> _Compared:
    members = [labels.classes_of(region.members) for region in labels.regions]
    table = torch.zeros((labels.class_count, len(members)), device=logits.device)
    for index, classes in enumerate(members):
        table[list(classes), index] = 1
    truth = table[target].movedim(-1, 1)  # (n, regions, z, y, x)
    weight = _voxel_weights(target, valid, settings)
    weight = torch.ones_like(truth[:, :1]) if weight is None else weight[:, None]
    keep = None
    if annotated is not None:  # a region is known where all its members were annotated
        keep = torch.stack([annotated[:, list(classes)].all(dim=1) for classes in members], dim=1)
        weight = weight * keep[:, :, None, None, None]
    smooth = truth * (1 - settings.label_smoothing) + 0.5 * settings.label_smoothing

    def maps() -> tuple[Tensor, Tensor]:
        inside = 1.0 if valid is None else valid[:, None].float()
        return logits.sigmoid() * inside, truth * inside

    def counts() -> tuple[Tensor, Tensor, Tensor]:
        probabilities, true = (each.flatten(2) for each in maps())
        return (probabilities * true).sum(2), probabilities.sum(2), true.sum(2)

    return _Compared(
        entropy=functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none"),
        smoothing=None,  # already in the target
        weight=weight.expand_as(truth),
        keep=keep,
        counts=counts,
        maps=maps,
    )


def _merge_unannotated(scores: Tensor, annotated: Tensor) -> Tensor:
    shaped = annotated[:, :, None, None, None]
    background = torch.zeros_like(shaped)
    background[:, 0] = True
    rest = scores.masked_fill(shaped & ~background, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.where(background, rest, scores)


def _mean_of_annotated(scores: Tensor, annotated: Tensor | None) -> Tensor:
    """Return the mean `(n, z, y, x)` over background and the classes that were annotated: smoothing says nothing about the others."""
    if annotated is None:
        return scores.mean(dim=1)
    known = annotated.clone()
    known[:, 0] = True
    return (scores * known[:, :, None, None, None]).sum(dim=1) / known.sum(dim=1)[:, None, None, None]


def _voxel_weights(target: Tensor, valid: Tensor | None, settings: LossSettings) -> Tensor | None:
    weight: Tensor | None = None
    if settings.class_weights:
        weight = torch.tensor(settings.class_weights, device=target.device)[target]
    if settings.boundary_weight:
        edges = boundary_weights(target, weight=settings.boundary_weight, sigma=settings.boundary_sigma)
        weight = edges if weight is None else weight * edges
    if valid is not None:
        weight = valid.float() if weight is None else weight * valid
    return weight


def _voxel_term(loss: Callable[..., Tensor], compared: _Compared, settings: LossSettings, processes: ProcessGroup) -> Tensor:
    """Return the weighted mean of the voxel loss; over the hardest voxels alone, where the loss is of that sort."""
    values, weight = loss(compared.entropy, settings), compared.weight
    if compared.smoothing is not None:
        values = (1 - settings.label_smoothing) * values + settings.label_smoothing * compared.smoothing
    if hardest := losses.record(settings.voxel_loss).hardest:  # with several processes: of each one's share
        values = values if weight is None else values * weight
        count = max(1, int(getattr(settings, hardest) * values.numel()))
        return processes.mean(values.flatten().topk(count, sorted=False).values.mean())
    if weight is None:
        return processes.mean(values.mean())
    return processes.sum((values * weight).sum()) / processes.sum(weight.sum()).clamp(min=1e-8)


def _region_term(
    loss: Callable[..., Tensor], compared: _Compared, batch_dice: bool, settings: LossSettings, processes: ProcessGroup
) -> Tensor:
    """Return minus the mean score of the channels, of each sample or of the whole batch."""
    keep = compared.keep
    if losses.record(settings.region_loss).kind == "ranking":
        probabilities, truth = (each.flatten(2) for each in compared.maps())
        return _ranking_term(loss, probabilities, truth, keep, batch_dice, settings, processes)
    overlap, predicted, truth = compared.counts()
    if keep is not None:
        overlap, predicted, truth = overlap * keep, predicted * keep, truth * keep
    if batch_dice:
        overlap, predicted, truth = processes.sum(torch.stack((overlap.sum(0), predicted.sum(0), truth.sum(0))))
        keep = None if keep is None else processes.sum(keep.sum(dim=0)) > 0
    score = loss(overlap, predicted, truth, settings)
    if keep is None:
        return -score.mean() if batch_dice else -processes.mean(score.mean())
    if batch_dice:
        return -(score * keep).sum() / keep.sum().clamp(min=1)
    return -processes.sum((score * keep).sum()) / processes.sum(keep.sum()).clamp(min=1)


def _ranking_term(
    loss: Callable[..., Tensor],
    probabilities: Tensor,
    truth: Tensor,
    keep: Tensor | None,
    batch_dice: bool,
    settings: LossSettings,
    processes: ProcessGroup,
) -> Tensor:
    """Return minus the mean score over the channels that occur; voxels of several processes are ranked by each for itself."""
    if keep is not None:
        probabilities, truth = probabilities * keep[:, :, None], truth * keep[:, :, None]
    if batch_dice:
        probabilities, truth = (maps.movedim(0, 1).flatten(1)[None] for maps in (probabilities, truth))
    occurs = truth.amax(dim=2) > 0  # (n or 1, channels)
    score = torch.stack([loss(*sample, settings) for sample in zip(probabilities, truth, strict=True)])
    return -processes.sum((score * occurs).sum()) / processes.sum(occurs.sum()).clamp(min=1)


def _shape_term(
    loss: Callable[..., Tensor], compared: _Compared, spacing: Sequence[float], settings: LossSettings, processes: ProcessGroup
) -> Tensor:
    """Return the mean loss of the channels that were annotated, each sample by itself."""
    probabilities, truth = compared.maps()
    values = torch.stack([loss(p, y, spacing, settings) for p, y in zip(probabilities, truth, strict=True)])  # (n, channels)
    if compared.keep is None:
        return processes.mean(values.mean())
    return processes.sum((values * compared.keep).sum()) / processes.sum(compared.keep.sum()).clamp(min=1)
