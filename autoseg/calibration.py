"""How sure a network is, and how right it is when it is sure: temperature, expected Dice, and when a person should look.

Pure functions on counts. Validation gathers the counts of each case while its logits pass by (`prediction.confidence`), about 1 kB for
each label, and no logits are kept. With regions, every region is a question of its own, answered yes or no.

Source: temperature scaling and ECE as in Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = tuple(round(0.25 * 16 ** (step / 12), 4) for step in range(13))  # 0.25 to 4, each 1.26 times the one before
LOWEST, WIDTH, BINS = -1.0, 0.25, 80  # of the histograms: log odds of the first bin, of each bin, and how many there are
CURVE = 15  # bins of probability of a reliability curve. Source: Guo et al. 2017
ENOUGH = 20  # cases that a linear map from expected to true Dice needs; with fewer, the mean is said
SURE = 0.95  # probability from which a network counts as sure
REVIEWED = 0.05  # share of the validated cases that the limit of the expected Dice would have put up for review
AGREEMENT = 0.8  # mean Dice of the folds' results against their mean below which a person should look


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """One label, or region, in one case. Histograms of the log odds of what was decided; empty bins at their end are left out."""

    right: tuple[int, ...] = ()  # voxels where this label was decided, and is right
    wrong: tuple[int, ...] = ()  # voxels where it was decided, and is wrong
    missed: tuple[int, ...] = ()  # voxels of the reference where something else was decided
    predicted: int = 0  # voxels where it was decided, whether annotated or not
    chance: tuple[float, ...] = ()  # at each temperature: sum of its probabilities over all voxels
    agreed: tuple[float, ...] = ()  # at each temperature: sum of its probabilities over voxels where it was decided

    def expected_dice(self, temperature: float) -> float | None:
        """Return the Dice that the probabilities promise, at one of `TEMPERATURES`; None where nothing was decided."""
        index = TEMPERATURES.index(temperature)
        return expected_dice(self.agreed[index], self.chance[index], self.predicted)


@dataclass(frozen=True, kw_only=True)
class CaseCounts:
    """One case, out of fold."""

    labels: Mapping[str, LabelCounts]  # the first is the background; of regions, "none of it" for all of them together
    likelihood: tuple[float, ...]  # at each temperature: sum of -log of the probability of the reference
    voxels: int  # that were counted


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Voxels of which a network was about equally sure."""

    confidence: float  # mean probability of what was decided
    accuracy: float  # share of the voxels where that is right
    voxels: int


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well probabilities agree with what is right, near structures. 0 is perfect."""

    ece: float  # expected calibration error of what was decided
    brier: float  # mean squared error of the probability of what was decided
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class DiceMap:
    """From the Dice that probabilities promise to the Dice that is to be expected."""

    cases: int  # with this label, out of fold
    slope: float
    intercept: float
    error: float | None  # standard deviation of what is left, of the same cases; None: fewer than three

    def true(self, expected: float) -> float:
        """Return the Dice that is to be expected.

        >>> DiceMap(cases=30, slope=1.5, intercept=-0.5, error=0.02).true(0.9)
        0.85
        """
        return round(min(1.0, max(0.0, self.slope * expected + self.intercept)), 6)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the out-of-fold results of one configuration say about its confidence."""

    cases: int
    temperature: float  # by which logits are divided
    before: Reliability  # at temperature 1
    after: Reliability
    labels: Mapping[str, DiceMap]
    always: tuple[str, ...]  # labels that every validated case has
    review_below: float | None  # mean expected Dice of a case; None: too few cases to say
    agreement_below: float  # mean Dice of the folds against their mean

    @property
    def dice_temperature(self) -> float:
        """The one of `TEMPERATURES` at which the Dice maps were fitted: the nearest."""
        return nearest_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True)
