"""The blocks of encoders and decoders, one function each, in `BLOCKS`: `make(parts, inputs, outputs, kernel=, count=, stage=)`.

A function returns a module from `(n, inputs, *shape)` to `(n, outputs, *shape)` made of `count` blocks. Its attribute `width`, where it
has one, says how many features it really gives: MultiRes gives other widths than those asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from autoseg.networks.mixers import convnext, inverted, pool_mixer, separable, shifted_mlp
from autoseg.networks.parts import Parts, joined


def convolutions(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return units of convolution, norm and activation. Source: Ronneberger et al. 2015, arXiv:1505.04597."""
    widths = [inputs] + [outputs] * (count - 1)
    return nn.Sequential(*(parts.unit(width, outputs, kernel=kernel) for width in widths))


def residual(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return residual blocks of two convolutions, the activation after the sum. Source: He et al. 2016, arXiv:1512.03385."""
    widths = [inputs] + [outputs] * (count - 1)
    return nn.Sequential(*(_Residual(parts, width, outputs, kernel) for width in widths))


def pre_residual(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return residual blocks with norm and activation before each convolution. Source: Zhang et al. 2018, arXiv:1711.10684."""
    widths = [inputs] + [outputs] * (count - 1)
    return nn.Sequential(*(_PreResidual(parts, width, outputs, kernel) for width in widths))


def chain(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return a chain of convolutions to whose result the input is added. Source: Milletari et al. 2016, arXiv:1606.04797.

    Where the widths differ the input is repeated along the channels if that works out, as there for the image, else projected.
    """
    return _Chain(parts, inputs, outputs, kernel, count)


def dense(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return layers that each see all before them, and a transition. Source: Huang et al. 2017, arXiv:1608.06993."""
    return _Dense(parts, inputs, outputs, kernel, count)


def recurrent(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return two recurrent convolutions next to a shortcut. Source: Alom et al. 2018, arXiv:1802.06955."""
    return _Recurrent(parts, inputs, outputs, kernel, count)


def multires(parts: Parts, inputs: int, outputs: int, *, kernel: Sequence[int], count: int, stage: int) -> nn.Module:
    """Return three convolutions in a row, joined, next to a shortcut. Source: Ibtehaz and Rahman 2020, arXiv:1902.04049."""
    return MultiRes(parts, inputs, outputs, kernel)


BLOCKS: Mapping[str, Callable[..., nn.Module]] = {
    "convolutions": convolutions,
    "residual": residual,
    "pre-residual": pre_residual,
    "chain": chain,
    "dense": dense,
    "recurrent": recurrent,
    "multires": multires,
    "convnext": convnext,
    "separable": separable,
    "inverted": inverted,
    "pool-mixer": pool_mixer,
    "shifted-mlp": shifted_mlp,
}


class _Residual(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.first = parts.unit(inputs, outputs, kernel=kernel)
        self.second = parts.unit(outputs, outputs, kernel=kernel, activation=False)
        self.shortcut = nn.Identity() if inputs == outputs else parts.unit(inputs, outputs, activation=False, bias=False)
        self.activation = parts.activation()
        self.begins_as_zero = self.second[1]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return y


class _PreResidual(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            layers += [parts.normalization(width), parts.activation(), parts.convolution(width, outputs, kernel=kernel)]
        if isinstance(layers[1], nn.LeakyReLU | nn.ReLU):
            layers[1].inplace = False  # the shortcut still needs its input
        self.branch = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if inputs == outputs else parts.convolution(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x) + self.shortcut(x)
        return y


class _Chain(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int], count: int) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * (count - 1)
        units = [parts.unit(width, outputs, kernel=kernel, activation=index < count - 1) for index, width in enumerate(widths)]
        self.units = nn.Sequential(*units)
        self.repeats, rest = divmod(outputs, inputs)
        self.projection = parts.convolution(inputs, outputs) if rest or not self.repeats else None
        self.activation = parts.activation()

    def forward(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            shortcut = self.projection(x)
        else:
            shortcut = joined([x] * self.repeats) if self.repeats > 1 else x
        y: Tensor = self.activation(self.units(x) + shortcut)
        return y


class _Dense(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int], count: int) -> None:
        super().__init__()
        growth = parts.architecture.growth
        self.layers = nn.ModuleList(parts.unit(inputs + index * growth, growth, kernel=kernel) for index in range(count))
        self.transition = parts.unit(inputs + count * growth, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = joined([x, layer(x)])
        y: Tensor = self.transition(x)
        return y


class _Recurrent(nn.Module):
    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int], count: int) -> None:
        super().__init__()
        self.projection = parts.convolution(inputs, outputs)
        self.units = nn.ModuleList(parts.unit(outputs, outputs, kernel=kernel) for _ in range(count))
        self.times = parts.architecture.recurrences

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.projection(x)
        for unit in self.units:
            entered, y = y, unit(y)
            for _ in range(self.times):
                y = unit(entered + y)
        return x + y


class MultiRes(nn.Module):
    """Three convolutions in a row of a sixth, a third and a half of the width, joined, plus the projected input."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        shares = multires_widths(outputs, parts.architecture.multires_multiple)
        self.width = sum(shares)
        widths = [inputs, *shares]
        self.units = nn.ModuleList(parts.unit(a, b, kernel=kernel) for a, b in zip(widths[:-1], shares, strict=True))
        self.shortcut = parts.unit(inputs, self.width, activation=False)
        self.joined_norm, self.norm, self.activation = parts.normalization(self.width), parts.normalization(self.width), parts.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, width, *shape)`."""
        maps, y = [], x
        for unit in self.units:
            y = unit(y)
            maps.append(y)
        y = self.joined_norm(joined(maps)) + self.shortcut(x)
        z: Tensor = self.norm(self.activation(y))
        return z


def multires_widths(asked: int, multiple: int) -> tuple[int, int, int]:
    """Return the widths of the three convolutions of a MultiRes block: W/6, W/3, W/2 of W = 1.67 times what is asked for.

    >>> multires_widths(32, 1), multires_widths(32, 8)
    ((8, 17, 26), (8, 16, 24))
    """
    whole = asked * 1.67
    first, second, third = (max(multiple, int(share) // multiple * multiple) for share in (whole * 0.167, whole * 0.333, whole * 0.5))
    return first, second, third


def width_of(block: nn.Module, asked: int) -> int:
    """Return the features that a block gives, where it was asked for `asked`."""
    return int(getattr(block, "width", asked))


def stack(blocks: Sequence[nn.Module]) -> nn.Module:
    """Return modules one after the other, without those that do nothing."""
    return nn.Sequential(*(block for block in blocks if not isinstance(block, nn.Identity)))
