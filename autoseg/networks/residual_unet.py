"""The residual-encoder U-Net: residual blocks down, the plain decoder up.

Source: ResidualEncoderUNet of nnU-Net 2.8.1; Isensee et al. 2024, doi:10.1007/978-3-031-72114-4_47.
"""

from __future__ import annotations

from typing import Any

from autoseg.networks.blocks import ResidualBlock
from autoseg.networks.unet import UNet


class ResidualUNet(UNet):
    """A U-Net with a residual encoder, given what `UNet` is given."""

    def __init__(self, dimensions: int, **planned: Any) -> None:
        super().__init__(dimensions, block=ResidualBlock, stem=True, **planned)
