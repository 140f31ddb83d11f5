"""The fast way gives the numbers of the slow, obvious one: scipy's splines, and one interpolated volume per label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import resampled_shape
from autoseg.preprocessing import resampling
from autoseg.preprocessing.resampling import anisotropic_axis, resample_image, resample_labels, resample_scores


def slow_axis(array: NDArray[Any], length: int, axis: int, order: int) -> NDArray[np.float64]:
    zoom = [length / n if a == axis else 1.0 for a, n in enumerate(array.shape)]
    return ndimage.zoom(array.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)


def slow_image(channel: NDArray[Any], shape: tuple[int, ...], order: int) -> NDArray[np.float64]:
    zoom = [m / n for m, n in zip(shape, channel.shape, strict=True)]
    grown = ndimage.zoom(channel.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
    return np.clip(grown, channel.min(), channel.max())


def slow_slices(channel: NDArray[Any], shape: tuple[int, ...], axis: int, order: int) -> NDArray[np.float64]:
    plane = tuple(m for a, m in enumerate(shape) if a != axis)
    slices = [slow_image(piece, plane, order) for piece in np.moveaxis(channel, axis, 0)]
    return np.stack([slices[i] for i in slow_nearest(channel.shape[axis], shape[axis])], axis=axis)


def slow_nearest(n: int, m: int) -> list[int]:
    return [int(np.floor(min(max((i + 0.5) * n / m - 0.5, 0), n - 1) + 0.5)) for i in range(m)]


def slow_labels(classes: NDArray[Any], shape: tuple[int, ...], axis: int | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The winner by one volume of shares per label, and where two labels share the first place exactly."""
    present = np.unique(classes)
    if axis is None:
        shares = np.stack([slow_image((classes == label).astype(float), shape, 1) for label in present])
    else:
        shares = np.stack([slow_slices((classes == label).astype(float), shape, axis, 1) for label in present])
    places = [slow_nearest(n, m) for n, m in zip(classes.shape, shape, strict=True)]
    nearest = classes[np.ix_(*places)]
    best = shares.max(axis=0)
    tied = shares > best - 1e-9
    nearest_tied = np.take_along_axis(tied, np.searchsorted(present, nearest)[None], axis=0)[0]
    smallest = present[np.argmax(tied, axis=0)]
    return np.where(nearest_tied, nearest, smallest), tied.sum(axis=0) > 1


def blobs(rng: np.random.Generator, shape: tuple[int, int, int], labels: int) -> NDArray[np.uint8]:
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(labels)])
    return fields.argmax(axis=0).astype(np.uint8)


def cases(golden: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    section = json.loads((golden / "golden-numerics.json").read_text())["resampling"]
    return section, section["cases"]


def test_images_scores_and_labels_are_those_of_the_reference(golden: Path) -> None:
    section, listed = cases(golden)
    data, seg = np.array(section["data"], dtype=np.float32), np.array(section["seg"])[0]
    assert len(listed) == 6
    for case in listed:
        shape = tuple(case["new_shape"])
        axis = anisotropic_axis(case["current_spacing"], case["new_spacing"])
        spread = np.ptp(data)
        np.testing.assert_allclose(resample_image(data, shape, anisotropic_axis=axis), case["data_order3"], rtol=1e-5, atol=1e-6 * spread)
        np.testing.assert_allclose(
            resample_scores(data, shape, anisotropic_axis=axis), case["logits_order1"], rtol=1e-5, atol=1e-6 * spread
        )
        np.testing.assert_array_equal(resample_labels(seg, shape, anisotropic_axis=axis), np.array(case["seg_order1"])[0])


def test_the_separate_axis_is_that_of_the_reference(golden: Path) -> None:
    for row in json.loads((golden / "golden-numerics.json").read_text())["separate_z"]:
        apart, axis = row["result"]
        assert anisotropic_axis(tuple(row["cur"]), tuple(row["new"])) == (axis if apart else None)


def test_the_shape_is_that_of_the_reference(golden: Path) -> None:
    for row in json.loads((golden / "golden-numerics.json").read_text())["new_shape"]:
        assert list(resampled_shape(row["old"], row["osp"], row["nsp"])) == row["new"]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(13, 40, 33), (29, 21, 70), (17, 23, 31), (1, 23, 90), (200, 5, 31)])
