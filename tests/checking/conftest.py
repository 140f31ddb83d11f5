"""A small data set on disk whose cases a test can spoil one by one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg import images
from autoseg.geometry import affine_from_spacing

Write = Callable[..., None]


@pytest.fixture
def smooth() -> Callable[[int], NDArray[Any]]:
    """An image (12, 14, 16) unlike those of other seeds, with structures large enough for a thumbnail to see."""

    def make(seed: int) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        return np.kron(rng.normal(size=(3, 7, 4)), np.ones((4, 2, 4))).astype(np.float32) * 100

    return make


@pytest.fixture
def write(tmp_path: Path, smooth: Callable[[int], NDArray[Any]]) -> Write:
    """Write one case of a set in nnU-Net v2's layout below `tmp_path`; what is not given is sound."""
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()

    def case(
        name: str, *, seed: int | None = None, image: Any = None, label: Any = None, affine: Any = None, label_affine: Any = None
    ) -> None:
        affine = affine_from_spacing((3, 1, 2)) if affine is None else affine
        seed = zlib.crc32(name.encode()) if seed is None else seed
        array = smooth(seed) if image is None else image
        if label is None:
            label = np.zeros(array.shape, dtype=np.uint8)
            z, y, x = np.random.default_rng(seed).integers((8, 9, 11))
            label[z : z + 4, y : y + 5, x : x + 5] = 1
        images.write_image(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", array[None], affine=affine)
        images.write_image(tmp_path / "labelsTr" / f"{name}.nii.gz", label[None], affine=affine if label_affine is None else label_affine)

    return case


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., Path]:
    """Write the dataset.json and return the folder."""

    def make(channel: str = "T1", **labels: int) -> Path:
        value = {"channel_names": {"0": channel}, "labels": {"background": 0, **(labels or {"lesion": 1})}, "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(value))
        return tmp_path

    return make
