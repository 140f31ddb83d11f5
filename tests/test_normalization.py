"""Normalisation schemes give the reference's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import SettingsError
from autoseg.fingerprint import ChannelIntensities
from autoseg.normalization import normalize

CT = ChannelIntensities(mean=10.5, median=0, std=33.25, min=0, max=0, percentile_00_5=-40.0, percentile_99_5=77.0)


@pytest.mark.parametrize(
    ("scheme", "key"), [("zscore", "zscore"), ("zscore_mask", "zscore_mask"), ("ct", "ct"), ("rescale_0_1", "rescale01")]
)
def test_the_numbers_are_those_of_the_reference(golden: Path, scheme: str, key: str) -> None:
    section = json.loads((golden / "golden-numerics.json").read_text())["normalization"]
    image, seg = np.array(section["image"], dtype=np.float32), np.array(section["seg"])
    assert section["props"] == {"mean": CT.mean, "std": CT.std, "percentile_00_5": -40.0, "percentile_99_5": 77.0}
    found, _ = normalize(image, scheme, intensities=CT, mask=seg >= 0)
    np.testing.assert_allclose(found, section[key], rtol=1e-5)


def test_the_input_is_left_alone() -> None:
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    normalize(image, "zscore")
    np.testing.assert_array_equal(image, np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rescale_0_1", "rgb_0_1", "none"])
def test_one_step_of_the_input_becomes_one_factor(scheme: str) -> None:
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    found, factor = normalize(image, scheme, intensities=CT)
    assert factor is not None
    np.testing.assert_allclose(np.diff(found.ravel()), factor, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["zscore", "zscore_mask", "rescale_0_1"])
def test_an_image_without_contrast_stays_finite(scheme: str) -> None:
    found, _ = normalize(np.full((2, 3, 4), 7.0), scheme, mask=np.ones((2, 3, 4), dtype=bool))
    np.testing.assert_array_equal(found, 0)


def test_an_empty_mask_changes_nothing() -> None:
    found, _ = normalize(np.zeros((2, 3, 4)), "zscore_mask", mask=np.zeros((2, 3, 4), dtype=bool))
    np.testing.assert_array_equal(found, 0)


def test_colours_beyond_a_byte_and_unknown_schemes_are_refused() -> None:
    with pytest.raises(SettingsError, match="colour"):
        normalize(np.full((1, 2, 2), 256.0), "rgb_0_1")
    with pytest.raises(SettingsError, match="no such normalisation"):
        normalize(np.zeros((1, 2, 2)), "z-score")
