"""Codes give back what was put in, to within half a step, and blocks read like the array."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest

from autoseg.preprocessing.codes import compress, quantize


def test_a_channel_with_a_far_outlier_is_not_rounded() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 8, 40, 40)).astype(np.float32)
    image[0, 0, 0, 0] = 1e4
    codes, scale, offset = quantize(image, [None])
    assert codes.dtype == np.float32 and scale == [1.0] and offset == [0.0]
    image[0, 0, 0, 0] = 8
    codes, scale, offset = quantize(image, [None])
    assert codes.dtype == np.uint16
    assert np.abs(codes * scale[0] + offset[0] - image).max() <= 0.51 * np.ptp(image) / 65535


def test_few_grey_values_take_one_byte() -> None:
    image = np.arange(256, dtype=np.float32).reshape(1, 4, 8, 8) / np.float32(255)
    codes, scale, offset = quantize(image, [1 / 255])
    assert codes.dtype == np.uint8
    np.testing.assert_allclose(codes * scale[0] + offset[0], image, atol=1e-6)


def test_channels_that_lie_on_steps_and_others_go_together() -> None:
    rng = np.random.default_rng(0)
    image = np.stack([rng.integers(0, 200, size=(4, 9, 11)) * 0.5 - 3, rng.normal(size=(4, 9, 11))]).astype(np.float32)
    codes, scale, offset = quantize(image, [0.5, None])
    assert codes.dtype == np.uint16 and scale[0] == 0.5
    np.testing.assert_array_equal(codes[0] * np.float32(scale[0]) + np.float32(offset[0]), image[0])
    assert np.abs(codes[1] * scale[1] + offset[1] - image[1]).max() <= 0.51 * np.ptp(image[1]) / 65535


def test_a_step_that_the_values_do_not_keep_is_not_believed() -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 9, 11)).astype(np.float32)
    codes, scale, offset = quantize(image, [0.5])
    assert np.abs(codes[0] * scale[0] + offset[0] - image[0]).max() <= 0.51 * np.ptp(image) / 65535


def test_a_constant_channel_is_given_back() -> None:
    codes, scale, offset = quantize(np.full((1, 2, 3, 4), 1.5, dtype=np.float32), [None])
    np.testing.assert_array_equal(codes * scale[0] + offset[0], 1.5)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("shape", [(1, 30, 61, 100), (2, 1, 300, 200), (5, 7, 3)])
def test_compressed_blocks_read_like_the_array(shape: tuple[int, ...], planar: bool) -> None:
    array = np.random.default_rng(0).integers(0, 1000, size=shape).astype(np.uint16)
    packed = blosc2.ndarray_from_cframe(compress(array, planar=planar))
    np.testing.assert_array_equal(packed[()], array)
    part = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in shape)
    np.testing.assert_array_equal(packed[part], array[part])


def test_blocks_for_single_slices_hold_one_slice_and_others_are_cubes() -> None:
    array = np.zeros((1, 60, 256, 250), dtype=np.uint8)
    assert blosc2.ndarray_from_cframe(compress(array, planar=True)).blocks == (1, 1, 128, 125)
    assert blosc2.ndarray_from_cframe(compress(array, planar=False)).blocks == (1, 20, 24, 23)
