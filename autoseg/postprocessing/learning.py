"""Choosing post-processing rules from out-of-fold results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.metrics import confusion, mean_of_means
from autoseg.postprocessing.applying import apply, beneath, components_of, dropped_by, joint_box, members_of, reshaped
from autoseg.postprocessing.rules import Evidence, PostprocessingRules, Rule

SIZES = tuple(float(digit * 10**power) for power in range(5) for digit in (1, 2, 5))  # mm3, tried where no typical volume is known
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the typical volume of a label, tried where it is known
RADII = (1, 2, 3)  # of closing and opening that are tried, in voxels of the finest axis of the median case
SCREENED = 20  # cases after which a rule on shapes without a gain on them is not tried on the others
FEWEST = 5  # cases below which no rule is adopted

Triple = tuple[NDArray[Any], NDArray[Any], Spacing]  # predicted classes, reference classes, spacing


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The Dice of each target in one case, as it is and after each candidate that changes it; NaN where absent in both masks."""

    before: NDArray[np.float64]  # (targets,)
    after: Mapping[Rule, NDArray[np.float64]]


def learn(
    cases: Callable[[], Iterable[Triple]],
    labels: Labels,
    *,
    rng: np.random.Generator | None = None,
    typical: Mapping[str, float] | None = None,
    rounds: int = 3,
) -> PostprocessingRules:
    """Choose rules on out-of-fold results, holding one case at a time: on components, then on holes, closing, opening.

    Parameters
    ----------
    cases : called once per round; yields predicted classes, reference classes (both (z, y, x)) and spacing of every case
    labels : what the classes mean
    rng : source of the bootstrap; a fixed one where not given, so that the same results give the same rules
    typical : volume in mm3 that a target usually has, from which the sizes to try are taken; see `candidates`
    rounds : on components, at most this many, each on top of the rules of those before
    """
    tried = candidates(labels, typical=typical)
    rules = PostprocessingRules()
    finest: list[float] = []
    for number in range(rounds):
        measured = []
        for p, r, spacing in cases():
            measured.append(measure_case(p, r, labels, spacing, tried=tried, given=rules))
            if number == 0:
                finest.append(min(mm for mm, n in zip(spacing, p.shape, strict=True) if n > 1 or p.size == 1))
        more = choose(measured, labels, rng=rng)
        if not more.rules:
            break
        rules = PostprocessingRules(rules=rules.rules + more.rules)
    if len(finest) < FEWEST:
        return rules
    for kind in shape_candidates(labels, voxel=float(np.median(finest))):
        rules = _with_shapes(cases, labels, rules, kind, rng)
    return rules


def _with_shapes(
    cases: Callable[[], Iterable[Triple]],
    labels: Labels,
    rules: PostprocessingRules,
    tried: Sequence[Rule],
    rng: np.random.Generator | None,
) -> PostprocessingRules:
    """Return the rules with those of one kind that help on top of them.

    Two of them may want the same voxel, so several are taken only if they help together as well; else the best alone.
    """
    measured: list[Measured] = []
    for index, (p, r, spacing) in enumerate(cases()):
        if index == SCREENED:
            tried = [rule for rule in tried if _mean_gain(measured, rule) > 0]
        if not tried:
            return rules
        measured.append(measure_case(p, r, labels, spacing, tried=tried, given=rules))
    more = choose(measured, labels, rng=rng).rules
    if len(more) > 1:
        together = PostprocessingRules(rules=rules.rules + more)
        after = [measure_case(p, r, labels, spacing, tried=(), given=together).before for p, r, spacing in cases()]
        drawn = _draws(len(after), rng)
        if _evidence(np.array([m.before for m in measured]), np.array(after), drawn, 0.95, changed=0) is None:
            more = more[:1]
    return PostprocessingRules(rules=rules.rules + more)


def _mean_gain(measured: Sequence[Measured], rule: Rule) -> float:
    before = np.array([m.before for m in measured])
    after = np.array([m.after.get(rule, m.before) for m in measured])
    return float(mean_of_means(after)[0] - mean_of_means(before)[0])


