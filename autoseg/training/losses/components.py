"""Dice of each lesion by itself, so that small ones count as much as large ones. Source: arXiv:2511.17146 (CC-Dice)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import ndimage
from torch import Tensor

from autoseg.training.settings import LossSettings

MOST = 64  # components of one channel in one patch; more of them count as one


def components(probabilities: Tensor, truth: Tensor, spacing: Sequence[float], settings: LossSettings) -> Tensor:
    """Return 1 minus the mean Dice over the cells of a channel: each voxel belongs to the true component nearest to it."""
    return torch.stack([_of_channel(p, y, spacing, settings.smooth) for p, y in zip(probabilities, truth, strict=True)])


def _of_channel(p: Tensor, y: Tensor, spacing: Sequence[float], smooth: float) -> Tensor:
    mask = y.cpu().numpy() > 0
    numbered, count = ndimage.label(mask)
    if not 1 < count <= MOST:
        cells, count = torch.zeros(y.shape, dtype=torch.int64, device=p.device), 1
    else:
        nearest = ndimage.distance_transform_edt(~mask, sampling=spacing, return_distances=False, return_indices=True)
        cells = torch.from_numpy(numbered[tuple(nearest)].astype("int64") - 1).to(p.device)
    flat = cells.flatten()
    overlap, found, true = (p.new_zeros(count).index_add(0, flat, values.flatten()) for values in (p * y, p, y))
    return 1 - ((2 * overlap + smooth) / (found + true + smooth).clamp(min=1e-8)).mean()
