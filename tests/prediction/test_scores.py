"""Scores back to the case's grid: the streamed, pruned way against interpolating everything."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import Shape
from autoseg.labels import Labels, make_labels
from autoseg.prediction.scores import classes_of, classes_on_grid, probabilities_of

LABELS = make_labels({f"label {value}": value for value in range(6)})
REGIONS = make_labels(
    {"background": 0, "edema": 1, "core": 2, "enhancing": 4},
    regions={"whole": ((1, 2, 4), 1), "core": ((2, 4), 2), "enhancing": ((4,), 4)},
)


def smooth_scores(heads: int, shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 2) for _ in range(heads)]).astype(np.float32)


def slow_classes(scores: NDArray[np.float32], target: Shape, separate: int | None, labels: Labels) -> NDArray[np.integer]:
    """Every score at every voxel by scipy, in double precision, then the decision."""
    centres = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(scores.shape[1:], target, strict=True)]
    if separate is not None:
        n = scores.shape[1 + separate]
        centres[separate] = np.floor(np.clip(centres[separate], 0, n - 1) + 0.5)
    grid = np.meshgrid(*centres, indexing="ij")
    dense = np.stack([ndimage.map_coordinates(head.astype(np.float64), grid, order=1, mode="nearest") for head in scores])
    return labels.paint(dense > 0) if labels.regions else dense.argmax(0)


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize(
    ("source", "target", "separate"),
    [
        ((12, 20, 25), (17, 33, 31), None),
        ((12, 20, 25), (7, 13, 31), None),
        ((12, 20, 25), (30, 33, 21), 0),
        ((12, 20, 25), (5, 33, 31), 0),
        ((12, 20, 25), (30, 33, 31), 2),
        ((12, 20, 25), (12, 20, 25), None),
        ((1, 20, 25), (1, 50, 31), 0),
        ((2, 20, 25), (9, 20, 1), None),
    ],
)
def test_classes_equal_those_of_scores_interpolated_everywhere(source: Shape, target: Shape, separate: int | None, labels: Labels) -> None:
    scores = smooth_scores(labels.output_channels, source)
    slabs = [(start, torch.from_numpy(scores[:, start : start + 5])) for start in range(0, source[0], 5)]
    found = classes_on_grid(iter(slabs), source=source, target=target, anisotropic_axis=separate, labels=labels)
    expected = slow_classes(scores, target, separate, labels)
    assert found.shape == target
    assert np.array_equal(found, expected)
    assert len(np.unique(expected)) > 2, "the example does not test the borders between classes"


def test_isolated_voxels_survive_among_cells_that_agree() -> None:
    scores = np.zeros((2, 5, 5, 5), dtype=np.float32)
    scores[1, 2, 2, 2] = 4
    scores[0] = 1
    labels = make_labels({"background": 0, "dot": 1})
    found = classes_on_grid([(0, torch.from_numpy(scores))], source=(5, 5, 5), target=(15, 15, 15), anisotropic_axis=None, labels=labels)
    assert found.sum() == slow_classes(scores, (15, 15, 15), None, labels).sum() > 1


def test_memory_does_not_grow_with_the_classes_times_the_voxels() -> None:
    heads, source, target = 40, (8, 20, 20), (60, 120, 120)
    labels = make_labels({f"label {value}": value for value in range(heads)})
    scores = torch.from_numpy(smooth_scores(heads, source))
    tracemalloc.start()
    classes_on_grid([(0, scores)], source=source, target=target, anisotropic_axis=None, labels=labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * heads * np.prod(target) / 10


def test_probabilities_are_softmax_or_sigmoid() -> None:
    scores = smooth_scores(3, (2, 3, 4)) * 30
    exact = scores.astype(np.float64)
    softmax = np.exp(exact) / np.exp(exact).sum(0)
    assert np.allclose(probabilities_of(scores.copy(), make_labels({"a": 0, "b": 1, "c": 2})), softmax, atol=1e-6)
    assert np.allclose(probabilities_of(scores.copy(), REGIONS), 1 / (1 + np.exp(-exact)), atol=1e-6)


def test_more_than_256_classes_are_told_apart() -> None:
    labels = make_labels({f"label {value}": value for value in range(300)})
    scores = torch.zeros(300, 1, 1, 2)
    scores[299, ..., 1] = 1
    assert classes_of(scores, labels).tolist() == [[[0, 299]]]