class FoldOpinion:
    """What one fold's network says of a new scan, for each label in the order of `Labels.scored`."""

    expected: tuple[float | None, ...]  # Dice that its probabilities promise; None where it found nothing
    agreement: tuple[float | None, ...]  # Dice of its result against that of all folds together; None where both are empty


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good a new segmentation probably is."""

    expected_dice: Mapping[str, float | None]  # by label; None where it was not found, or never seen out of fold
    agreement: Mapping[str, float | None] | None  # by label; None: one fold only
    reasons: tuple[str, ...]  # for a person to look; empty: none

    @property
    def review(self) -> bool:
        """Whether a person should look at the result."""
        return bool(self.reasons)


def expected_dice(agreed: float, chance: float, predicted: int) -> float | None:
    """Return the Dice that probabilities promise: twice their sum where the label was decided, by their sum and the decided voxels.

    >>> expected_dice(90.0, 100.0, 100)
    0.9
    """
    return 2 * agreed / (chance + predicted) if predicted else None


def nearest_temperature(temperature: float) -> float:
    """Return the one of `TEMPERATURES` with the smallest ratio to another."""
    return min(TEMPERATURES, key=lambda known: abs(math.log(known / temperature)))


def fit_temperature(cases: Sequence[CaseCounts]) -> float:
    """Return the temperature at which the reference is most likely, between two of `TEMPERATURES` by a parabola.

    >>> case = CaseCounts(labels={}, likelihood=tuple((math.log(t) - math.log(1.5)) ** 2 for t in TEMPERATURES), voxels=1)
    >>> round(fit_temperature([case]), 3)
    1.5
    """
    total = np.sum([case.likelihood for case in cases], axis=0)
    places = np.log(TEMPERATURES)
    middle = int(np.clip(np.argmin(total), 1, len(total) - 2))
    square, linear, _ = np.polyfit(places[middle - 1 : middle + 2], total[middle - 1 : middle + 2], 2)
    if square <= 0:  # flat or falling: one of the ends
        return TEMPERATURES[int(np.argmin(total))]
    return float(np.exp(np.clip(-linear / (2 * square), places[middle - 1], places[middle + 1])))


def reliability(cases: Sequence[CaseCounts], temperature: float = 1.0) -> Reliability:
    """Return how well the probabilities agree with what is right, from the histograms.

    With more than two classes, log odds at another temperature than 1 are those of the two most likely ones.
    """
    right, wrong = (
        sum((_whole(getattr(label, side)) for case in cases for label in case.labels.values()), np.zeros(BINS))
        for side in ("right", "wrong")
    )
    return _reliability(right, wrong, temperature)


def _reliability(right: NDArray[np.float64], wrong: NDArray[np.float64], temperature: float) -> Reliability:
    count, total = right + wrong, max(1.0, float((right + wrong).sum()))
    p = _probabilities(temperature)
    brier = float((right * (1 - p) ** 2 + wrong * p**2).sum() / total)
    place = np.minimum((p * CURVE).astype(int), CURVE - 1)
    voxels, sure, hits = (np.bincount(place, weights=weights, minlength=CURVE) for weights in (count, count * p, right))
    curve = tuple(
        CurvePoint(confidence=float(s / n), accuracy=float(h / n), voxels=int(n))
        for n, s, h in zip(voxels, sure, hits, strict=True)
        if n > 0
    )
    return Reliability(ece=float(np.abs(sure - hits).sum() / total), brier=brier, curve=curve)


def calibrate(cases: Mapping[str, CaseCounts], dice: Mapping[str, Mapping[str, float | None]]) -> Calibration | None:
    """Return what out-of-fold results say about a configuration's confidence; None without any voxel counted.

    Parameters
    ----------
    cases : counts of each validated case
    dice : the true Dice of each of them, by label; None where a label is in neither mask
    """
    counted = [case for name, case in cases.items() if name in dice and case.voxels]
    if not counted:
        return None
    temperature = fit_temperature(counted)
    grid = nearest_temperature(temperature)
    names = [name for name in counted[0].labels if any(name in scores for scores in dice.values())]
    points = {name: pairs_of(name, cases, dice, grid) for name in names}
    maps = {name: _fit_map(pairs) for name, pairs in points.items() if pairs}
    typical = [mean for name in cases if name in dice and (mean := _case_mean(cases[name], maps, grid)) is not None]
    return Calibration(
        cases=len(counted),
        temperature=temperature,
        before=reliability(counted),
        after=reliability(counted, temperature),
        labels=maps,
        always=tuple(name for name in names if all(_is_in_reference(case.labels[name]) for case in counted)),
        review_below=float(np.quantile(typical, REVIEWED)) if len(typical) >= ENOUGH else None,
        agreement_below=_least_agreement(dice),
    )


def _least_agreement(dice: Mapping[str, Mapping[str, float | None]]) -> float:
    """Return the agreement of folds below which a result is reviewed; models that are worse on the whole agree less."""
    truth = [value for scores in dice.values() for value in scores.values() if value is not None]
    return min(AGREEMENT, float(np.mean(truth))) if truth else AGREEMENT


def pairs_of(
    name: str, cases: Mapping[str, CaseCounts], dice: Mapping[str, Mapping[str, float | None]], temperature: float
) -> list[tuple[float, float]]:
    """Return the promised and the true Dice of a label in each case that has both."""
    found = []
    for case, counts in cases.items():
        true = dice.get(case, {}).get(name)
        expected = counts.labels[name].expected_dice(nearest_temperature(temperature)) if name in counts.labels else None
        if true is not None and expected is not None:
            found.append((expected, true))
    return found


def judge(opinions: Sequence[FoldOpinion], names: Sequence[str], calibration: Calibration) -> Verdict:
    """Return how good a new segmentation probably is, and why a person should look at it, in words.

    Parameters
    ----------
    opinions : one of each fold
    names : the labels, in the order of the opinions
    """
    raw = {name: _mean([opinion.expected[index] for opinion in opinions]) for index, name in enumerate(names)}
    expected = {
        name: None if value is None or name not in calibration.labels else calibration.labels[name].true(value)
        for name, value in raw.items()
    }
    agreement = None
    if len(opinions) > 1:
        agreement = {name: _mean([opinion.agreement[index] for opinion in opinions]) for index, name in enumerate(names)}
    reasons = [
        f"{name} was not found, and every validated case has it" for name in names if raw[name] is None and name in calibration.always
    ]
    reasons += _too_low("expected Dice", expected, calibration.review_below, "95 % of the validated cases are above it")
    reasons += _too_low("agreement of the folds", agreement or {}, calibration.agreement_below, "Dice of each fold against all")
    return Verdict(expected_dice=expected, agreement=agreement, reasons=tuple(reasons))


def join(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on the mean of several configurations: the means of theirs, and the reasons of all."""
    first = verdicts[0]
    if len(verdicts) == 1:
        return first
    apart = [verdict.agreement for verdict in verdicts if verdict.agreement is not None]
    return Verdict(
        expected_dice={name: _mean([verdict.expected_dice.get(name) for verdict in verdicts]) for name in first.expected_dice},
        agreement={name: _mean([one.get(name) for one in apart]) for name in apart[0]} if apart else None,
        reasons=tuple(dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)),
    )


