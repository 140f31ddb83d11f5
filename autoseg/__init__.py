"""autoseg: from a folder of medical scans with reference segmentations to a trained, validated, shippable segmentation model."""

from __future__ import annotations

__version__ = "0.1.0"
