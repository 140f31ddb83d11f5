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
from autoseg.prediction.scores import classes_of, classes_on_grid, decided, probabilities_on_grid
from autoseg.preprocessing.resampling import resample_scores

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


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize(
    ("target", "separate"), [((17, 33, 31), None), ((7, 13, 31), None), ((30, 33, 21), 0), ((30, 33, 31), 2), ((12, 20, 25), None)]
)
def test_probabilities_are_those_of_logits_interpolated_everywhere(target: Shape, separate: int | None, labels: Labels) -> None:
    scores = 30 * smooth_scores(labels.output_channels, (12, 20, 25))
    grid = {"source": (12, 20, 25), "target": target, "anisotropic_axis": separate, "labels": labels}
    found = np.full((labels.output_channels, *target), np.nan, dtype=np.float32)
    classes = np.full(target, 255)
    bands: list[tuple[int, int] | None] = [None] if separate else [(0, 8), (7, 15), (14, 20)]
    for rows in bands:
        slabs = [(s, torch.from_numpy(scores[:, s : s + 5, slice(*(rows or (None,)))])) for s in range(0, 12, 5)]
        for index, written, piece in probabilities_on_grid(slabs, **grid, rows=rows):
            found[:, index, written] = piece
            classes[index, written] = decided(piece, labels)
    dense = resample_scores(scores, target, anisotropic_axis=separate).astype(np.float64)
    expected = 1 / (1 + np.exp(-dense)) if labels.regions else np.exp(dense) / np.exp(dense).sum(0)
    assert np.allclose(found, expected, atol=2e-5)
    assert np.array_equal(classes, classes_on_grid([(0, torch.from_numpy(scores))], **grid))


@pytest.mark.parametrize("separate", [None, 0, 1])
def test_bands_of_rows_together_are_the_whole(separate: int | None) -> None:
    scores = smooth_scores(6, (12, 20, 25))
    for target in ((17, 33, 31), (7, 13, 31), (5, 90, 25)):
        grid = {"source": (12, 20, 25), "target": target, "anisotropic_axis": separate, "labels": LABELS}
        expected = classes_on_grid([(0, torch.from_numpy(scores))], **grid)
        found = np.full_like(expected, 255)
        for rows in ((0, 2), (1, 9), (8, 15), (14, 20)):
            classes_on_grid([(0, torch.from_numpy(scores[:, :, slice(*rows)]))], **grid, rows=rows, out=found)
        assert np.array_equal(found, expected)


def test_more_than_256_classes_are_told_apart() -> None:
    labels = make_labels({f"label {value}": value for value in range(300)})
    scores = torch.zeros(300, 1, 1, 2)
    scores[299, ..., 1] = 1
    assert classes_of(scores, labels).tolist() == [[[0, 299]]]
