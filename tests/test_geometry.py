"""Shapes, spacings, affines and orientations, against slow obvious arithmetic."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import GeometryError
from autoseg.geometry import (
    affine_from_spacing,
    bounding_box,
    corner_distance,
    fill_holes,
    inverse_axes,
    nonzero_box,
    orientation_of,
    reorient,
    reoriented_affine,
    resampled_shape,
    spacing_of,
    undo_reorient,
)

ORIENTATIONS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product([1, -1], repeat=3)]
SPACING = (3.0, 0.8, 1.1)


def stored_affine(axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """The affine of a scan whose stored axis i runs along canonical axis axes[i], forwards or backwards."""
    canonical = affine_from_spacing(SPACING)
    affine = np.eye(4)
    for stored, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[:3, stored] = flip * canonical[:3, axis]
    affine[:3, 3] = (-11.0, 7.0, 30.0)
    return affine


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_every_orientation_is_brought_to_canonical_and_back_voxel_by_voxel(axes, flips):
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    affine = stored_affine(axes, flips)
    orientation = orientation_of(affine)
    turned = reorient(array, orientation)
    turned_affine = reoriented_affine(affine, array.shape[1:], orientation)
    assert np.array_equal(undo_reorient(turned, orientation), array)
    assert spacing_of(turned_affine) == SPACING
    assert np.allclose(turned_affine[:3, :3], affine_from_spacing(SPACING)[:3, :3])
    for index in itertools.product(range(0, 4, 3), range(0, 5, 2), range(0, 6, 5)):
        world = affine @ (*index, 1)
        canonical = np.rint(np.linalg.solve(turned_affine, world)[:3]).astype(int)
        assert np.array_equal(array[(slice(None), *index)], turned[(slice(None), *canonical)])


def test_an_oblique_scan_takes_the_nearest_orientation_and_keeps_its_rotation():
    angle = np.deg2rad(17)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = stored_affine((2, 0, 1), (1, -1, 1))
    orientation = orientation_of(rotation @ straight)
    assert orientation == orientation_of(straight)
    assert spacing_of(reoriented_affine(rotation @ straight, (4, 5, 6), orientation)) == pytest.approx(SPACING)


def test_an_affine_with_an_empty_column_is_refused():
    affine = affine_from_spacing(SPACING)
    affine[:, 1] = 0
    with pytest.raises(GeometryError, match="positive"):
        orientation_of(affine)


def test_resampled_shape_keeps_the_extent_within_half_a_voxel_and_never_vanishes():
    generator = np.random.default_rng(1)
    for _ in range(200):
        shape = tuple(int(n) for n in generator.integers(1, 300, 3))
        spacing, target = generator.uniform(0.2, 6, 3), generator.uniform(0.2, 6, 3)
        result = resampled_shape(shape, spacing, target)
        assert min(result) >= 1
        for n, old, new, voxels in zip(shape, spacing, target, result, strict=True):
            assert abs(n * old - voxels * new) <= new / 2 + 1e-9 or voxels == 1


@pytest.mark.parametrize("target", [(0.0, 1, 1), (1, -1, 1), (1, 1)])
def test_resampled_shape_refuses_spacings_that_make_no_sense(target):
    with pytest.raises(GeometryError):
        resampled_shape((4, 5, 6), (1, 1, 1), target)


def test_bounding_box_holds_every_true_voxel_and_no_empty_face():
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[2, 3, 4] = mask[4, 6, 8] = True
    box = bounding_box(mask)
    assert (box.start, box.stop, box.shape) == ((2, 3, 4), (5, 7, 9), (3, 4, 5))
    assert mask[box.slices].sum() == mask.sum()


def test_bounding_box_of_nothing_is_the_whole_array():
    assert bounding_box(np.zeros((3, 4, 5), dtype=bool)).shape == (3, 4, 5)


def snail():
    """A corridor that winds inwards from the border, and a closed room in its middle."""
    mask = np.ones((5, 15, 15), dtype=bool)
    y, x, step = 0, 1, 0
    for length in (13, 12, 10, 10, 8, 8, 6, 6, 4):
        dy, dx = ((1, 0), (0, 1), (-1, 0), (0, -1))[step % 4]
        for _ in range(length):
            mask[2, y, x] = False
            y, x = y + dy, x + dx
        step += 1
    mask[1:4, 7, 7] = False
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_holes_are_filled_as_scipy_does(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(int(n) for n in generator.integers(3, 25, 3))
    noise = ndimage.gaussian_filter(generator.normal(size=shape), (seed % 4) / 2)
    for share in (0.1, 0.3, 0.5, 0.7):
        mask = noise < np.quantile(noise, share)
        assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_a_winding_corridor_is_no_hole_and_a_closed_room_is():
    mask = snail()
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    assert not fill_holes(mask)[2, 4:8, 2:6].all() and fill_holes(mask)[1, 7, 7]
    assert not mask[1, 7, 7]  # the given mask is left alone


def test_the_box_around_what_is_not_zero_does_not_depend_on_holes():
    array = np.zeros((2, 9, 10, 11))
    array[0, 2:7, 3:8, 4:9] = 1
    array[0, 4, 5, 6] = 0
    array[1, 8, 0, 5] = -1
    box, mask = nonzero_box(array)
    assert (box.start, box.stop) == ((2, 0, 4), (9, 8, 9)) and mask[4, 5, 6]
    unfilled_box, unfilled = nonzero_box(array, fill=False)
    assert unfilled_box == box and not unfilled[4, 5, 6]


def test_corner_distance_sees_shift_scale_and_rotation():
    affine = affine_from_spacing((2.0, 1.0, 1.0))
    shifted = affine.copy()
    shifted[:3, 3] += (3, 0, 4)
    assert corner_distance(affine, affine, (10, 10, 10)) == 0
    assert corner_distance(affine, shifted, (10, 10, 10)) == pytest.approx(5)
    assert corner_distance(affine, affine_from_spacing((2.1, 1.0, 1.0)), (11, 10, 10)) == pytest.approx(1.0)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_inverse_axes_undoes_a_transposition(axes):
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(array.transpose(axes).transpose(inverse_axes(axes)), array)
