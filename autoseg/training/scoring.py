"""Full-image Dice of a few validation cases during training, from which the duration of the final validation is estimated."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autoseg import files
from autoseg.training.history import Clock
from autoseg.training.settings import TrainingSettings
from autoseg.training.task import Progress, TrainingTask, plan_of
from autoseg.training.trainer import Trainer

Validate = Callable[[nn.Module, Sequence[Any]], float | None]


def validation_subset(cases: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return a fixed subset: evenly spread over the cases in the order of their names."""
    ordered = sorted(cases, key=lambda case: case.name)
    if len(ordered) <= count:
        return tuple(ordered)
    return tuple(ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores a fixed subset of the validation cases, as often and as many of them as a share of the time allows."""

    task: TrainingTask
    settings: TrainingSettings
    validate: Validate
    clock: Clock
    say: Callable[[str], None]

    @functools.cached_property
    def subset(self) -> tuple[Any, ...]:
        """The cases; none where another process scores them."""
        return validation_subset(self.task.validation_cases, self.settings.validation_cases) if self.task.processes.is_main else ()

    def is_due(self, progress: Progress) -> bool:
        """Return whether there are cases, and scoring has taken less than its share of the time so far."""
        return bool(self.subset) and progress.length.validated <= self.settings.validation_share * self.clock.now()

    def score(self, trainer: Trainer, progress: Progress) -> dict[str, Any]:
        """Return what validation adds to the row of an epoch: the Dice, and the number of cases where it is not the whole subset.

        The first time under a time budget, the smallest case alone shows how many can be scored in the share of the time for that.
        """
        subset, seconds = self.subset, progress.length.seconds
        some = [case for case in subset if progress.scored is None or case.name in progress.scored]
        if not some:  # another subset than when the run was begun
            some, progress.scored = list(subset), None
        if seconds is None or progress.scored is not None:
            dice = self._measured(trainer, some, progress)
        else:
            ordered, before = sorted(subset, key=_voxels), progress.length.validated
            dice = self._measured(trainer, ordered[:1], progress)
            per_voxel = (progress.length.validated - before) / _voxels(ordered[0])  # s
            sums = itertools.accumulate(per_voxel * _voxels(case) for case in ordered)
            some = ordered[: max(1, sum(total <= self.settings.validation_share * seconds for total in sums))]
            progress.scored = [case.name for case in some]
            if len(some) < len(subset):
                names = ", ".join(progress.scored)
                self.say(f"scored during training: {names}; more of the {len(subset)} cases would take too much of the time")
            if len(some) > 1:
                dice = self._measured(trainer, some, progress)
        return {"validation_dice": dice} | ({"validation_cases": len(some)} if len(some) < len(subset) else {})

    def _measured(self, trainer: Trainer, some: Sequence[Any], progress: Progress) -> float | None:
        """Return the Dice of the averaged network; how long that took shows how long the final validation will take."""
        task, begin = self.task, self.clock.now()
        trainer.averaged.eval()
        score = self.validate(trainer.averaged, some)
        seconds = self.clock.now() - begin
        passes = task.final_passes or plan_of(task, progress).mirroring.within(task.configuration.patch_size).passes
        reserve = 2.5 + seconds * passes * sum(map(_voxels, task.validation_cases)) / max(sum(map(_voxels, some)), 1)
        progress.length = replace(progress.length, validated=progress.length.validated + seconds, reserve=reserve)
        return None if score is None else files.finite_or_none(score)


def _voxels(case: Any) -> int:
    return math.prod(case.shape)
