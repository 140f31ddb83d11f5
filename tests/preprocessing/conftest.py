"""A small data set on disk with unequal axes and spacings, and a plan for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from autoseg import images
from autoseg.cases import Case, Channel, Dataset
from autoseg.fingerprint import ChannelIntensities
from autoseg.geometry import Axes, Spacing, affine_from_spacing
from autoseg.labels import Labels, make_labels
from autoseg.planning.configuration import Configuration, Plan

LABELS = make_labels({"background": 0, "organ": 3, "lesion": 7})
SHAPES = ((14, 33, 41), (17, 30, 38), (12, 36, 44), (15, 29, 40))
SPACING = (2.5, 0.9, 1.1)


def phantom(seed: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image `(1, z, y, x)` with a border of zeros, and label values `(z, y, x)`."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    values = np.where(smooth > np.quantile(smooth, 0.9), 7, np.where(smooth > np.quantile(smooth, 0.7), 3, 0)).astype(np.uint8)
    image = (100 + 40 * values + rng.normal(0, 10, size=shape)).astype(np.int16)
    border = np.ones(shape, dtype=bool)
    border[2:-1, 3:-2, 1:-4] = False
    image[border], values[border] = 0, 0
    return image[None], values


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four cases of one channel as NIfTI files."""
    root = tmp_path / "raw"
    cases = []
    for seed, shape in enumerate(SHAPES):
        image, values = phantom(seed, shape)
        affine = affine_from_spacing((SPACING[0] + 0.5 * seed, *SPACING[1:]))
        name = f"case_{seed}"
        images.write_image(root / f"{name}.nii.gz", image, affine=affine)
        images.write_image(root / f"{name}_label.nii.gz", values[None], affine=affine)
        cases.append(Case(name=name, images=(root / f"{name}.nii.gz",), label=root / f"{name}_label.nii.gz"))
    return Dataset(name="small", root=root, recipe="test", channels=(Channel(name="CT", modality="CT"),), labels=LABELS, cases=tuple(cases))


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A plan with the two configurations "3d_fullres" and "2d"."""

    def made(
        *,
        labels: Labels = LABELS,
        spacing: Spacing = (2.0, 1.2, 1.0),
        normalization: tuple[str, ...] = ("ct",),
        axis_order: Axes = (0, 1, 2),
        mean: float = 180.0,
    ) -> Plan:
        common: dict[str, Any] = {
            "spacing": spacing, "median_shape": (14.0, 30.0, 40.0), "patch_size": (8, 16, 16), "batch_size": 2,
            "strides": ((1, 1, 1), (2, 2, 2)), "kernel_sizes": ((3, 3, 3), (3, 3, 3)), "features_per_stage": (4, 8),
            "blocks_per_stage": (1, 1), "decoder_blocks_per_stage": (1,), "network": "unet", "norm": "group",
            "normalization": normalization, "batch_dice": False,
        }  # fmt: skip
        intensities = ChannelIntensities(mean=mean, median=mean, std=50.0, min=0.0, max=500.0, percentile_00_5=60.0, percentile_99_5=400.0)
        channels = tuple(Channel(name=f"{i}", modality="CT") for i in range(len(normalization)))
        return Plan(
            planner="default", planner_values={}, device={}, name="small", channels=channels, labels=labels,
            intensities=(intensities,) * len(channels), axis_order=axis_order,
            configurations=(Configuration(name="3d_fullres", **common), Configuration(name="2d", **common)),
        )  # fmt: skip

    return made
