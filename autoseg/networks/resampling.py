"""The ways down and up between two resolutions, and what a skip passes through: dictionaries `UPS` and `SKIPS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.networks.attention import Squeeze
from autoseg.networks.mixers import MedNeXt
from autoseg.networks.parts import Parts, resized


class Linear(nn.Module):
    """Linear interpolation to `stride` times the shape, and what follows it.

    Source of the following convolution: Alom et al. 2018, arXiv:1802.06955.
    """

    def __init__(self, stride: Sequence[int], after: nn.Module) -> None:
        super().__init__()
        self.stride, self.after = tuple(stride), after

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, outputs, *shape * stride)`."""
        y: Tensor = self.after(resized(x, [edge * step for edge, step in zip(x.shape[2:], self.stride, strict=True)]))
        return y


def _transposed(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    return parts.transposed(inputs, outputs, kernel=stride, stride=stride)


def _overlapping(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    return parts.transposed(inputs, outputs, kernel=[2 * s if s > 1 else 1 for s in stride], stride=stride)


def _linear(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    return Linear(stride, nn.Identity() if inputs == outputs else parts.convolution(inputs, outputs))


def _linear_convolution(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    return Linear(stride, parts.unit(inputs, outputs, kernel=parts.kernel(kernel, 3)))


def _bottlenecked(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    """Source: Chaurasia and Culurciello 2017, arXiv:1707.03718."""
    hidden = max(1, inputs // 4)
    up = _overlapping(parts, hidden, hidden, kernel=kernel, stride=stride, stage=stage)
    return nn.Sequential(
        parts.unit(inputs, hidden, bias=False), up, parts.normalization(hidden), parts.activation(), parts.unit(hidden, outputs, bias=False)
    )


def _block(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> nn.Module:
    expansion = parts.architecture.expansion_at(stage)
    return MedNeXt(parts, inputs, outputs, parts.kernel(kernel), expansion, stride=stride, up=True)


class Unpooling(nn.Module):
    """Puts each value where the pooling of the encoder found it, zeros elsewhere. Source: Badrinarayanan 2017, arXiv:1511.00561."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int], stage: int) -> None:
        super().__init__()
        self.project = nn.Identity() if inputs == outputs else parts.convolution(inputs, outputs)
        self.unpool = parts.layer("MaxUnpool")(tuple(stride))

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """Return `(n, outputs, *shape * stride)` of `(n, inputs, *shape)` and the indices of the pooling."""
        y: Tensor = self.unpool(self.project(x), indices)
        return y


UPS: Mapping[str, Callable[..., nn.Module]] = {
    "transposed": _transposed,
    "overlapping": _overlapping,
    "linear": _linear,
    "linear-convolution": _linear_convolution,
    "bottlenecked": _bottlenecked,
    "indices": Unpooling,
    "block": _block,
}


@dataclass(frozen=True)
class SkipPlace:
    """Where a skip is."""

    asked: int  # features of its stage
    kernel: tuple[int, ...]  # planned
    stride: tuple[int, ...]  # to the resolution below
    length: int  # resolutions below


class PlainSkip(nn.Module):
    """Passes the encoder's map on as it is. A skip gets that, the decoder's map below, and the same once it is as large."""

    def forward(self, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
        """Return the encoder's map."""
        return skip


class Gated(nn.Module):
    """Lets through of the encoder's map what the map below asks for. Source: Oktay et al. 2018, arXiv:1804.03999.

    a = sigmoid(psi(relu(theta(x) + phi(g)))), theta with the stride as kernel; then 1 x 1 and norm of a * x.
    """

    def __init__(self, parts: Parts, channels: int, below: int, at: SkipPlace) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.theta = parts.convolution(channels, hidden, kernel=at.stride, stride=at.stride, bias=False)
        self.phi, self.psi = parts.convolution(below, hidden), parts.convolution(hidden, 1)
        self.out = nn.Sequential(parts.convolution(channels, channels), parts.normalization(channels))

    def forward(self, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
        """Return the encoder's map, weighted."""
        asked = torch.sigmoid(self.psi(torch.relu(self.theta(skip) + self.phi(below))))
        y: Tensor = self.out(skip * resized(asked, skip.shape[2:]))
        return y


class GatedFine(nn.Module):
    """The same at the resolution of the encoder's map, with norms. Source: AttentionBlock of MONAI 1.6."""

    def __init__(self, parts: Parts, channels: int, below: int, at: SkipPlace) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.of_up, self.of_skip = (parts.unit(channels, hidden, activation=False) for _ in range(2))
        self.psi = parts.unit(hidden, 1, activation=False)

    def forward(self, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
        """Return the encoder's map, weighted."""
        return skip * torch.sigmoid(self.psi(torch.relu(self.of_up(up) + self.of_skip(skip))))


class ResidualPath(nn.Module):
    """Convolutions next to 1 x 1 shortcuts, more of them the longer the skip. Source: Ibtehaz and Rahman 2020, arXiv:1902.04049."""

    def __init__(self, parts: Parts, channels: int, below: int, at: SkipPlace) -> None:
        super().__init__()
        self.width = at.asked
        widths = [channels] + [at.asked] * (at.length - 1)
        self.units = nn.ModuleList(parts.unit(width, self.width, kernel=parts.kernel(at.kernel)) for width in widths)
        self.shortcuts = nn.ModuleList(parts.unit(width, self.width, activation=False) for width in widths)
        self.norms = nn.ModuleList(parts.normalization(self.width) for _ in widths)
        self.activation = parts.activation()

    def forward(self, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
        """Return the encoder's map, closer to what the decoder knows."""
        for unit, shortcut, norm in zip(self.units, self.shortcuts, self.norms, strict=True):
            skip = norm(self.activation(unit(skip) + shortcut(skip)))
        return skip


class Squeezed(nn.Module):
    """The encoder's map, weighted per channel by what it and the map from below say. Source: Fan et al. 2020 (MA-Net), IEEE Access 8."""

    def __init__(self, parts: Parts, channels: int, below: int, at: SkipPlace) -> None:
        super().__init__()
        self.of_skip, self.of_up = Squeeze(parts, channels), Squeeze(parts, channels)

    def forward(self, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
        """Return the encoder's map, weighted."""
        return skip * (self.of_skip.gate(skip) + self.of_up.gate(up))


SKIPS: Mapping[str, Callable[..., nn.Module]] = {
    "gated": Gated,
    "gated-fine": GatedFine,
    "residual-path": ResidualPath,
    "squeezed": Squeezed,
}
