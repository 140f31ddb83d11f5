"""Makes the small parts that every network of the family is built from: convolutions, norms, activations, units of the three.

`Parts` is given what holds for a whole network, so that blocks, skips and decoders ask only for what is theirs. The rule that makes
planar, isotropic and anisotropic networks one case: where the planner does not convolve along an axis (kernel 1), nothing does,
and where it does not halve an axis (stride 1), nothing pools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.architectures import Architecture
from autoseg.networks.blocks import NEGATIVE_SLOPE, normalization
from autoseg.networks.depthwise import DepthwiseConvolution
from autoseg.networks.group_norm import GroupNorm, channels_last

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class Parts:
    """What holds for a whole network, and the makers that follow from it."""

    dimensions: int  # 2 or 3
    norm: str  # "group" or "instance"
    architecture: Architecture

    @property
    def ones(self) -> tuple[int, ...]:
        """A kernel or stride that does nothing."""
        return (1,) * self.dimensions

    def layer(self, name: str) -> Callable[..., nn.Module]:
        """Return torch's layer of that name for the dimensions: "Conv" is Conv2d or Conv3d."""
        found: Callable[..., nn.Module] = getattr(nn, f"{name}{self.dimensions}d")
        return found

    def kernel(self, planned: Sequence[int], edge: int | None = None) -> tuple[int, ...]:
        """Return the kernel of the network's blocks, or one of another edge, where the planner's is `planned`: 1 where that is 1."""
        return tuple((edge or self.architecture.kernel) if k > 1 else 1 for k in planned)

    def convolution(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        bias: bool = True,
    ) -> nn.Module:
        """Return a convolution that keeps the shape where the stride is 1; by default one of 1 x 1."""
        kernel, dilation = tuple(kernel or self.ones), tuple(dilation or self.ones)
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        layer = self.layer("Conv")
        return layer(channels_in, channels_out, kernel, stride=tuple(stride or self.ones), padding=padding, dilation=dilation, bias=bias)

    def transposed(
        self, channels_in: int, channels_out: int, *, kernel: Sequence[int], stride: Sequence[int], bias: bool = True
    ) -> nn.Module:
        """Return a transposed convolution whose output is `stride` times as large: the kernel is the stride, or overlaps."""
        padding = tuple(max(k - s + 1, 0) // 2 for k, s in zip(kernel, stride, strict=True))
        beyond = tuple(s - k + 2 * p for k, s, p in zip(kernel, stride, padding, strict=True))
        layer = self.layer("ConvTranspose")
        return layer(channels_in, channels_out, tuple(kernel), stride=tuple(stride), padding=padding, output_padding=beyond, bias=bias)

    def depthwise(
        self, channels: int, *, kernel: Sequence[int], stride: Sequence[int] | None = None, bias: bool = True, transposed: bool = False
    ) -> nn.Module:
        """Return a convolution of each channel by itself."""
        return DepthwiseConvolution(channels, tuple(kernel), tuple(stride or self.ones), bias=bias, transposed=transposed)

    def normalization(self, channels: int) -> GroupNorm:
        """Return the norm of the plan."""
        return normalization(self.norm, channels)

    def each_channel(self, channels: int) -> GroupNorm:
        """Return a norm of each channel by itself, whatever the plan's is."""
        return normalization("instance", channels)

    def activation(self) -> nn.Module:
        """Return the activation of the architecture."""
        return _ACTIVATIONS[self.architecture.activation]()

    def unit(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        activation: bool = True,
        bias: bool = True,
    ) -> nn.Sequential:
        """Return convolution, norm and activation."""
        layers = [
            self.convolution(channels_in, channels_out, kernel=kernel, stride=stride, dilation=dilation, bias=bias),
            self.normalization(channels_out),
        ]
        return nn.Sequential(*layers, *([self.activation()] if activation else []))

    def pool(self, stride: Sequence[int]) -> nn.Module:
        """Return a maximum over windows as large as the stride."""
        return self.layer("MaxPool")(tuple(stride))


def resized(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a map `(n, c, *shape)` by linear interpolation; in the memory format of `x`."""
    if tuple(x.shape[2:]) == tuple(shape):
        return x
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    return functional.interpolate(x, size=tuple(shape), mode=mode, align_corners=False)


def average_over(x: Tensor) -> Tensor:
    """Return the mean over all voxels, `(n, c, 1, ...)`."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return maps of equal shape joined along the channels, channels-last where the first one is."""
    x = torch.cat(list(parts), dim=1)
    return x.contiguous(memory_format=channels_last(x)) if _is_channels_last(parts[0]) else x


def _is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=channels_last(x))


def scaled(strides: Sequence[Sequence[int]], coarse: int, fine: int) -> tuple[int, ...]:
    """Return how many voxels of stage `fine` are one of stage `coarse`, along each axis."""
    return tuple(math.prod(stride[axis] for stride in strides[fine + 1 : coarse + 1]) for axis in range(len(strides[0])))