def sure_errors(label: LabelCounts, temperature: float) -> int:
    """Return the voxels in which a network and the reference disagree on a label while the network is sure."""
    sure = _probabilities(temperature) >= SURE
    return int((_whole(label.wrong) + _whole(label.missed))[sure].sum())


def sure_weight(label: LabelCounts, temperature: float) -> float:
    """Return the voxels in which a network and the reference disagree on a label, each counted by how far the network is from a guess."""
    weight = np.maximum(0.0, 2 * _probabilities(temperature) - 1)
    return float(((_whole(label.wrong) + _whole(label.missed)) * weight).sum())


def volumes(label: LabelCounts) -> int:
    """Return the voxels of a label in the prediction and in the reference together, among those that were counted."""
    return 2 * sum(label.right) + sum(label.wrong) + sum(label.missed)


def _is_in_reference(label: LabelCounts) -> bool:
    return sum(label.right) + sum(label.missed) > 0


def _fit_map(pairs: Sequence[tuple[float, float]]) -> DiceMap:
    """Return the line through promised and true Dice; the mean where there are few, or where more is promised for worse ones."""
    expected, true = np.array(pairs).T
    slope, intercept = 0.0, float(true.mean())
    if len(pairs) >= ENOUGH and np.ptp(expected) > 0:
        slope, intercept = map(float, np.polyfit(expected, true, 1))
        if slope <= 0:
            slope, intercept = 0.0, float(true.mean())
    left = true - (slope * expected + intercept)
    return DiceMap(cases=len(pairs), slope=slope, intercept=intercept, error=float(left.std()) if len(pairs) >= 3 else None)


def _case_mean(case: CaseCounts, maps: Mapping[str, DiceMap], temperature: float) -> float | None:
    promised = {name: case.labels[name].expected_dice(temperature) for name in maps}
    return _mean([None if value is None else maps[name].true(value) for name, value in promised.items()])


def _too_low(what: str, values: Mapping[str, float | None], limit: float | None, meaning: str) -> list[str]:
    """Return the reason for a review where the mean over labels is below a limit, with the label that is lowest."""
    mean = _mean(list(values.values()))
    if mean is None or limit is None or mean >= limit:
        return []
    lowest, name = min((value, name) for name, value in values.items() if value is not None)
    weakest = f", lowest of {name} ({lowest:.2f})" if len(values) > 1 else ""
    return [f"{what} {mean:.2f}{weakest}; below {limit:.2f} ({meaning})"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _probabilities(temperature: float) -> NDArray[np.float64]:
    """Return the probability in the middle of each bin of the histograms, at a temperature."""
    odds = LOWEST + WIDTH * (np.arange(BINS) + 0.5)
    return 1 / (1 + np.exp(-odds / temperature))


def _whole(histogram: Sequence[int]) -> NDArray[np.float64]:
    """Return a histogram with its empty bins."""
    return np.pad(np.asarray(histogram, dtype=np.float64), (0, BINS - len(histogram)))
