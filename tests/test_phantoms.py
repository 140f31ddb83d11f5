"""Phantoms are what the demo says they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoseg import phantoms
from autoseg.errors import GeometryError
from autoseg.geometry import orientation_of, reorient, reoriented_affine, spacing_of
from autoseg.phantoms import LABELS, make_phantom, make_phantoms, oriented

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases() -> dict[str, phantoms.Phantom]:
    return dict(make_phantoms(10, seed=3))


def world(phantom: phantoms.Phantom, value: int) -> np.ndarray:
    """Places of a structure's voxels, (n, 3) x, y, z in mm."""
    index = np.argwhere(phantom.label == value)
    return (np.c_[index, np.ones(len(index))] @ phantom.affine.T)[:, :3]


def test_shapes_spacings_and_types(cases):
    for phantom in cases.values():
        assert phantom.image.shape == (1, *phantom.label.shape) and phantom.image.dtype == np.int16 and phantom.label.dtype == np.uint8
        z, y, x = spacing_of(phantom.affine)
        assert z / y > 2 and y == x
        assert phantom.image.min() >= 0
    assert len({phantom.label.shape for phantom in cases.values()}) > 7
    assert len({spacing_of(phantom.affine) for phantom in cases.values()}) > 7


def test_every_structure_is_whole_inside_the_volume_and_large_enough_to_be_learned(cases):
    for phantom in cases.values():
        assert set(np.unique(phantom.label)) == set(LABELS.values)
        for value in LABELS.values[1:]:
            place = np.argwhere(phantom.label == value)
            assert (place.min(axis=0) > 0).all() and (place.max(axis=0) < np.array(phantom.label.shape) - 1).all()
            assert len(place) >= 150


def test_the_left_kidney_lies_to_the_left_in_the_world(cases):
    for phantom in cases.values():
        assert world(phantom, 1)[:, 0].max() < world(phantom, 2)[:, 0].min(), "RAS+: x runs to the right"


def test_nothing_but_their_side_tells_the_kidneys_apart():
    """Over many cases neither brightness nor volume nor height differs between the sides by more than chance allows."""
    differences = []
    for _, phantom in make_phantoms(20, seed=11):
        left, right = (phantom.image[0][phantom.label == value] for value in (1, 2))
        heights = [world(phantom, value)[:, 2].mean() for value in (1, 2)]
        differences.append((left.mean() / right.mean() - 1, len(left) / len(right) - 1, heights[0] - heights[1]))
    means, errors = np.mean(differences, axis=0), np.std(differences, axis=0) / np.sqrt(len(differences))
    assert (np.abs(means) < 4 * errors).all()


def test_a_case_is_the_same_whatever_the_count_and_other_seeds_give_others(cases):
    again = dict(make_phantoms(2, seed=3))
    for name, phantom in again.items():
        assert all(np.array_equal(a, b) for a, b in zip(phantom, cases[name], strict=True))
    other = dict(make_phantoms(1, seed=4))["phantom_000"]
    assert other.label.shape != cases["phantom_000"].label.shape or not np.array_equal(other.label, cases["phantom_000"].label)


def test_voxels_at_a_surface_are_partly_covered_as_fine_sampling_says():
    rng = np.random.default_rng(5)
    shape, spacing = (11, 20, 18), (3.0, 1.0, 1.2)
    solid = phantoms._Solid(
        centre=np.array([16.0, 10.0, 10.5]),
        axes=np.array([9.0, 6.0, 5.0]),
        rotation=phantoms._rotation(rng.uniform(-0.5, 0.5, 3)),
        bend=0.3,
        waves=((rng.normal(size=3), 0.3, 0.05),),
    )
    box, coverage = phantoms._coverage(solid, shape, spacing)
    found = np.zeros(shape)
    found[box] = coverage
    fine = 8
    axes = [(np.arange(n * fine) + 0.5) * d / fine for n, d in zip(shape, spacing, strict=True)]
    inside = solid.level(axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]) < 1
    expected = inside.reshape(shape[0], fine, shape[1], fine, shape[2], fine).mean(axis=(1, 3, 5))
    assert ((expected > 0.1) & (expected < 0.9)).sum() > 100
    assert np.abs(found - expected).max() < 0.2 and np.abs(found - expected).mean() < 0.01


@pytest.mark.parametrize(
    "code", ["".join(code) for letters in itertools.product("RL", "AP", "SI") for code in itertools.permutations(letters)]
)
def test_stored_in_any_of_the_48_orders_a_phantom_stays_where_it_is(code):
    phantom = make_phantom(np.random.default_rng(1))
    stored = oriented(phantom, code)
    assert stored.image.shape == (1, *stored.label.shape)
    for value in (1, 3):
        np.testing.assert_allclose(sorted(map(tuple, world(stored, value).round(4))), sorted(map(tuple, world(phantom, value).round(4))))
    runs = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    for axis, letter in enumerate(code[::-1]):
        column = stored.affine[:3, axis]
        assert np.argmax(np.abs(column)) == runs[letter] and (column[runs[letter]] > 0) == (letter in "RAS")
    orientation = orientation_of(stored.affine)
    assert np.array_equal(reorient(stored.image, orientation), phantom.image)
    np.testing.assert_allclose(reoriented_affine(stored.affine, stored.label.shape, orientation), phantom.affine, atol=1e-9)


def test_orientations_take_turns():
    stored = [phantom for _, phantom in make_phantoms(3, orientations=("RAS", "LPS"))]
    assert [np.sign(phantom.affine[0, 2]) for phantom in stored] == [1, -1, 1]


@pytest.mark.parametrize("code", ["RA", "RAA", "XYZ", "RLS"])
def test_a_code_that_is_no_orientation_is_refused(code):
    with pytest.raises(GeometryError, match="not an orientation"):
        oriented(make_phantom(np.random.default_rng(0)), code)


def test_a_large_phantom_is_several_patches_large():
    phantom = make_phantom(np.random.default_rng(0), large=True)
    assert phantom.label.size >= 4 * 64**3 and min(phantom.label.shape) >= 140
    assert set(np.unique(phantom.label)) == set(LABELS.values)
