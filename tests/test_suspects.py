"""Ten cases, of which one reference is shifted and one has its sides exchanged: both come first, with the reason in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from autoseg import suspects
from autoseg.calibration import CaseCounts, LabelCounts
from autoseg.labels import Labels, make_labels
from autoseg.metrics import confusion, overlap_of
from autoseg.prediction.confidence import Tally

LABELS = make_labels({"background": 0, "left": 1, "right": 2}, pairs=(("left", "right"),))
SHAPE = (22, 26, 36)
SPACING = (2.0, 1.0, 1.5)
AFFINE = np.array([[0, 0, 1.5, -27], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


def truth(seed: int) -> NDArray[np.int16]:
    """Two balls of unequal radius, somewhere left and right of the middle."""
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE)
    found = np.zeros(SHAPE, dtype=np.int16)
    for value, middle, radius in ((1, 9, 5.0), (2, 26, 6.0)):
        centre = np.array([11, 13, middle]) + rng.integers(-2, 3, 3)
        found[((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) < (radius + rng.random()) ** 2] = value
    return found


def logits(true: NDArray[np.int16], seed: int, *, sure: float = 12.0) -> NDArray[np.float32]:
    """What a trained network says: sure inside, in doubt at borders, never in exactly the right place."""
    rng = np.random.default_rng(seed)
    smooth = np.stack([ndimage.gaussian_filter((true == k).astype(np.float32), 1) for k in range(3)])
    smooth += ndimage.gaussian_filter(rng.normal(0, 7 / sure, smooth.shape), (0, 1.5, 1.5, 1.5))
    return (sure * smooth).astype(np.float32)


def out_of_fold(references: list[NDArray[np.int16]], scores: list[NDArray[np.float32]]) -> tuple[dict[str, CaseCounts], dict[str, Any]]:
    cases, dice = {}, {}
    for index, (reference, values) in enumerate(zip(references, scores, strict=True)):
        tally = Tally(reference, LABELS)
        tally.see(0, torch.from_numpy(values[None]))
        cases[f"case_{index}"] = tally.counts()
        table = confusion(values.argmax(0), reference, classes=3)
        dice[f"case_{index}"] = {name: overlap_of(table, members).dice for name, members in LABELS.scored}
    return cases, dice


def explained(prediction: NDArray[Any], reference: NDArray[Any], label: str, labels: Labels = LABELS) -> tuple[str, ...]:
    return suspects.explain(prediction, reference, label, labels, spacing=SPACING, affine=AFFINE)


@pytest.mark.parametrize("seed", range(3))
def test_a_shifted_reference_and_exchanged_sides_come_first_and_a_difficult_case_does_not(seed: int) -> None:
    references = [truth(100 * seed + i) for i in range(10)]
    scores = [logits(true, seed + i, sure=2.0 if i == 5 else 12.0) for i, true in enumerate(references)]  # case 5 is difficult
    references[3] = np.roll(references[3], 4, axis=1)
    references[7] = np.array([0, 2, 1], dtype=np.int16)[references[7]]
    cases, dice = out_of_fold(references, scores)
    ranked = suspects.rank(cases, dice)
    assert {one.case for one in ranked[:2]} == {"case_3", "case_7"}
    assert min(dice["case_5"].values()) < 0.8
    assert len(ranked) == 2
    assert all(one.dice is not None and one.expected_dice is not None and one.dice < one.expected_dice - 0.2 for one in ranked[:2])

    shifted = explained(scores[3].argmax(0), references[3], "left")
    assert any(text.startswith("the reference of left looks shifted: 4 voxels (4 mm) too far to the front") for text in shifted), shifted
    exchanged = explained(scores[7].argmax(0), references[7], "left")
    assert exchanged[0].startswith("left and right look exchanged"), exchanged
    if seed == 0:
        assert "contradicted with confidence" in ranked[0].sentence()


def test_nothing_is_suspect_where_the_references_are_right() -> None:
    references = [truth(i) for i in range(8)]
    assert suspects.rank(*out_of_fold(references, [logits(true, i) for i, true in enumerate(references)])) == []


def test_a_missing_label_is_named_and_where_it_is() -> None:
    true = truth(0)
    reference = np.where(true == 2, 0, true).astype(np.int16)
    missing, where = explained(true, reference, "right")
    assert missing.startswith("right is missing in the reference; the network finds 4.07 ml of it")
    z, y, x = ndimage.center_of_mass(true == 2)
    assert where.startswith(f"most of it around ({1.5 * x - 27:.0f}, {y:.0f}, {2 * z:.0f}) mm")
    assert where.endswith("found by the network, not in the reference")
    invented, where = explained(reference, true, "right")
    assert "the network is sure that there is none" in invented
    assert where.endswith("in the reference, not found")


def test_a_mirrored_reference_is_named() -> None:
    true = np.zeros(SHAPE, dtype=np.int16)
    true[5:15, 2:9, 5:12], true[5:9, 2:18, 5:12] = 1, 1  # an L, so that no shift explains it
    reasons = explained(true, true[:, ::-1], "left")
    assert reasons[0] == "the reference of left looks mirrored front to back: mirrored back, Dice 1.00"


def test_without_counts_nothing_is_ranked() -> None:
    assert suspects.rank({}, {}) == []


def test_few_cases_with_a_label_are_not_compared() -> None:
    label = LabelCounts(wrong=(0,) * 40 + (50,), predicted=50, chance=(50.0,) * 13, agreed=(45.0,) * 13)
    case = CaseCounts(labels={"background": LabelCounts(), "left": label}, likelihood=(1.0,) * 13, voxels=50)
    assert suspects.rank({"a": case, "b": case}, {name: {"left": 0.0} for name in "ab"}) == []
