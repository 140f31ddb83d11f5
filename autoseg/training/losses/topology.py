"""Losses of thin structures: what counts is whether their centre lines are found, not how thick they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from autoseg.training.settings import LossSettings


def cldice(probabilities: Tensor, truth: Tensor, spacing: Sequence[float], settings: LossSettings) -> Tensor:
    """Return 1 minus the Dice coefficient of soft centre lines, of each channel; `skeleton_steps` erosions make them.

    Takes about as long as a training step. Source: Shit et al. 2021, arXiv:2003.07311, smoothed by 1 as there.
    """
    found, true = (_soft_skeleton(maps[None], settings.skeleton_steps)[0].flatten(1) for maps in (probabilities, truth))
    p, y = probabilities.flatten(1), truth.flatten(1)
    precise, sensitive = ((a * b).sum(1) + 1 for a, b in ((found, y), (true, p)))
    precise, sensitive = precise / (found.sum(1) + 1), sensitive / (true.sum(1) + 1)
    return 1 - 2 * precise * sensitive / (precise + sensitive)


def skeleton_recall(probabilities: Tensor, truth: Tensor, spacing: Sequence[float], settings: LossSettings) -> Tensor:
    """Return 1 minus the share of the true centre lines, dilated by two voxels, that is found, of each channel.

    Source: Kirchhoff et al. 2024, arXiv:2404.03010.
    """
    lines = torch.stack([_centre_line(mask) for mask in truth]).to(probabilities)
    return 1 - ((probabilities * lines).flatten(1).sum(1) + settings.smooth) / (lines.flatten(1).sum(1) + settings.smooth)


def _soft_skeleton(x: Tensor, steps: int) -> Tensor:
    def opened(x: Tensor) -> Tensor:
        return functional.max_pool3d(_eroded(x), 3, stride=1, padding=1)

    skeleton = functional.relu(x - opened(x))
    for _ in range(steps):
        x = _eroded(x)
        rest = functional.relu(x - opened(x))
        skeleton = skeleton + functional.relu(rest - skeleton * rest)
    return skeleton


def _eroded(x: Tensor) -> Tensor:
    """Return the minimum over each voxel and its six neighbours."""
    along = [-functional.max_pool3d(-x, kernel, stride=1, padding=[k // 2 for k in kernel]) for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3))]
    return torch.minimum(torch.minimum(along[0], along[1]), along[2])


def _centre_line(mask: Tensor) -> Tensor:
    from skimage.morphology import skeletonize

    array = mask.cpu().numpy() > 0
    if not array.any():
        return torch.zeros(mask.shape)
    flat = array[0] if len(array) == 1 else array
    line = ndimage.binary_dilation(skeletonize(flat), iterations=2) & flat
    return torch.from_numpy(np.reshape(line, array.shape).astype(np.float32))
