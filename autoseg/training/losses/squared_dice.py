"""Dice with squares in its denominator. Source: Milletari et al. 2016, arXiv:1606.04797."""

from __future__ import annotations

from torch import Tensor

from autoseg.training.settings import LossSettings


def squared_dice(probabilities: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return 2 sum(p y) / (sum(p^2) + sum(y^2)) of each channel."""
    overlap, squares = (probabilities * truth).sum(1), probabilities.square().sum(1) + truth.square().sum(1)
    return (2 * overlap + settings.smooth) / (squares + settings.smooth).clamp(min=1e-8)
