"""A network's last layer, done once per voxel instead of once per patch and pass.

The last layer of our decoders is a 1 x 1 convolution: each score is a sum of features with weights. The mean of scores over
patches, mirror images and networks is then the same sum of mean features. Where a network has more classes than features, the
features are summed instead of the scores: a hundred classes then take the memory and time of the tiling of the 8 to 32 features.
To rounding the scores are the same; those of bfloat16 are rounded once less.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.networks.blocks import Decoder
from autoseg.tiling import Flips


@dataclass(frozen=True)
class Split:
    """Networks without their last layers, and these."""

    bodies: tuple[nn.Module, ...]  # each gives features `(n, c, z, y, x)`
    weight: Tensor  # (heads, features of all bodies), float32; of the mean over the networks
    bias: Tensor  # (heads,)

    @property
    def features(self) -> int:
        """Channels that are summed."""
        return int(self.weight.shape[1])

    def scores(self, slabs: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Yield the scores `(heads, 1, y, x)` of each slice of mean features `(features, slices, y, x)`, the heads last in memory."""
        for start, slab in slabs:
            for index, plane in enumerate(slab.permute(1, 2, 3, 0)):
                with torch.inference_mode():
                    scores = nn.functional.linear(plane, self.weight, self.bias)  # (y, x, heads)
                yield start + index, scores.permute(2, 0, 1)[:, None]


def split_heads(networks: Sequence[nn.Module], flips: Flips) -> Split | None:
    """Return networks and their last layers apart; None where that saves nothing or cannot be done.

    It cannot where a flip exchanges heads, and in networks of a user's own.
    """
    decoders = [getattr(getattr(network, "body", None), "decoder", None) for network in networks]
    heads = [decoder.heads[-1] for decoder in decoders if isinstance(decoder, Decoder)]
    lasts = [head for head in heads if isinstance(head, (nn.Conv2d, nn.Conv3d))]
    if flips.pairs or len(lasts) < len(networks) or sum(last.in_channels for last in lasts) >= lasts[0].out_channels:
        return None
    count = len(networks)
    weight = torch.cat([last.weight.detach().float().flatten(1) for last in lasts], dim=1) / count
    bias = torch.stack([torch.zeros_like(weight[:, 0]) if last.bias is None else last.bias.detach().float() for last in lasts]).mean(0)
    return Split(tuple(_without_head(network) for network in networks), weight, bias)


def _without_head(network: nn.Module) -> nn.Module:
    """Return the network, sharing all weights, with nothing in the place of its last layer."""
    result = _copied(network)
    result.body = _copied(result.get_submodule("body"))
    result.body.decoder = _copied(result.get_submodule("body.decoder"))
    heads = _copied(result.get_submodule("body.decoder.heads"))
    heads[-1] = nn.Identity()  # type: ignore[operator]
    result.body.decoder.heads = heads
    return result


def _copied(module: nn.Module) -> nn.Module:
    result = copy.copy(module)
    result._modules = dict(module._modules)
    return result
