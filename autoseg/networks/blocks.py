"""The parts that every architecture is made of: convolution blocks, residual blocks, the decoder with its heads.

All of them work in two or three dimensions: `dimensions` is 2 for planar networks, whose kernels and strides are pairs.
What they are put together to is handled in `unet` and `residual_unet`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.networks.group_norm import GroupNorm, channels_last

NEGATIVE_SLOPE = 0.01  # of LeakyReLU. Source: nnU-Net 2.8.1 (torch's default)
MOST_GROUPS = 8  # of GroupNorm. Source: Myronenko 2018, arXiv:1810.11654 (8 groups in a 3D encoder-decoder)


def convolution(
    dimensions: int, channels_in: int, channels_out: int, *, kernel: Sequence[int], stride: Sequence[int], bias: bool = True
) -> nn.Module:
    """Return a convolution that keeps the shape where the stride is 1: padding `(k - 1) // 2` per axis.

    >>> convolution(2, 1, 8, kernel=(3, 3), stride=(2, 2))
    Conv2d(1, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    """
    padding = tuple((k - 1) // 2 for k in kernel)
    layer = _layer("Conv", dimensions)
    return layer(channels_in, channels_out, tuple(kernel), stride=tuple(stride), padding=padding, bias=bias)


def _layer(name: str, dimensions: int) -> Callable[..., nn.Module]:
    found: Callable[..., nn.Module] = getattr(nn, f"{name}{dimensions}d")
    return found


def normalization(norm: str, channels: int) -> GroupNorm:
    """Return the normalisation layer named in the plan, for any number of channels.

    "group" splits the channels into the largest number of equal groups that divides both the channels and `MOST_GROUPS`: 16 to
    512 channels in steps of 8 give 8 groups, 20 give 4, 7 give 1. "instance" gives every channel a group of its own: the same
    numbers as nn.InstanceNorm with affine, but without the copies that one makes of channels-last tensors.

    >>> normalization("group", 20), normalization("instance", 20)
    (GroupNorm(4, 20), GroupNorm(20, 20))
    """
    groups = {"group": math.gcd(channels, MOST_GROUPS), "instance": channels}[norm]
    return GroupNorm(groups, channels)


class ConvolutionBlock(nn.Module):
    """Convolution, normalisation, LeakyReLU. Source: nnU-Net 2.8.1, ConvDropoutNormReLU without dropout."""

    def __init__(
        self, dimensions: int, channels_in: int, channels_out: int, *, kernel: Sequence[int], stride: Sequence[int], norm: str
    ) -> None:
        super().__init__()
        self.convolution = convolution(dimensions, channels_in, channels_out, kernel=kernel, stride=stride)
        self.norm = normalization(norm, channels_out)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, channels_out, *shape / stride)` of `(n, channels_in, *shape)`."""
        return self.activation(self.norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """Two convolutions next to a shortcut ("ResNet-D": pooled, then projected). Source: nnU-Net 2.8.1, BasicBlockD.

    ::

        x ── convolution ─ norm ─ LeakyReLU ─ convolution ─ norm ── + ── LeakyReLU
         └── average pool (if strided) ─ 1x1 convolution, norm (if the width changes) ──┘
    """

    def __init__(
        self, dimensions: int, channels_in: int, channels_out: int, *, kernel: Sequence[int], stride: Sequence[int], norm: str
    ) -> None:
        super().__init__()
        ones = (1,) * dimensions
        self.first = ConvolutionBlock(dimensions, channels_in, channels_out, kernel=kernel, stride=stride, norm=norm)
        self.second = convolution(dimensions, channels_out, channels_out, kernel=kernel, stride=ones)
        self.norm = normalization(norm, channels_out)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        shortcut: list[nn.Module] = []
        if tuple(stride) != ones:
            shortcut.append(_layer("AvgPool", dimensions)(tuple(stride), tuple(stride)))
        if channels_in != channels_out:
            shortcut.append(convolution(dimensions, channels_in, channels_out, kernel=ones, stride=ones, bias=False))
            shortcut.append(normalization(norm, channels_out))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, channels_out, *shape / stride)` of `(n, channels_in, *shape)`."""
        return self.activation(self.norm(self.second(self.first(x))) + self.shortcut(x))


class DecoderStep(nn.Module):
    """One resolution upwards: transposed convolution, joined with the skip, convolution blocks."""

    def __init__(
        self,
        dimensions: int,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        blocks: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.up = _layer("ConvTranspose", dimensions)(channels_in, channels_out, tuple(stride), stride=tuple(stride))
        ones = (1,) * dimensions
        widths = [2 * channels_out] + [channels_out] * (blocks - 1)
        self.blocks = nn.Sequential(
            *(ConvolutionBlock(dimensions, width, channels_out, kernel=kernel, stride=ones, norm=norm) for width in widths)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the shape of `skip`, `(n, channels_out, *shape * stride)`, of it and `x` `(n, channels_in, *shape)`."""
        return self.blocks(_Join.apply(self.up(x), skip))


class _Join(torch.autograd.Function):
    """Concatenation along the channels whose derivatives are whole tensors, not views into one.

    What follows such a view channels-last works on runs of a few channels: torch's addition then takes 7 ms in place of 2
    for (2, 16, 40, 56, 40) in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        """Return both, one after the other along the channels."""
        ctx.channels = first.shape[1]
        return torch.cat((first, second), dim=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of each, whole."""
        first, second = dy[:, : ctx.channels], dy[:, ctx.channels :]
        if dy.is_contiguous():
            return first, second
        return first.clone(memory_format=channels_last(dy)), second.clone(memory_format=channels_last(dy))


class Decoder(nn.Module):
    """From the bottleneck back to full resolution, with a head of 1x1 convolutions at every resolution on the way.

    A network of a single stage has no step; its one head sits on the encoder.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        blocks: Sequence[int],
        heads: int,
        norm: str,
    ) -> None:
        super().__init__()
        ones = (1,) * dimensions
        stages = len(features)
        self.steps = nn.ModuleList(
            DecoderStep(dimensions, features[i + 1], features[i], kernel=kernels[i], stride=strides[i + 1], blocks=blocks[i], norm=norm)
            for i in reversed(range(stages - 1))
        )  # from the lowest resolution to the highest
        headed = [features[i] for i in reversed(range(stages - 1))] or [features[0]]
        self.heads = nn.ModuleList(convolution(dimensions, width, heads, kernel=ones, stride=ones) for width in headed)

    def forward(self, skips: Sequence[Tensor], *, all_resolutions: bool) -> list[Tensor]:
        """Return logits, the highest resolution first; only that one unless `all_resolutions`.

        Parameters
        ----------
        skips : the output of every stage of the encoder, the highest resolution first
        """
        x = skips[-1]
        if not self.steps:
            return [self.heads[0](x)]
        logits: list[Tensor] = []
        for index, (step, skip) in enumerate(zip(self.steps, reversed(skips[:-1]), strict=True)):
            x = step(x, skip)
            if all_resolutions or index == len(self.steps) - 1:
                logits.append(self.heads[index](x))
        return logits[::-1]
