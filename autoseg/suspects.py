"""Cases whose reference the out-of-fold networks contradict with confidence: annotation errors, found by the model.

A case is suspect where a network that has never seen it is sure and wrong. Where the network doubts, the case is only difficult.
Ranking needs the counts of the validation alone (`calibration`); the label maps say in words what is probably wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg import calibration
from autoseg.calibration import CaseCounts
from autoseg.geometry import Affine, Spacing
from autoseg.labels import Labels
from autoseg.metrics import confusion, overlap_of

FEWEST = 3  # cases with a label from which one of them can be unlike the others
WORTH = 0.05  # share of a label, above the usual one, that must be contradicted with confidence before a case is called suspect
CLEAR = 0.15  # gain of Dice that makes an explanation worth saying
SHIFT = 1.5  # voxels; less is within what two people differ by

_WAYS = (("down", "up"), ("to the back", "to the front"), ("to the patient's left", "to the patient's right"))  # along z, y, x


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """How much of one label in one case is contradicted with confidence."""

    case: str
    label: str
    score: float  # share of the label's voxels, weighted by confidence, above the median of the cases; 0 to 1
    dice: float | None
    expected_dice: float | None  # what the confidence of the network leads one to expect
    sure_voxels: int  # on the grid of the network, in which it is sure of something else
    share: float  # of them, of the label's voxels in reference and prediction

    def sentence(self) -> str:
        """Return the figures in words."""
        promised = "" if self.expected_dice is None else f", where {self.expected_dice:.2f} was to be expected"
        dice = "" if self.dice is None else f"Dice {self.dice:.2f}{promised}; "
        return f"{self.label}: {dice}{100 * self.share:.0f} % of it is contradicted with confidence ({self.sure_voxels} voxels)"


def rank(cases: Mapping[str, CaseCounts], dice: Mapping[str, Mapping[str, float | None]]) -> list[Suspicion]:
    """Return the cases that are worth a look, the most suspect first, each with the label that is contradicted most.

    Parameters
    ----------
    cases : counts of each validated case
    dice : the true Dice of each of them, by label

    Returns
    -------
    the cases in which `WORTH` of a label, more than in the median case, is contradicted; ties by name
    """
    known = calibration.calibrate(cases, dice)
    if known is None:
        return []
    found: dict[str, Suspicion] = {}
    names = [name for name in next(iter(cases.values())).labels if any(name in scores for scores in dice.values())]
    for name in names:
        shares = {case: share for case, counts in cases.items() if (share := _contradicted(counts, name, known.temperature)) is not None}
        if len(shares) < FEWEST:
            continue
        usual = float(np.median(list(shares.values())))
        for case, share in shares.items():
            score = share - usual
            if score >= WORTH and (case not in found or score > found[case].score):
                found[case] = _suspicion(case, name, score, cases[case], dice.get(case, {}).get(name), known)
    return sorted(found.values(), key=lambda one: (-one.score, one.case))


def explain(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], label: str, labels: Labels, *, spacing: Spacing, affine: Affine
) -> tuple[str, ...]:
    """Return in words what may be wrong with a reference, the likeliest explanation first, and where to look.

    Parameters
    ----------
    prediction, reference : (z, y, x), classes, canonical, of one grid
    label : the label or region that is contradicted most
    spacing : (z, y, x), mm per voxel
    affine : voxel to world
    """
    members = dict(labels.scored)[label]
    known = np.ones(reference.shape, dtype=bool) if labels.ignore_class is None else reference != labels.ignore_class
    predicted, true = np.isin(prediction, members) & known, np.isin(reference, members) & known
    millilitres = float(np.prod(spacing)) / 1000
    if not true.any():
        reasons = [f"{label} is missing in the reference; the network finds {predicted.sum() * millilitres:.3g} ml of it"]
    elif not predicted.any():
        reasons = [f"the reference has {true.sum() * millilitres:.3g} ml of {label}, and the network is sure that there is none"]
    else:
        reasons = [*_exchanged(prediction, reference, label, labels), *_moved(predicted, true, label, spacing)]
    return (*reasons, _where(predicted != true, predicted, affine))


def _contradicted(counts: CaseCounts, name: str, temperature: float) -> float | None:
    """Return the share of a label that is contradicted, each voxel counted by the confidence; None where the label is not there."""
    label = counts.labels.get(name)
    total = 0 if label is None else calibration.volumes(label)
    return None if label is None or total == 0 else calibration.sure_weight(label, temperature) / total


def _suspicion(case: str, name: str, score: float, counts: CaseCounts, dice: float | None, known: calibration.Calibration) -> Suspicion:
    label = counts.labels[name]
    sure = calibration.sure_errors(label, known.temperature)
    promised, line = label.expected_dice(known.dice_temperature), known.labels.get(name)
    return Suspicion(
        case=case,
        label=name,
        score=score,
        dice=dice,
        expected_dice=None if promised is None or line is None else line.true(promised),
        sure_voxels=sure,
        share=sure / calibration.volumes(label),
    )


def _exchanged(prediction: NDArray[np.integer], reference: NDArray[np.integer], label: str, labels: Labels) -> Iterator[str]:
    """Yield the label that has this one's place in the reference, where there is one."""
    members = dict(labels.scored)[label]
    if labels.regions or len(members) != 1:
        return
    counts = confusion(prediction, reference, classes=labels.class_count + (labels.ignore_class is not None))
    own = members[0]
    matched, size = counts[own, 1 : labels.class_count], counts[:, 1 : labels.class_count].sum(0)
    scores = 2 * matched / np.maximum(1, counts[own].sum() + size)
    other = 1 + int(scores.argmax())
    before = overlap_of(counts, members, ignore=labels.ignore_class).dice or 0.0
    if other != own and scores[other - 1] >= max(0.3, before + CLEAR):
        back = 2 * counts[other, own] / max(1, counts[other].sum() + counts[:, own].sum())
        both = f"{label} and {labels.names[other]} look exchanged"
        what = both if back >= 0.3 else f"{label} looks as if it were called {labels.names[other]}"
        yield f"{what}: Dice {scores[other - 1]:.2f} between the found {label} and the reference's {labels.names[other]}"


