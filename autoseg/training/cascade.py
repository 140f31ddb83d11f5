"""The previous stage's label map as input of the cascade's second stage: one channel per foreground class, augmented.

The second stage must not learn to trust the first one blindly, so structures are eroded, dilated and dropped at random.
Source: nnU-Net 2.8.1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.training.settings import CascadeSettings


def augment_previous_stage(channels: Tensor, *, settings: CascadeSettings, generator: torch.Generator) -> Tensor:
    """Return an augmented copy of one-hot channels `(n, c, z, y, x)`.

    Per sample, with the probabilities of the settings: morphology on some channels (voxels newly set are cleared in the others),
    and dropping one small connected component of some channels.
    """
    if channels.shape[1] == 0:
        return channels
    augmented = []
    for sample in channels.cpu().numpy() > 0:
        if _draw(generator) < settings.morphology:
            sample = _morphology(sample, settings, generator)
        if _draw(generator) < settings.drop_component:
            sample = _drop_components(sample, settings, generator)
        augmented.append(sample)
    return torch.from_numpy(np.stack(augmented)).to(channels.device, channels.dtype)


def ball(radius: float, *, planar: bool) -> NDArray[np.bool_]:
    """Return the voxels within `radius` of the centre, a disk in the plane where `planar`."""
    reach = int(radius)
    axis = np.arange(-reach, reach + 1)
    z, y, x = np.meshgrid(axis[[reach]] if planar else axis, axis, axis, indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


def _morphology(sample: NDArray[np.bool_], settings: CascadeSettings, generator: torch.Generator) -> NDArray[np.bool_]:
    operations = (ndimage.binary_dilation, ndimage.binary_erosion, ndimage.binary_closing, ndimage.binary_opening)
    sample = sample.copy()
    for channel in torch.randperm(len(sample), generator=generator).tolist():
        if _draw(generator) >= settings.channel:
            continue
        low, high = settings.morphology_radius
        element = ball(low + (high - low) * _draw(generator), planar=sample.shape[1] == 1)
        operation = operations[int(_draw(generator) * len(operations))]
        before = sample[channel]
        after = operation(before, structure=element)
        added = after & ~before
        sample[:, added] = False
        sample[channel] = after
    return sample


def _drop_components(sample: NDArray[np.bool_], settings: CascadeSettings, generator: torch.Generator) -> NDArray[np.bool_]:
    sample = sample.copy()
    for channel in range(len(sample)):
        if _draw(generator) >= settings.channel:
            continue
        components, count = ndimage.label(sample[channel], structure=np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        small = [i for i in range(1, count + 1) if sizes[i] < settings.drop_below * components.size]
        if small:
            sample[channel][components == small[int(_draw(generator) * len(small))]] = False
    return sample


def _draw(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
