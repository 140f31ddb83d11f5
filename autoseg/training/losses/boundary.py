"""Losses that know how far a voxel is from the border of its structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from autoseg.training.settings import LossSettings

FARTHEST = 20.0  # mm: beyond it a voxel is no worse. Source: autoseg, so that a few far voxels do not outweigh all others


def boundary(probabilities: Tensor, truth: Tensor, spacing: Sequence[float], settings: LossSettings) -> Tensor:
    """Return of each channel the mean of (p - y) times the signed distance to the border in cm, which is negative inside.

    Source: Kervadec et al. 2019, arXiv:1812.07032; there p alone, which differs by a constant. Distances end at 20 mm.
    """
    signed = torch.stack([_signed(mask, spacing) for mask in truth]).to(probabilities)
    return ((probabilities - truth) * signed).flatten(1).mean(1)


def hausdorff(probabilities: Tensor, truth: Tensor, spacing: Sequence[float], settings: LossSettings) -> Tensor:
    """Return of each channel the mean of (p - y)^2 times the squared distances in cm to both borders, found and true.

    Source: Karimi and Salcudean 2019, arXiv:1904.10030, alpha 2; the found border is where p is 1/2, and has no gradient.
    """
    distances = torch.stack(
        [_far(mask, spacing) ** 2 + _far(found > 0.5, spacing) ** 2 for mask, found in zip(truth, probabilities.detach(), strict=True)]
    )
    return ((probabilities - truth).square() * distances.to(probabilities)).flatten(1).mean(1)


def _signed(mask: Tensor, spacing: Sequence[float]) -> Tensor:
    inside = mask.cpu().numpy() > 0
    if not inside.any() or inside.all():
        return torch.zeros(mask.shape)
    outer, inner = (ndimage.distance_transform_edt(side, sampling=spacing) for side in (~inside, inside))
    return torch.from_numpy(np.clip(outer - inner, -FARTHEST, FARTHEST) / 10).float()


def _far(mask: Tensor, spacing: Sequence[float]) -> Tensor:
    """Return the distance of each voxel to the other side of the border, in cm; 0 everywhere without a border."""
    return _signed(mask.float(), spacing).abs()
