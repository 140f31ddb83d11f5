"""Every score against a slow and obvious one, and against the figures published with the reference code."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure

from autoseg.metrics import (
    METRICS,
    Comparison,
    bootstrap_interval,
    boundary,
    confusion,
    lesions,
    mean_of_means,
    overlap,
    overlap_of,
    rand_score,
    surface_distances,
    surfaces,
)

SPACING = (3.0, 1.0, 2.0)


def blob(seed: int, shape: tuple[int, int, int] = (6, 9, 8)) -> np.ndarray:
    """An irregular mask of one large piece and some specks; never empty."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.03
    centre = [rng.uniform(0.3, 0.7) * n for n in shape]
    radius = [rng.uniform(0.15, 0.4) * n for n in shape]
    grid = np.indices(shape)
    mask |= sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1
    return mask | (np.indices(shape).sum(axis=0) == 0)


def test_overlap_counts_voxels_one_by_one():
    first, second = blob(1), blob(2)
    tp = sum(a and b for a, b in zip(first.flat, second.flat, strict=True))
    fp = sum(a and not b for a, b in zip(first.flat, second.flat, strict=True))
    fn = sum(b and not a for a, b in zip(first.flat, second.flat, strict=True))
    counted = overlap(first, second)
    assert (counted.tp, counted.fp, counted.fn) == (tp, fp, fn) and tp and fp and fn
    assert counted.dice == 2 * tp / (2 * tp + fp + fn)
    assert counted.iou == tp / (tp + fp + fn)
    assert counted.volume_error == pytest.approx((first.sum() - second.sum()) / second.sum())


def test_two_empty_masks_have_no_score():
    nothing = np.zeros((2, 3, 4), dtype=bool)
    counted = overlap(nothing, nothing)
    assert counted.dice is None and counted.iou is None and counted.volume_error is None


def test_a_mask_against_nothing_scores_zero():
    nothing, something = np.zeros((2, 3, 4), dtype=bool), np.ones((2, 3, 4), dtype=bool)
    assert overlap(something, nothing).dice == overlap(nothing, something).dice == 0
    assert overlap(something, nothing).volume_error is None
    assert overlap(nothing, something).volume_error == -1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("classes", [3, 300])
def test_confusion_counts_pairs_one_by_one(dtype, classes):
    rng = np.random.default_rng(0)
    high = min(classes, 200)
    prediction, reference = (rng.integers(0, high, size=(5, 7, 6)).astype(dtype) for _ in range(2))
    expected = np.zeros((classes, classes), dtype=int)
    for p, r in zip(prediction.flat, reference.flat, strict=True):
        expected[int(p), int(r)] += 1
    assert np.array_equal(confusion(prediction[:, ::-1], reference[:, ::-1], classes=classes), expected)


def test_confusion_of_a_volume_of_several_slabs_misses_none():
    prediction = np.ones((3, 1100, 1000), dtype=np.uint8)
    reference = np.zeros_like(prediction)
    reference[-1, -1, -1] = 1
    assert confusion(prediction, reference, classes=2).tolist() == [[0, 0], [prediction.size - 1, 1]]


def test_overlap_of_a_region_is_that_of_its_mask_without_the_ignored_voxels():
    rng = np.random.default_rng(1)
    prediction, reference = rng.integers(0, 4, size=(6, 5, 7)), rng.integers(0, 5, size=(6, 5, 7))
    counts = confusion(prediction, reference, classes=5)
    valid = reference != 4
    expected = overlap(np.isin(prediction, (1, 3))[valid], np.isin(reference, (1, 3))[valid])
    assert overlap_of(counts, (1, 3), ignore=4) == expected
    assert overlap_of(counts, (1, 3)) != expected


# --- surfaces ---


