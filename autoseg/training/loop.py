"""Training one fold, in the order things happen.

The loop is given what it works with: a plan, preprocessed cases, a way to validate, places to report to. It owns the order,
the clock and the files of `Run`: weights, state and history, all of them written whole, so that the run can be killed at any
moment and continued by the same call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from autoseg.errors import Interrupted, SettingsError
from autoseg.planning.configuration import Plan
from autoseg.resources import free_memory
from autoseg.training import resuming, safeguards, scoring
from autoseg.training.batches import Batches
from autoseg.training.history import Clock, EpochWatch, line, row_of, write_history
from autoseg.training.interruption import Interruption, StopRequested, listening
from autoseg.training.learner import Learner
from autoseg.training.schedule import Budget, learning_rate
from autoseg.training.scoring import Validate
from autoseg.training.settings import TrainingSettings, check_settings
from autoseg.training.task import Progress, TrainingTask, budget_of, draws, mirrors, plan_of, preparation

__all__ = ["TrainingTask", "check_settings", "line", "refuse_time_budget", "train"]

EPOCHS_PER_BUDGET = 50  # a time budget is cut into epochs no longer than this share of it
DRAWING_SHARE = 0.02  # of the time at most goes into the picture of the curves
RAMP_STEPS = 200  # over which the rate rises again when a finished run is made longer
PROBE_FROM_SECONDS = 300.0  # shorter time budgets are not spent on the probe


def train(
    task: TrainingTask,
    *,
    validate: Validate,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    draw: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    say: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """Train one fold to the end, from the beginning or from where it was stopped.

    Parameters
    ----------
    validate : mean full-image Dice of a network on some validation cases; None where no label occurs in them
    report : gets a row of figures at the end of every epoch and every few seconds
    draw : gets the rows of all epochs so far: at the end, and before as often as a small share of the time allows
    say : gets sentences worth keeping

    Returns
    -------
    the averaged network in evaluation mode, on the device; its weights are in `run.weights`

    Raises
    ------
    Interrupted : SIGINT, SIGTERM or SIGUSR1; the state is saved and the same call goes on from there
    TrainingFailed : too many steps in a row without finite numbers
    SettingsError : a setting that cannot be used
    ModelError : the saved state is damaged
    PlanMismatch : the saved state belongs to other cases, another plan, another optimizer or another seed
    """
    settings = check_settings(task.plan, task.settings or {})
    with _reproducible(task), listening() as interruption:
        device = torch.device(task.device)
        if not task.team.leads:
            report, draw, say = _unheard, _unheard, _unheard
        learner = Learner(
            plan=task.plan, configuration=task.configuration, settings=settings, device=device, seed=task.seed, team=task.team
        )
        progress, changed = resuming.resume(task, settings, learner, say)
        resuming.extend(task, settings, progress, say)
        if progress.mirrors is None:
            progress.mirrors = progress.step > 0 or mirrors(task, settings)
        elif task.plan.mirror_axes and progress.mirrors != mirrors(task, settings):
            changed = [*changed, f"images are {'' if progress.mirrors else 'not '}mirrored, as when the run began: --overwrite begins anew"]
        if progress.finished:
            resuming.mend_model(task, learner, progress, say)
            resuming.mend_history(task, progress, draw)
            return learner.averaged.eval()
        for change in changed:
            say(change)
        if progress.step == 0 and task.plan.mirror_axes and not progress.mirrors:
            times, few = draws(task, settings), settings.augmentation.mirror_from
            say(f"each case is drawn about {times:.0f} times, fewer than {few:g} (augmentation.mirror_from): images are not mirrored")
        read = partial(_batches, task, settings, plan_of(task, progress), device)  # all cases that fit into memory
        batches = interruption.abandonable(read) if task.team.size == 1 else read()  # a team stops together, at its first step
        if batches is None:
            raise _interrupted(task, interruption.name, found=f"{progress.step} steps done")
        try:
            _run(task, settings, learner, batches, progress, interruption, validate=validate, report=report, draw=draw, say=say)
        finally:
            batches.close()
        _, stopped_by = task.team.agree(1.0, interruption.name)
        if stopped_by:  # too late for a step: what comes after training is not begun
            raise _interrupted(task, stopped_by, found=f"{progress.step} steps done, saved")
        return learner.averaged.eval()


def refuse_time_budget(*, found: str) -> NoReturn:
    """For a training that shall give the same numbers every time.

    Raises
    ------
    SettingsError : always
    """
    raise SettingsError(
        "a time budget ends at another step each time",
        found=found,
        expected="a number of epochs",
        fix="say how long instead: --deterministic --epochs N",
    )


def _batches(task: TrainingTask, settings: TrainingSettings, plan: Plan, device: torch.device) -> Batches:
    return Batches(
        task.train_cases,
        plan=plan,
        configuration=task.configuration,
        settings=settings,
        seed=task.seed,
        device=device,
        memory=settings.memory_share * free_memory() / (task.team.beside * task.beside),
        previous=task.previous,
        team=task.team,
    )


def _run(
    task: TrainingTask,
    settings: TrainingSettings,
    learner: Learner,
    batches: Batches,
    progress: Progress,
    interruption: Interruption,
    *,
    validate: Validate,
    report: Callable[[dict[str, Any]], None],
    draw: Callable[[list[dict[str, Any]]], None],
    say: Callable[[str], None],
) -> None:
    """All steps that are left. The page to read."""
    prepared = preparation(task, progress)
    progress.prepared += prepared
    clock = Clock(progress.elapsed + prepared)
    watch = EpochWatch(clock, batches)
    subset = scoring.validation_subset(task.validation_cases, settings.validation_cases) if task.team.leads else ()
    budget = budget_of(task, settings, progress)
    saved = clock.now() if progress.step else -math.inf  # a first model after the first step
    if progress.step == 0 and settings.probe_steps and (budget.seconds or math.inf) >= PROBE_FROM_SECONDS:
        if task.team.size == 1:
            interruption.abandonable(lambda: safeguards.probe(learner, batches, settings, task.team, say))
        else:  # together or not at all
            safeguards.probe(learner, batches, settings, task.team, say)
    if settings.compile != "off" and not task.deterministic and task.team.size == 1:  # each of several would decide for itself
        interruption.abandonable(lambda: learner.compile(batches.batch(progress.step), wanted=settings.compile, say=say))
    while True:
        if _epoch_is_over(progress, watch, budget, settings):
            row = _row(progress, watch, budget, learner, budget.progress(step=progress.step, elapsed=clock.now()))
            due = subset and scoring.is_due(progress, settings, clock)
            if due:
                scored = partial(scoring.score_subset, validate, learner, subset, task, settings, budget, progress, clock, say)
                row |= interruption.abandonable(scored) or {}
                budget = budget_of(task, settings, progress)
            if not due or interruption.name is None:  # where it was cut short, the epoch ends when the run goes on
                _end_epoch(progress, row)
                report(row)
                if task.team.leads:
                    write_history(task.run, progress.history)
                if progress.drawn <= DRAWING_SHARE * clock.now():
                    _draw(progress, clock, draw)
                watch = EpochWatch(clock, batches)
        share, stopped_by = task.team.agree(budget.progress(step=progress.step, elapsed=clock.now()), interruption.name)
        if stopped_by:
            resuming.save(task, learner, progress, clock)
            raise _interrupted(task, stopped_by, found=f"{progress.step} steps done, saved")
        if share >= 1:
            break
        batch = batches.batch(progress.step)
        step = learner.step(batch, learning_rate=_rate(settings, budget, progress, share))
        safeguards.note(step, batch, progress, settings, task.team, say)
        watch.steps += 1
        progress.step += 1
        if watch.due():
            report(_row(progress, watch, budget, learner, share))
        if clock.now() - saved >= settings.checkpoint_seconds:
            resuming.save(task, learner, progress, clock)
            saved = clock.now()
    if _steps_of_epoch(progress):
        _end_epoch(progress, _row(progress, watch, budget, learner, 1.0))
    progress.finished, progress.asked_steps, progress.asked_seconds = True, budget.steps, budget.seconds
    resuming.save(task, learner, progress, clock)
    if task.team.leads:
        write_history(task.run, progress.history)
    _draw(progress, clock, draw)


def _rate(settings: TrainingSettings, budget: Budget, progress: Progress, share: float) -> float:
    if budget.steps is not None and not settings.schedule.every_step:
        share = progress.step // settings.steps_per_epoch * settings.steps_per_epoch / budget.steps
    rate = learning_rate(share, top=settings.optimizer.learning_rate, settings=settings.schedule)
    if progress.extended_at is None:
        return rate
    return rate * min(1.0, (progress.step - progress.extended_at + 1) / RAMP_STEPS)  # from the end of the old schedule, no jump


def _epoch_is_over(progress: Progress, watch: EpochWatch, budget: Budget, settings: TrainingSettings) -> bool:
    steps = _steps_of_epoch(progress)
    if budget.seconds is None:
        return steps > 0 and progress.step % settings.steps_per_epoch == 0
    return steps >= settings.steps_per_epoch or (steps > 0 and watch.seconds >= budget.seconds / EPOCHS_PER_BUDGET)


def _steps_of_epoch(progress: Progress) -> int:
    """Steps of the epoch that is not over yet, also those before an interruption."""
    return progress.step - (progress.history[-1]["step"] if progress.history else 0)


def _end_epoch(progress: Progress, row: dict[str, Any]) -> None:
    progress.epoch += 1
    progress.history.append(row)
    progress.epoch_losses.clear()


def _unheard(_: Any) -> None:
    """What others than the leader of a team have to tell."""


def _interrupted(task: TrainingTask, signal_name: str | None, *, found: str) -> Interrupted:
    return Interrupted(
        f"training of {task.configuration.name} fold {task.fold} stopped by {signal_name}",
        file=task.run.state,
        found=found,
        fix="the same command goes on from there",
    )


def _row(progress: Progress, watch: EpochWatch, budget: Budget, learner: Learner, share: float) -> dict[str, Any]:
    losses = progress.epoch_losses
    return row_of(
        epoch=progress.epoch + 1, step=progress.step, losses=losses, watch=watch, budget=budget, share=share, device=learner.device
    )


def _draw(progress: Progress, clock: Clock, draw: Callable[[list[dict[str, Any]]], None]) -> None:
    begin = clock.now()
    draw([dict(row) for row in progress.history])
    progress.drawn += clock.now() - begin


@contextlib.contextmanager
def _reproducible(task: TrainingTask) -> Iterator[None]:
    """Deterministic algorithms where asked; what was set before comes back."""
    if task.deterministic and task.time_budget is not None and task.epochs is None:
        refuse_time_budget(found="--deterministic with --time-budget")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(task.deterministic)
    torch.backends.cudnn.benchmark = not task.deterministic
    try:
        yield
    except StopRequested as stop:  # came between two guarded places
        raise Interrupted(f"training stopped by {stop}", file=task.run.state, fix="the same command goes on from there") from None
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
