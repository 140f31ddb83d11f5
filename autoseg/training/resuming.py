"""Saving and resuming the state of a run; restoring the model, tables and picture that a kill left behind incomplete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autoseg import leases
from autoseg.errors import PlanMismatch
from autoseg.networks import checkpoint
from autoseg.quantities import format_duration
from autoseg.training.history import Clock, EpochRow, is_written, write_history
from autoseg.training.length import SPENDING
from autoseg.training.run_identity import changed_settings, identity_of, refuse_another, settings_of
from autoseg.training.settings import TrainingSettings, check_settings
from autoseg.training.task import Progress, TrainingTask, plan_of
from autoseg.training.trainer import Trainer
from autoseg.version import __version__

LONGER = 1.5  # times the time budget that a run was finished with make it a longer one


def save(task: TrainingTask, trainer: Trainer, progress: Progress, clock: Clock) -> None:
    """Write the state first and the model second: whichever moment the run is killed at, both files are whole and usable."""
    progress.length = replace(progress.length, elapsed=clock.now())
    if not task.processes.is_main:
        return
    kept = {name: value for name, value in vars(progress).items() if name not in ("history", "length")}
    spending = {name: getattr(progress.length, name) for name in SPENDING}
    state = {
        "progress": {**kept, **spending, "history": json.dumps([row.to_json() for row in progress.history])},
        "learner": trainer.state(),
        "seed": task.seed,
        "origin": _origin(task),
        "settings": settings_of(check_settings(task.plan, task.settings or {})),
    }
    leases.require(task.run.root)
    checkpoint.save_state(task.run.state, state)
    _save_model(task, trainer, progress)


def _save_model(task: TrainingTask, trainer: Trainer, progress: Progress) -> None:
    scores = [row.validation_dice for row in progress.history if row.validation_dice is not None]
    description = {
        "version": __version__,
        "plan": plan_of(task, progress).to_json(),
        "configuration": task.configuration.name,
        "fold": task.fold,
        "channels": [channel.name for channel in task.plan.channels],
        **task.plan.labels.to_json(),
        "seed": task.seed,
        "epochs": progress.epoch,
        "steps": progress.step,
        "finished": progress.finished,
        "settings": dict(task.settings or {}),
        "training_cases": sorted(case.name for case in task.train_cases),
    }
    remarks = {
        "seconds": round(progress.length.elapsed, 3),
        "scores": {"validation_dice": scores[-1] if scores else None, "cases": len(task.validation_cases)},
    }
    checkpoint.save_model(task.run, trainer.weights(), description, remarks=remarks)


def restore_model(task: TrainingTask, trainer: Trainer, progress: Progress, say: Callable[[str], None]) -> None:
    """Rewrite the model of a finished run where it is not the state's: killed between the two, lost or damaged."""
    if task.processes.is_main and not checkpoint.holds(task.run, trainer.weights(), steps=progress.step):
        say(f"{task.run.weights} is missing, damaged or older than the saved state: rewritten from it")
        _save_model(task, trainer, progress)


def restore_history(task: TrainingTask, progress: Progress, draw: Callable[[list[dict[str, Any]]], None]) -> None:
    """Rewrite the tables and the picture of a finished run where they lack epochs of the state: killed before them, or lost."""
    if not task.processes.is_main or not progress.history:
        return
    run = task.run
    if not is_written(run, progress.history):
        write_history(run, progress.history)
    if not run.progress.exists() or run.progress.stat().st_mtime_ns < run.history_jsonl.stat().st_mtime_ns:
        draw([row.to_json() for row in progress.history])


def resume(task: TrainingTask, settings: TrainingSettings, trainer: Trainer, say: Callable[[str], None]) -> tuple[Progress, list[str]]:
    """Return where the run was stopped, or its beginning; and the settings changed since then, a line each.

    Raises
    ------
    ModelError : the state is damaged
    PlanMismatch : the state is of other cases, another plan, another optimizer or another seed
    """
    state = checkpoint.load_state(task.run.state)
    length = task.length.of(settings)
    if state is None:
        return Progress(length=length), []
    refuse_another(state.get("origin"), _origin(task), file=task.run.state)
    changed = changed_settings(state.get("settings", {}), settings_of(settings), file=task.run.state)
    try:
        trainer.load(state["learner"])
        kept = dict(state["progress"])
        kept["history"] = [EpochRow.from_json(row) for row in json.loads(kept["history"])]
        length = replace(length, **{name: kept.pop(name) for name in SPENDING if name in kept})
        progress = Progress(**kept, length=length)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise PlanMismatch(
            "the saved state belongs to another network or other settings",
            file=task.run.state,
            found=str(error).splitlines()[0],
            fix="train with the plan and settings it was begun with, or begin again with --overwrite",
        ) from None
    if state.get("seed") != task.seed:
        raise PlanMismatch(
            "the run was begun with another seed",
            file=task.run.state,
            found=f"--seed {state.get('seed')}",
            expected=f"--seed {task.seed}",
            fix="give the seed it was begun with, or begin again with --overwrite",
        )
    if not progress.finished:
        say(f"resuming after step {progress.step} ({format_duration(progress.length.elapsed)} of training)")
    return progress, changed


def _origin(task: TrainingTask) -> dict[str, Any]:
    return identity_of(
        task.plan,
        task.configuration,
        training=(case.name for case in task.train_cases),
        validation=(case.name for case in task.validation_cases),
        previous=task.previous_weights,
    )


def extend(task: TrainingTask, progress: Progress, say: Callable[[str], None]) -> None:
    """Continue a finished run of which more is asked: more epochs, or clearly more time of which some is left."""
    if not progress.finished or not task.extendable:
        return
    length, before = progress.length, progress.asked_seconds
    if _is_longer(task, progress):
        progress.finished, progress.extended_at, progress.scored = False, progress.step, None
        say(f"a longer run is asked for: resuming after step {progress.step} ({format_duration(length.elapsed)} of training)")
    elif (length.steps, length.seconds) != (progress.asked_steps, before):
        asked = f"{length.steps} steps" if length.seconds is None else f"a time budget of {format_duration(length.seconds)}"
        finished, longer = f"{progress.step} steps", "--epochs with more steps makes it longer"
        if before is not None:
            finished = f"a time budget of {format_duration(before)} ({finished})"
            longer += f", or a time budget of {format_duration(LONGER * before)}"
        say(f"finished with {finished}, and not trained again for {asked}: {longer}; --overwrite begins again")


def _is_longer(task: TrainingTask, progress: Progress) -> bool:
    length = progress.length
    if length.seconds is None:
        asked = task.length.epochs is not None or progress.asked_steps is not None
        return asked and (length.steps or 0) > progress.step
    enough = progress.asked_seconds is not None and length.seconds >= LONGER * progress.asked_seconds
    return enough and length.progress(step=progress.step, elapsed=length.elapsed) < 1