def slow_elements(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Corners between voxels, some of which are inside and some of which are not; corner i lies before voxel i."""
    padded = np.pad(mask, 1)
    found = []
    for place in itertools.product(*(range(n + 1) for n in mask.shape)):
        around = padded[tuple(slice(i, i + 2) for i in place)]
        if around.any() and not around.all():
            found.append(place)
    return found


def slow_distances(elements: list, others: list, spacing: tuple) -> list[float]:
    return [min(math.dist(np.multiply(a, spacing), np.multiply(b, spacing)) for b in others) for a in elements]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_distances_are_those_of_every_pair_of_surface_elements(seed):
    prediction, reference = blob(seed, (4, 6, 5)), blob(seed + 1, (4, 6, 5))
    measured = surface_distances(prediction, reference, SPACING)
    assert measured is not None
    predicted, true = slow_elements(prediction), slow_elements(reference)
    np.testing.assert_allclose(measured.from_prediction, slow_distances(predicted, true, SPACING))
    np.testing.assert_allclose(measured.from_reference, slow_distances(true, predicted, SPACING))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), tolerance=st.sampled_from([0.0, 1.0, 2.5]))
def test_scores_of_surfaces_follow_their_definitions(seed, tolerance):
    measured = surface_distances(blob(seed), blob(seed + 7), SPACING)
    assert measured is not None
    near = total = weighted = 0.0
    sides = ((measured.from_prediction, measured.prediction_areas), (measured.from_reference, measured.reference_areas))
    for distances, areas in sides:
        for distance, area in zip(distances, areas, strict=True):
            total += area
            weighted += distance * area
            near += area * (distance <= tolerance)
    assert measured.nsd(tolerance) == pytest.approx(near / total)
    assert measured.assd == pytest.approx(weighted / total)
    assert measured.hausdorff(100) == max(measured.from_prediction.max(), measured.from_reference.max())
    for distances, areas in sides:
        within = sum(area for distance, area in zip(distances, areas, strict=True) if distance <= measured.hausdorff(95) + 1e-9)
        assert within >= 0.95 * areas.sum() - 1e-6


def test_two_voxels_apart_as_published():
    """google-deepmind/surface-distance, surface_distance_test.py, test_on_2_pixels_2mm_away."""
    true, predicted = np.zeros((128, 128, 128), dtype=bool), np.zeros((128, 128, 128), dtype=bool)
    true[50, 60, 70] = predicted[50, 60, 72] = True
    measured = surface_distances(predicted, true, (3.0, 2.0, 1.0))
    assert measured is not None
    assert measured.assd == pytest.approx(1.5) and measured.nsd(1.0) == pytest.approx(0.5)
    assert measured.hausdorff(100) == measured.hausdorff(95) == pytest.approx(2.0)


def test_two_slabs_shifted_by_one_voxel_as_published():
    """The same file, test_two_cubes_shifted_by_one_pixel: the slabs touch the border, beyond which lies background."""
    true, predicted = np.zeros((100, 100, 100), dtype=bool), np.zeros((100, 100, 100), dtype=bool)
    true[0:50] = predicted[0:51] = True
    measured = surface_distances(predicted, true, (2.0, 1.0, 1.0))
    assert measured is not None
    from_true = np.average(measured.from_reference, weights=measured.reference_areas)
    from_predicted = np.average(measured.from_prediction, weights=measured.prediction_areas)
    assert (round(from_true, 3), round(from_predicted, 3)) == (0.322, 0.339)
    assert round(measured.nsd(1.0), 3) == 0.836 and measured.hausdorff(95) == 2.0


def test_planar_images_have_contours_as_published():
    """The same file, test_two_squares_shifted_by_one_pixel in 2D, by hand: lengths of diagonals, horizontals and verticals."""
    true, predicted = np.zeros((1, 6, 6), dtype=bool), np.zeros((1, 6, 6), dtype=bool)
    true[0, 1:3, 1:3] = predicted[0, 1:4, 1:3] = True
    measured = surface_distances(predicted, true, (1.0, 2.0, 1.0))
    assert measured is not None
    diagonal = 0.5 * math.hypot(2, 1)
    assert sorted(measured.reference_areas) == pytest.approx(sorted([diagonal] * 4 + [1.0] * 2 + [2.0] * 2))
    assert sorted(measured.prediction_areas) == pytest.approx(sorted([diagonal] * 4 + [1.0] * 2 + [2.0] * 4))
    assert sorted(measured.from_reference) == [0] * 7 + [1]
    assert sorted(measured.from_prediction) == [0] * 7 + [2] * 3


def test_a_plate_of_one_slice_in_a_volume_is_no_planar_image():
    true, predicted = np.zeros((5, 6, 7), dtype=bool), np.zeros((5, 6, 7), dtype=bool)
    true[1], predicted[3] = True, True
    measured = surface_distances(predicted, true, SPACING)
    assert measured is not None
    assert measured.hausdorff(95) == 6.0 and measured.assd > 3


def corners(code: int) -> np.ndarray:
    return np.array([code >> bit & 1 for bit in range(8)], dtype=float).reshape(2, 2, 2)


def pieces(code: int) -> list[int]:
    """The parts of the inside that hang together over faces, as codes of their own; of the outside where that is smaller."""
    cube = corners(code)
    parts = measure.label(cube == (1 if cube.sum() <= 4 else 0), connectivity=1)
    return [sum(1 << bit for bit, part in enumerate(parts.ravel()) if part == number) for number in range(1, parts.max() + 1)]


def test_areas_of_surface_elements_are_those_of_marching_cubes():
    areas = surfaces._element_areas((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0
    for code in range(1, 255):
        assert areas[code] == pytest.approx(areas[255 - code]), "inside and outside may change roles"
        if len(pieces(code)) == 1 and len(pieces(255 - code)) == 1:
            vertices, faces, _, _ = measure.marching_cubes(corners(code), 0.5)
            assert areas[code] == pytest.approx(measure.mesh_surface_area(vertices, faces), rel=0.05), "5 %: polygons that are not flat"


def test_corners_that_touch_along_a_diagonal_have_surfaces_of_their_own():
    areas = surfaces._element_areas((3.0, 1.0, 2.0))
    several = [code for code in range(1, 255) if len(pieces(code)) > 1]
    assert len(several) > 50
    for code in several:
        assert areas[code] == pytest.approx(sum(areas[piece] for piece in pieces(code)))


def test_areas_of_flat_faces_and_corners_are_exact():
    z, y, x = 3.0, 1.0, 2.0
    areas = surfaces._element_areas((z, y, x))
    assert areas[0b00001111] == pytest.approx(y * x), "the lower four voxels: a face across z"
    assert areas[0b00110011] == pytest.approx(z * x)
    assert areas[0b01010101] == pytest.approx(z * y)
    a, b, c = (math.hypot(p, q) / 2 for p, q in ((z, y), (y, x), (z, x)))
    half = (a + b + c) / 2
    assert areas[1] == pytest.approx(math.sqrt(half * (half - a) * (half - b) * (half - c))), "Heron's formula for one corner"


def test_the_area_of_a_ball_is_near_that_of_the_formula():
    spacing = (1.5, 1.0, 0.8)
    grid = np.meshgrid(*((np.arange(n) - n / 2) * d for n, d in zip((40, 60, 75), spacing, strict=True)), indexing="ij")
    ball = sum(g**2 for g in grid) < 25.0**2
    measured = surface_distances(ball, ball, spacing)
    assert measured is not None
    vertices, faces, _, _ = measure.marching_cubes(np.pad(ball, 1).astype(float), 0.5, spacing=spacing)
    assert measured.reference_areas.sum() == pytest.approx(measure.mesh_surface_area(vertices, faces), rel=0.01)
    assert measured.reference_areas.sum() == pytest.approx(4 * math.pi * 25.0**2, rel=0.12), "steps of voxels add a tenth"
    assert measured.nsd(0.0) == 1 and measured.assd == 0 and measured.hausdorff() == 0


def test_there_is_no_surface_distance_to_nothing():
    assert surface_distances(blob(0), np.zeros((6, 9, 8), dtype=bool), SPACING) is None
    assert surface_distances(np.zeros((6, 9, 8), dtype=bool), blob(0), SPACING) is None
    assert surface_distances(np.zeros((0, 0, 0), dtype=bool), np.zeros((0, 0, 0), dtype=bool), SPACING) is None


# --- lesions ---


def slow_lesions(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        piece = {left.pop()}
        grown = True
        while grown:
            near = {voxel for voxel in left if any(max(abs(a - b) for a, b in zip(voxel, other, strict=True)) == 1 for other in piece)}
            piece |= near
            left -= near
            grown = bool(near)
        found.append(piece)
    return found


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.1, 0.5]))
def test_lesions_are_counted_as_their_sets_of_voxels_say(seed, share):
    prediction, reference = blob(seed), blob(seed + 3)
    counted = lesions(prediction, reference, overlap=share)
    for mask, other, met, not_met in (
        (reference, prediction, counted.found, counted.missed),
        (prediction, reference, counted.true, counted.false),
    ):
        inside = set(map(tuple, np.argwhere(other).tolist()))
        expected = [len(piece & inside) / len(piece) > share for piece in slow_lesions(mask)]
        assert (met, not_met) == (sum(expected), len(expected) - sum(expected))


def test_lesions_that_flow_together_are_all_found():
    reference, prediction = np.zeros((3, 5, 12), dtype=bool), np.zeros((3, 5, 12), dtype=bool)
    reference[1, 2, 1:4] = reference[1, 2, 6:9] = True
    prediction[1, 2, 1:9] = True
    counted = lesions(prediction, reference)
    assert (counted.recall, counted.precision, counted.f1) == (1, 1, 1)


def test_lesion_scores_of_empty_masks():
    nothing, something = np.zeros((3, 4, 5), dtype=bool), np.ones((3, 4, 5), dtype=bool)
    both, missed, false = lesions(nothing, nothing), lesions(nothing, something), lesions(something, nothing)
    assert (both.recall, both.precision, both.f1) == (None, None, None)
    assert (missed.recall, missed.precision, missed.f1) == (0, None, 0)
    assert (false.recall, false.precision, false.f1) == (None, 0, 0)


# --- means and intervals ---


def slow_mean_of_means(values: np.ndarray) -> float | None:
    means = []
    for column in values.T:
        scores = [v for v in column if not math.isnan(v)]
        if scores:
            means.append(sum(scores) / len(scores))
    return sum(means) / len(means) if means else None


def test_mean_of_means_leaves_out_what_is_missing():
    rng = np.random.default_rng(0)
    values = rng.random((7, 4))
    values[rng.random((7, 4)) < 0.5] = np.nan
    values[:, 2] = np.nan
    assert mean_of_means(values)[0] == pytest.approx(slow_mean_of_means(values))
    drawn = rng.integers(0, 7, size=7)
    weights = np.bincount(drawn, minlength=7)[None].astype(float)
    assert mean_of_means(values, weights)[0] == pytest.approx(slow_mean_of_means(values[drawn]))
    assert np.isnan(mean_of_means(np.full((3, 2), np.nan))).all()


def test_bootstrap_interval_is_that_of_drawing_cases_one_by_one():
    rng = np.random.default_rng(2)
    values = rng.normal(0.8, 0.1, size=(30, 2))
    values[:9, 1] = np.nan
    low, high = bootstrap_interval(values, rng=np.random.default_rng(3), repeats=4000)
    drawn = [slow_mean_of_means(values[rng.integers(0, 30, size=30)]) for _ in range(4000)]
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.004)


def test_one_case_has_no_interval():
    assert bootstrap_interval(np.array([[0.5]]), rng=np.random.default_rng(0)) is None
    assert bootstrap_interval(np.full((3, 1), np.nan), rng=np.random.default_rng(0)) is None


def test_the_surface_dice_does_not_depend_on_where_the_object_is():
    """Two equal cubes one voxel apart at a spacing equal to the tolerance: every surface element is within it, wherever they are."""
    spacing = (0.6, 0.6, 0.6)
    for place in range(40):
        first, second = np.zeros((60, 14, 14), dtype=bool), np.zeros((60, 14, 14), dtype=bool)
        first[place + 1 : place + 9, 3:11, 3:11] = True
        second[place + 2 : place + 10, 3:11, 3:11] = True
        distances = surface_distances(first, second, spacing)
        assert distances is not None and distances.nsd(0.6) == 1.0 and distances.hausdorff(100) == pytest.approx(0.6)


def test_the_boundary_is_what_is_near_the_outside_and_planar_images_have_contours():
    cube = np.zeros((9, 9, 9), dtype=bool)
    cube[1:8, 1:8, 1:8] = True
    inner = np.zeros_like(cube)
    inner[2:7, 2:7, 2:7] = True
    assert np.array_equal(boundary(cube, (1.0, 1.0, 1.0), 1.0), cube & ~inner)
    assert np.array_equal(boundary(cube, (1.0, 1.0, 1.0), 0.2), cube & ~inner), "at least the outermost voxels"
    assert np.array_equal(boundary(cube[3:4], (5.0, 1.0, 1.0), 1.0), (cube & ~inner)[3:4] | (cube[3:4] & ~inner[3:4]))
    assert np.array_equal(boundary(np.ones((3, 4, 5), dtype=bool), (1.0, 1.0, 1.0), 1.0)[1, 1:-1, 1:-1], np.zeros((2, 3), dtype=bool))


def test_boundary_iou_of_two_shells_by_hand():
    mask = np.zeros((1, 9, 9), dtype=bool)
    mask[0, 1:8, 1:8] = True
    smaller = np.zeros_like(mask)
    smaller[0, 2:7, 2:7] = True
    counts = overlap(smaller, mask)
    pair = Comparison(counts=counts, prediction=smaller, reference=mask, spacing=(1, 1, 1), tolerance=1.0, lesion_overlap=0.1)
    assert METRICS["boundary_iou"].score(pair) == 0.0 and counts.dice == pytest.approx(50 / 74)
    deep = dataclasses.replace(pair, tolerance=2.0)  # rings of two voxels: 49 - 9 and 25 - 1, of which 16 are in both
    assert METRICS["boundary_iou"].score(deep) == pytest.approx(16 / (40 + 24 - 16))


def test_specificity_counts_what_neither_mask_has():
    counts = np.array([[50, 3, 1], [4, 20, 2], [0, 0, 0]])
    assert overlap_of(counts, [1]).specificity == pytest.approx(51 / 57)
    assert overlap_of(counts, [1], ignore=2).specificity == pytest.approx(50 / 54)
    full = np.ones((2, 2, 2), dtype=bool)
    assert overlap(full, full).specificity is None


def test_rand_falls_where_a_membrane_is_broken_and_not_where_it_is_moved():
    membrane = np.zeros((2, 21, 21), dtype=bool)
    membrane[:, 10, :] = membrane[:, :, 10] = True  # four cells of 100 in each slice
    assert rand_score(membrane, membrane) == 1.0
    broken = membrane.copy()
    broken[0, 10, 3] = False  # two cells of the first slice become one of 201
    pairs, predicted, true = 8 * 100 * 99, 6 * 100 * 99 + 200 * 199, 8 * 100 * 99
    assert rand_score(broken, membrane) == pytest.approx(2 * pairs / (predicted + true))
    assert rand_score(np.zeros_like(membrane), membrane) == pytest.approx(2 * pairs / (2 * 400 * 399 + true))
    assert rand_score(membrane, np.ones_like(membrane)) is None


def test_lesions_that_are_not_there_are_counted_in_each_case():
    prediction, reference = np.zeros((1, 5, 9), dtype=bool), np.zeros((1, 5, 9), dtype=bool)
    prediction[0, 1, [1, 4, 7]] = reference[0, 1, 1] = True
    pair = Comparison(counts=overlap(prediction, reference), prediction=prediction, reference=reference, spacing=(1, 2, 5),
                      tolerance=2.0, lesion_overlap=0.1)  # fmt: skip
    assert METRICS["false_lesions"].score(pair) == 2.0
    assert METRICS["volume_error_ml"].score(pair) == pytest.approx(0.02)
