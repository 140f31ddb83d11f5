"""Scans of one kind look alike; those of six other kinds are named. On real scans: benchmarks/unlike_training.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from autoseg.looks import Familiar, Look, measure

SPACING = np.array([1.0, 1.0, 1.0])


def scan(rng: np.random.Generator) -> NDArray[np.float64]:
    """A bright body, brighter at one end, with a dark organ at one side, in noise; of any scale of intensities."""
    shape = 20 + rng.integers(-2, 3), 30 + rng.integers(-3, 4), 24 + rng.integers(-2, 3)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    body = (z**2 + y**2 + x**2 < 0.8 + 0.1 * rng.normal()) * (1 + 0.4 * y)
    organ = (z - 0.3) ** 2 + y**2 + (x + 0.4) ** 2 < 0.1
    noise = gaussian_filter(rng.normal(0, 1, shape), 0.7)
    return np.round(rng.uniform(100, 1000) * (body - 0.6 * organ + 0.2 * noise))


def looked(array: NDArray[np.generic]) -> tuple[Look, NDArray[np.float64]]:
    look = measure(array)
    assert look is not None
    return look, np.array(array.shape) * SPACING


@pytest.fixture(scope="module")
def familiar() -> Familiar:
    rng = np.random.default_rng(0)
    looks, extents = zip(*(looked(scan(rng)) for _ in range(40)), strict=True)
    return Familiar(looks, np.array(extents))


def test_scans_of_the_same_kind_are_familiar(familiar: Familiar) -> None:
    rng = np.random.default_rng(1)
    assert [text for _ in range(100) for text in familiar.unusual(*looked(scan(rng)))] == []


def test_what_is_unlike_the_training_is_named(familiar: Familiar) -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        array = scan(rng)
        strange = {
            "inverted": array.max() - array,
            "noise": rng.normal(0, 1, array.shape),
            "the axes z, y were exchanged": array.transpose(1, 0, 2),
            "mirrored along y": array[:, ::-1],
            "label map": (array > array.mean()).astype(np.uint8),
        }
        for word, other in strange.items():
            assert word in "; ".join(familiar.unusual(*looked(other)))
        assert familiar.unusual(*looked(np.exp(4 * array / array.std())))  # another contrast


def test_a_scan_without_contrast_or_with_infinity_has_no_look() -> None:
    assert measure(np.ones((3, 4, 5))) is None
    assert measure(np.full((3, 4, 5), np.inf)) is None


def test_one_slice_and_few_voxels_have_a_look() -> None:
    look = measure(np.arange(2.0).reshape(1, 1, 2))
    assert look is not None and len(look.thumbnail) == 27 and look.roughness[0] == 0
