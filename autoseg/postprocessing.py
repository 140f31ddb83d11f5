"""Connected-component rules as data: choosing them from out-of-fold results, applying them to a label map.

A rule removes components, 26-connected in a volume and 8-connected in a planar image: all but the largest, or those below a
volume. What is removed becomes background or, where regions are nested, the region around it. A rule is adopted only when
the mean Dice of cases that the network had not seen improves with some certainty and no label gets worse; its evidence travels
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg import schema
from autoseg.errors import SettingsError
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.metrics import confusion, mean_of_means

POSTPROCESSING_FORMAT = 1
SIZES = tuple(float(digit * 10**power) for power in range(5) for digit in (1, 2, 5))  # mm3, tried where no typical volume is known
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the typical volume of a label, tried where it is known

Triple = tuple[NDArray[Any], NDArray[Any], Spacing]  # predicted classes, reference classes, spacing


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a rule did to the out-of-fold results it was chosen on."""

    dice_before: float  # mean over the labels of their means over the cases
    dice_after: float
    gain_low: float  # bootstrap interval of the gain, resampling cases
    gain_high: float
    cases: int
    cases_changed: int


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which components of one target are removed: all but the largest, or those below a volume."""

    says: str = field(default="", compare=False)  # the rule as a sentence, in a file
    target: str | None  # name of a label or region; None: all foreground together
    keep_largest: bool = False  # equal largest ones are all kept
    drop_below: float | None = None  # mm3
    evidence: Evidence | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the rule as a sentence for a report."""
        what = "all foreground together" if self.target is None else f"'{self.target}'"
        if self.keep_largest:
            return f"keep only the largest component of {what}"
        return f"drop components of {what} below {self.drop_below:g} mm3"


