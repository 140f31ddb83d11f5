"""The plain U-Net: convolution blocks down, transposed convolutions up. Source: PlainConvUNet of nnU-Net 2.8.1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionBlock, Decoder


class UNet(nn.Module):
    """A plain U-Net in two or three dimensions; each stage's first convolution carries the stride, there is no pooling.

    Parameters
    ----------
    dimensions : 2 or 3
    channels : of the input
    heads : of the output
    features : width per stage
    kernels, strides : per stage, one number per dimension; the first stride is all ones
    blocks : convolutions per stage of the encoder
    decoder_blocks : convolutions per stage of the decoder, the highest resolution first, one entry fewer
    norm : "group" or "instance"
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
    ) -> None:
        super().__init__()
        ones = (1,) * dimensions
        self.stages = nn.ModuleList()
        width = channels
        for stage, out in enumerate(features):
            layers = []
            for block in range(blocks[stage]):
                stride = strides[stage] if block == 0 else ones
                layers.append(ConvolutionBlock(dimensions, width, out, kernel=kernels[stage], stride=stride, norm=norm))
                width = out
            self.stages.append(nn.Sequential(*layers))
        self.decoder = Decoder(
            dimensions, features=features, kernels=kernels, strides=strides, blocks=decoder_blocks, heads=heads, norm=norm
        )

    def forward(self, x: Tensor, *, all_resolutions: bool) -> list[Tensor]:
        """`(n, channels, *shape)` to logits `(n, heads, *shape)`, the highest resolution first; only that one unless asked."""
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return self.decoder(skips, all_resolutions=all_resolutions)
