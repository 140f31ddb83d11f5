"""Builds the network of any `Architecture` in two or three dimensions: an encoder of stages, and one of the decoders of `decoders`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.architectures import Architecture
from autoseg.networks.attention import ATTENTIONS
from autoseg.networks.context import CONTEXTS
from autoseg.networks.decoders import DECODERS
from autoseg.networks.mixers import MedNeXt
from autoseg.networks.parts import Parts, joined
from autoseg.networks.stages import BLOCKS, stack, width_of


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a network is; lists run from the full resolution to the lowest, one number per axis the network sees."""

    channels: int  # of the input
    heads: int  # of the output
    features: tuple[int, ...]  # asked of each stage
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    patch: tuple[int, ...]  # voxels

    def shape(self, stage: int) -> tuple[int, ...]:
        """Return the voxels of a stage along each axis, for the planned patch."""
        shape = self.patch
        for stride in self.strides[: stage + 1]:
            shape = tuple(edge // step for edge, step in zip(shape, stride, strict=True))
        return shape


class Body(nn.Module):
    """The network of an architecture. Called as `networks.unet.UNet` is."""

    def __init__(self, architecture: Architecture, size: Size, *, norm: str) -> None:
        super().__init__()
        parts = Parts(len(size.patch), norm, architecture)
        self.encoder = _LateFusion(parts, size) if architecture.fusion == "late" and size.channels > 1 else Encoder(parts, size)
        self.context = CONTEXTS[architecture.context](parts, self.encoder.widths[-1], size.kernels[-1], size.shape(len(size.features) - 1))
        self.decoder = DECODERS[architecture.topology](parts, size, self.encoder.widths)

    def forward(self, x: Tensor, *, all_resolutions: bool) -> list[Tensor]:
        """Return logits `(n, heads, *shape)` of `(n, channels, *shape)`, the highest resolution first; only that one unless asked."""
        levels, indices = self.encoder(x)
        logits: list[Tensor] = self.decoder([*levels[:-1], self.context(levels[-1])], indices, all_resolutions=all_resolutions)
        return logits


class Encoder(nn.Module):
    """The stages of an encoder; `widths` are the features that each one gives."""

    def __init__(self, parts: Parts, size: Size) -> None:
        super().__init__()
        architecture = parts.architecture
        self.widths: list[int] = []
        self.unpooled = architecture.up == "indices"
        width = size.channels
        self.stem: nn.Module = nn.Identity()
        if architecture.stem != "none":
            kernel = parts.kernel(size.kernels[0]) if architecture.stem == "convolution" else None
            self.stem = parts.unit(width, size.features[0], kernel=kernel) if kernel else parts.convolution(width, size.features[0])
            width = size.features[0]
        self.downs, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage, (asked, planned) in enumerate(zip(size.features, size.kernels, strict=True)):
            name, kernel, count = architecture.blocks_at(stage), parts.kernel(planned), size.blocks[stage]
            down, width, left = self._down(parts, width, asked, stage, size, name, count)
            block = BLOCKS[name](parts, width, asked, kernel=kernel, count=left, stage=stage) if left else nn.Identity()
            width = width_of(block, asked)
            self.downs.append(down)
            self.stages.append(stack([block, ATTENTIONS[architecture.attention](parts, width, planned)]))
            self.widths.append(width)

    def _down(
        self, parts: Parts, width: int, asked: int, stage: int, size: Size, name: str, count: int
    ) -> tuple[nn.Module, int, int]:  # fmt: skip
        """Return the way into a stage, the features it gives, and how many blocks are left to make."""
        stride, architecture = size.strides[stage], parts.architecture
        if stage == 0:
            return nn.Identity(), width, count
        if architecture.down == "max-pool":
            return parts.pool(stride), width, count
        if architecture.down == "block":
            expansion = architecture.expansion_at(stage)
            return MedNeXt(parts, width, asked, parts.kernel(size.kernels[stage]), expansion, stride=stride), asked, count
        if architecture.down == "stride" and name == "convolutions":
            return parts.unit(width, asked, kernel=parts.kernel(size.kernels[stage]), stride=stride), asked, count - 1
        return parts.unit(width, asked, kernel=stride, stride=stride), asked, count

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the map of each stage, and the indices of the poolings between them where the decoder uses them."""
        x = self.stem(x)
        levels: list[Tensor] = []
        indices: list[Tensor] = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            if self.unpooled and levels:
                pool = functional.max_pool2d_with_indices if x.dim() == 4 else functional.max_pool3d_with_indices
                x, index = pool(x, list(cast(tuple[int, ...], down.kernel_size)))
                indices.append(index)
            else:
                x = down(x)
            x = stage(x)
            levels.append(x)
        return levels, indices


class _LateFusion(nn.Module):
    """An encoder for each channel; their maps are joined and projected at every resolution. Source: autoseg."""

    def __init__(self, parts: Parts, size: Size) -> None:
        super().__init__()
        single = replace(size, channels=1)
        encoders = [Encoder(parts, single) for _ in range(size.channels)]
        self.encoders, self.widths = nn.ModuleList(encoders), encoders[0].widths
        self.joins = nn.ModuleList(parts.unit(width * size.channels, width) for width in self.widths)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        found = [encoder(channel)[0] for encoder, channel in zip(self.encoders, torch.split(x, 1, dim=1), strict=True)]
        return [join(joined(maps)) for join, maps in zip(self.joins, zip(*found, strict=True), strict=True)], []
