"""What a training is given, how far it is, how long it may be, and what follows from that."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from autoseg.planning.configuration import Configuration, Plan
from autoseg.training.sampling import PatchSource
from autoseg.training.schedule import Budget
from autoseg.training.settings import TrainingSettings, check_settings
from autoseg.training.team import ALONE, Team
from autoseg.workspace import Run

FIRST_RESERVE = 0.08  # share of a time budget kept for the final validation until its duration has been measured
LARGEST_SHARE = 0.5  # of a time budget that preparation counts for, and of the rest that is kept for the final validation


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What is to be trained, and for how long: `epochs` or `time_budget` (s), else the epochs of the settings."""

    plan: Plan
    configuration: Configuration
    fold: int
    train_cases: Sequence[PatchSource]
    validation_cases: Sequence[PatchSource]
    run: Run
    device: str = "cpu"
    seed: int = 0
    epochs: int | None = None
    time_budget: float | None = None  # s, preparation and final validation included
    extendable: bool = True  # whether a finished run goes on where more is asked for; the first stage of a cascade is taken as it is
    started: float | None = None  # `time.monotonic()` when work on this fold began: from then on a time budget runs. None: now
    deterministic: bool = False
    settings: Mapping[str, Any] | None = None  # dotted name -> value, in place of those of the plan
    previous: Mapping[str, NDArray[Any]] | None = None  # cascade: case -> class map (z, y, x) of the previous stage, out of fold
    previous_weights: Mapping[str, str | None] = field(default_factory=dict)  # its fold -> hash of the weights that made those maps
    team: Team = ALONE  # the processes that train this fold together
    beside: int = 1  # folds trained on this machine at the same time: they share its memory
    final_passes: int | None = None  # forward passes per place in the final validation; None: one per mirror image


@dataclass
class Progress:
    """How far a run is. All of it is kept in the state and comes back when resuming."""

    step: int = 0
    elapsed: float = 0.0  # s of training, validation in between included; of a time budget also those of preparation
    epoch: int = 0
    finished: bool = False
    skipped: int = 0  # steps in a row without finite numbers
    asked_steps: int | None = None  # length of the run when it was finished
    asked_seconds: float | None = None
    extended_at: int | None = None  # step from which a finished run was made longer
    reserve: float = 0.0  # s that the final validation will take
    validated: float = 0.0  # s spent on validation so far
    scored: list[str] | None = None  # names of the cases scored in training, once a time budget has told how many it allows
    mirrors: bool | None = None  # whether images are mirrored; decided when the run begins
    prepared: float = 0.0  # s of a time budget that preparation counted for, in all calls together
    drawn: float = 1.5  # s spent on the picture of the curves so far; the first time takes about so long
    epoch_losses: list[float] = field(default_factory=list)  # of the epoch that is not over yet
    history: list[dict[str, Any]] = field(default_factory=list)


def budget_of(task: TrainingTask, settings: TrainingSettings, progress: Progress) -> Budget:
    """The length of the run: `epochs` before `time_budget` before the epochs of the settings.

    Of a time budget at least a quarter goes into steps, even where preparation and final validation take so long that it is exceeded.
    """
    if task.time_budget is not None and task.epochs is None:
        reserve = progress.reserve or FIRST_RESERVE * task.time_budget
        return Budget(seconds=task.time_budget, reserve=min(reserve, LARGEST_SHARE * (task.time_budget - progress.prepared)))
    return Budget(steps=(task.epochs or settings.epochs) * settings.steps_per_epoch)


def preparation(task: TrainingTask, progress: Progress) -> float:
    """Seconds of a time budget that went before the first step of this call: they count, but leave the training a fair share."""
    if task.started is None or task.time_budget is None or task.epochs is not None:
        return 0.0
    return min(time.monotonic() - task.started, max(0.0, LARGEST_SHARE * task.time_budget - progress.prepared))


def draws(task: TrainingTask, settings: TrainingSettings) -> float:
    """How often each training case (in 2D: each of its slices) is expected to be drawn; infinity where the speed is not known."""
    c, budget = task.configuration, budget_of(task, settings, Progress())
    things = sum(case.shape[0] for case in task.train_cases) if c.planar else len(task.train_cases)
    steps: float = math.inf
    if budget.steps is not None:
        steps = budget.steps
    elif budget.seconds is not None and c.predicted is not None and c.predicted.seconds_per_epoch:
        steps = budget.seconds / c.predicted.seconds_per_epoch * _steps_predicted(task.plan)
    return steps * c.batch_size / max(things, 1)


def mirrors(task: TrainingTask, settings: TrainingSettings) -> bool:
    """Whether a run that begins mirrors images: where the planner left it open, only if each case is drawn often enough.

    A network that sees a case a few times learns more from the next real one than from a mirror image of this one.
    """
    axes = settings.augmentation.mirror_axes
    return axes != "none" and (axes != "auto" or draws(task, settings) >= settings.augmentation.mirror_from)


def _steps_predicted(plan: Plan) -> int:
    """Of how many steps the epoch is whose seconds the planner predicted: of as many as it knew, whatever was set since."""
    known = plan.planner_values.get("training", {}).get("steps_per_epoch")
    return int(known["value"]) if known else check_settings(plan, {}).steps_per_epoch


def plan_of(task: TrainingTask, progress: Progress) -> Plan:
    """The plan as this run follows it, in training and prediction: without mirror images where it does not learn from them."""
    return task.plan if progress.mirrors else task.plan.mirrored(task.plan.mirroring.along(()))
