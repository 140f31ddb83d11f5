"""Temperature, reliability, expected Dice and reviews, from counts with known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoseg.calibration import (
    BINS,
    ENOUGH,
    LOWEST,
    TEMPERATURES,
    WIDTH,
    CaseCounts,
    DiceMap,
    FoldOpinion,
    LabelCounts,
    calibrate,
    fit_temperature,
    join,
    judge,
    nearest_temperature,
    reliability,
    sure_errors,
)


def two_classes(sharpened: float, *, seed: int = 0, n: int = 200_000) -> CaseCounts:
    """Voxels with known probabilities of being 'organ', and a network whose log odds are `sharpened` times the true ones."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-odds))
    said = odds * sharpened
    decided = said > 0
    bins = np.clip(((np.abs(said) - LOWEST) / WIDTH).astype(int), 0, BINS - 1)

    def histogram(where: np.ndarray) -> tuple[int, ...]:
        return tuple(np.bincount(bins[where], minlength=BINS).tolist())

    signed = np.where(truth, said, -said)
    likelihood = tuple(float(np.log1p(np.exp(-signed / t)).sum()) for t in TEMPERATURES)
    labels = {
        "background": LabelCounts(right=histogram(~decided & ~truth), wrong=histogram(~decided & truth)),
        "organ": LabelCounts(right=histogram(decided & truth), wrong=histogram(decided & ~truth), missed=histogram(~decided & truth)),
    }
    return CaseCounts(labels=labels, likelihood=likelihood, voxels=n)


@pytest.mark.parametrize("sharpened", [0.8, 1.0, 1.9, 2.6])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(sharpened: float) -> None:
    case = two_classes(sharpened)
    temperature = fit_temperature([case])
    assert temperature == pytest.approx(sharpened, rel=0.04)
    before, after = reliability([case]), reliability([case], temperature)
    assert after.ece < 0.01
    assert after.brier <= before.brier + 1e-4
    if sharpened > 1.5:
        assert after.ece < before.ece / 5


def test_a_network_that_is_always_right_is_given_the_lowest_temperature() -> None:
    case = CaseCounts(labels={}, likelihood=tuple(TEMPERATURES), voxels=1)
    assert fit_temperature([case]) == TEMPERATURES[0]


def case_with(expected: float, *, missed: int = 0) -> CaseCounts:
    """A case whose organ of 100 voxels has this expected Dice at every temperature."""
    many = len(TEMPERATURES)
    organ = LabelCounts(
        right=(0,) * 20 + (100,), predicted=100, chance=(100.0,) * many, agreed=(100 * expected,) * many, missed=(missed,) if missed else ()
    )
    parabola = tuple(float(np.log(t) ** 2) for t in TEMPERATURES)
    return CaseCounts(labels={"background": LabelCounts(right=(0,) * 20 + (100,)), "organ": organ}, likelihood=parabola, voxels=200)


def test_expected_dice_follows_a_line_with_enough_cases_and_is_the_mean_with_few() -> None:
    rng = np.random.default_rng(1)
    promised = rng.uniform(0.7, 0.95, 40)
    dice = {f"c{i}": {"organ": float(1.6 * p - 0.7 + rng.normal(0, 0.005))} for i, p in enumerate(promised)}
    cases = {f"c{i}": case_with(float(p)) for i, p in enumerate(promised)}
    found = calibrate(cases, dice)
    assert found is not None
    assert found.labels["organ"].slope == pytest.approx(1.6, abs=0.1)
    assert found.labels["organ"].error == pytest.approx(0.005, abs=0.002)
    assert found.always == ("organ",)
    truth = np.array([d["organ"] for d in dice.values()])
    assert found.review_below == pytest.approx(np.quantile(truth, 0.05), abs=0.02)

    few = calibrate(dict(list(cases.items())[: ENOUGH - 1]), dice)
    assert few is not None
    assert few.labels["organ"].slope == 0
    assert few.labels["organ"].true(0.2) == pytest.approx(truth[: ENOUGH - 1].mean(), abs=1e-5)
    assert few.review_below is None


def test_a_line_that_promises_less_for_better_cases_is_not_used() -> None:
    cases = {f"c{i}": case_with(0.5 + 0.01 * i) for i in range(30)}
    found = calibrate(cases, {f"c{i}": {"organ": 0.9 - 0.01 * i} for i in range(30)})
    assert found is not None
    assert found.labels["organ"].slope == 0


def test_nothing_is_calibrated_without_counts() -> None:
    assert calibrate({}, {"a": {"organ": 0.9}}) is None


def test_a_review_gives_its_reasons_in_words() -> None:
    known = calibrate({f"c{i}": case_with(0.8 + 0.005 * i) for i in range(30)}, {f"c{i}": {"organ": 0.8 + 0.005 * i} for i in range(30)})
    assert known is not None
    good = FoldOpinion(expected=(0.9,), agreement=(0.95,))
    assert not judge([good, good], ["organ"], known).review
    assert judge([good], ["organ"], known).agreement is None
    bad = judge([FoldOpinion(expected=(0.5,), agreement=(0.6,))] * 2, ["organ"], known)
    assert [reason.partition(" 0.")[0] for reason in bad.reasons] == ["expected Dice", "agreement of the folds"]
    assert bad.expected_dice == {"organ": pytest.approx(0.5)}
    missing = judge([FoldOpinion(expected=(None,), agreement=(None,))], ["organ"], known)
    assert missing.reasons == ("organ was not found, and every validated case has it",)
    assert missing.expected_dice == {"organ": None}


def test_the_verdict_on_several_configurations_is_the_mean_of_theirs_with_all_reasons() -> None:
    known = calibrate({f"c{i}": case_with(0.8 + 0.005 * i) for i in range(30)}, {f"c{i}": {"organ": 0.8 + 0.005 * i} for i in range(30)})
    assert known is not None
    one, other = (judge([FoldOpinion(expected=(e,), agreement=(a,))] * 2, ["organ"], known) for e, a in ((0.9, 1.0), (0.5, 0.9)))
    both = join([one, other])
    assert both.expected_dice["organ"] == pytest.approx(0.7)
    assert both.agreement == {"organ": pytest.approx(0.95)}
    assert both.reasons == other.reasons


def test_errors_are_sure_above_the_probability_at_the_temperature() -> None:
    label = LabelCounts(wrong=(0,) * 30 + (7,), missed=(5,))  # log odds 6.6, and less than 0
    assert sure_errors(label, 1.0) == 7
    assert sure_errors(label, 4.0) == 0, "6.6 / 4 is a probability of 0.84"


def test_a_map_stays_within_zero_and_one() -> None:
    line = DiceMap(cases=20, slope=2.0, intercept=-0.5, error=0.1)
    assert (line.true(0.9), line.true(0.1)) == (1.0, 0.0)
    assert replace(line, slope=0.0, intercept=0.8).true(0.1) == 0.8


def test_temperatures_are_compared_by_their_ratio() -> None:
    assert nearest_temperature(1.0) == 1.0
    assert nearest_temperature(100.0) == TEMPERATURES[-1]
