"""Left and right structures on the wrong side: exchanged in a few cases, or in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, error, some, warning
from autoseg.checking.statistics import CaseStatistics, Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("sides")


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A left/right pair in the cases that have both halves; arrays have one entry per case."""

    left: str
    right: str
    cases: Sequence[CaseStatistics]
    gaps: NDArray[np.float64]  # (cases, 3), mm, (x, y, z), from the left centroid to the right one
    volumes: NDArray[np.float64]  # (2, cases), mm3
    reversed_names: bool  # in most cases the left one is at the right
    wrong: NDArray[np.bool_]  # the other way round than in most cases

    @property
    def stable(self) -> bool:
        """Whether the usual way round is no chance: enough cases have it, and the halves are further apart than their distances vary."""
        usual = self.gaps[~self.wrong, 0]
        if usual.size < _LIMITS.fewest:
            return False
        needed = _LIMITS.stable * (1 + 3 / usual.size)  # the deviation of a few may be small by chance
        return bool(np.abs(usual.mean()) > needed * usual.std())

    @property
    def rare(self) -> bool:
        """Whether so few cases are the other way round that they are wrong, and not the many."""
        return bool(np.count_nonzero(self.wrong) <= _LIMITS.rare * len(self.cases))

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Where the way from left to right shows the sides: next to each other rather than above or behind, apart, neither a fragment."""
        length, usual = np.abs(self.gaps), ~self.wrong
        sideways = length[:, 0] >= length[:, 1:].max(axis=1)
        sideways &= bool(np.median(length[usual, 0]) >= np.median(length[usual, 1:], axis=0).max())
        apart = length[:, 0] > np.median(length[usual, 0]) * _LIMITS.apart
        whole = self.volumes > np.median(self.volumes[:, usual], axis=1, keepdims=True) * _LIMITS.whole
        return np.asarray(sideways & apart & whole.all(axis=0))


def exchanged_sides(cohort: Cohort) -> Iterator[Fault]:
    """Report left structures that are not at smaller x than right ones, in RAS+, case by case.

    An error only where nothing but exchanged sides explains it, for no option accepts an error: every pair of the case that can be
    judged (`_Pair.clear`) is reversed, at least two of them where the data set has several, and each is the right way round in three
    other cases and in three of four at least. Everything else, such as structures at the midline, a scan cropped through one of them,
    or a crossed kidney, is a warning.
    """
    labels = cohort.dataset.labels
    pairs = [pair for classes in labels.paired_classes if (pair := _pair(cohort, classes)) is not None and pair.stable]
    for pair in pairs:
        if pair.reversed_names:
            yield warning(
                "sides",
                f"'{pair.left}' is to the patient's right of '{pair.right}'",
                found=f"in {np.count_nonzero(~pair.wrong)} of {len(pair.cases)} cases",
                expected="left at the left, by the files' headers",
                remedy="perhaps the names mean the side of the picture, or a conversion lost the orientation",
            )
    reversals: dict[str, list[str]] = {}
    against: dict[str, int] = {}  # case -> pairs that speak for exchanged sides
    sound: set[str] = set()  # cases with a pair that speaks against it
    for pair in pairs:
        for case, wrong, clear in zip(pair.cases, pair.wrong, pair.clear, strict=True):
            if wrong:
                many = f"(so in {np.count_nonzero(pair.wrong)} of {len(pair.cases)} cases)"
                reversals.setdefault(case.name, []).append(f"'{pair.left}' and '{pair.right}' {many}")
                against[case.name] = against.get(case.name, 0) + int(clear and pair.rare)
            elif clear:
                sound.add(case.name)
    needed = min(2, len(labels.pairs))
    for name, listed in reversals.items():
        yield _reversal(name, listed, sure=name not in sound and against[name] >= needed)


def _pair(cohort: Cohort, classes: tuple[int, int]) -> _Pair | None:
    """The pair in the cases that have both halves; `None` without any."""
    left, right = classes
    known = [(case, case.voxels, case.centroids) for case in cohort.cases if case.placed and case.voxels and case.centroids is not None]
    both = [(case, voxels, centroids) for case, voxels, centroids in known if voxels[left] and voxels[right]]
    if not both:
        return None
    gaps = np.array([centroids[right] - centroids[left] for _, _, centroids in both])
    wrong = gaps[:, 0] < 0
    reversed_names = bool(2 * np.count_nonzero(wrong) > len(both))
    voxel = np.array([float(np.prod(case.spacing or (0.0,))) for case, _, _ in both])  # mm3
    names = cohort.dataset.labels.names
    return _Pair(
        left=names[left],
        right=names[right],
        cases=[case for case, _, _ in both],
        gaps=gaps,
        volumes=np.array([[voxels[half] for _, voxels, _ in both] for half in classes]) * voxel,
        reversed_names=reversed_names,
        wrong=gaps[:, 0] > 0 if reversed_names else wrong,
    )


def _reversal(case: str, pairs: Sequence[str], *, sure: bool) -> Fault:
    weak = (
        f"if it is the patient's anatomy, or a structure is cut or at the midline, nothing is to be done; else fix it, or {left_out(case)}"
    )
    strong = (
        "check whether its left and right are exchanged, or its orientation was lost, and fix it. If the patient is built so, no option "
        f"keeps the case, since it would teach the sides of all others wrongly: {left_out(case)}"
    )
    return (error if sure else warning)(
        "sides",
        "left and right lie the other way round than in the other cases",
        case=case,
        found=some(pairs),
        expected="the sides of the other cases, by the files' headers",
        remedy=strong if sure else weak,
    )
