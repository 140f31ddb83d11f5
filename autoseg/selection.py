"""Which of several trained configurations is best: paired differences on the cases they share, and a choice with its reasons.

Pure functions on scores; `pipeline.selecting` reads the files.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg.evaluation import Scores, score_table
from autoseg.metrics import bootstrap_means, mean_of_means

LEVEL = 0.05  # of all differences together
FEWEST = 3  # cases in common below which nothing is compared
FEW = 6  # differences up to which all are put into words; of more, those of the chosen one, and what cannot be compared
SHOWN = 8  # names of common cases in a sentence
REPEATS = 5000  # draws of the bootstrap
_DRAWS_EACH = 200  # per comparison at least: else no difference is clear among very many, as a p value is never below 2 / draws


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration, or several whose probabilities are averaged, with the out-of-fold scores."""

    name: str
    cases: Mapping[str, Scores]
    work: float  # to predict one scan, in any unit that is the same for all; of several configurations the sum


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean Dice of one candidate less that of another, on the cases they share."""

    first: str
    second: str
    cases: int  # in common
    named: tuple[str, ...] = ()  # the cases in common, where one of the two has others as well
    difference: float | None = None  # None: too few cases in common
    ci95: tuple[float, float] | None = None  # percentile bootstrap over the cases, for this difference alone
    p: float | None = None  # two-sided, of the same draws; of n cases at least 2 / 2**n, the smallest that an exact test of them can give
    p_adjusted: float | None = None  # by Holm, for all differences together

    @property
    def clear(self) -> bool:
        """Whether the two differ by more than chance, all comparisons taken together."""
        return self.p_adjusted is not None and self.p_adjusted < LEVEL

    def gain(self, name: str) -> float | None:
        """Return how much better `name`, one of the two, is than the other."""
        if self.difference is None:
            return None
        return self.difference if name == self.first else -self.difference

    def sentence(self) -> str:
        """Return the comparison in words."""
        if self.difference is None or self.ci95 is None or self.p_adjusted is None:
            return f"{self.first} and {self.second} have {self.cases} validated cases in common: too few to compare them"
        verdict = "a difference beyond chance" if self.clear else "no difference beyond chance"
        low, high = self.ci95
        which = f" ({', '.join(self.named[:SHOWN])}{', ...' if len(self.named) > SHOWN else ''})" if self.named else ""
        return (f"{self.first} against {self.second}: {self.difference:+.4f} Dice [{low:+.4f}, {high:+.4f}] on {self.cases} common cases"
                f"{which} (p {self.p_adjusted:.3f}): {verdict}")  # fmt: skip


def compare(candidates: Sequence[Candidate], *, rng: np.random.Generator, repeats: int | None = None) -> tuple[Difference, ...]:
    """Return the paired difference in mean Dice of every two candidates, on the cases that both have.

    Parameters
    ----------
    candidates : with the scores of each case
    rng : source of the bootstrap
    repeats : draws of the cases; by default 5000, more where there are more than 25 pairs

    Returns
    -------
    one `Difference` for each pair. Where a label is absent from the reference of a case and only one of the two predicted it,
    the other one was right and counts as 1; where neither has a score, the label is left out.

    Source: percentile bootstrap as Efron & Tibshirani 1993, chapter 13; Holm 1979, Scand J Statist 6:65, for all pairs together.
    """
    pairs = list(itertools.combinations(candidates, 2))
    draws = repeats or max(REPEATS, _DRAWS_EACH * len(pairs))
    found = [_difference(first, second, rng, draws) for first, second in pairs]
    tested = sorted((index for index, pair in enumerate(found) if pair.p is not None), key=lambda index: found[index].p or 0.0)
    adjusted = 0.0
    for rank, index in enumerate(tested):
        adjusted = max(adjusted, min(1.0, (len(tested) - rank) * (found[index].p or 0.0)))
        found[index] = replace(found[index], p_adjusted=adjusted)
    return tuple(found)


def choose(candidates: Sequence[Candidate], differences: Sequence[Difference]) -> tuple[str, tuple[str, ...]]:
    """Return the candidate that `predict` should use, and the reasons in words.

    Of those that none is clearly better than, the one that takes the least work is chosen. Only candidates that share cases
    with the one validated on the most cases take part: without common cases nothing is known of their difference.

    Parameters
    ----------
    candidates : at least one
    differences : of every two, as `compare` returns them
    """
    if len(candidates) == 1:
        return candidates[0].name, (f"{candidates[0].name} is the only configuration that is trained and validated",)
    base = max(candidates, key=lambda c: (len(c.cases), _mean(c), -c.work))
    pairs = {frozenset((d.first, d.second)): d for d in differences}
    compared = [c for c in candidates if c is base or pairs[frozenset((c.name, base.name))].difference is not None]
    left = [c for c in compared if not any(_clearly_better(other, c, pairs) for other in compared if other is not c)]
    best = min(left, key=lambda c: (c.work, -_mean(c)))
    shown = [d for d in differences if len(differences) <= FEW or best.name in (d.first, d.second) or d.difference is None]
    reasons = [d.sentence() for d in shown]
    reasons += [
        f"{c.name} takes no part: it shares too few validated cases with {base.name}, which has the most ({len(base.cases)})"
        for c in candidates
        if c not in compared
    ]
    reasons.append(_why(best, left, [c.name for c in compared if c not in left]))
    return best.name, tuple(reasons)


def _why(best: Candidate, left: Sequence[Candidate], beaten: Sequence[str]) -> str:
    """Return why a candidate is chosen among those that none is clearly better than."""
    if len(left) == 1:
        return f"{best.name} is chosen: it is clearly better than {', '.join(beaten)}" if beaten else f"{best.name} is chosen"
    others = ", ".join(c.name for c in left if c is not best)
    return f"{best.name} is chosen: {others} did not prove better, and it takes the least work for a scan"


def _clearly_better(one: Candidate, other: Candidate, pairs: Mapping[frozenset[str], Difference]) -> bool:
    pair = pairs[frozenset((one.name, other.name))]
    return pair.clear and (pair.gain(one.name) or 0.0) > 0


def _difference(first: Candidate, second: Candidate, rng: np.random.Generator, repeats: int) -> Difference:
    common = sorted(first.cases.keys() & second.cases.keys())
    labels = sorted({name for case in common for scores in (first.cases[case], second.cases[case]) for name in scores})
    values = np.array([[_gain(first.cases[case].get(name), second.cases[case].get(name)) for name in labels] for case in common])
    named = tuple(common) if len(common) < max(len(first.cases), len(second.cases)) else ()
    empty = Difference(first=first.name, second=second.name, cases=len(common), named=named)
    if len(common) < FEWEST or not np.isfinite(values).any():
        return empty
    draws = bootstrap_means(values, rng=rng, repeats=repeats)
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, max(2 * (float(tail) + 1) / (len(draws) + 1), 2.0 ** (1 - len(common))))  # surer than if all signs agree it cannot be
    return replace(empty, difference=float(mean_of_means(values)[0]), ci95=(float(low), float(high)), p=p)


def _gain(first: Mapping[str, float | None] | None, second: Mapping[str, float | None] | None) -> float:
    """Return the Dice of one label in one case less that of the other candidate; NaN where there is nothing to compare."""
    if first is None or second is None:
        return float("nan")
    one, other = first["dice"], second["dice"]
    if one is None and other is None:
        return float("nan")
    return (1.0 if one is None else one) - (1.0 if other is None else other)


def _mean(candidate: Candidate) -> float:
    names = sorted({name for scores in candidate.cases.values() for name in scores})
    mean = float(mean_of_means(score_table(candidate.cases, names, "dice"))[0])
    return mean if np.isfinite(mean) else 0.0