def candidates(labels: Labels, *, typical: Mapping[str, float] | None = None) -> tuple[Rule, ...]:
    """Return the rules worth trying: for all foreground together and for each target, keep the largest or drop below each size.

    Parameters
    ----------
    labels : what the classes mean
    typical : target name -> volume in mm3 that it usually has; the sizes tried are fractions of it, for all foreground together
        of the smallest. Where it is not given, sizes from 1 mm3 to 50 cm3 are tried.
    """
    names = [name for name, _ in labels.scored]
    smallest = min(typical.values()) if typical else None
    listed: list[Rule] = []
    for target in [None, *names] if len(names) > 1 else names:
        usual = smallest if target is None else (typical or {}).get(target)
        sizes = SIZES if usual is None else tuple(float(f"{usual * fraction:.2g}") for fraction in FRACTIONS)
        listed += [Rule(target=target, drop_below=size) for size in sizes]
        listed.append(Rule(target=target, keep_largest=True))
    return tuple(listed)


def shape_candidates(labels: Labels, *, voxel: float) -> tuple[tuple[Rule, ...], ...]:
    """Return the rules on shapes worth trying, by kind in the order in which they are tried: holes, closing, opening.

    Parameters
    ----------
    labels : what the classes mean
    voxel : mm, length of a voxel along the finest axis, from which the radii are taken
    """
    names = [name for name, _ in labels.scored]
    targets = [None, *names] if len(names) > 1 else names
    radii = [_rounded_up(count * voxel) for count in RADII]
    return (
        tuple(Rule(target=target, fill_holes=True) for target in targets),
        tuple(Rule(target=target, closing=radius) for target in targets for radius in radii),
        tuple(Rule(target=target, opening=radius) for target in targets for radius in radii),
    )


def _rounded_up(length: float) -> float:
    """Return a length with three digits that is not smaller, so that a ball reaches the voxel that it is made for."""
    unit = 10.0 ** (math.floor(math.log10(length)) - 2)
    return float(f"{math.ceil(length / unit - 1e-9) * unit:.3g}")


def measure_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    labels: Labels,
    spacing: Spacing,
    *,
    tried: Sequence[Rule] | None = None,
    given: PostprocessingRules | None = None,
) -> Measured:
    """Return the Dice of every target before and after each candidate; components are counted once per target.

    Parameters
    ----------
    prediction, reference : (z, y, x), classes; the reference may hold the ignore class
    labels : what the classes mean
    spacing : (z, y, x), mm per voxel
    tried : the candidates; those of `candidates(labels)` where not given
    given : rules that are already chosen, applied first
    """
    tried = candidates(labels) if tried is None else tried
    prediction = apply(prediction, given or PostprocessingRules(), labels, spacing)
    size = labels.class_count + (labels.ignore_class is not None)
    counts = confusion(prediction, reference, classes=size)
    boxes = ndimage.find_objects(prediction)
    after: dict[Rule, NDArray[np.float64]] = {}
    for target in dict.fromkeys(rule.target for rule in tried):
        members = members_of(target, labels)
        box = joint_box(boxes, members)
        if box is None:
            continue
        rules = [rule for rule in tried if rule.target == target and rule.of_components]
        for rule in (rule for rule in tried if rule.target == target and not rule.of_components):
            edited = reshaped(prediction, box, rule, labels, spacing)
            if edited is not None:
                after[rule] = _dice(counts + _moved(prediction[box], edited, reference[box], size), labels)
        if not rules:
            continue
        components, volumes = components_of(prediction[box], members, spacing)
        dropped = np.array([dropped_by(rule, volumes) for rule in rules])  # (rules, components)
        patterns, kind = np.unique(dropped, axis=1, return_inverse=True)  # components with the same fate are counted together
        inside = components > 0
        fate = kind.reshape(-1)[components[inside] - 1]
        pairs = prediction[box][inside].astype(np.intp) * size + reference[box][inside]
        by_fate = np.bincount(fate * size**2 + pairs, minlength=patterns.shape[1] * size**2).reshape(-1, size, size)
        becomes = beneath(members, labels)
        for rule, fates in zip(rules, patterns, strict=True):
            removed = by_fate[fates].sum(axis=0)
            if removed.any():
                moved = counts - removed
                np.add.at(moved, becomes, removed[: len(becomes)])
                after[rule] = _dice(moved, labels)
    return Measured(before=_dice(counts, labels), after=after)


