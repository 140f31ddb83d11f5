"""What a run is given, how far it is, and whether it mirrors images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from autoseg.planning.configuration import Configuration, Plan
from autoseg.training.history import EpochRow
from autoseg.training.length import RunLength
from autoseg.training.process_group import SINGLE_PROCESS, ProcessGroup
from autoseg.training.sampling import PatchSource
from autoseg.training.settings import TrainingSettings, check_settings
from autoseg.workspace import Run


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What is to be trained, with what, and for how long."""

    plan: Plan
    configuration: Configuration
    fold: int
    train_cases: Sequence[PatchSource]
    validation_cases: Sequence[PatchSource]
    run: Run
    device: str = "cpu"
    seed: int = 0
    length: RunLength = RunLength()
    extendable: bool = True  # whether a finished run continues where more is asked for; the first stage of a cascade is taken as it is
    deterministic: bool = False
    settings: Mapping[str, Any] | None = None  # dotted name -> value, in place of those of the plan
    previous: Mapping[str, NDArray[Any]] | None = None  # cascade: case -> class map (z, y, x) of the previous stage, out of fold
    previous_weights: Mapping[str, str | None] = field(default_factory=dict)  # its fold -> hash of the weights that made those maps
    processes: ProcessGroup = SINGLE_PROCESS  # that train this fold together
    folds_at_once: int = 1  # trained on this machine: they share its memory
    final_passes: int | None = None  # forward passes per place in the final validation; None: one per mirror image


@dataclass
class Progress:
    """How far a run is. All of it is kept in the state and comes back when resuming, but for the length that is asked for."""

    step: int = 0
    length: RunLength = RunLength()
    epoch: int = 0
    finished: bool = False
    skipped: int = 0  # steps in a row without finite numbers
    asked_steps: int | None = None  # length of the run when it was finished
    asked_seconds: float | None = None
    extended_at: int | None = None  # step from which a finished run was made longer
    scored: list[str] | None = None  # names of the cases scored in training, once it is known how many a time budget allows
    mirrors: bool | None = None  # whether images are mirrored; decided when the run begins
    epoch_losses: list[float] = field(default_factory=list)  # of the epoch that is not over yet
    history: list[EpochRow] = field(default_factory=list)


def draws(task: TrainingTask, settings: TrainingSettings) -> float:
    """Return how often each training case (in 2D: each of its slices) will be drawn; infinity where the speed is not known."""
    c, length = task.configuration, task.length.of(settings)
    things = sum(case.shape[0] for case in task.train_cases) if c.planar else len(task.train_cases)
    steps: float = math.inf
    if length.steps is not None:
        steps = length.steps
    elif length.seconds is not None and c.predicted is not None and c.predicted.seconds_per_epoch:
        steps = length.seconds / c.predicted.seconds_per_epoch * _steps_predicted(task.plan)
    return steps * c.batch_size / max(things, 1)


def mirrors(task: TrainingTask, settings: TrainingSettings) -> bool:
    """Return whether a new run mirrors images: where the planner left it open, only if each case is drawn often enough.

    A network that sees a case a few times learns more from the next real one than from a mirror image of this one.
    """
    axes = settings.augmentation.mirror_axes
    return axes != "none" and (axes != "auto" or draws(task, settings) >= settings.augmentation.mirror_from)


def _steps_predicted(plan: Plan) -> int:
    """Return the number of steps of the epoch whose seconds the planner predicted: as it knew it, whatever was set since."""
    known = plan.planner_values.get("training", {}).get("steps_per_epoch")
    return int(known["value"]) if known else check_settings(plan, {}).steps_per_epoch


def plan_of(task: TrainingTask, progress: Progress) -> Plan:
    """Return the plan as this run follows it in training and prediction: without mirror images where it does not learn from them."""
    return task.plan if progress.mirrors else task.plan.mirrored(task.plan.mirroring.along(()))
