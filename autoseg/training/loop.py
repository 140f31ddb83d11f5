"""Training one fold, in the order things happen.

The loop is given what it works with: a plan, preprocessed cases, a way to validate, places to report to. It owns the order,
the clock and the files of `Run`: weights, state and history, all of them written whole, so that the run can be killed at any
moment and continued by the same call.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray
from torch import nn

from autoseg import __version__, files, presets, workers
from autoseg.errors import Interrupted, PlanMismatch, SettingsError, TrainingFailed
from autoseg.networks import checkpoint
from autoseg.planning.configuration import Configuration, Plan
from autoseg.training.batches import Batch, Batches
from autoseg.training.history import Clock, EpochWatch, clock_text, is_written, line, row_of, write_history
from autoseg.training.interruption import Interruption, StopRequested, listening
from autoseg.training.learner import Learner, Step
from autoseg.training.origin import changed_settings, origin_of, refuse_another, settings_of
from autoseg.training.sampling import PatchSource
from autoseg.training.schedule import Budget, learning_rate
from autoseg.training.settings import TrainingSettings, read_settings
from autoseg.training.team import ALONE, Team
from autoseg.workspace import Run

__all__ = ["Progress", "TrainingTask", "check_settings", "line", "refuse_time_budget", "train", "validation_subset"]

EPOCHS_PER_BUDGET = 50  # a time budget is cut into epochs no longer than this share of it
DRAWING_SHARE = 0.02  # of the time at most goes into the picture of the curves
RAMP_STEPS = 200  # over which the rate rises again when a finished run is made longer
PROBE_BATCHES = 5  # at most, until one has anything to learn
PROBE_FROM_SECONDS = 300.0  # shorter time budgets are not spent on the probe
FIRST_RESERVE = 0.08  # share of a time budget kept for the final validation until its duration has been measured
SHORTEST_SHARE = 0.5  # of a time budget is left to the training itself, however long the preparation took

Validate = Callable[[nn.Module, Sequence[Any]], float | None]


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
    drawn: float = 1.5  # s spent on the picture of the curves so far; the first time takes about so long
    epoch_losses: list[float] = field(default_factory=list)  # of the epoch that is not over yet
    history: list[dict[str, Any]] = field(default_factory=list)


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
        progress, changed = _resume(task, settings, learner, say)
        _extend(task, settings, progress, say)
        if progress.finished:
            _mend_model(task, learner, progress, say)
            _mend_history(task, progress, draw)
            return learner.averaged.eval()
        for change in changed:
            say(change)
        batches = interruption.abandonable(lambda: _batches(task, settings, device))  # which reads all cases that fit into memory
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


def check_settings(plan: Plan, changes: Mapping[str, Any]) -> TrainingSettings:
    """The settings of a plan with some of them changed. What a plan of an earlier version lacks is taken from the default planner.

    Parameters
    ----------
    changes : dotted name -> value, for instance {"optimizer.learning_rate": 0.001}; a text is read as the kind that it replaces

    Raises
    ------
    SettingsError : unknown name, with the nearest known one; a value of the wrong kind or out of its limits; class weights that
        are not one per class
    """
    settings = read_settings(_completed(plan.settings or {}, presets.planner().values["training"]), changes)
    weights, classes = settings.loss.class_weights, [label.name for label in plan.labels.labels]
    if weights and len(weights) != len(classes):
        raise SettingsError(
            "the training setting 'loss.class_weights' does not fit the labels",
            found=f"{len(weights)} weights",
            expected=f"{len(classes)}, one for each of: {', '.join(classes)}",
            fix="give one number per label, background first, or none: --set loss.class_weights=[]",
        )
    return settings


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


def _completed(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the missing keys of `base`, table by table."""
    whole = {**base, **values}
    tables = (name for name, value in base.items() if isinstance(value, Mapping) and isinstance(whole[name], Mapping))
    return whole | {name: _completed(whole[name], base[name]) for name in tables}


