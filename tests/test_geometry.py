"""Shapes, spacings, affines and orientations, against slow obvious arithmetic."""

import itertools

import numpy as np
import pytest

from autoseg.errors import GeometryError
from autoseg.geometry import (
    affine_from_spacing,
    bounding_box,
    corner_distance,
    inverse_axes,
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
