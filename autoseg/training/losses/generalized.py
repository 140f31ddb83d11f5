"""Generalised cross-entropy and generalised Dice, which weigh voxels and classes in other ways."""

from __future__ import annotations

from torch import Tensor

from autoseg.training.settings import LossSettings


def generalized(entropy: Tensor, settings: LossSettings) -> Tensor:
    """Return (1 - p^q) / q of each voxel: between cross-entropy (q near 0) and 1 - p (q = 1), robust to wrong labels.

    Source: Zhang and Sabuncu 2018, arXiv:1805.07836.
    """
    return (1 - (-settings.generalized_q * entropy).exp()) / settings.generalized_q


def generalized_dice(overlap: Tensor, predicted: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return one Dice coefficient of all channels, each weighted by 1 over its squared volume. Source: arXiv:1707.03237.

    A channel without truth gets the largest weight of the others, as in MONAI.
    """
    weight = truth.clamp(min=1).reciprocal().square() * (truth > 0)
    weight = weight.where(truth > 0, weight.amax(dim=-1, keepdim=True))
    numerator, denominator = 2 * (weight * overlap).sum(-1), (weight * (predicted + truth)).sum(-1)
    empty = denominator == 0  # nothing is there and nothing was found
    return (numerator / denominator.where(~empty, 1)).where(~empty, 1)[..., None].expand_as(truth)