def _batches(task: TrainingTask, settings: TrainingSettings, device: torch.device) -> Batches:
    return Batches(
        task.train_cases,
        plan=task.plan,
        configuration=task.configuration,
        settings=settings,
        seed=task.seed,
        device=device,
        memory=settings.memory_share * workers.free_memory() / (task.team.beside * task.beside),
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
    clock = Clock(progress.elapsed + _preparation(task))
    watch = EpochWatch(clock, batches)
    subset = validation_subset(task.validation_cases, settings.validation_cases) if task.team.leads else ()
    budget = _budget(task, settings, progress)
    saved = clock.now() if progress.step else -math.inf  # a first model after the first step
    if progress.step == 0 and settings.probe_steps and (budget.seconds or math.inf) >= PROBE_FROM_SECONDS:
        if task.team.size == 1:
            interruption.abandonable(lambda: _probe(learner, batches, settings, task.team, say))
        else:  # together or not at all
            _probe(learner, batches, settings, task.team, say)
    if settings.compile != "off" and not task.deterministic and task.team.size == 1:  # each of several would decide for itself
        interruption.abandonable(lambda: learner.compile(batches.batch(progress.step), wanted=settings.compile, say=say))
    while True:
        if _epoch_is_over(progress, watch, budget, settings):
            row = _row(progress, watch, budget, learner, budget.progress(step=progress.step, elapsed=clock.now()))
            due = subset and _validation_is_due(progress, settings, clock)
            if due:
                scoring = partial(_scored, validate, learner, subset, task, settings, budget, progress, clock, say)
                row |= interruption.abandonable(scoring) or {}
                budget = _budget(task, settings, progress)
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
            _save(task, learner, progress, clock)
            raise _interrupted(task, stopped_by, found=f"{progress.step} steps done, saved")
        if share >= 1:
            break
        batch = batches.batch(progress.step)
        step = learner.step(batch, learning_rate=_rate(settings, budget, progress, share))
        _note(step, batch, progress, settings, task.team, say)
        watch.steps += 1
        progress.step += 1
        if watch.due():
            report(_row(progress, watch, budget, learner, share))
        if clock.now() - saved >= settings.checkpoint_seconds:
            _save(task, learner, progress, clock)
            saved = clock.now()
    if _steps_of_epoch(progress):
        _end_epoch(progress, _row(progress, watch, budget, learner, 1.0))
    progress.finished, progress.asked_steps, progress.asked_seconds = True, budget.steps, budget.seconds
    _save(task, learner, progress, clock)
    if task.team.leads:
        write_history(task.run, progress.history)
    _draw(progress, clock, draw)


def validation_subset(cases: Sequence[Any], count: int) -> tuple[Any, ...]:
    """A fixed subset: evenly spread over the cases in the order of their names."""
    ordered = sorted(cases, key=lambda case: case.name)
    if len(ordered) <= count:
        return tuple(ordered)
    return tuple(ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count))


def _budget(task: TrainingTask, settings: TrainingSettings, progress: Progress) -> Budget:
    if task.time_budget is not None and task.epochs is None:
        reserve = progress.reserve or FIRST_RESERVE * task.time_budget
        return Budget(seconds=task.time_budget, reserve=min(reserve, 0.5 * task.time_budget))
    return Budget(steps=(task.epochs or settings.epochs) * settings.steps_per_epoch)


def _preparation(task: TrainingTask) -> float:
    """Seconds of a time budget that went before the first step of this call: they count, but leave the training a fair share."""
    if task.started is None or task.time_budget is None or task.epochs is not None:
        return 0.0
    return min(time.monotonic() - task.started, (1 - SHORTEST_SHARE) * task.time_budget)


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


def _validation_is_due(progress: Progress, settings: TrainingSettings, clock: Clock) -> bool:
    return progress.validated <= settings.validation_share * clock.now()


