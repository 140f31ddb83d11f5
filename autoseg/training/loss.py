"""What training minimises: an overlap term (Dice) and a pixel term (cross-entropy), summed over the outputs of the network.

Shapes: logits `(n, heads, z, y, x)`, targets `(n, z, y, x)` of classes, with `Labels.ignore_class` where nothing was annotated.
With regions the heads are regions and each has its own sigmoid; else the heads are classes and share a softmax.
All sums are float32, whatever the precision of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.labels import Labels
from autoseg.training.settings import LossSettings
from autoseg.training.team import ALONE, Team

LEAST_ERROR = 2.0**-24  # the smallest float32 above 0 that 1 - p can be

Loss = Callable[[Sequence[Tensor], Tensor, Tensor | None], Tensor]


def make_loss(labels: Labels, *, batch_dice: bool, settings: LossSettings, team: Team = ALONE) -> Loss:
    """The loss of a plan.

    Parameters
    ----------
    labels : classes, regions and ignore class
    batch_dice : overlap sums run over the whole batch instead of over each sample
    team : the processes among which the batch is divided; each gets the loss of all of it

    Returns
    -------
    A function of (outputs, target, annotated):
    outputs : logits `(n, heads, z, y, x)`, the highest resolution first
    target : classes `(n, z, y, x)`, integers
    annotated : `(n, classes)`, whether a class was annotated in the sample's case; None: all were

    Source: nnU-Net 2.8.1 (Dice + cross-entropy, weights 1/2^i, the lowest resolution left out).
    """

    def loss(outputs: Sequence[Tensor], target: Tensor, annotated: Tensor | None = None) -> Tensor:
        """The weighted sum over the scales of deep supervision."""
        weights = deep_supervision_weights(len(outputs)) if settings.deep_supervision else (1.0,) + (0.0,) * (len(outputs) - 1)
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for output, weight in zip(outputs, weights, strict=True):
            if weight:
                at_scale = downsampled(target, output.shape[2:])
                total = total + weight * single(output.float(), at_scale, annotated)
        return total

    def single(logits: Tensor, target: Tensor, annotated: Tensor | None) -> Tensor:
        """The loss at one scale."""
        valid = None if labels.ignore_class is None else target != labels.ignore_class
        if valid is not None:
            target = target.where(valid, 0)
        if labels.regions:
            return _regions_loss(logits, target, valid, annotated, labels=labels, batch_dice=batch_dice, settings=settings, team=team)
        return _labels_loss(logits, target, valid, annotated, batch_dice=batch_dice, settings=settings, team=team)

    return loss


def deep_supervision_weights(outputs: int) -> tuple[float, ...]:
    """Weight of each output: 1/2^i, none for the lowest resolution, together 1. A single output has weight 1.

    Source: nnU-Net 2.8.1; there two stages give 0/0.

    >>> deep_supervision_weights(4)
    (0.5714285714285714, 0.2857142857142857, 0.14285714285714285, 0.0)
    """
    raw = [0.5**i for i in range(outputs)]
    if outputs > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def downsampled(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Class maps `(n, z, y, x)` at a lower resolution, each voxel the one nearest to its centre."""
    if tuple(target.shape[1:]) == tuple(shape):
        return target
    for axis, (old, new) in enumerate(zip(target.shape[1:], shape, strict=True), start=1):
        centres = ((torch.arange(new, device=target.device) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        target = target.index_select(axis, centres)
    return target


def boundary_weights(target: Tensor, *, weight: float, sigma: float) -> Tensor:
    """Weight `(n, z, y, x)` of each voxel: 1 plus `weight` where two structures nearly touch.

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


def _labels_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    annotated: Tensor | None,
    *,
    batch_dice: bool,
    settings: LossSettings,
    team: Team,
) -> Tensor:
    if annotated is not None and bool(annotated.all()) and team.size == 1:
        annotated = None
    scores = functional.log_softmax(logits, dim=1)
    # A voxel marked background in a case where some classes were not annotated may be any of those: its score is their sum.
    scores = scores if annotated is None else _merge_unannotated(scores, annotated)
    of_target = scores.gather(1, target[:, None])[:, 0]  # (n, z, y, x)
    pixel = _pixel_term(-of_target, settings)
    if settings.label_smoothing:
        share = settings.label_smoothing
        pixel = (1 - share) * pixel - share * _mean_of_annotated(scores.clamp(min=-1e4), annotated)
    weight = _voxel_weights(target, valid, settings)
    total = settings.pixel_weight * _mean(pixel, weight, settings, team)

    heads = logits.shape[1]
    inside = valid.float() if valid is not None else None
    probabilities = scores.exp()
    hits = of_target.exp() if inside is None else of_target.exp() * inside
    flat = target.flatten(1)
    overlap = hits.new_zeros((len(hits), heads)).scatter_add(1, flat, hits.flatten(1))
    truth_weights = torch.ones_like(hits) if inside is None else inside
    truth = hits.new_zeros((len(hits), heads)).scatter_add(1, flat, truth_weights.flatten(1))
    predicted = (probabilities if inside is None else probabilities * inside[:, None]).flatten(2).sum(dim=2)
    keep = None if annotated is None else annotated[:, 1:]
    counts = (overlap[:, 1:], predicted[:, 1:], truth[:, 1:])  # background is left out
    return total + settings.overlap_weight * _overlap_term(*counts, keep, batch_dice=batch_dice, settings=settings, team=team)


def _regions_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    annotated: Tensor | None,
    *,
    labels: Labels,
    batch_dice: bool,
    settings: LossSettings,
    team: Team,
) -> Tensor:
    members = [labels.classes_of(region.members) for region in labels.regions]
    table = torch.zeros((len(labels.labels), len(members)), device=logits.device)
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
    pixel = _pixel_term(functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none"), settings)
    total = settings.pixel_weight * _mean(pixel, weight.expand_as(pixel), settings, team)

    inside = 1.0 if valid is None else valid[:, None].float()
    probabilities = logits.sigmoid() * inside
    truth = truth * inside
    counts = ((probabilities * truth).flatten(2).sum(2), probabilities.flatten(2).sum(2), truth.flatten(2).sum(2))
    return total + settings.overlap_weight * _overlap_term(*counts, keep, batch_dice=batch_dice, settings=settings, team=team)


def _merge_unannotated(scores: Tensor, annotated: Tensor) -> Tensor:
    shaped = annotated[:, :, None, None, None]
    background = torch.zeros_like(shaped)
    background[:, 0] = True
    rest = scores.masked_fill(shaped & ~background, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.where(background, rest, scores)


def _mean_of_annotated(scores: Tensor, annotated: Tensor | None) -> Tensor:
    """The mean `(n, z, y, x)` over background and the classes that were annotated: smoothing says nothing of the others."""
    if annotated is None:
        return scores.mean(dim=1)
    known = annotated.clone()
    known[:, 0] = True
    return (scores * known[:, :, None, None, None]).sum(dim=1) / known.sum(dim=1)[:, None, None, None]


def _pixel_term(entropy: Tensor, settings: LossSettings) -> Tensor:
    if settings.pixel == "focal":  # Lin et al. 2017, arXiv:1708.02002
        error = (1 - (-entropy).exp()).clamp(min=LEAST_ERROR)  # rounded, it may be 0 or less: a root has no gradient there
        return error**settings.focal_gamma * entropy
    return entropy


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


def _mean(values: Tensor, weight: Tensor | None, settings: LossSettings, team: Team) -> Tensor:
    if settings.pixel == "top_k":  # in a team: of each one's share
        values = values if weight is None else values * weight
        count = max(1, int(settings.top_k * values.numel()))
        return team.mean(values.flatten().topk(count, sorted=False).values.mean())
    if weight is None:
        return team.mean(values.mean())
    return team.sum((values * weight).sum()) / team.sum(weight.sum()).clamp(min=1e-8)


def _overlap_term(
    overlap: Tensor, predicted: Tensor, truth: Tensor, keep: Tensor | None, *, batch_dice: bool, settings: LossSettings, team: Team
) -> Tensor:
    """Minus the mean Dice (or Tversky index) from sums `(n, channels)`."""
    if keep is not None:
        overlap, predicted, truth = overlap * keep, predicted * keep, truth * keep
    if batch_dice:
        overlap, predicted, truth = team.sum(torch.stack((overlap.sum(0), predicted.sum(0), truth.sum(0))))
        keep = None if keep is None else team.sum(keep.sum(dim=0)) > 0
    if settings.overlap == "dice":
        score = (2 * overlap + settings.smooth) / (predicted + truth + settings.smooth).clamp(min=1e-8)
    else:  # Salehi et al. 2017, arXiv:1706.05721
        alpha, beta = settings.tversky_alpha, settings.tversky_beta
        wrong = alpha * (predicted - overlap) + beta * (truth - overlap)
        score = (overlap + settings.smooth) / (overlap + wrong + settings.smooth).clamp(min=1e-8)
    if settings.overlap == "focal_tversky":  # Abraham & Khan 2018, arXiv:1810.07842
        score = 1 - (1 - score).clamp(min=1e-6) ** settings.tversky_gamma
    if keep is None:
        return -score.mean() if batch_dice else -team.mean(score.mean())
    if batch_dice:
        return -(score * keep).sum() / keep.sum().clamp(min=1)
    return -team.sum((score * keep).sum()) / team.sum(keep.sum()).clamp(min=1)
