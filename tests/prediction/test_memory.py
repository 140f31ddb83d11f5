"""Layouts: the one that fits is the one that costs least, and what it takes is what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.errors import NotEnough
from autoseg.planning.configuration import Plan
from autoseg.prediction.memory import Layout, Work, available_memory, bands_of, choose_layout, require
from autoseg.resources import resident_memory


@pytest.fixture
def work(make_plan: Callable[..., Plan]) -> Work:
    """A hundred classes in 300 x 500 x 400 voxels."""
    configuration = replace(make_plan().configuration("3d_fullres"), patch_size=(64, 96, 96))
    return Work(configuration=configuration, shape=(300, 500, 400), target=(300, 500, 400), heads=100, summed=100, device="cpu", step=0.5)


def test_bands_share_one_row_and_cover_all() -> None:
    for rows in range(1, 40):
        for number in range(1, rows + 1):
            bands = bands_of(rows, number)
            assert bands[0][0] == 0 and bands[-1][1] == rows and len(bands) <= number
            assert all(a[1] - 1 == b[0] for a, b in zip(bands, bands[1:], strict=False))


def test_a_small_volume_moves_along_the_first_axis_in_one_band(work: Work) -> None:
    layout = choose_layout(replace(work, shape=(40, 60, 50), heads=3, summed=3), 10**10)
    assert (layout.along, layout.bands) == (0, ((0, 60),))


def test_a_large_slab_moves_along_the_axis_that_makes_it_smallest(work: Work) -> None:
    assert choose_layout(work, 10**11).along == 1  # 96 / 500 is less than 64 / 300 and 96 / 400
    assert choose_layout(replace(work, shape=(100, 500, 800)), 10**11).along == 2


def test_less_memory_means_more_bands_until_none_fits(work: Work) -> None:
    needed, count = [], []
    for available in (10**11, 4 * 10**9, 2 * 10**9, 10**9):
        layout = choose_layout(work, available)
        assert layout.needed <= available
        needed.append(layout.needed)
        count.append(len(layout.bands))
    assert needed == sorted(needed, reverse=True) and count == sorted(count) and count[-1] > count[0]
    least = choose_layout(work, 10**8)
    assert least.needed > 10**8
    with pytest.raises(NotEnough, match="--max-memory"):
        require(least, 10**8, limit=10**8)
    require(Layout(along=0, bands=((0, 1),), at_once=1, needed=10**8), 10**8, limit=10**8)


def test_probabilities_of_all_voxels_count_too(work: Work) -> None:
    assert choose_layout(replace(work, dense=True), 10**11).needed > choose_layout(work, 10**11).needed + 10**8


def test_what_is_left_of_a_limit_is_what_the_process_does_not_hold_yet() -> None:
    assert 0 < resident_memory() - (10**12 - available_memory("cpu", limit=10**12)) + 10**8 < 2 * 10**8
    assert available_memory("cpu") > 0
