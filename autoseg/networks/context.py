"""What follows the lowest stage, to see more than its own surroundings: `CONTEXTS[name](parts, channels, kernel, shape)`.

`shape` is that of the map for the planned patch. Only `tokens` is bound to it: it learns a position for each voxel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts import Parts, average_over, joined, resized


class AtrousPyramid(nn.Module):
    """1 x 1, three dilated convolutions and the mean of the map, joined. Source: Chen et al. 2018, arXiv:1802.02611.

    There the rates are 6, 12 and 18 voxels of a map of 33: here the same shares of the map's edge, along each axis.
    """

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        branches = [parts.unit(channels, channels, bias=False)]
        for share in parts.architecture.dilations:
            rates = [max(1, round(share * edge)) if k > 1 else 1 for edge, k in zip(shape, kernel, strict=True)]
            branches.append(parts.unit(channels, channels, kernel=parts.kernel(kernel, 3), dilation=rates, bias=False))
        self.branches = nn.ModuleList(branches)
        # a norm over groups of channels, where the plan's is one per channel, would leave nothing of a single voxel
        self.whole = nn.Sequential(parts.convolution(channels, channels), parts.activation())
        self.project = parts.unit(channels * (len(branches) + 1), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and width."""
        whole = self.whole(average_over(x)).expand(-1, -1, *x.shape[2:])
        y: Tensor = self.project(joined([*(branch(x) for branch in self.branches), whole]))
        return y


class PyramidPooling(nn.Module):
    """Means over ever larger windows, projected, resized and joined with the map. Source: Zhao et al. 2017, arXiv:1612.01105."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        bins = parts.architecture.bins
        self.pools = nn.ModuleList(parts.layer("AdaptiveAvgPool")(tuple(min(size, edge) for edge in shape)) for size in bins)
        width = max(1, channels // len(bins))
        self.project = nn.ModuleList(nn.Sequential(parts.convolution(channels, width), parts.activation()) for _ in bins)
        self.fuse = parts.unit(channels + width * len(bins), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and width."""
        seen = [resized(project(pool(x)), x.shape[2:]) for project, pool in zip(self.project, self.pools, strict=True)]
        y: Tensor = self.fuse(joined([x, *seen]))
        return y


class Tokens(nn.Module):
    """A transformer over the voxels of the map, with learned positions. Source: Chen et al. 2021, arXiv:2102.04306."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        heads = math.gcd(channels, 8)
        self.positions = nn.Parameter(torch.zeros(1, math.prod(shape), channels))
        self.layers = nn.ModuleList(_Layer(channels, heads) for _ in range(parts.architecture.layers))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and width; the shape is that of the planned patch."""
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens).transpose(1, 2).reshape(x.shape).to(x.dtype)


class _Layer(nn.Module):
    """One layer of a transformer, the norm before each part. Source: Dosovitskiy et al. 2021, arXiv:2010.11929."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.together, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, count, width = x.shape
        q, k, v = self.together(self.before_attention(x)).view(n, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, count, width)
        x = x + self.out(seen)
        y: Tensor = x + self.perceptron(self.before_perceptron(x))
        return y


class Positions(nn.Module):
    """Every voxel sees every other one, weighted by likeness. Source: Fu et al. 2019, arXiv:1809.02983; Fan et al. 2020 (MA-Net)."""

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        self.hidden = max(1, channels // 8)
        self.query, self.key = parts.convolution(channels, self.hidden), parts.convolution(channels, self.hidden)
        self.value = parts.convolution(channels, channels)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and width."""
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(query, key, value)
        return x + self.weight.to(x.dtype) * seen.transpose(1, 2).reshape(x.shape)


class Memory(nn.Module):
    """A few slots read the map and every voxel reads the slots: attention whose cost is linear in the voxels.

    Source: autoseg; the slots are those of Jaegle et al. 2021, arXiv:2103.03206, read back by the voxels.
    """

    def __init__(self, parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(1, parts.architecture.slots, channels) / math.sqrt(channels))
        self.norm = nn.LayerNorm(channels)
        self.key, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.query, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and width."""
        voxels = self.norm(x.flatten(2).transpose(1, 2))
        slots = self.slots.expand(len(x), -1, -1).to(voxels.dtype)
        key, value = self.key(voxels), self.value(voxels)
        slots = slots + functional.scaled_dot_product_attention(slots.to(key.dtype), key, value)
        seen = functional.scaled_dot_product_attention(self.query(voxels), slots.to(key.dtype), slots.to(key.dtype))
        return x + self.out(seen).transpose(1, 2).reshape(x.shape).to(x.dtype)


def _nothing(parts: Parts, channels: int, kernel: Sequence[int], shape: Sequence[int]) -> nn.Module:
    return nn.Identity()


CONTEXTS: Mapping[str, Callable[[Parts, int, Sequence[int], Sequence[int]], nn.Module]] = {
    "none": _nothing,
    "aspp": AtrousPyramid,
    "pyramid-pooling": PyramidPooling,
    "tokens": Tokens,
    "positions": Positions,
    "memory": Memory,
}
