"""The folds of the cross-validation: seeded, never a group in two of them, balanced by which labels the cases hold.

A split is a list of `{"train": [names], "validation": [names]}`, both sorted. Nothing here touches a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import schema
from autoseg.cases import Case
from autoseg.errors import SettingsError

DEFAULT_SEED = 0
REFERENCE_SEED = 12345  # of the reference's split; nnU-Net 2.8.1, generate_crossval_split
_SWAPS = 4000  # proposals tried to even out the folds

Split = dict[str, list[str]]


def make_folds(
    cases: Sequence[Case],
    *,
    presence: Mapping[str, frozenset[str]] | None = None,
    folds: int = 5,
    seed: int = DEFAULT_SEED,
) -> list[Split]:
    """Split the cases into folds.

    Without groups and with the default seed this is the reference's split, so that scores can be compared fold by fold, unless it
    would spread a label unevenly (numbers of cases that differ by more than one between folds).

    Parameters
    ----------
    cases : with their groups; a case without one is a group of its own
    presence : case name to the names of the labels that it holds
    folds : how many; never more than there are groups
    seed : of the shuffling

    Returns
    -------
    As many splits as folds. One single group cannot be validated: then one split, with an empty validation.

    Raises
    ------
    SettingsError : no case, or less than two folds asked for

    Source: the reference's split is sklearn's `KFold(5, shuffle=True, random_state=12345)` over the sorted names (nnU-Net 2.8.1); the
    balanced one follows Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10, and then swaps cases while that helps.
    """
    if not cases:
        raise SettingsError("there is no case to split", expected="at least one case with a label", fix="check the data set")
    if folds < 2:
        raise SettingsError("a cross-validation needs two folds", found=str(folds), expected="2 or more", fix="ask for more folds")
    names = sorted(case.name for case in cases)
    units = _units(cases)
    folds = min(folds, len(units))
    if folds == 1:
        return [{"train": names, "validation": []}]
    counts = _label_counts(units, presence)
    if len(units) == len(names) and seed == DEFAULT_SEED:
        assigned = _reference(len(names), folds)
        if _evenly_spread(assigned, counts, folds):
            return _splits(names, units, assigned, folds)
    assigned = _balanced(counts, folds, np.random.default_rng(seed))
    return _splits(names, units, assigned, folds)


def check_folds(
    splits: Sequence[Mapping[str, Sequence[str]]], names: Sequence[str], *, groups: Mapping[str, str | None] | None = None
) -> None:
    """Refuse a split that cannot be trained on or that leaks.

    Parameters
    ----------
    splits : each with "train" and "validation"
    names : of the cases there are
    groups : case name to group; then no group may be in training and validation of one fold

    Raises
    ------
    SettingsError : not such a list; an unknown case; a case or group on both sides of a fold; nothing to train on
    """
    if not isinstance(splits, list) or not splits or not all(isinstance(split, Mapping) for split in splits):
        raise _unfit("not a list of folds", "split", '[{"train": [names], "validation": [names]}, ...]')
    known = frozenset(names)
    for number, split in enumerate(splits):
        train, validation = (_names_of(split, key, number) for key in ("train", "validation"))
        for name in (*train, *validation):
            if name not in known:
                close = schema.nearest(name, sorted(known))
                raise _unfit(f"fold {number} names a case that is not there", name, f"did you mean '{close}'?")
        if not train:
            raise _unfit(f"fold {number} has nothing to train on", "an empty list", "names of cases under 'train'")
        doubled = sorted({*train} & {*validation}) or [n for part in (train, validation) for n, k in Counter(part).items() if k > 1]
        if doubled:
            raise _unfit(f"fold {number} holds a case twice", ", ".join(doubled[:5]), "each case on one side of the fold, once")
        shared = {groups.get(name) for name in train} & {groups.get(name) for name in validation} - {None} if groups else set()
        if shared:
            listed = ", ".join(sorted(str(group) for group in shared)[:5])
            raise _unfit(f"fold {number} has a group in training and validation", listed, "all cases of a group on one side")


def own_folds(value: Any, cases: Sequence[Case]) -> list[Split]:
    """A user's own split, checked; nnU-Net's spelling "val" for "validation" is understood.

    Raises
    ------
    SettingsError : as for `check_folds`
    """
    if isinstance(value, list) and all(isinstance(split, Mapping) for split in value):
        value = [{("validation" if key == "val" else str(key)): names for key, names in split.items()} for split in value]
    check_folds(value, [case.name for case in cases], groups={case.name: case.group for case in cases})
    return [{key: sorted(split[key]) for key in ("train", "validation")} for split in value]


def never_used(splits: Sequence[Mapping[str, Sequence[str]]], cases: Sequence[Case]) -> list[str]:
    """Return the names of the cases that are in no fold, neither to train on nor to validate."""
    used = {name for split in splits for names in split.values() for name in names}
    return [case.name for case in cases if case.name not in used]


def _units(cases: Sequence[Case]) -> list[list[str]]:
    """Names that must stay together, each list sorted, by their first name."""
    units: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        units.setdefault(("case", case.name) if case.group is None else ("group", case.group), []).append(case.name)
    return sorted(sorted(unit) for unit in units.values())


def _label_counts(units: Sequence[Sequence[str]], presence: Mapping[str, frozenset[str]] | None) -> NDArray[np.int64]:
    """(units, 1 + labels): number of cases, and number of cases that hold each label."""
    labels = sorted({label for held in (presence or {}).values() for label in held})
    counts = np.zeros((len(units), 1 + len(labels)), dtype=np.int64)
    for row, unit in zip(counts, units, strict=True):
        row[0] = len(unit)
        for name in unit:
            held = (presence or {}).get(name, frozenset())
            row[1:] += np.array([label in held for label in labels], dtype=np.int64)
    return counts


def _reference(cases: int, folds: int) -> NDArray[np.int64]:
    """The fold in which each of the sorted cases is validated: sklearn's shuffled KFold, without sklearn."""
    order = np.arange(cases)
    np.random.RandomState(REFERENCE_SEED).shuffle(order)
    assigned = np.empty(cases, dtype=np.int64)
    for fold, members in enumerate(np.array_split(order, folds)):
        assigned[members] = fold
    return assigned


