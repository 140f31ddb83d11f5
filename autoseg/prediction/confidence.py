"""Counts of how sure networks are, taken from their logits slab by slab as these pass by; no volume of logits is kept.

`Tally` compares one network with the reference, out of fold; `Opinions` compares the folds with each other on a new scan.
Only voxels near structures are looked at: where a network is very sure of the background, and the reference is far, it is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.calibration import BINS, LOWEST, TEMPERATURES, WIDTH, CaseCounts, FoldOpinion, LabelCounts, expected_dice
from autoseg.labels import Labels

MARGIN = 8.0  # log odds for the background from which a voxel is far from any structure: one in 3000
NEAR = 4  # voxels around the reference that are counted


class Tally:
    """The counts of one case with its reference, on the grid of the network."""

    def __init__(self, reference: NDArray[np.integer], labels: Labels, *, annotated: Sequence[str] | None = None) -> None:
        """Prepare for the slabs of one case.

        Parameters
        ----------
        reference : classes `(z, y, x)`; the ignore class is not counted
        annotated : labels that were annotated in this case; the others are not counted. None: all
        """
        self._labels, self._reference = labels, reference
        present = reference > 0 if labels.ignore_class is None else (reference > 0) & (reference != labels.ignore_class)
        self._near = ndimage.maximum_filter(present.view(np.uint8), 2 * NEAR + 1).view(bool)
        self._unknown = [
            index
            for index, (_, members) in enumerate(_heads(labels))
            if index and annotated is not None and not {labels.names[m] for m in members} <= {*annotated}
        ]
        rows = len(_heads(labels))
        self._histograms = {side: np.zeros((rows, BINS), dtype=np.int64) for side in ("right", "wrong", "missed")}
        self._predicted = np.zeros(rows, dtype=np.int64)
        self._chance, self._agreed = (np.zeros((len(TEMPERATURES), rows)) for _ in range(2))
        self._likelihood, self._voxels = np.zeros(len(TEMPERATURES)), 0

    def see(self, start: int, logits: Tensor) -> None:
        """Count the slices from `start` on.

        Parameters
        ----------
        logits : `(1, heads, slices, y, x)` of the one network
        """
        scores = logits[0]
        part = slice(start, start + scores.shape[1])
        close = _contested(scores, self._labels)
        looked = close | torch.from_numpy(self._near[part]).to(scores.device)
        reference = torch.from_numpy(self._reference[part].astype(np.int16)).to(scores.device)[looked].long()
        counted = close[looked]
        values = scores[:, looked]
        if values.device.type == "mps":  # has no double precision
            values, reference, counted = values.cpu(), reference.cpu(), counted.cpu()
        if self._labels.regions:
            for row, (z, (_, members)) in enumerate(zip(values, _heads(self._labels)[1:], strict=True), start=1):
                true = torch.isin(reference, torch.tensor(members, device=reference.device))
                self._add(torch.stack((torch.zeros_like(z), z)), true.long(), self._known(reference) & (row not in self._unknown), counted,
                          rows=(0, row))  # fmt: skip
        else:
            self._add(values, reference, self._known(reference), counted, rows=range(len(values)))

    def counts(self) -> CaseCounts:
        """Return what was counted in all slabs."""
        found = {}
        for row, (name, _) in enumerate(_heads(self._labels)):
            sides = {side: tuple(np.trim_zeros(table[row], "b").tolist()) for side, table in self._histograms.items()}
            known = row > 0  # no Dice of the background
            found[name] = LabelCounts(
                **sides,
                predicted=int(self._predicted[row]) if known else 0,
                chance=_short(self._chance[:, row]) if known else (),
                agreed=_short(self._agreed[:, row]) if known else (),
            )
        return CaseCounts(labels=found, likelihood=_short(self._likelihood), voxels=self._voxels)

    def _known(self, reference: Tensor) -> Tensor:
        ignored = self._labels.ignore_class
        return torch.ones_like(reference, dtype=torch.bool) if ignored is None else reference != ignored

    def _add(self, z: Tensor, reference: Tensor, known: Tensor, counted: Tensor, *, rows: Sequence[int]) -> None:
        """Add voxels of logits `(k, n)` with their reference `(n)`, an index of `rows`, where it is known; sums of `counted` ones."""
        top, decided = z.max(0)
        places = torch.as_tensor(rows, device=z.device)
        others = z.scatter(0, decided[None], -torch.inf)
        bins = ((top - others.logsumexp(0) - LOWEST) / WIDTH).long().clamp_(0, BINS - 1)
        if self._unknown and not self._labels.regions:
            known = known & ~torch.isin(decided, torch.tensor(self._unknown, device=z.device))
        hit = decided == reference
        for side, row, where in (("right", decided, hit), ("wrong", decided, ~hit), ("missed", reference, ~hit)):
            where = where & known
            self._histograms[side] += _counted(places[row[where]] * BINS + bins[where], self._histograms[side].size).reshape(-1, BINS)
        self._predicted += _counted(places[decided], len(self._predicted))
        self._voxels += int(known.sum())
        truth = reference.clamp(0, len(z) - 1)
        for index, temperature in enumerate(TEMPERATURES):
            logs = (z / temperature).log_softmax(0)
            self._likelihood[index] -= float((logs.gather(0, truth[None])[0] * known).sum(dtype=torch.float64))
            chances = logs.exp_() * counted
            self._chance[index, list(rows)] += chances.sum(1, dtype=torch.float64).cpu().numpy()
            own = chances.gather(0, decided[None])[0].double()
            self._agreed[index] += torch.bincount(places[decided], weights=own, minlength=len(self._predicted)).cpu().numpy()


class Opinions:
    """What each fold's network says of a new scan, without a reference."""

    def __init__(self, labels: Labels, *, folds: int, temperature: float) -> None:
        self._labels, self._temperature = labels, temperature
        count = len(labels.scored)
        self._chance, self._agreed = np.zeros((folds, count)), np.zeros((folds, count))
        self._predicted, self._both = np.zeros((folds, count), dtype=np.int64), np.zeros((folds, count), dtype=np.int64)
        self._together = np.zeros(count, dtype=np.int64)
        self._seen = False

    def see(self, start: int, logits: Tensor) -> None:
        """Count some slices.

        Parameters
        ----------
        logits : `(folds, heads, slices, y, x)`
        """
        self._seen = True
        looked = torch.stack([_contested(scores, self._labels) for scores in logits]).any(0)
        values = logits[:, :, looked]
        if values.device.type == "mps":
            values = values.cpu()
        together = self._decided(values.mean(0))
        self._together += _voxels(together)
        for fold, z in enumerate(values):
            close = _contested(z, self._labels)
            decided = self._decided(z)
            scaled = z / self._temperature
            chances = scaled.sigmoid() if self._labels.regions else scaled.softmax(0)[1:]
            self._chance[fold] += _sums(chances * close)
            self._agreed[fold] += _sums(chances * decided)
            self._predicted[fold] += _voxels(decided)
            self._both[fold] += _voxels(decided & together)

    def result(self) -> tuple[FoldOpinion, ...]:
        """Return the opinion of each fold, of all slabs; nothing where none was seen."""
        if not self._seen:
            return ()
        return tuple(
            FoldOpinion(
                expected=tuple(map(expected_dice, agreed.tolist(), chance.tolist(), predicted.tolist())),
                agreement=tuple(2 * b / (p + t) if p + t else None for b, p, t in zip(both, predicted, self._together, strict=True)),
            )
            for agreed, chance, predicted, both in zip(self._agreed, self._chance, self._predicted, self._both, strict=True)
        )

    def _decided(self, z: Tensor) -> Tensor:
        """Return for each label whether it is decided, `(labels, n)`."""
        if self._labels.regions:
            return z > 0
        return z.argmax(0) == torch.arange(1, len(z), device=z.device)[:, None]


def _heads(labels: Labels) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return name and classes of what is counted: the background first, then every label or region."""
    return ((labels.names[0], (0,)), *labels.scored)


def _contested(scores: Tensor, labels: Labels) -> Tensor:
    """Return where logits `(heads, ...)` are not very sure of the background."""
    if labels.regions:
        return scores.amax(0) > -MARGIN
    return scores[1:].amax(0) > scores[0] - MARGIN


def _counted(values: Tensor, size: int) -> NDArray[np.int64]:
    result: NDArray[np.int64] = torch.bincount(values, minlength=size).cpu().numpy()
    return result


def _sums(values: Tensor) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values.sum(1, dtype=torch.float64).cpu().numpy()
    return result


def _voxels(masks: Tensor) -> NDArray[np.int64]:
    result: NDArray[np.int64] = masks.sum(1).cpu().numpy()
    return result


def _short(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Return numbers with six digits, for a file."""
    return tuple(float(f"{value:.6g}") for value in values)
