"""Lovász extension of the Jaccard index. Source: Berman et al. 2018, arXiv:1705.08790 (there "present" classes count, as here)."""

from __future__ import annotations

import torch
from torch import Tensor

from autoseg.training.settings import LossSettings


def lovasz(probabilities: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """Return 1 minus the loss of each channel: its errors, largest first, each weighted by what it takes from the Jaccard index."""
    errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
    true = truth.gather(1, order)
    total = true.sum(dim=1, keepdim=True)
    missed, invented = true.cumsum(dim=1), (1 - true).cumsum(dim=1)
    jaccard_loss = 1 - (total - missed) / (total + invented)
    steps = jaccard_loss.diff(dim=1, prepend=torch.zeros_like(total))
    return 1 - (errors * steps).sum(dim=1)
