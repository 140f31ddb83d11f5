"""Training one fold, in the order things happen.

The loop is given what it works with: a plan, preprocessed cases, a way to validate, places to report to. It owns the order,
the clock and the files of `Run`: weights, state and history, all of them written whole, so that the run can be killed at any
moment and continued by the same call. `_Running` is one call: its methods are the steps of `_run`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from autoseg.errors import Interrupted, SettingsError
from autoseg.planning.configuration import Plan
from autoseg.resources import free_memory
from autoseg.threads import ThreadChooser, choosing
from autoseg.training import resuming, safeguards
from autoseg.training.batches import BatchLoader
from autoseg.training.history import Clock, EpochRow, EpochWatch, row_of, write_history
from autoseg.training.interruption import Interruption, StopRequested, listening
from autoseg.training.schedule import learning_rate
from autoseg.training.scoring import Scorer, Validate
from autoseg.training.settings import TrainingSettings, check_settings
from autoseg.training.task import Progress, TrainingTask, draws, mirrors, plan_of
from autoseg.training.trainer import Trainer

__all__ = ["TrainingTask", "check_settings", "refuse_time_budget", "train"]

EPOCHS_PER_BUDGET = 50  # a time budget is cut into epochs no longer than this share of it
DRAWING_SHARE = 0.02  # of the time at most goes into the picture of the curves
RAMP_STEPS = 200  # over which the rate rises again when a finished run is made longer
RESUME = "run the same command again: it resumes from there"
PROBE_FROM_SECONDS = 300.0  # shorter time budgets are not spent on the probe


def train(
    task: TrainingTask,
    *,
    validate: Validate,
    report: Callable[[EpochRow], None] = lambda row: None,
    draw: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    say: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """Train one fold to the end, from the beginning or from where it was stopped.

    Parameters
    ----------
    validate : mean full-image Dice of a network on some validation cases; None where no label occurs in them
    report : gets a row of figures at the end of every epoch and every few seconds
    draw : gets the rows of all epochs so far: at the end, and before as often as a small share of the time allows
    say : gets messages worth keeping

    Returns
    -------
    the averaged network in evaluation mode, on the device; its weights are in `run.weights`

    Raises
    ------
    Interrupted : SIGINT, SIGTERM or SIGUSR1; the state is saved and the same call resumes from there
    TrainingFailed : too many steps in a row without finite numbers
    SettingsError : a setting that cannot be used
    ModelError : the saved state is damaged
    PlanMismatch : the saved state belongs to other cases, another plan, another optimizer or another seed
    """
    settings = check_settings(task.plan, task.settings or {})
    with _reproducible(task), choosing(say, keep=task.deterministic or task.processes.size > 1), listening() as interruption:
        device = torch.device(task.device)
        if not task.processes.is_main:
            report, draw, say = _unheard, _unheard, _unheard
        trainer = Trainer(
            plan=task.plan, configuration=task.configuration, settings=settings, device=device, seed=task.seed, processes=task.processes
        )
        progress, changes = resuming.resume(task, settings, trainer, say)
        resuming.extend(task, progress, say)
        changes += _decide_mirroring(task, settings, progress)
        if progress.finished:
            resuming.restore_model(task, trainer, progress, say)
            resuming.restore_history(task, progress, draw)
            return trainer.averaged.eval()
        for change in changes:
            say(change)
        read = partial(_batches, task, settings, plan_of(task, progress), device)  # all cases that fit into memory
        batches = interruption.abandonable(read) if task.processes.size == 1 else read()  # a processes stops together, at its first step
        if batches is None:
            raise _interrupted(task, interruption.name, found=f"{progress.step} steps done")
        try:
            running = _Running(task=task, settings=settings, trainer=trainer, batches=batches, progress=progress,
                               interruption=interruption, validate=validate, report=report, draw=draw, say=say)  # fmt: skip
            _run(running)
        finally:
            batches.close()
        _, stopped_by = task.processes.agree(1.0, interruption.name)
        if stopped_by:  # too late for a step: what comes after training is not begun
            raise _interrupted(task, stopped_by, found=f"{progress.step} steps done, saved")
        return trainer.averaged.eval()


def refuse_time_budget(*, found: str) -> NoReturn:
    """Raise the error about a deterministic run with a time budget.

    Raises
    ------
    SettingsError : always
    """
    raise SettingsError(
        "a time budget ends at another step each time",
        found=found,
        expected="a number of epochs",
        fix="give epochs instead: --deterministic --epochs N",
    )


def _decide_mirroring(task: TrainingTask, settings: TrainingSettings, progress: Progress) -> list[str]:
    """Decide for a new run whether it mirrors images; return what there is to say about that."""
    wanted, notes = mirrors(task, settings), []
    if progress.mirrors is None:
        progress.mirrors = progress.step > 0 or wanted
    elif task.plan.mirror_axes and progress.mirrors != wanted:
        notes += [f"images are {'' if progress.mirrors else 'not '}mirrored, as when the run began: --overwrite begins again"]
    if progress.step == 0 and task.plan.mirror_axes and not progress.mirrors:
        times, few = draws(task, settings), settings.augmentation.mirror_from
        notes += [f"each case is drawn about {times:.0f} times, fewer than {few:g} (augmentation.mirror_from): images are not mirrored"]
    return notes


def _batches(task: TrainingTask, settings: TrainingSettings, plan: Plan, device: torch.device) -> BatchLoader:
    return BatchLoader(
        task.train_cases,
        plan=plan,
        configuration=task.configuration,
        settings=settings,
        seed=task.seed,
        device=device,
        memory=settings.memory_share * free_memory() / (task.processes.local_size * task.folds_at_once),
        previous=task.previous,
        processes=task.processes,
    )


@dataclass(kw_only=True)
class _Running:
    """One call of `train` from its first step to its last, and what it works with."""

    task: TrainingTask
    settings: TrainingSettings
    trainer: Trainer
    batches: BatchLoader
    progress: Progress
    interruption: Interruption
    validate: Validate
    report: Callable[[EpochRow], None]
    draw: Callable[[list[dict[str, Any]]], None]
    say: Callable[[str], None]
    clock: Clock = field(init=False)
    watch: EpochWatch = field(init=False)
    scorer: Scorer = field(init=False)
    threads: ThreadChooser = field(init=False)
    saved: float = field(init=False)  # when, by the clock

    def __post_init__(self) -> None:
        progress = self.progress
        progress.length = progress.length.with_preparation(time.monotonic())
        self.clock = Clock(progress.length.elapsed)
        self.watch = EpochWatch(self.clock, self.batches)
        self.scorer = Scorer(task=self.task, settings=self.settings, validate=self.validate, clock=self.clock, say=self.say)
        self.threads = ThreadChooser("training", self.trainer.device)
        self.saved = self.clock.now() if progress.step else -math.inf  # a first model after the first step

    @property
    def share(self) -> float:
        """How much of the run is over, 0 to 1."""
        return self.progress.length.progress(step=self.progress.step, elapsed=self.clock.now())

    @property
    def steps_of_epoch(self) -> int:
        """Steps of the epoch that is not over yet, also those before an interruption."""
        return self.progress.step - (self.progress.history[-1].step if self.progress.history else 0)

    @property
    def epoch_is_over(self) -> bool:
        """Whether it has its number of steps; under a time budget also whether it has its share of that."""
        seconds, whole = self.progress.length.seconds, self.settings.steps_per_epoch
        if seconds is None:
            return self.steps_of_epoch > 0 and self.progress.step % whole == 0
        return self.steps_of_epoch >= whole or (self.steps_of_epoch > 0 and self.watch.seconds >= seconds / EPOCHS_PER_BUDGET)

    def row(self, share: float) -> EpochRow:
        """Return the figures of the epoch that is running."""
        progress = self.progress
        return row_of(epoch=progress.epoch + 1, step=progress.step, losses=progress.epoch_losses, watch=self.watch,
                      length=progress.length, share=share, learning_rate=self.trainer.rate, device=self.trainer.device)  # fmt: skip

    def probe(self) -> None:
        """Check before the first step that the network can learn at all, and compile it where that pays."""
        task, settings, alone = self.task, self.settings, self.task.processes.size == 1
        long_enough = (self.progress.length.seconds or math.inf) >= PROBE_FROM_SECONDS
        if self.progress.step == 0 and settings.probe_steps and long_enough:
            probe = partial(safeguards.probe, self.trainer, self.batches, settings, task.processes, self.say)
            if alone:
                self.interruption.abandonable(probe)
            else:  # together or not at all
                probe()
        if settings.compile != "off" and not task.deterministic and alone:  # each of several would decide for itself
            self.interruption.abandonable(
                lambda: self.trainer.compile(self.batches.batch(self.progress.step), wanted=settings.compile, say=self.say)
            )

    def end_epoch(self) -> None:
        """Score some cases if it is time for that, and record the epoch: where that is cut short, it ends when the run is resumed."""
        row = self.row(self.share)
        if self.scorer.is_due(self.progress):
            row = replace(row, **self.interruption.abandonable(lambda: self.scorer.score(self.trainer, self.progress)) or {})
            if self.interruption.name is not None:
                return
        self.record(row)
        self.report(row)
        if self.task.processes.is_main:
            write_history(self.task.run, self.progress.history)
        if self.progress.length.drawn <= DRAWING_SHARE * self.clock.now():
            self.draw_curves()
        self.watch = EpochWatch(self.clock, self.batches)

    def record(self, row: EpochRow) -> None:
        """Count the epoch."""
        self.progress.epoch += 1
        self.progress.history.append(row)
        self.progress.epoch_losses.clear()

    def draw_curves(self) -> None:
        """Draw them, and count the time that takes."""
        begin, progress = self.clock.now(), self.progress
        self.draw([row.to_json() for row in progress.history])
        progress.length = replace(progress.length, drawn=progress.length.drawn + self.clock.now() - begin)

    def step(self, share: float) -> None:
        """Do one optimisation step."""
        progress = self.progress
        with self.threads.work():
            batch = self.batches.batch(progress.step)
            step = self.trainer.step(batch, learning_rate=self.learning_rate(share))
        safeguards.note(step, batch, progress, self.settings, self.task.processes, self.say)
        self.watch.steps += 1
        progress.step += 1
        if self.watch.due():
            self.report(self.row(share))

    def learning_rate(self, share: float) -> float:
        """Return the rate of the next step."""
        progress, settings = self.progress, self.settings
        if progress.length.steps is not None and not settings.schedule.every_step:
            share = progress.step // settings.steps_per_epoch * settings.steps_per_epoch / progress.length.steps
        rate = learning_rate(share, top=settings.optimizer.learning_rate, settings=settings.schedule)
        if progress.extended_at is None:
            return rate
        return rate * min(1.0, (progress.step - progress.extended_at + 1) / RAMP_STEPS)  # from the end of the old schedule, no jump

    def save(self) -> None:
        """Write the state and the model."""
        resuming.save(self.task, self.trainer, self.progress, self.clock)
        self.saved = self.clock.now()

    def finish(self) -> None:
        """Record the last epoch and write everything."""
        progress = self.progress
        if self.steps_of_epoch:
            self.record(self.row(1.0))
        progress.finished, progress.asked_steps, progress.asked_seconds = True, progress.length.steps, progress.length.seconds
        self.save()
        if self.task.processes.is_main:
            write_history(self.task.run, progress.history)
        self.draw_curves()


def _run(running: _Running) -> None:
    """Do all steps that are left. The page to read."""
    task, interruption, progress = running.task, running.interruption, running.progress
    running.probe()
    while True:
        if running.epoch_is_over:
            running.end_epoch()
        share, stopped_by = task.processes.agree(running.share, interruption.name)
        if stopped_by:
            running.save()
            raise _interrupted(task, stopped_by, found=f"{progress.step} steps done, saved")
        if share >= 1:
            break
        running.step(share)
        if running.clock.now() - running.saved >= running.settings.checkpoint_seconds:
            running.save()
    running.finish()


def _unheard(_: Any) -> None:
    """Do nothing: the callback of all processes but the main one."""


def _interrupted(task: TrainingTask, signal_name: str | None, *, found: str) -> Interrupted:
    return Interrupted(
        f"training of {task.configuration.name} fold {task.fold} stopped by {signal_name}",
        file=task.run.state,
        found=found,
        fix=RESUME,
    )


@contextlib.contextmanager
def _reproducible(task: TrainingTask) -> Iterator[None]:
    """Use deterministic algorithms where asked; what was set before comes back."""
    if task.deterministic and task.length.seconds is not None:
        refuse_time_budget(found="--deterministic with --time-budget")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(task.deterministic)
    torch.backends.cudnn.benchmark = not task.deterministic
    try:
        yield
    except StopRequested as stop:  # came between two guarded places
        raise Interrupted(f"training stopped by {stop}", file=task.run.state, fix=RESUME) from None
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