def test_images_are_scipys_splines_clipped_to_the_range_of_the_input(shape: tuple[int, int, int], order: int) -> None:
    image = np.random.default_rng(0).normal(100, 30, size=(2, 17, 23, 31)).astype(np.float32)
    fast = resample_image(image, shape, anisotropic_axis=None, order=order)
    for channel, found in zip(image, fast, strict=True):
        np.testing.assert_allclose(found, slow_image(channel, shape, order), atol=1e-6 * np.ptp(channel))
    assert fast.dtype == np.float32 and fast.shape == (2, *shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_across_a_thick_axis_are_never_mixed(axis: int) -> None:
    image = np.random.default_rng(1).normal(size=(1, 9, 14, 11)).astype(np.float32)
    shape = (12, 9, 17)
    found = resample_image(image, shape, anisotropic_axis=axis)[0]
    np.testing.assert_allclose(found, slow_slices(image[0], shape, axis, 3), atol=1e-6 * np.ptp(image))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 90), m=st.integers(1, 90), order=st.sampled_from([1, 3]))
def test_any_pair_of_lengths_gives_scipys_matrix(n: int, m: int, order: int) -> None:
    expected = np.stack([slow_axis(unit[None], m, 1, order)[0] for unit in np.eye(n)], axis=1) if n != m else np.eye(n)
    matrix = np.zeros((m, n))
    for block in resampling._matrix(n, m, order):
        matrix[block.start : block.stop, block.low : block.high] = block.matrix
    np.testing.assert_allclose(matrix, expected, atol=2e-7)


def test_the_matrix_is_banded_however_long_the_axis() -> None:
    blocks = resampling._matrix(40_000, 30_000, 3)
    assert max(block.high - block.low for block in blocks) < 200
    assert sum(block.matrix.nbytes for block in blocks) < 20e6


def test_slabs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).normal(size=(1, 60, 50, 40)).astype(np.float32)
    for shape, axis in (((90, 30, 70), None), ((90, 30, 70), 0), ((31, 77, 90), 2)):
        whole = resample_image(image, shape, anisotropic_axis=axis)
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "_SLAB_BYTES", 1)
            np.testing.assert_allclose(resample_image(image, shape, anisotropic_axis=axis), whole, atol=1e-6)


def test_a_constant_stays_exactly_itself() -> None:
    image = np.full((1, 7, 9, 11), 3.3, dtype=np.float32)
    assert np.unique(resample_image(image, (5, 13, 20), anisotropic_axis=None)) == np.float32(3.3)


def test_the_same_shape_is_left_alone() -> None:
    image, classes = np.ones((1, 3, 4, 5), dtype=np.float32), np.ones((3, 4, 5), dtype=np.uint8)
    assert resample_image(image, (3, 4, 5), anisotropic_axis=None) is image
    assert resample_labels(classes, (3, 4, 5), anisotropic_axis=0) is classes


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(13, 40, 33), (29, 21, 70), (34, 46, 62), (1, 11, 15)])
@pytest.mark.parametrize("labels", [2, 3, 40])
def test_labels_win_by_their_interpolated_share(shape: tuple[int, int, int], axis: int | None, labels: int) -> None:
    classes = blobs(np.random.default_rng(labels), (17, 23, 31), labels)
    expected, _ = slow_labels(classes, shape, axis)
    np.testing.assert_array_equal(resample_labels(classes, shape, anisotropic_axis=axis), expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    old=st.tuples(*[st.integers(1, 6)] * 3),
    new=st.tuples(*[st.integers(1, 8)] * 3),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_label_noise_too_with_ties_to_the_nearest_voxel_then_to_the_smallest(
    seed: int, old: tuple[int, int, int], new: tuple[int, int, int], axis: int | None
) -> None:
    classes = np.random.default_rng(seed).integers(-1, 4, size=old).astype(np.int16)
    found = resample_labels(classes, new, anisotropic_axis=axis)
    expected, _ = slow_labels(classes, new, axis)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


def test_two_hundred_labels_are_weighed_only_where_labels_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is counted, not timed: voxels weighed corner by corner are those of cells whose corners disagree."""
    weighed = 0
    original = resampling._largest_share

    def counting(corners: NDArray[Any], weights: NDArray[np.float64], nearest: NDArray[np.intp]) -> NDArray[Any]:
        nonlocal weighed
        weighed += corners.shape[1]
        return original(corners, weights, nearest)

    monkeypatch.setattr(resampling, "_largest_share", counting)
    few = (np.arange(64)[:, None, None] // 32 + np.zeros((64, 64, 64))).astype(np.uint8)
    many = few + 2 * (np.arange(64)[None, :, None] // 32).astype(np.uint8)
    resample_labels(few, (96, 96, 96), anisotropic_axis=None)
    assert weighed == 2 * 96 * 96  # the two slices whose centres lie between the voxels of two labels
    weighed = 0
    resample_labels(many, (96, 96, 96), anisotropic_axis=None)
    assert weighed < 3 * 2 * 96 * 96
