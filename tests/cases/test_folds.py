"""The folds: comparable with the reference, group-disjoint, balanced, seeded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.cases import Case
from autoseg.cases.folds import check_folds, make_folds, never_used, own_folds
from autoseg.errors import SettingsError


def cases(names: list[str], groups: list[str | None] | None = None) -> list[Case]:
    return [
        Case(name=name, images=(Path(f"{name}.nii.gz"),), group=group)
        for name, group in zip(names, groups or [None] * len(names), strict=True)
    ]


def spread(splits: list[dict[str, list[str]]], holders: set[str]) -> list[int]:
    return [len(holders & {*split["validation"]}) for split in splits]


def test_ungrouped_cases_are_split_as_the_reference_splits_them(golden: Path) -> None:
    expected = json.loads((golden / "golden-numerics.json").read_text())
    names = [f"case_{i:03d}" for i in range(23)]
    assert [s["validation"] for s in make_folds(cases(names))] == expected["kfold_23cases_val"]
    assert [s["validation"] for s in make_folds(cases(names[::-1]))] == expected["kfold_23cases_val"], (
        "the order of the cases does not matter"
    )
    assert [s["validation"] for s in make_folds(cases([f"c{i}" for i in range(5)]))] == expected["kfold_5cases_val"]
    everywhere = dict.fromkeys(names, frozenset({"liver"}))
    assert [s["validation"] for s in make_folds(cases(names), presence=everywhere)] == expected["kfold_23cases_val"]


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    some = cases([f"c{i}" for i in range(40)])
    assert make_folds(some, seed=1) == make_folds(some, seed=1)
    assert make_folds(some, seed=1) != make_folds(some, seed=2) != make_folds(some)


def test_a_label_that_few_cases_hold_is_in_every_fold() -> None:
    names = [f"c{i:02d}" for i in range(50)]
    presence = {name: frozenset({"liver", "tumour"} if i < 10 else {"liver"}) for i, name in enumerate(names)}
    for seed in range(5):
        splits = make_folds(cases(names), presence=presence, seed=seed)
        assert spread(splits, set(names[:10])) == [2] * 5
        assert spread(splits, set(names)) == [10] * 5


def test_several_labels_of_different_frequency_are_all_balanced() -> None:
    rng = np.random.default_rng(7)
    names = [f"c{i:03d}" for i in range(120)]
    presence = {
        name: frozenset(label for p, label in zip((0.05, 0.2, 0.5, 0.9), "abcd", strict=True) if rng.random() < p) for name in names
    }
    splits = make_folds(cases(names), presence=presence, seed=3)
    for label in "abcd":
        counts = spread(splits, {name for name in names if label in presence[name]})
        assert max(counts) - min(counts) <= 1, label


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40), st.integers(0, 3), st.integers(2, 6))
def test_no_group_is_in_two_folds_and_every_case_is_validated_once(groups: list[str], seed: int, folds: int) -> None:
    names = [f"c{i:02d}" for i in range(len(groups))]
    group_of = dict(zip(names, groups, strict=True))
    splits = make_folds(cases(names, list(groups)), folds=folds, seed=seed)
    assert len(splits) == min(folds, max(1, len(set(groups))))
    for split in splits:
        assert sorted(split["train"] + split["validation"]) == names
        assert not {group_of[n] for n in split["train"]} & {group_of[n] for n in split["validation"]}
    if len(splits) > 1:
        assert sorted(name for split in splits for name in split["validation"]) == names
        assert all(split["train"] and split["validation"] for split in splits)


def test_large_groups_do_not_make_lopsided_folds() -> None:
    groups: list[str | None] = ["big"] * 10 + [f"g{i}" for i in range(40)]
    splits = make_folds(cases([f"c{i:02d}" for i in range(50)], groups))
    assert sorted(len(split["validation"]) for split in splits) == [10] * 5


def test_fewer_cases_than_folds_are_left_out_one_by_one() -> None:
    assert sorted(s["validation"] for s in make_folds(cases(["a", "b", "c"]))) == [["a"], ["b"], ["c"]]
    assert make_folds(cases(["a"])) == [{"train": ["a"], "validation": []}]
    assert make_folds(cases(["a", "b"], ["p", "p"])) == [{"train": ["a", "b"], "validation": []}]
    with pytest.raises(SettingsError):
        make_folds([])


@pytest.mark.parametrize(("splits", "message"), [
    ({"train": ["a"]}, "not a list of folds"),
    ([], "not a list of folds"),
    ([{"train": ["a"]}], "no list 'validation'"),
    ([{"train": ["a"], "validation": "b"}], "no list 'validation'"),
    ([{"train": ["a"], "validation": ["bb"]}], "names a case that is not there"),
    ([{"train": ["a", "b"], "validation": ["b"]}], "holds a case twice"),
    ([{"train": ["a", "a"], "validation": ["b"]}], "holds a case twice"),
    ([{"train": [], "validation": ["b"]}], "nothing to train on"),
    ([{"train": ["a"], "validation": ["c"]}], "group in training and validation"),
])  # fmt: skip
def test_a_split_that_leaks_or_cannot_be_used_is_refused(splits: object, message: str) -> None:
    some = cases(["a", "b", "c"], ["p", None, "p"])
    with pytest.raises(SettingsError, match=message):
        own_folds(splits, some)


def test_a_split_of_the_reference_is_accepted_as_it_is() -> None:
    assert own_folds([{"train": ["b", "a"], "val": ["c"]}], cases(["a", "b", "c"])) == [{"train": ["a", "b"], "validation": ["c"]}]
    check_folds([{"train": ["a"], "validation": ["b"]}], ["a", "b", "c"])


def test_cases_in_no_fold_are_named() -> None:
    cases = [Case(name=name, images=()) for name in "abcd"]
    splits = own_folds([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "validation": ["a"]}], cases)
    assert never_used(splits, cases) == ["c", "d"]
