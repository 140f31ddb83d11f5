"""Focal loss. Source: Lin et al. 2017, arXiv:1708.02002."""

from __future__ import annotations

from torch import Tensor

from autoseg.training.settings import LossSettings

LEAST_ERROR = 2.0**-24  # the smallest float32 above 0 that 1 - p can be


def focal(entropy: Tensor, settings: LossSettings) -> Tensor:
    """Return the cross-entropy of each voxel times its error to the power `focal_gamma`."""
    error = (1 - (-entropy).exp()).clamp(min=LEAST_ERROR)  # rounded, it may be 0 or less: a root has no gradient there
    return error**settings.focal_gamma * entropy
