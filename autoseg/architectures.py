"""What a network is, without torch: one record each, from which counts, choices, validation, reasons and tests follow.

To add a network, write its class in a file of `networks/` and its record here. Every network is a U-Net of `networks.unet` with a block,
a skip or a bottleneck of its own; its record counts the convolutions of one encoder block, from which parameters, feature maps, time and
memory are planned. A test builds every network of `ARCHITECTURES` and compares.

A network of a user's own is named "module:callable" in place of one of these: `train --set architecture=...`, or `network.kind` of a
preset. It is called as `networks.unet.UNet` is, and counted by the record in its attribute `architecture`, else as the plain U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoseg import extensions


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution of a network, plain or transposed, as the counts need it. A pooling is one without weights: kernel 0."""

    inputs: int  # channels
    outputs: int  # channels
    kernel: int  # weights per pair of channels
    voxels: int  # of its output; of its input if it is transposed
    bias: bool = True
    normed: bool = True  # followed by a norm with two weights per channel


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the encoder a block is."""

    inputs: int  # channels
    outputs: int  # channels
    kernel: int  # weights per pair of channels: 27 for 3 x 3 x 3
    voxels: int  # of its output
    strided: bool  # whether it halves an axis


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network, described without importing it."""

    module: str  # "module:class"; built with the planned numbers of `networks.unet.UNet`
    words: str  # what its encoder is made of, for reasons: "16 residual blocks in the encoder"
    short: str  # for lists: "patch 32 x 32 x 32, batch 2, 16 features, residual"
    block: Callable[[Place], Iterator[Convolution]]  # the convolutions of one encoder block, in order
    stem: bool = False  # whether a convolution to the first width comes before the blocks
    further: Callable[[int, int, int], Iterator[Convolution]] | None = None  # (width, kernel, voxels) of the lowest stage: a bottleneck


def _plain(at: Place) -> Iterator[Convolution]:
    yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)


def _residual(at: Place) -> Iterator[Convolution]:
    yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)
    yield Convolution(inputs=at.outputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)
    if at.inputs != at.outputs:
        yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=1, voxels=at.voxels, bias=False)
    elif at.strided:
        yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=0, voxels=at.voxels, bias=False, normed=False)


ARCHITECTURES: Mapping[str, Architecture] = {
    "unet": Architecture(module="autoseg.networks.unet:UNet", words="convolutions", short="", block=_plain),
    "residual_unet": Architecture(
        module="autoseg.networks.residual_unet:ResidualUNet", words="residual blocks", short="residual", block=_residual, stem=True),
}  # fmt: skip


def known(name: str) -> tuple[str, ...]:
    """Return the names that a network can have; that of a user's own is among them.

    Raises
    ------
    SettingsError : it is a user's own, and cannot be imported
    """
    if not extensions.is_own(name):
        return tuple(ARCHITECTURES)
    load(name)
    return (*ARCHITECTURES, name)


def record(name: str) -> Architecture:
    """Return the record of a network; that of a user's own is imported."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    found: Architecture = getattr(load(name), "architecture", ARCHITECTURES["unet"])
    return found


def load(name: str) -> Callable[..., Any]:
    """Return the class of a network; this imports torch.

    Raises
    ------
    SettingsError : it is a user's own, and cannot be imported
    """
    return extensions.load(ARCHITECTURES[name].module if name in ARCHITECTURES else name, what="network")
