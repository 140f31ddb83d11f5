"""Counts of confidence against a slow computation voxel by voxel, and what they change in segmenting: nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, log_softmax

from autoseg.calibration import BINS, LOWEST, TEMPERATURES, WIDTH, Calibration, DiceMap, Reliability
from autoseg.labels import Labels, make_labels
from autoseg.planning.configuration import Plan
from autoseg.prediction import open_model, segment
from autoseg.prediction.confidence import MARGIN, NEAR, Opinions, Tally
from autoseg.workspace import Workspace

from .conftest import REGIONS
from .test_segmenting import in_memory

PLAIN = make_labels({"background": 0, "a": 3, "b": 5}, ignore=9)
SHAPE = (20, 7, 6)


def volume(labels: Labels, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Logits that fit the reference mostly, and are very sure of the background far from it."""
    rng = np.random.default_rng(seed)
    reference = np.zeros(SHAPE, dtype=np.int16)
    reference[2:6, 1:4, 1:4], reference[4:7, 3:5, 2:5] = 1, 2
    if labels.ignore_class is not None:
        reference[5, :2] = labels.ignore_class
    heads = labels.output_channels
    logits = rng.normal(0, 2, (heads, *SHAPE)).astype(np.float32)
    distance = ndimage.distance_transform_edt(reference == 0)
    if labels.regions:
        logits -= 2 * distance
    else:
        logits[0] += 2 * distance
    return logits.astype(np.float32), reference


def tallied(labels: Labels, logits: NDArray[Any], reference: NDArray[Any], *, slices: int, annotated: Any = None) -> Any:
    tally = Tally(reference, labels, annotated=annotated)
    for start in range(0, SHAPE[0], slices):
        tally.see(start, torch.from_numpy(logits[None, :, start : start + slices]))
    return tally.counts()


@pytest.mark.parametrize("annotated", [None, ("a",)])
def test_counts_of_labels_are_those_of_every_voxel_near_a_structure(annotated: Any) -> None:
    logits, reference = volume(PLAIN)
    found = tallied(PLAIN, logits, reference, slices=6, annotated=annotated)
    present = (reference > 0) & (reference != 3)
    near = ndimage.binary_dilation(present, np.ones((3, 3, 3)), iterations=NEAR)
    sides: dict[str, NDArray[Any]] = {side: np.zeros((3, BINS), dtype=int) for side in ("right", "wrong", "missed")}
    predicted, chance, likelihood, voxels = np.zeros(3), np.zeros((3, len(TEMPERATURES))), np.zeros(len(TEMPERATURES)), 0
    for z, y, x in np.ndindex(SHAPE):
        one, true = logits[:, z, y, x].astype(float), int(reference[z, y, x])
        contested = one[1:].max() > one[0] - MARGIN
        if not contested and not near[z, y, x]:
            continue
        top = int(one.argmax())
        predicted[top] += 1
        for index, t in enumerate(TEMPERATURES):
            chance[:, index] += np.exp(log_softmax(one / t)) * contested
        if true == 3 or (annotated is not None and top == 2):
            continue
        voxels += 1
        place = min(BINS - 1, int((one[top] - np.log(np.exp(np.delete(one, top)).sum()) - LOWEST) / WIDTH))
        sides["right" if top == true else "wrong"][top, place] += 1
        if top != true:
            sides["missed"][true, place] += 1
        likelihood -= [log_softmax(one / t)[true] for t in TEMPERATURES]
    assert found.voxels == voxels < reference.size
    np.testing.assert_allclose(found.likelihood, likelihood, rtol=1e-4)
    for row, (name, counts) in enumerate(found.labels.items()):
        for side, table in sides.items():
            np.testing.assert_array_equal(np.trim_zeros(table[row], "b"), getattr(counts, side))
        if name != "background":
            assert counts.predicted == predicted[row]
            np.testing.assert_allclose(counts.chance, chance[row], rtol=1e-4)