def _scored(
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
    passes = task.final_passes or 2 ** sum(task.configuration.patch_size[axis] > 1 for axis in task.plan.mirror_axes)
    voxels = sum(map(_voxels, subset))
    progress.reserve = 2.5 + seconds * passes * sum(map(_voxels, task.validation_cases)) / max(voxels, 1)
    return None if score is None else files.finite_or_none(score)


def _probe(learner: Learner, batches: Batches, settings: TrainingSettings, team: Team, say: Callable[[str], None]) -> None:
    """Before the first epoch: can the network learn one batch by heart?

    The first batch that has anything to learn answers: one without annotation gives no gradient, one with a damaged image no number.

    Raises
    ------
    TrainingFailed : its loss does not fall
    """
    for number in range(PROBE_BATCHES):
        batch = batches.batch(number)
        steps = learner.probe(batch, steps=settings.probe_steps, learning_rate=settings.optimizer.learning_rate)
        names, values, _ = _contents(batch, team)
        left_out = [step for step in steps if not step.taken]
        if left_out:
            say(f"probe: {len(left_out)} of {len(steps)} steps left out: {_numbers(left_out[0])}; cases {names}; image values {values}")
        taken = [step for step in steps if step.taken]
        if not taken or taken[0].learns_nothing:
            continue
        before, after = taken[0].loss, taken[-1].loss
        told = f"loss {before:.3f} before, {after:.3f} after {settings.probe_steps} steps on the same patches ({names})"
        if not after < before:
            raise TrainingFailed(
                "the network cannot learn even one batch by heart",
                found=told,
                expected="a falling loss",
                fix="look at the named cases (autoseg check), or lower the learning rate: --set optimizer.learning_rate=... (a tenth)",
            )
        say(f"probe: {told}")
        return
    say(f"probe: none of the first {PROBE_BATCHES} batches has anything to learn; training begins nevertheless")


def _note(step: Step, batch: Batch, progress: Progress, settings: TrainingSettings, team: Team, say: Callable[[str], None]) -> None:
    """Keep the loss, or explain why the step was left out.

    Raises
    ------
    TrainingFailed : too many in a row
    """
    if step.taken:
        progress.skipped = 0
        progress.epoch_losses.append(step.loss)
        return
    progress.skipped += 1
    names, values, finite = _contents(batch, team)
    say(f"step {progress.step} left out: {_numbers(step)}; cases {names}; image values {values}")
    if progress.skipped >= settings.skip_limit:
        raise TrainingFailed(
            f"{progress.skipped} steps in a row without finite numbers",
            found=_numbers(step),
            expected="finite loss and gradient",
            details={"cases": names, "values": values},
            fix="check the named cases"
            if not finite
            else "lower the learning rate: --set optimizer.learning_rate=... (a tenth), or compute in float32: --set precision=float32",
        )


def _numbers(step: Step) -> str:
    return f"loss {step.loss:.4g}, norm of the gradient {step.gradient_norm:.4g}"


def _contents(batch: Batch, team: Team) -> tuple[str, str, bool]:
    """Names of the cases of the whole team's batch, the span of their image values as a text, and whether all of them are finite."""
    damaged = [name for name, image in zip(batch.cases, batch.image, strict=True) if not bool(torch.isfinite(image).all())]
    told = team.gather((batch.cases, damaged, float(batch.image.min()), float(batch.image.max())))
    names = ", ".join(name for cases, _, _, _ in told for name in cases)
    span = ", ".join(f"{low:.4g} to {high:.4g}" for _, _, low, high in told)
    culprits = ", ".join(dict.fromkeys(name for _, some, _, _ in told for name in some))
    return names, span + (f", not all finite in {culprits}" if culprits else ""), not culprits


def _unheard(_: Any) -> None:
    """What others than the leader of a team have to tell."""


def _interrupted(task: TrainingTask, signal_name: str | None, *, found: str) -> Interrupted:
    return Interrupted(
        f"training of {task.configuration.name} fold {task.fold} stopped by {signal_name}",
        file=task.run.state,
        found=found,
        fix="the same command goes on from there",
    )


def _save(task: TrainingTask, learner: Learner, progress: Progress, clock: Clock) -> None:
    """State first, model second: whichever moment the run is killed at, both files are whole and usable."""
    progress.elapsed = clock.now()
    if not task.team.leads:
        return
    kept = {name: value for name, value in vars(progress).items() if name != "history"}
    state = {
        "progress": {**kept, "history": json.dumps(progress.history)},
        "learner": learner.state(),
        "seed": task.seed,
        "origin": _origin(task),
        "settings": settings_of(check_settings(task.plan, task.settings or {})),
    }
    checkpoint.save_state(task.run.state, state)
    _save_model(task, learner, progress)


def _save_model(task: TrainingTask, learner: Learner, progress: Progress) -> None:
    scores = [row["validation_dice"] for row in progress.history if row["validation_dice"] is not None]
    description = {
        "version": __version__,
        "plan": task.plan.to_json(),
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
        "seconds": round(progress.elapsed, 3),
        "scores": {"validation_dice": scores[-1] if scores else None, "cases": len(task.validation_cases)},
    }
    checkpoint.save_model(task.run, learner.weights(), description, remarks=remarks)


def _mend_model(task: TrainingTask, learner: Learner, progress: Progress, say: Callable[[str], None]) -> None:
    """The model of a finished run is written anew where it is not the state's: killed between the two, lost or damaged."""
    if task.team.leads and not checkpoint.holds(task.run, learner.weights(), steps=progress.step):
        say(f"{task.run.weights} is missing, damaged or older than the saved state: written anew from it")
        _save_model(task, learner, progress)


def _mend_history(task: TrainingTask, progress: Progress, draw: Callable[[list[dict[str, Any]]], None]) -> None:
    """The tables and the picture of a finished run are made again where they miss epochs of the state: killed before them, or lost."""
    if not task.team.leads or not progress.history:
        return
    run = task.run
    if not is_written(run, progress.history):
        write_history(run, progress.history)
    if not run.progress.exists() or run.progress.stat().st_mtime_ns < run.history_jsonl.stat().st_mtime_ns:
        draw([dict(row) for row in progress.history])


def _resume(task: TrainingTask, settings: TrainingSettings, learner: Learner, say: Callable[[str], None]) -> tuple[Progress, list[str]]:
    """Where the run was stopped, or its beginning; and what has been set otherwise since then, a line each.

    Raises
    ------
    ModelError : the state is damaged
    PlanMismatch : the state is of other cases, another plan, another optimizer or another seed
    """
    state = checkpoint.load_state(task.run.state)
    if state is None:
        return Progress(), []
    refuse_another(state.get("origin"), _origin(task), file=task.run.state)
    changed = changed_settings(state.get("settings", {}), settings_of(settings), file=task.run.state)
    try:
        learner.load(state["learner"])
        kept = dict(state["progress"])
        progress = Progress(**{**kept, "history": json.loads(kept["history"])})
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise PlanMismatch(
            "the saved state belongs to another network or other settings",
            file=task.run.state,
            found=str(error).splitlines()[0],
            fix="train with the plan and settings it was begun with, or begin again with --overwrite",
        ) from None
    if state["seed"] != task.seed:
        raise PlanMismatch(
            "the run was begun with another seed",
            file=task.run.state,
            found=f"--seed {state['seed']}",
            expected=f"--seed {task.seed}",
            fix="give the seed it was begun with, or begin again with --overwrite",
        )
    if not progress.finished:
        say(f"going on after step {progress.step} ({clock_text(progress.elapsed)} of training)")
    return progress, changed


def _origin(task: TrainingTask) -> dict[str, Any]:
    return origin_of(
        task.plan,
        task.configuration,
        training=(case.name for case in task.train_cases),
        validation=(case.name for case in task.validation_cases),
        previous=task.previous_weights,
    )


def _extend(task: TrainingTask, settings: TrainingSettings, progress: Progress, say: Callable[[str], None]) -> None:
    """A finished run of which more is asked goes on: for more epochs, or for clearly more time of which some is left."""
    if not progress.finished:
        return
    budget = _budget(task, settings, progress)
    longer = budget.seconds is not None and progress.asked_seconds is not None and budget.seconds >= 1.5 * progress.asked_seconds
    longer = longer and budget.progress(step=progress.step, elapsed=progress.elapsed) < 1
    more = budget.steps is not None and (task.epochs is not None or progress.asked_steps is not None) and budget.steps > progress.step
    if longer or more:
        progress.finished, progress.extended_at = False, progress.step
        say(f"a longer run is asked for: going on after step {progress.step} ({clock_text(progress.elapsed)} of training)")
    elif (budget.steps, budget.seconds) != (progress.asked_steps, progress.asked_seconds):
        asked = f"{budget.steps} steps" if budget.seconds is None else f"a time budget of {clock_text(budget.seconds)}"
        before, more_is = f"{progress.step} steps", "only more steps make it longer"
        if progress.asked_seconds is not None:
            before = f"a time budget of {clock_text(progress.asked_seconds)} ({before})"
            more_is = f"only more steps make it longer, or a time budget of {clock_text(1.5 * progress.asked_seconds)}"
        say(f"finished with {before}, and not trained again for {asked}: {more_is}; --overwrite begins anew")


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
