"""Full-image Dice of a few validation cases while a network learns, and how long the final validation will take by that measure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autoseg import files
from autoseg.training.history import Clock
from autoseg.training.learner import Learner
from autoseg.training.schedule import Budget
from autoseg.training.settings import TrainingSettings
from autoseg.training.task import Progress, TrainingTask, plan_of

Validate = Callable[[nn.Module, Sequence[Any]], float | None]


def validation_subset(cases: Sequence[Any], count: int) -> tuple[Any, ...]:
    """A fixed subset: evenly spread over the cases in the order of their names."""
    ordered = sorted(cases, key=lambda case: case.name)
    if len(ordered) <= count:
        return tuple(ordered)
    return tuple(ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count))


def is_due(progress: Progress, settings: TrainingSettings, clock: Clock) -> bool:
    """Whether scoring has taken less than its share of the time so far."""
    return progress.validated <= settings.validation_share * clock.now()


def score_subset(
    validate: Validate,
    learner: Learner,
    subset: Sequence[Any],
    task: TrainingTask,
    settings: TrainingSettings,
    budget: Budget,
    progress: Progress,
    clock: Clock,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What validation adds to the row of an epoch: the Dice, and of how many cases where a time budget allows fewer than the subset.

    The first time under a time budget, the smallest case alone tells how many can be scored in the share of the time that is for it.
    """
    some = [case for case in subset if progress.scored is None or case.name in progress.scored]
    if not some:  # another subset than when the run was begun
        some, progress.scored = list(subset), None
    if budget.seconds is not None and progress.scored is None:
        ordered, before = sorted(subset, key=_voxels), progress.validated
        dice = _measured(validate, learner, ordered[:1], task, progress, clock)
        per_voxel = (progress.validated - before) / _voxels(ordered[0])  # s
        sums = itertools.accumulate(per_voxel * _voxels(case) for case in ordered)
        some = ordered[: max(1, sum(seconds <= settings.validation_share * budget.seconds for seconds in sums))]
        progress.scored = [case.name for case in some]
        if len(some) < len(subset):
            say(f"scored during training: {', '.join(progress.scored)}; more of the {len(subset)} cases would take too much of the time")
        if len(some) > 1:
            dice = _measured(validate, learner, some, task, progress, clock)
    else:
        dice = _measured(validate, learner, some, task, progress, clock)
    return {"validation_dice": dice} | ({"validation_cases": len(some)} if len(some) < len(subset) else {})


def _voxels(case: Any) -> int:
    return math.prod(case.shape)


def _measured(
    validate: Validate, learner: Learner, subset: Sequence[Any], task: TrainingTask, progress: Progress, clock: Clock
) -> float | None:
    """Dice of the averaged network; how long it took tells how long the final validation will take."""
    begin = clock.now()
    learner.averaged.eval()
    score = validate(learner.averaged, subset)
    seconds = clock.now() - begin
    progress.validated += seconds
    passes = task.final_passes or plan_of(task, progress).mirroring.within(task.configuration.patch_size).passes
    voxels = sum(map(_voxels, subset))
    progress.reserve = 2.5 + seconds * passes * sum(map(_voxels, task.validation_cases)) / max(voxels, 1)
    return None if score is None else files.finite_or_none(score)