def test_counts_of_regions_ask_one_question_for_each() -> None:
    logits, reference = volume(REGIONS)
    found = tallied(REGIONS, logits, reference, slices=20)
    near = ndimage.binary_dilation(reference > 0, np.ones((3, 3, 3)), iterations=NEAR) | (logits.max(0) > -MARGIN)
    true = np.stack([reference > 0, reference == 2])
    decided = logits > 0
    assert found.voxels == 2 * near.sum()
    for z, yes, mask, name in zip(logits, decided, true, ("whole", "core"), strict=True):
        counts = found.labels[name]
        assert (sum(counts.right), sum(counts.wrong)) == ((yes & mask & near).sum(), (yes & ~mask & near).sum())
        assert sum(counts.missed) == (~yes & mask & near).sum()
        index = TEMPERATURES.index(2.0)
        p = expit(z / 2) * (logits.max(0) > -MARGIN)
        assert counts.expected_dice(2.0) == pytest.approx(2 * p[yes].sum() / (p.sum() + yes.sum()), rel=1e-4)
        assert counts.agreed[index] <= counts.chance[index]
    likelihood = -np.log(expit(np.where(true, logits, -logits)))[:, near].sum()
    assert found.likelihood[TEMPERATURES.index(1.0)] == pytest.approx(likelihood, rel=1e-4)
    assert sum(found.labels["background"].right) == (~decided & ~true & near).sum()


def test_counts_do_not_depend_on_the_slabs() -> None:
    logits, reference = volume(PLAIN, seed=4)
    whole, parts = (tallied(PLAIN, logits, reference, slices=n) for n in (20, 3))
    assert whole.labels["a"].right == parts.labels["a"].right
    np.testing.assert_allclose(whole.likelihood, parts.likelihood, rtol=1e-5)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_folds_agree_with_their_mean_as_their_masks_do(labels: Labels) -> None:
    folds = np.stack([volume(labels, seed)[0] for seed in range(3)])
    opinions = Opinions(labels, folds=3, temperature=1.0)
    for start in range(0, SHAPE[0], 8):
        opinions.see(start, torch.from_numpy(folds[:, :, start : start + 8]))
    mean = folds.mean(0)
    for fold, opinion in zip(folds, opinions.result(), strict=True):
        for index in range(2):
            one, all_ = (s[index] > 0 if labels.regions else s.argmax(0) == index + 1 for s in (fold, mean))
            assert opinion.agreement[index] == pytest.approx(2 * (one & all_).sum() / (one.sum() + all_.sum()))
            assert 0.2 < (opinion.expected[index] or 0) < 1


def calibration() -> Calibration:
    flat = Reliability(ece=0.0, brier=0.0, curve=())
    maps = {name: DiceMap(cases=30, slope=1.0, intercept=0.0, error=0.1) for name in ("left", "right", "node")}
    return Calibration(cases=30, temperature=1.5, before=flat, after=flat, labels=maps, always=(), review_below=0.5, agreement_below=0.8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3d_fullres", "3d_cascade", "2d+3d_fullres"])
def test_a_calibrated_model_gives_the_same_result_with_the_opinion_of_each_fold(
    name: str, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plain = open_model(make_workspace().root, configuration=name, device="cpu")
    partners = tuple(replace(one, calibration=calibration()) for one in plain.partners)
    model = replace(plain, calibration=calibration(), partners=partners)
    expected, found = segment(plain, in_memory()), segment(model, in_memory())
    assert np.mean(expected.classes != found.classes) < 1e-3, "only ties may be decided by rounding"
    assert expected.opinions == ()
    assert [len(folds) for folds in found.opinions] == [2] * (name.count("+") + 1)
    alone = replace(model, stages=(*model.stages[:-1], replace(model.stages[-1], networks=model.stages[-1].networks[:1])), partners=())
    for one, other in zip(segment(alone, in_memory()).opinions[0][0].expected, found.opinions[0][0].expected, strict=True):
        assert one == (None if other is None else pytest.approx(other, rel=1e-4))
