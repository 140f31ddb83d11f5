"""Blocks that mix voxels and channels in turn: ConvNeXt, separable and inverted convolutions, PoolFormer, shifted perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts import Parts


def convnext(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return MedNeXt blocks of one width. Source: Roy et al. 2023, arXiv:2303.09975.

    Where the widths differ a projection comes first; MedNeXt itself changes them in its blocks down and up.
    """
    expansion = parts.architecture.expansion_at(stage)
    first = [] if inputs == outputs else [parts.convolution(inputs, outputs)]
    return nn.Sequential(*first, *(MedNeXt(parts, outputs, outputs, kernel, expansion) for _ in range(count)))


class MedNeXt(nn.Module):
    """Depthwise convolution, norm, 1 x 1 to `expansion` times the width, GELU, 1 x 1 back, plus the input.

    Parameters
    ----------
    stride : of the depthwise convolution, with a shortcut of a strided 1 x 1 convolution; None: the shape and the width stay
    up : whether the strided convolution is transposed
    """

    def __init__(
        self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int], expansion: int, *, stride: Sequence[int] | None = None,
        up: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.up, self.stride = up, tuple(stride or parts.ones)
        self.shortcut: nn.Module | None = None
        if up:
            self.depthwise = parts.depthwise(inputs, kernel=kernel, stride=self.stride, transposed=True)
            self.shortcut = parts.transposed(inputs, outputs, kernel=parts.ones, stride=self.stride)
        else:
            self.depthwise = parts.depthwise(inputs, kernel=kernel, stride=self.stride)
            self.shortcut = None if stride is None else parts.convolution(inputs, outputs, stride=self.stride)
        # one group per channel, as there; the group norm of the plan would mix the channels before they are mixed
        self.norm = parts.each_channel(inputs)
        self.expand, self.compress = parts.convolution(inputs, expansion * inputs), parts.convolution(expansion * inputs, outputs)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, outputs, *shape)`, the shape divided by the stride, or multiplied with `up`."""
        y = self.compress(self.activation(self.expand(self.norm(self.depthwise(x)))))
        return y + (x if self.shortcut is None else self.shortcut(x))


def separable(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return depthwise and 1 x 1 convolutions, each with norm and activation. Source: Howard et al. 2017, arXiv:1704.04861."""
    layers: list[nn.Module] = []
    for width in [inputs] + [outputs] * (count - 1):
        layers += [parts.depthwise(width, kernel=kernel, bias=False), parts.normalization(width), parts.activation()]
        layers += parts.unit(width, outputs)
    return nn.Sequential(*layers)


def inverted(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return inverted residual blocks. Source: Sandler et al. 2018, arXiv:1801.04381."""
    expansion = parts.architecture.expansion_at(stage)
    return nn.Sequential(*(_Inverted(parts, width, outputs, kernel, expansion) for width in [inputs] + [outputs] * (count - 1)))


class _Inverted(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int], expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = inputs == outputs
        self.branch = nn.Sequential(
            *parts.unit(inputs, hidden),
            parts.depthwise(hidden, kernel=kernel, bias=False),
            parts.normalization(hidden),
            parts.activation(),
            *parts.unit(hidden, outputs, activation=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.residual else y


def pool_mixer(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return PoolFormer blocks: a mean over neighbours, then a perceptron per voxel. Source: Yu et al. 2022, arXiv:2111.11418."""
    expansion = parts.architecture.expansion_at(stage)
    first = [] if inputs == outputs else [parts.convolution(inputs, outputs)]
    return nn.Sequential(*first, *(_PoolMixer(parts, outputs, kernel, expansion) for _ in range(count)))


class _PoolMixer(nn.Module):
    def __init__(self, parts: Parts, width: int, kernel: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.border = tuple(k // 2 for k in reversed(kernel) for _ in range(2))  # edges are repeated
        self.pool = parts.layer("AvgPool")(tuple(kernel), 1)
        self.before_pool, self.before_perceptron = parts.normalization(width), parts.normalization(width)
        self.perceptron = nn.Sequential(parts.convolution(width, expansion * width), nn.GELU(), parts.convolution(expansion * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before_pool(x)
        x = x + (self.pool(functional.pad(y, self.border, mode="replicate")) - y)
        z: Tensor = x + self.perceptron(self.before_perceptron(x))
        return z


def shifted_mlp(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return tokenised perceptrons over shifted channels. Source: Valanarasu and Patel 2022, arXiv:2203.04967."""
    first = [] if inputs == outputs else [parts.convolution(inputs, outputs)]
    return nn.Sequential(*first, *(_ShiftedPerceptron(parts, outputs, kernel) for _ in range(count)))


class _ShiftedPerceptron(nn.Module):
    """Five groups of channels shifted by -2 to 2 along one axis after another, each time a 1 x 1 convolution; plus the input."""

    def __init__(self, parts: Parts, width: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.norm = parts.normalization(width)
        self.linear = nn.ModuleList(parts.convolution(width, width) for _ in range(parts.dimensions))
        self.depthwise, self.activation = parts.depthwise(width, kernel=kernel), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        for axis, linear in enumerate(self.linear):
            y = linear(_shifted(y, axis + 2))
            if axis == 0:
                y = self.activation(self.depthwise(y))
        return x + y


def _shifted(x: Tensor, axis: int) -> Tensor:
    """Return the map with five groups of channels shifted by -2, -1, 0, 1, 2 voxels along an axis, zeros moving in."""
    found = []
    for step, group in zip(range(-2, 3), x.tensor_split(5, dim=1), strict=True):
        edge = x.shape[axis]
        step = max(-edge, min(step, edge))
        kept = group.narrow(axis, max(-step, 0), edge - abs(step))
        gap = torch.zeros_like(group.narrow(axis, 0, abs(step)))
        found.append(torch.cat((gap, kept) if step > 0 else (kept, gap), dim=axis) if step else group)
    return torch.cat(found, dim=1)