def _moved(predicted: NDArray[np.bool_], true: NDArray[np.bool_], label: str, spacing: Spacing) -> Iterator[str]:
    """Yield by how much the reference would have to be moved, or along which axis mirrored, where that explains it."""
    before = _dice(predicted, true)
    centres = [np.array(ndimage.center_of_mass(mask)) for mask in (true, predicted)]
    steps = np.round(centres[0] - centres[1]).astype(int)
    moved = _dice(predicted, _shifted(true, -steps))
    mirrored = {axis: _dice(predicted, np.flip(true, axis)) for axis in range(3) if true.shape[axis] > 1}
    axis = max(mirrored, key=lambda a: mirrored[a])
    if np.abs(steps).max() >= SHIFT and moved >= before + CLEAR and moved >= mirrored[axis] - 0.05:
        parts = [
            f"{abs(step)} voxels ({abs(step) * mm:.3g} mm) too far {ways[int(step > 0)]}"
            for ways, step, mm in zip(_WAYS, steps, spacing, strict=True)
            if step
        ]
        yield f"the reference of {label} looks shifted: {', '.join(parts)}; moved back, Dice {moved:.2f}"
    elif mirrored[axis] >= before + CLEAR:
        way = ("upside down", "front to back", "left to right")[axis]
        yield f"the reference of {label} looks mirrored {way}: mirrored back, Dice {mirrored[axis]:.2f}"


def _where(different: NDArray[np.bool_], predicted: NDArray[np.bool_], affine: Affine) -> str:
    """Return where most of the disagreement is: the middle of its largest piece, in mm, and what it is there."""
    pieces, count = ndimage.label(different)
    if not count:
        return "the label maps agree: the networks' grid shows the disagreement, the scan's does not"
    largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    piece = pieces == largest
    inside = np.argwhere(piece)
    middle = inside[np.abs(inside - inside.mean(0)).sum(1).argmin()]  # a voxel of it, however it is bent
    x, y, z = (affine @ [*middle, 1])[:3]
    extra = float(predicted[piece].mean())
    what = "found by the network, not in the reference" if extra > 0.8 else "in the reference, not found" if extra < 0.2 else "both ways"
    return f"most of it around ({x:.0f}, {y:.0f}, {z:.0f}) mm (right, front, up): {what}"


def _shifted(mask: NDArray[np.bool_], steps: Sequence[int] | NDArray[np.int_]) -> NDArray[np.bool_]:
    """Return a mask moved by whole voxels; what leaves the volume is lost."""
    moved = np.zeros_like(mask)
    source = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(steps, mask.shape, strict=True))
    target = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(steps, mask.shape, strict=True))
    moved[target] = mask[source]
    return moved


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else math.nan
