"""The comparison of trained configurations: on common cases, with chance reckoned, the cheaper one in doubt."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg import selection
from autoseg.evaluation import Scores
from autoseg.selection import Candidate, choose, compare


def candidate(name: str, dice: dict[str, float | None], *, work: float = 1.0) -> Candidate:
    scores: dict[str, Scores] = {case: {"liver": {"dice": value}} for case, value in dice.items()}
    return Candidate(name=name, cases=scores, work=work)


def dice_of(cases: range, *, mean: float, seed: int = 0, spread: float = 0.02) -> dict[str, float | None]:
    """The same cases are hard for every candidate; each has some luck of its own."""
    hard = np.random.default_rng(7).normal(0, 0.1, 200)
    luck = np.random.default_rng(seed).normal(0, spread, 200)
    return {f"case_{n:03d}": float(np.clip(mean + hard[n] + luck[n], 0, 1)) for n in cases}


def chosen(*candidates: Candidate) -> tuple[str, tuple[str, ...]]:
    return choose(candidates, compare(candidates, rng=np.random.default_rng(0)))


def test_a_clear_gain_is_taken_whatever_it_costs_and_a_doubtful_one_is_not():
    cheap = candidate("2d", dice_of(range(60), mean=0.7), work=1)
    better = candidate("3d_fullres", dice_of(range(60), mean=0.75, seed=1), work=10)
    name, reasons = chosen(cheap, better)
    assert name == "3d_fullres" and "clearly better than 2d" in reasons[-1] and "60 common cases" in reasons[0]
    equal = candidate("3d_fullres", dice_of(range(60), mean=0.7005, seed=1), work=10)
    name, reasons = chosen(cheap, equal)
    assert name == "2d" and "did not prove better" in reasons[-1]


def test_the_difference_is_that_of_the_common_cases_only():
    """Easy cases that only one of them has seen say nothing about the other."""
    few = candidate("2d", {**{f"easy_{n}": 1.0 for n in range(50)}, **dice_of(range(20), mean=0.6)})
    many = candidate("3d_fullres", dice_of(range(80), mean=0.7, seed=1), work=10)
    (pair,) = compare((few, many), rng=np.random.default_rng(0))
    expected = np.mean([few.cases[f"case_{n:03d}"]["liver"]["dice"] - many.cases[f"case_{n:03d}"]["liver"]["dice"] for n in range(20)])
    assert pair.cases == 20 and pair.difference == pytest.approx(expected)
    assert chosen(few, many)[0] == "3d_fullres"


def test_without_common_cases_the_one_with_more_evidence_is_chosen_and_it_is_said():
    two_folds = candidate("2d", dice_of(range(80, 120), mean=0.9), work=1)
    three_folds = candidate("3d_fullres", dice_of(range(80), mean=0.7), work=10)
    (pair,) = compare((two_folds, three_folds), rng=np.random.default_rng(0))
    assert pair.cases == 0 and pair.difference is None and not pair.clear
    name, reasons = chosen(two_folds, three_folds)
    assert name == "3d_fullres" and any("2d takes no part" in reason for reason in reasons)


def test_a_false_positive_costs_and_a_label_in_neither_is_left_out():
    wrong = candidate("a", {"1": 0.0, "2": None, "3": 0.8, "4": 0.8})
    right = candidate("b", {"1": None, "2": None, "3": 0.8, "4": 0.8})
    (pair,) = compare((wrong, right), rng=np.random.default_rng(0))
    assert pair.difference == pytest.approx(-1 / 3)


def test_p_values_are_adjusted_for_all_pairs_by_holm():
    found = compare([candidate(f"c{n}", dice_of(range(40), mean=0.7 + 0.008 * n, seed=n)) for n in range(4)], rng=np.random.default_rng(0))
    ordered = sorted(found, key=lambda pair: pair.p)
    expected, largest = [], 0.0
    for rank, pair in enumerate(ordered):
        largest = max(largest, min(1.0, (6 - rank) * pair.p))
        expected.append(largest)
    assert len(found) == 6 and [pair.p_adjusted for pair in ordered] == pytest.approx(expected)


def test_equal_candidates_are_called_different_in_at_most_one_of_twenty_studies():
    wrong = 0
    for study in range(200):
        draw = np.random.default_rng(study)
        hard = draw.normal(0, 0.1, 40)
        pair = [candidate(name, {str(n): 0.7 + hard[n] + draw.normal(0, 0.05) for n in range(40)}) for name in "ab"]
        wrong += compare(pair, rng=np.random.default_rng(0), repeats=1000)[0].clear
    assert wrong <= 20  # 5 % of 200 are 10; the percentile interval of 40 cases is a little narrow


def test_one_candidate_is_chosen_without_a_comparison():
    name, reasons = chosen(candidate("2d", {"1": 0.5}))
    assert name == "2d" and "only configuration" in reasons[0]


def test_a_handful_of_cases_proves_nothing():
    """Four of four are better: one study in eight would show as much by chance."""
    better, worse = candidate("a", {str(n): 0.8 for n in range(4)}, work=2), candidate("b", {str(n): 0.7 for n in range(4)})
    (pair,) = compare((better, worse), rng=np.random.default_rng(0))
    assert pair.p == 0.125 and not pair.clear and chosen(better, worse)[0] == "b"


def test_more_comparisons_are_drawn_more_often_so_that_one_of_them_can_be_clear(monkeypatch):
    monkeypatch.setattr(selection, "REPEATS", 20)
    four = [candidate(f"c{n}", dice_of(range(40), mean=0.7 + 0.02 * n, seed=n, spread=0.001)) for n in range(4)]
    assert all(pair.clear for pair in compare(four, rng=np.random.default_rng(0)))
    assert not any(pair.clear for pair in compare(four, rng=np.random.default_rng(0), repeats=20))


def test_of_many_differences_those_of_the_chosen_one_are_put_into_words():
    many = [candidate(f"c{n}", dice_of(range(40), mean=0.7 + 0.03 * n, seed=n, spread=0.001)) for n in range(5)]
    apart = candidate("apart", {f"other_{n}": 0.5 for n in range(5)})
    name, reasons = chosen(*many, apart)
    assert name == "c4" and sum("against" in reason for reason in reasons) == 4
    assert sum("too few to compare them" in reason for reason in reasons) == 5
