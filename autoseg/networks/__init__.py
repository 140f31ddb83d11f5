"""A `Configuration` becomes a network: the plain U-Net, its residual encoder, any `Architecture` of the family, or one from elsewhere.

`unet` and `residual_unet` are the two that the planner counts with; `body` builds every other architecture from the dictionaries of
`stages`, `attention`, `context`, `resampling` and `decoders`. `checkpoint` keeps weights together with their plan.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoseg import architectures
from autoseg.architectures import NetworkRequest
from autoseg.errors import SettingsError
from autoseg.networks.blocks import NEGATIVE_SLOPE, ResidualBlock
from autoseg.networks.body import Body, Size
from autoseg.networks.foreign import ForeignBody
from autoseg.networks.group_norm import GroupNorm
from autoseg.planning.configuration import Configuration
from autoseg.planning.validation import unknown_names, wrong_lengths


def build(
    configuration: Configuration,
    *,
    channels: int,
    heads: int,
    deep_supervision: bool = True,
    device: str | torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Network:
    """Build the network of a configuration, initialised, in training mode.

    Batches go in and out as `(n, c, z, y, x)`; a planar configuration takes one slice per patch, `(n, c, 1, y, x)`, and uses
    two-dimensional convolutions inside.

    The weights are in the memory format that is fastest on the device, and the network brings its input into that format by
    itself: no `network.to(memory_format=...)` is needed. On a processor that is channels-last. Under
    `torch.autocast("cpu", dtype=torch.bfloat16)` all of it runs in bfloat16.

    Parameters
    ----------
    channels : input channels: those of the image, plus one per foreground label for the second stage of a cascade
    heads : output channels, `Labels.output_channels`
    deep_supervision : whether the network in training mode gives the logits of every resolution of the decoder; in evaluation
        mode it gives the full resolution only
    device : where the network shall live; by default torch's default device, "meta" included
    generator : of the initial weights, on the CPU; torch's own where absent

    Raises
    ------
    SettingsError : an unknown network or norm, stages that do not fit together, or a network from elsewhere that cannot be imported
        or built

    Source: initialisation as in nnU-Net 2.8.1: Kaiming normal for LeakyReLU, biases 0, residual blocks begin as the identity.
    """
    _check(configuration)
    with torch.random.fork_rng(devices=()):  # for what `_initialise` does not know, in a user's own network
        if generator is not None:
            torch.manual_seed(generator.initial_seed())
        network = Network(configuration, channels=channels, heads=heads, deep_supervision=deep_supervision)
    if torch.get_default_device().type != "meta":
        _initialise(network, generator)
    return place(network, device or torch.get_default_device())


def place(network: Network, device: str | torch.device) -> Network:
    """Move a network to a device, in the memory format that is fastest there."""
    if next(network.parameters()).device != torch.device(device):
        network = network.to(device)
    for parameter in network.parameters():  # not network.to(): that refuses the fake tensors with which plans are measured
        if parameter.dim() in (4, 5):
            parameter.data = parameter.data.contiguous(memory_format=network.memory_format)
    return network


class Network(nn.Module):
    """An architecture behind the one convention for batches, `(n, c, z, y, x)`. Made by `build`."""

    def __init__(self, configuration: Configuration, *, channels: int, heads: int, deep_supervision: bool) -> None:
        super().__init__()
        self.planar = configuration.planar
        self.channels = channels
        self.heads = heads
        self.deep_supervision = deep_supervision
        self.body = _body(configuration, channels=channels, heads=heads, deep_supervision=deep_supervision)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and activations. Channels-last on a processor: 1.1 to 1.5 times the speed of contiguous, measured on Zen 4."""
        if next(self.parameters()).device.type != "cpu":
            return torch.contiguous_format
        return torch.channels_last if self.planar else torch.channels_last_3d

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits `(n, heads, z, y, x)` of `(n, channels, z, y, x)`.

        In training mode with deep supervision a list of them, the highest resolution first.
        """
        several = self.training and self.deep_supervision
        if self.planar:
            x = x.squeeze(2)
        logits = self.body(x.contiguous(memory_format=self.memory_format), all_resolutions=several)
        if self.planar:
            logits = [level.unsqueeze(2) for level in logits]
        return logits if several else logits[0]


def _body(c: Configuration, *, channels: int, heads: int, deep_supervision: bool) -> nn.Module:
    """Return what computes, on the axes that the network sees."""
    first = 1 if c.planar else 0
    kernels, strides = (tuple(triple[first:] for triple in triples) for triples in (c.kernel_sizes, c.strides))
    made_of = c.architecture
    if made_of is None:
        body: nn.Module = architectures.load(c.network)(
            3 - first, channels=channels, heads=heads, features=c.features_per_stage, kernels=kernels, strides=strides,
            blocks=c.blocks_per_stage, decoder_blocks=c.decoder_blocks_per_stage, norm=c.norm)  # fmt: skip
        return body
    if made_of.entry:
        request = NetworkRequest(
            dimensions=3 - first, channels=channels, heads=heads, patch_size=c.patch_size[first:], spacing=c.spacing[first:],
            strides=strides, kernel_sizes=kernels, features_per_stage=c.features_per_stage, deep_supervision=deep_supervision)  # fmt: skip
        return ForeignBody(made_of, request)
    size = Size(
        channels=channels, heads=heads, features=c.features_per_stage, kernels=kernels, strides=strides, blocks=c.blocks_per_stage,
        decoder_blocks=c.decoder_blocks_per_stage, patch=c.patch_size[first:])  # fmt: skip
    return Body(made_of, size, norm=c.norm)


def _check(c: Configuration) -> None:
    if faults := [*unknown_names(c), *wrong_lengths(c)]:
        raise SettingsError(
            f"the network of configuration '{c.name}' cannot be built", found="\n".join(faults), fix="correct the plan, or plan again"
        )


def _initialise(network: Network, generator: torch.Generator | None) -> None:
    if isinstance(network.body, ForeignBody):
        return  # as its own code makes it
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in network.modules():
        if isinstance(module, convolutions):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in network.modules():  # these blocks begin as their shortcuts
        last = module.norm if isinstance(module, ResidualBlock) else getattr(module, "begins_as_zero", None)
        if isinstance(last, GroupNorm):
            nn.init.zeros_(last.weight)