@dataclass(frozen=True, kw_only=True)
class PostprocessingRules:
    """Rules in the order in which they are applied; an empty list is valid."""

    format: int = POSTPROCESSING_FORMAT
    rules: tuple[Rule, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """Return what the rules do, a sentence each, for a report."""
        return tuple(str(rule) for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for postprocessing.json."""
        plain: dict[str, Any] = schema.dump(replace(self, rules=tuple(replace(rule, says=str(rule)) for rule in self.rules)))
        return plain

    @staticmethod
    def from_json(value: Any) -> PostprocessingRules:
        """Return the inverse of `to_json`; a rule written by hand needs `target` and one of `keep_largest` and `drop_below`.

        Raises
        ------
        SettingsError : another format version, a rule that says nothing or too much, or a value that cannot be one of a rule
        """
        fix = "correct the rule in postprocessing.json, or choose the rules again: autoseg select"
        record = schema.parse(PostprocessingRules, value, what="a list of post-processing rules", fix=fix, format=POSTPROCESSING_FORMAT)
        for rule in record.rules:
            if (rule.drop_below is None) != rule.keep_largest or (rule.drop_below is not None and rule.drop_below <= 0):
                raise SettingsError(
                    "a post-processing rule cannot be used",
                    found=f"keep_largest = {rule.keep_largest}, drop_below = {rule.drop_below}",
                    expected="a target, and either keep_largest = true or drop_below = a volume in mm3",
                    fix=fix,
                )
        return record


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The Dice of each target in one case, as it is and after each candidate that changes it; NaN where absent in both masks."""

    before: NDArray[np.float64]  # (targets,)
    after: Mapping[Rule, NDArray[np.float64]]


def apply(classes: NDArray[Any], rules: PostprocessingRules, labels: Labels, spacing: Spacing) -> NDArray[Any]:
    """Return the label map with the rules applied, one after the other.

    Parameters
    ----------
    classes : (z, y, x), classes
    rules : as chosen
    labels : what the classes mean
    spacing : (z, y, x), mm per voxel

    Returns
    -------
    A new array of the same dtype; the very same array where no rule removes anything.

    Raises
    ------
    SettingsError : a rule is about a label that there is not
    """
    boxes = ndimage.find_objects(classes) if rules.rules else []
    changed = classes
    for rule in rules.rules:
        members = _members(rule.target, labels)
        box = _joint_box(boxes, members)
        if box is None:
            continue
        components, volumes = _components(changed[box], members, spacing)
        dropped = np.append(False, _dropped(rule, volumes))  # by number of the component; number 0 is what is outside
        if not dropped.any():
            continue
        if changed is classes:
            changed = classes.copy()
        gone = dropped[components]
        changed[box][gone] = _beneath(members, labels).astype(classes.dtype)[changed[box][gone]]
    return changed


def learn(
    cases: Callable[[], Iterable[Triple]],
    labels: Labels,
    *,
    rng: np.random.Generator | None = None,
    typical: Mapping[str, float] | None = None,
    rounds: int = 3,
) -> PostprocessingRules:
    """Choose rules on out-of-fold results, holding one case at a time.

    Parameters
    ----------
    cases : called once per round; yields predicted classes, reference classes (both (z, y, x)) and spacing of every case
    labels : what the classes mean
    rng : source of the bootstrap; a fixed one where not given, so that the same results give the same rules
    typical : volume in mm3 that a target usually has, from which the sizes to try are taken; see `candidates`
    rounds : at most this many, each on top of the rules of those before
    """
    tried = candidates(labels, typical=typical)
    rules = PostprocessingRules()
    for _ in range(rounds):
        measured = [measure_case(p, r, labels, spacing, tried=tried, given=rules) for p, r, spacing in cases()]
        more = choose(measured, labels, rng=rng)
        if not more.rules:
            break
        rules = PostprocessingRules(rules=rules.rules + more.rules)
    return rules


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


def measure_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    labels: Labels,
    spacing: Spacing,
    *,
    tried: Sequence[Rule] | None = None,
    given: PostprocessingRules | None = None,
) -> Measured:
    """Return the Dice of every target before and after each candidate, without applying any: components are counted once per target.

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
        members = _members(target, labels)
        box = _joint_box(boxes, members)
        if box is None:
            continue
        rules = [rule for rule in tried if rule.target == target]
        components, volumes = _components(prediction[box], members, spacing)
        dropped = np.array([_dropped(rule, volumes) for rule in rules])  # (rules, components)
        patterns, kind = np.unique(dropped, axis=1, return_inverse=True)  # components with the same fate are counted together
        inside = components > 0
        fate = kind.reshape(-1)[components[inside] - 1]
        pairs = prediction[box][inside].astype(np.intp) * size + reference[box][inside]
        by_fate = np.bincount(fate * size**2 + pairs, minlength=patterns.shape[1] * size**2).reshape(-1, size, size)
        beneath = _beneath(members, labels)
        for rule, fates in zip(rules, patterns, strict=True):
            removed = by_fate[fates].sum(axis=0)
            if removed.any():
                moved = counts - removed
                np.add.at(moved, beneath, removed[: len(beneath)])
                after[rule] = _dice(moved, labels)
    return Measured(before=_dice(counts, labels), after=after)


def choose(
    measured: Sequence[Measured], labels: Labels, *, rng: np.random.Generator | None = None, confidence: float = 0.95, min_cases: int = 5
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
    rng = rng or np.random.default_rng(0)
    before = np.array([m.before for m in measured])  # (cases, targets)
    weights = rng.multinomial(len(before), np.full(len(before), 1 / len(before)), size=2000).astype(np.float64)
    before_drawn = mean_of_means(before, weights)
    qualified: list[tuple[float, int, Rule]] = []
    for order, rule in enumerate(dict.fromkeys(rule for m in measured for rule in m.after)):
        after = np.array([m.after.get(rule, m.before) for m in measured])
        gain = float(mean_of_means(after)[0] - mean_of_means(before)[0])
        if not gain > 0 or _some_target_worse(before, after):
            continue
        gains = mean_of_means(after, weights) - before_drawn
        low, high = np.nanquantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2])
        if low > 0:
            evidence = Evidence(
                dice_before=float(mean_of_means(before)[0]),
                dice_after=float(mean_of_means(after)[0]),
                gain_low=float(low),
                gain_high=float(high),
                cases=len(measured),
                cases_changed=sum(rule in m.after for m in measured),
            )
            qualified.append((-round(gain, 9), order, replace(rule, evidence=evidence)))
    taken: list[Rule] = []
    for _, _, rule in sorted(qualified, key=lambda entry: (entry[0], entry[2].keep_largest, entry[2].drop_below or 0.0)):
        members = set(_members(rule.target, labels))
        if all(members.isdisjoint(_members(other.target, labels)) for other in taken):
            taken.append(rule)
    return PostprocessingRules(rules=tuple(taken))


def _members(target: str | None, labels: Labels) -> tuple[int, ...]:
    """Return classes of a target; all foreground classes for None."""
    if target is None:
        return tuple(range(1, labels.class_count))
    for name, members in labels.scored:
        if name == target:
            return members
    raise SettingsError(
        "a post-processing rule about an unknown label",
        found=target,
        expected=", ".join(name for name, _ in labels.scored),
        fix="correct the rule in postprocessing.json, or use the rules made for this data set",
    )


def _joint_box(boxes: Sequence[Any], members: Sequence[int]) -> tuple[slice, ...] | None:
    """Return the smallest box around all classes in `members`; `None` where none of them occurs."""
    found = [boxes[c - 1] for c in members if c <= len(boxes) and boxes[c - 1] is not None]
    if not found:
        return None
    return tuple(slice(min(box[a].start for box in found), max(box[a].stop for box in found)) for a in range(3))


def _components(classes: NDArray[Any], members: Sequence[int], spacing: Spacing) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """Return the numbers of the components, 0 outside, and their volumes in mm3."""
    mask = classes == members[0] if len(members) == 1 else np.isin(classes, members)
    components, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    return components, np.bincount(components.ravel())[1:].astype(np.float64) * float(np.prod(spacing))


def _dropped(rule: Rule, volumes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which components a rule removes."""
    if volumes.size == 0:
        return np.zeros(0, dtype=bool)
    if rule.keep_largest:
        return volumes < volumes.max() * (1 - 1e-9)
    assert rule.drop_below is not None
    return volumes < rule.drop_below * (1 - 1e-9)


def _beneath(members: Sequence[int], labels: Labels) -> NDArray[np.intp]:
    """Return what a voxel of each class becomes where the target is removed: the regions that also hold it, else background.

    ::

        regions    whole = {1, 2, 3}   core = {2, 3}   enhancing = {3}
        removed    core: 2 -> 1, 3 -> 1       enhancing: 3 -> 2       whole: all -> 0
    """
    becomes = np.arange(labels.class_count)
    gone = set(members)
    around = [not set(labels.classes_of(region.members)) <= gone for region in labels.regions]
    for index in members:
        value = labels.values[index]
        active = [[keep and value in region.members] for region, keep in zip(labels.regions, around, strict=True)]
        becomes[index] = labels.paint(np.array(active))[0] if labels.regions else 0
    return becomes


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
