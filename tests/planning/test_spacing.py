"""Target spacing, axis order, median shape: the rules on cases small enough to reckon by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.planning.spacing import axis_order, choose_spacing, coarser_spacing, median_resampled_shape


def choose(spacings, shapes, **changes):
    return choose_spacing(spacings, shapes, **{"anisotropy": 3.0, "percentile": 10, **changes})


def test_isotropic_data_are_resampled_to_their_median_spacing():
    choice = choose([(1.0, 1.0, 1.0), (1.2, 0.9, 1.0), (1.4, 1.1, 1.0)], [(40, 50, 60)] * 3)
    assert choice.spacing == (1.2, 1.0, 1.0)
    assert not choice.anisotropic


def test_thick_and_few_slices_are_resampled_to_a_low_percentile_across_them():
    spacings = [(mm, 1.0, 1.0) for mm in (3.0, 4.0, 5.0, 6.0, 7.0)]
    choice = choose(spacings, [(20, 256, 256)] * 5)
    assert choice.spacing == pytest.approx((np.percentile([3, 4, 5, 6, 7], 10), 1.0, 1.0))
    assert choice.percentile == 10


def test_thick_but_many_slices_keep_their_median_spacing():
    choice = choose([(mm, 1.0, 1.0) for mm in (3.0, 4.0, 5.0, 6.0, 7.0)], [(90, 256, 256)] * 5)
    assert choice.spacing == (5.0, 1.0, 1.0)


def test_slices_exactly_three_times_as_thick_are_not_thick_yet():
    assert choose([(3.0, 1.0, 1.0)] * 3, [(10, 256, 256)] * 3).percentile is None
    assert choose([(3.001, 1.0, 1.0)] * 3, [(10, 256, 256)] * 3).percentile == 10


def test_spacing_across_slices_never_becomes_finer_than_in_plane():
    spacings = [(0.5, 1.0, 1.0)] * 4 + [(5.0, 1.0, 1.0)] * 6
    assert choose(spacings, [(10, 256, 256)] * 10).spacing == pytest.approx((1.0 + 1e-5, 1.0, 1.0))


def test_a_wanted_spacing_overrides_the_data():
    assert choose([(5.0, 1.0, 1.0)] * 3, [(10, 256, 256)] * 3, fixed=(2.0, 1.5, 1.5)).spacing == (2.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("spacing", "shape", "order"),
    [
        ((3.0, 1.0, 1.0), (20, 90, 80), (0, 1, 2)),
        ((1.0, 3.0, 1.0), (90, 20, 80), (1, 0, 2)),
        ((1.0, 0.9, 3.0), (90, 80, 20), (2, 0, 1)),
        ((1.0, 1.0, 1.0), (90, 80, 70), (0, 1, 2)),
        ((0.1, 1.0, 1.0), (1, 80, 70), (0, 1, 2)),  # a single slice has no thickness to speak of
        ((1.0, 1.0, 0.1), (90, 80, 1), (2, 0, 1)),
    ],
)
def test_the_axis_across_the_slices_comes_first(spacing, shape, order):
    assert axis_order(spacing, shape) == order


def test_median_shape_is_that_of_the_resampled_cases_in_plan_axes():
    shape = median_resampled_shape([(1, 1, 4), (1, 1, 2)], [(10, 20, 30), (10, 20, 31)], target=(1, 1, 2), order=(2, 0, 1))
    assert shape == ((60 + 31) / 2, 10, 20)


def test_low_resolution_first_coarsens_what_is_more_than_twice_as_fine():
    assert coarser_spacing((4.0, 1.0, 3.0), step=1.03) == pytest.approx((4.0, 1.03, 3.0))
    assert coarser_spacing((2.0, 1.0, 1.0), step=1.03) == pytest.approx((2.06, 1.03, 1.03))
