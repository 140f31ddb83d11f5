"""Cells along borders: the classes left out are those that cannot win, and what is written equals interpolating everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoseg.geometry import Shape
from autoseg.labels import Labels, make_labels
from autoseg.prediction import cells
from autoseg.prediction.scores import classes_on_grid

from .test_scores import REGIONS, slow_classes


def classes(scores: NDArray[np.float32], target: Shape, separate: int | None, labels: Labels) -> NDArray[np.integer]:
    slabs = [(start, torch.from_numpy(scores[:, start : start + 2])) for start in range(0, scores.shape[1], 2)]
    return classes_on_grid(slabs, source=scores.shape[1:], target=target, anisotropic_axis=separate, labels=labels)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    heads=st.sampled_from([2, 5, 40]),
    old=st.tuples(*[st.integers(1, 5)] * 3),
    new=st.tuples(*[st.integers(1, 13)] * 3),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_noise_between_any_two_shapes_is_that_of_interpolating_everything(
    seed: int, heads: int, old: Shape, new: Shape, axis: int | None
) -> None:
    labels = make_labels({f"label {value}": value for value in range(heads)})
    scores = np.random.default_rng(seed).standard_normal((heads, *old)).astype(np.float32)
    assert np.array_equal(classes(scores, new, axis, labels), slow_classes(scores, new, axis, labels))
    regions = np.random.default_rng(seed).standard_normal((3, *old)).astype(np.float32)
    assert np.array_equal(classes(regions, new, axis, REGIONS), slow_classes(regions, new, axis, REGIONS))


@pytest.mark.parametrize(("few", "piece_bytes", "threads"), [(1, 2**21, 1), (10**6, 2**21, 3), (7, 1, 1), (40, 2000, 3)])
def test_groups_pieces_and_threads_do_not_change_the_result(
    few: int, piece_bytes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = make_labels({f"label {value}": value for value in range(12)})
    scores = np.random.default_rng(0).standard_normal((12, 5, 9, 8)).astype(np.float32)
    expected = slow_classes(scores, (11, 25, 29), None, labels)
    monkeypatch.setattr(cells, "_FEW", few)
    monkeypatch.setattr(cells, "_PIECE_BYTES", piece_bytes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(classes(scores, (11, 25, 29), None, labels), expected)
    finally:
        torch.set_num_threads(before)


def test_three_hundred_classes_are_told_apart_between_voxels() -> None:
    labels = make_labels({f"label {value}": value for value in range(300)})
    scores = np.random.default_rng(1).standard_normal((300, 2, 3, 3)).astype(np.float32)
    assert np.array_equal(classes(scores, (3, 5, 4), None, labels), slow_classes(scores, (3, 5, 4), None, labels))


def test_every_class_that_wins_somewhere_in_a_cell_is_a_candidate_and_clear_losers_are_none() -> None:
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((8, 50, 30)).astype(np.float32) + 3 * rng.standard_normal((50, 30)).astype(np.float32)
    winners = (scores[0].argmax(1), scores[7].argmax(1))
    weights = np.array([np.prod(w) for w in itertools.product(*[((1 - t), t) for t in (0.3, 0.8, 0.5)])])
    inside = np.einsum("c,cnk->nk", weights, scores).argmax(1)
    seen = 0
    for chosen, candidates in cells._candidates(scores, winners):
        for cell, named in zip(chosen, candidates.T, strict=True):
            assert {inside[cell], *scores[:, cell].argmax(1)} <= set(named)
            assert list(dict.fromkeys(named)) == sorted(set(named)), "in order: of equal scores the first wins"
        seen += len(chosen)
        assert len(candidates) < 20, "most of 30 classes can win nowhere in a cell"
    assert seen == 50
