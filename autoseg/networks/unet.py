"""The U-Net that the planner counts with: an encoder of blocks, skips, and the decoder. Source: PlainConvUNet of nnU-Net 2.8.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionBlock, Decoder


class UNet(nn.Module):
    """A U-Net in two or three dimensions; each stage's first block carries the stride, there is no pooling.

    Parameters
    ----------
    dimensions : 2 or 3
    channels : of the input
    heads : of the output
    features : width per stage
    kernels, strides : per stage, one number per dimension; the first stride is all ones
    blocks : blocks per stage of the encoder
    decoder_blocks : convolutions per stage of the decoder, the highest resolution first, one entry fewer
    norm : "group" or "instance"
    block : class of an encoder block, called as `ConvolutionBlock` is
    stem : whether a convolution to the first width comes before the blocks
    """

    def __init__(
        self,
        dimensions: int,
        *,
        channels: int,
        heads: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        blocks: Sequence[int],
        decoder_blocks: Sequence[int],
        norm: str,
        block: Callable[..., nn.Module] = ConvolutionBlock,
        stem: bool = False,
    ) -> None:
        super().__init__()
        ones = (1,) * dimensions
        width = features[0] if stem else channels
        self.stem: nn.Module | None = None
        if stem:
            self.stem = ConvolutionBlock(dimensions, channels, width, kernel=kernels[0], stride=ones, norm=norm)
        self.stages = nn.ModuleList()
        for stage, out in enumerate(features):
            layers = []
            for index in range(blocks[stage]):
                stride = strides[stage] if index == 0 else ones
                layers.append(block(dimensions, width, out, kernel=kernels[stage], stride=stride, norm=norm))
                width = out
            self.stages.append(nn.Sequential(*layers))
        self.decoder = Decoder(
            dimensions, features=features, kernels=kernels, strides=strides, blocks=decoder_blocks, heads=heads, norm=norm
        )

    def forward(self, x: Tensor, *, all_resolutions: bool) -> list[Tensor]:
        """Return logits `(n, heads, *shape)` of `(n, channels, *shape)`, the highest resolution first; only that one unless asked."""
        if self.stem is not None:
            x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return self.decoder(levels, all_resolutions=all_resolutions)
