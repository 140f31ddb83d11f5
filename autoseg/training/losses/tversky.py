"""Tversky index, which weights false positives and false negatives apart. Source: Salehi et al. 2017, arXiv:1706.05721."""

from __future__ import annotations

from torch import Tensor

from autoseg.training.settings import LossSettings


def tversky(overlap: Tensor, predicted: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return the Tversky index of each sample and channel."""
    wrong = settings.tversky_alpha * (predicted - overlap) + settings.tversky_beta * (truth - overlap)
    return (overlap + settings.smooth) / (overlap + wrong + settings.smooth).clamp(min=1e-8)


def focal_tversky(overlap: Tensor, predicted: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return 1 - (1 - Tversky index)^`tversky_gamma`. Source: Abraham & Khan 2018, arXiv:1810.07842."""
    index = tversky(overlap, predicted, truth, settings)
    return 1 - (1 - index).clamp(min=1e-6) ** settings.tversky_gamma
