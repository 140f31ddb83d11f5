"""batchgenerators as the backend of the intensity transforms: `--set augmentation.backend=batchgenerators`.

Spatial transforms and mirroring stay with `augmentation`, which knows about labels, left and right. batchgenerators works on
the CPU and draws from the global generators of Python and numpy, which are seeded for the call and put back afterwards. Two things
stay its own: brightness is uniform over its range instead of half below 1, half above, and the kernel of the blur is longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.training.augmentation import in_plane_only
from autoseg.training.settings import AugmentationSettings


def require(settings: AugmentationSettings) -> None:
    """Raise unless batchgenerators is installed.

    Raises
    ------
    SettingsError : batchgenerators is not installed
    """
    _transforms(settings, thick_slices=False)


def augment(image: Tensor, *, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Return a batch `(n, c, z, y, x)` after intensity transforms in the reference's order.

    Raises
    ------
    SettingsError : batchgenerators is not installed
    """
    device = image.device
    array = image.cpu().numpy().copy()
    z, y, x = image.shape[2:]
    planar = z == 1
    transforms = _transforms(settings, thick_slices=not planar and in_plane_only((z, y, x), settings))
    data = {"data": array[:, :, 0] if planar else array}
    with _seeded(int(torch.randint(1 << 31, (), generator=generator))):
        for transform in transforms:
            data = transform(**data)
    array = data["data"][:, :, None] if planar else data["data"]
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)


def mirroring_only(settings: AugmentationSettings) -> AugmentationSettings:
    """Return the settings without the transforms that were applied here."""
    return dataclasses.replace(
        settings, noise=0.0, blur=0.0, brightness=0.0, contrast=0.0, low_resolution=0.0, gamma_inverted=0.0, gamma=0.0
    )


def _transforms(s: AugmentationSettings, *, thick_slices: bool) -> list[Any]:
    try:
        from batchgenerators.transforms.color_transforms import (
            BrightnessMultiplicativeTransform,
            ContrastAugmentationTransform,
            GammaTransform,
        )
        from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
        from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
    except ImportError:
        raise SettingsError(
            "batchgenerators is not installed",
            found="augmentation.backend = batchgenerators",
            fix="pip install batchgenerators, or leave the backend at torch",
        ) from None
    return [
        GaussianNoiseTransform(noise_variance=s.noise_sigma, p_per_sample=s.noise),
        GaussianBlurTransform(
            s.blur_sigma, different_sigma_per_channel=True, different_sigma_per_axis=True, p_per_sample=s.blur, p_per_channel=s.channel
        ),
        BrightnessMultiplicativeTransform(multiplier_range=s.brightness_range, p_per_sample=s.brightness),
        ContrastAugmentationTransform(contrast_range=s.contrast_range, p_per_sample=s.contrast),
        SimulateLowResolutionTransform(
            zoom_range=s.low_resolution_range,
            per_channel=True,
            p_per_channel=s.channel,
            order_downsample=0,
            order_upsample=1,
            p_per_sample=s.low_resolution,
            ignore_axes=(0,) if thick_slices else None,
        ),
        GammaTransform(s.gamma_range, True, True, retain_stats=True, p_per_sample=s.gamma_inverted),
        GammaTransform(s.gamma_range, False, True, retain_stats=True, p_per_sample=s.gamma),
    ]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - the only generators that batchgenerators knows
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