def _evenly_spread(assigned: NDArray[np.int64], counts: NDArray[np.int64], folds: int) -> bool:
    totals = np.stack([counts[assigned == fold].sum(axis=0) for fold in range(folds)])
    return bool(np.all(totals.max(axis=0) - totals.min(axis=0) <= 1))


def _balanced(counts: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The fold of each unit: the rarest label first, each to the fold that lacks it most; then swaps that even out the rest."""
    units = len(counts)
    assigned = np.full(units, -1, dtype=np.int64)
    totals = np.zeros((folds, counts.shape[1]))
    wanted = counts.sum(axis=0) / folds
    shuffled = rng.permutation(units)
    left = set(shuffled.tolist())
    while left:
        open_units = np.array([unit for unit in shuffled if unit in left])
        rest = counts[open_units].sum(axis=0)
        column = min(np.flatnonzero(rest > 0), key=lambda c: (rest[c], -c))  # the rarest label that is left; number of cases last
        holders = open_units[counts[open_units, column] > 0]
        for unit in sorted(holders.tolist(), key=lambda u: -counts[u, column]):  # big groups first: they are the hardest to place
            need = wanted - totals
            fold = max(range(folds), key=lambda f: (need[f, column], need[f, 0]))
            assigned[unit] = fold
            totals[fold] += counts[unit]
            left.discard(unit)
    return _evened_out(assigned, counts, totals, wanted, rng)


def _evened_out(
    assigned: NDArray[np.int64],
    counts: NDArray[np.int64],
    totals: NDArray[np.float64],
    wanted: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Swap two units, or move one, as long as the folds come nearer to each other; rare labels weigh more."""
    folds, weight = len(totals), 1 / np.maximum(wanted, 1)
    for _ in range(_SWAPS if len(assigned) > folds else 0):
        first, second = rng.integers(len(assigned), size=2)
        here, there = assigned[first], assigned[second]
        if here == there:
            continue
        alone = rng.random() < 0.5 and np.count_nonzero(assigned == here) > 1
        change = counts[first] - (0 if alone else counts[second])
        before = (totals[here] - wanted) ** 2 + (totals[there] - wanted) ** 2
        after = (totals[here] - change - wanted) ** 2 + (totals[there] + change - wanted) ** 2
        if float(((after - before) * weight).sum()) < -1e-9:
            totals[here] -= change
            totals[there] += change
            assigned[first] = there
            if not alone:
                assigned[second] = here
    return assigned


def _splits(names: Sequence[str], units: Sequence[Sequence[str]], assigned: NDArray[np.int64], folds: int) -> list[Split]:
    splits = []
    for fold in range(folds):
        held_out = {name for unit, place in zip(units, assigned, strict=True) if place == fold for name in unit}
        splits.append({"train": [n for n in names if n not in held_out], "validation": [n for n in names if n in held_out]})
    return splits


def _names_of(split: Mapping[str, Sequence[str]], key: str, number: int) -> Sequence[str]:
    names = split.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unfit(f"fold {number} has no list '{key}'", ", ".join(map(str, split)), '"train" and "validation", lists of names')
    return names


def _unfit(summary: str, found: str, expected: str) -> SettingsError:
    return SettingsError(summary, found=found, expected=expected, fix="correct the split, or leave it out to have one made")