def choose(
    measured: Sequence[Measured],
    labels: Labels,
    *,
    rng: np.random.Generator | None = None,
    confidence: float = 0.95,
    min_cases: int = FEWEST,
) -> PostprocessingRules:
    """Choose the rules that help: the mean Dice improves, also at the lower end of its bootstrap interval, and no target gets worse.

    Of the rules that qualify the one with the largest gain is taken, then the next one that shares no class with those taken, and
    so on: what they do to the results then does not depend on each other. Rules that share classes need another round.

    Parameters
    ----------
    measured : one per case
    labels : what the classes mean
    rng : source of the bootstrap; a fixed one where not given, so that the same results give the same rules
    confidence : of the two-sided interval of the gain
    min_cases : with fewer cases nothing is adopted
    """
    if len(measured) < min_cases:
        return PostprocessingRules()
    before = np.array([m.before for m in measured])  # (cases, targets)
    drawn = _draws(len(before), rng)
    qualified: list[tuple[float, int, Rule]] = []
    for order, rule in enumerate(dict.fromkeys(rule for m in measured for rule in m.after)):
        after = np.array([m.after.get(rule, m.before) for m in measured])
        evidence = _evidence(before, after, drawn, confidence, changed=sum(rule in m.after for m in measured))
        if evidence is not None:
            gain = float(mean_of_means(after)[0] - mean_of_means(before)[0])
            qualified.append((-round(gain, 9), order, replace(rule, evidence=evidence)))
    taken: list[Rule] = []
    for _, _, rule in sorted(qualified, key=lambda entry: (entry[0], entry[2].keep_largest, entry[2].size)):
        members = set(members_of(rule.target, labels))
        if all(members.isdisjoint(members_of(other.target, labels)) for other in taken):
            taken.append(rule)
    return PostprocessingRules(rules=tuple(taken))


def _draws(cases: int, rng: np.random.Generator | None) -> NDArray[np.float64]:
    """Return how often each case counts in each of 2000 draws of the bootstrap."""
    rng = rng or np.random.default_rng(0)
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=2000).astype(np.float64)


def _evidence(
    before: NDArray[np.float64], after: NDArray[np.float64], drawn: NDArray[np.float64], confidence: float, *, changed: int
) -> Evidence | None:
    """Return what a change did to the Dice `(cases, targets)`; None unless the gain is certain and no target gets worse."""
    was, now = float(mean_of_means(before)[0]), float(mean_of_means(after)[0])
    if not now - was > 0 or _some_target_worse(before, after):
        return None
    gains = mean_of_means(after, drawn) - mean_of_means(before, drawn)
    low, high = np.nanquantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2])
    if not low > 0:
        return None
    return Evidence(dice_before=was, dice_after=now, gain_low=float(low), gain_high=float(high), cases=len(before), cases_changed=changed)


def _moved(old: NDArray[Any], new: NDArray[Any], reference: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Return what a change of the predicted classes adds to the confusion matrix."""
    differs = old != new
    true = reference[differs]
    gained, lost = (
        np.bincount(classes[differs].astype(np.intp) * size + true, minlength=size**2).reshape(size, size) for classes in (new, old)
    )
    return np.asarray(gained - lost)


def _dice(counts: NDArray[np.int64], labels: Labels) -> NDArray[np.float64]:
    """Return the Dice of every target from a confusion matrix; NaN where the target is in neither mask."""
    inside = np.zeros((len(labels.scored), len(counts)))
    for row, (_, members) in enumerate(labels.scored):
        inside[row, list(members)] = 1
    counted = counts.astype(np.float64)
    if labels.ignore_class is not None:
        counted[:, labels.ignore_class] = 0
    predicted = inside @ counted  # (targets, reference classes)
    both = (predicted * inside).sum(axis=1)
    total = predicted.sum(axis=1) + inside @ counted.sum(axis=0)
    return np.divide(2 * both, total, out=np.full(len(total), np.nan), where=total > 0)


def _some_target_worse(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    for column in range(before.shape[1]):
        was, now = before[:, [column]], after[:, [column]]
        if np.isfinite(now).any() and mean_of_means(now)[0] < mean_of_means(was)[0] - 1e-12:
            return True
    return False
