"""Attention over channels and voxels, after any block: `ATTENTIONS[name](parts, channels, kernel)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from autoseg.networks.parts import Parts, average_over

LEAST_HIDDEN = 4  # features, at least, between the two layers of a gate


class Squeeze(nn.Module):
    """One gate per channel, from the means of all channels. Source: Hu et al. 2018, arXiv:1709.01507."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int] = ()) -> None:
        super().__init__()
        hidden = max(LEAST_HIDDEN, channels // parts.architecture.reduction)
        self.layers = nn.Sequential(parts.convolution(channels, hidden), nn.ReLU(), parts.convolution(hidden, channels))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gates `(n, channels, 1, ...)`."""
        return torch.sigmoid(self.layers(average_over(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, each channel multiplied by its gate."""
        return x * self.gate(x)


class SqueezeBoth(nn.Module):
    """Gates per channel, and one gate per voxel; the two results are added. Source: Roy et al. 2018, arXiv:1803.02579."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int] = ()) -> None:
        super().__init__()
        self.channels = Squeeze(parts, channels)
        self.voxels = parts.convolution(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the map gated by channel and by voxel."""
        y: Tensor = self.channels(x) + x * torch.sigmoid(self.voxels(x))
        return y


class EfficientChannels(nn.Module):
    """One gate per channel, from the means of its neighbours in the list. Source: Wang et al. 2020, arXiv:1910.03151."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int] = ()) -> None:
        super().__init__()
        size = int(abs(math.log2(channels) / 2 + 0.5))
        size += 1 - size % 2
        self.layer = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, each channel multiplied by its gate."""
        means = average_over(x)
        gates = torch.sigmoid(self.layer(means.flatten(1)[:, None]))
        return x * gates.reshape(means.shape)


class ConvolutionalAttention(nn.Module):
    """Gates per channel from mean and maximum, then gates per voxel from mean and maximum. Source: Woo et al. 2018, arXiv:1807.06521.

    The kernel over voxels is 7 in two dimensions, as there, and 3 in three: 7 x 7 x 7 would take as long as the whole network.
    """

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        hidden = max(LEAST_HIDDEN, channels // parts.architecture.reduction)
        self.layers = nn.Sequential(parts.convolution(channels, hidden), nn.ReLU(), parts.convolution(hidden, channels))
        self.voxels = parts.convolution(2, 1, kernel=parts.kernel(kernel, 7 if parts.dimensions == 2 else 3), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, multiplied by both gates."""
        most = x.flatten(2).amax(dim=2).view(*x.shape[:2], *(1,) * (x.dim() - 2))
        x = x * torch.sigmoid(self.layers(average_over(x)) + self.layers(most))
        seen = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.voxels(seen))


def _nothing(parts: Parts, channels: int, kernel: Sequence[int]) -> nn.Module:
    return nn.Identity()


ATTENTIONS: Mapping[str, Callable[[Parts, int, Sequence[int]], nn.Module]] = {
    "none": _nothing,
    "se": Squeeze,
    "scse": SqueezeBoth,
    "eca": EfficientChannels,
    "cbam": ConvolutionalAttention,
}
