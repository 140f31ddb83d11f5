"""Soft Dice. Source: Milletari et al. 2016, arXiv:1606.04797; smoothed as in nnU-Net 2.8.1."""

from __future__ import annotations

from torch import Tensor

from autoseg.training.settings import LossSettings


def dice(overlap: Tensor, predicted: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return the Dice coefficient of each sample and channel."""
    return (2 * overlap + settings.smooth) / (predicted + truth + settings.smooth).clamp(min=1e-8)
