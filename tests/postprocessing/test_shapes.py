"""Holes, closing and opening against definitions that look at every voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from autoseg.postprocessing import shapes

SPACING = (2.5, 0.8, 1.1)


def slow_dilated(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """All voxels within the radius of one of the mask."""
    if not mask.any():
        return mask
    voxels = np.argwhere(np.ones_like(mask)) * spacing
    return (cdist(voxels, np.argwhere(mask) * spacing).min(1) <= radius + 1e-6).reshape(mask.shape)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from([0.8, 1.1, 1.7, 2.5]), density=st.sampled_from([0.3, 0.6, 0.9]))
def test_closing_and_opening_are_those_of_a_ball_in_mm(seed, radius, density):
    mask = np.random.default_rng(seed).random((3, 6, 5)) < density
    wide = np.pad(mask, 6)
    cut = tuple(slice(6, -6) for _ in range(3))
    closing = ~slow_dilated(~slow_dilated(wide, radius, SPACING), radius, SPACING)
    assert not (closing & ~np.pad(np.ones_like(mask), 6)).any(), "the closing does not leave the box"
    assert np.array_equal(shapes.closed(mask, radius, SPACING), closing[cut])
    opening = slow_dilated(~slow_dilated(~wide, radius, SPACING), radius, SPACING)
    within = ((False, False),) * 3
    assert np.array_equal(shapes.opened(mask, radius, SPACING, sides=within), opening[cut])


def test_a_large_ball_gives_the_same_by_distances(monkeypatch):
    mask = ndimage.gaussian_filter(np.random.default_rng(1).random((9, 24, 20)), 1.5) > 0.5
    by_ball = shapes.closed(mask, 3.3, SPACING), shapes.opened(mask, 2.4, SPACING, sides=((True, False), (False, True), (True, True)))
    monkeypatch.setattr(shapes, "_FEW", 0)
    by_distance = shapes.closed(mask, 3.3, SPACING), shapes.opened(mask, 2.4, SPACING, sides=((True, False), (False, True), (True, True)))
    assert all(np.array_equal(*pair) for pair in zip(by_ball, by_distance, strict=True))
    assert (by_ball[0] & ~mask).any() and (mask & ~by_ball[1]).any()


@pytest.mark.parametrize("few", [0, 500])
def test_slices_further_apart_than_the_radius_do_not_meet(few, monkeypatch):
    monkeypatch.setattr(shapes, "_FEW", few)
    mask = np.zeros((3, 9, 9), dtype=bool)
    mask[0] = mask[2] = True
    assert np.array_equal(shapes.closed(mask, 2.4, SPACING), mask)
    assert shapes.closed(mask, 2.5, SPACING)[1, 4, 4]


def test_a_structure_that_the_scan_cuts_off_keeps_its_edges():
    mask = np.ones((4, 6, 6), dtype=bool)
    ends = ((True, True),) * 3
    assert shapes.opened(mask, 2.5, SPACING, sides=ends).all()
    assert not shapes.opened(mask, 2.5, SPACING, sides=((False, False),) * 3)[0, 0, 0]


def test_a_hole_is_what_is_enclosed_by_faces():
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[:, 1:6, 1:6] = True
    mask[2, 3, 3] = False
    filled = shapes.fill_holes(mask)
    assert filled[2, 3, 3] and filled.sum() == mask.sum() + 1
    mask[0:2, 3, 3] = False
    assert np.array_equal(shapes.fill_holes(mask), mask), "a tunnel to the outside is no hole"


def test_in_a_planar_image_a_hole_is_enclosed_within_the_slice():
    ring = np.zeros((1, 5, 5), dtype=bool)
    ring[0, 1:4, 1:4] = True
    ring[0, 2, 2] = False
    assert shapes.fill_holes(ring, flat=(True, False, False))[0, 2, 2]
    assert not shapes.fill_holes(ring)[0, 2, 2], "in a volume it is open to both sides"
    speck = np.ones((1, 1, 1), dtype=bool)
    assert shapes.fill_holes(speck, flat=(True, True, True)).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_holes_are_those_of_scipy(seed):
    mask = np.random.default_rng(seed).random((5, 6, 7)) < 0.65
    assert np.array_equal(shapes.fill_holes(mask), ndimage.binary_fill_holes(mask))
