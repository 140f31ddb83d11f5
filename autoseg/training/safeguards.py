"""Early signs that training will fail: a network that cannot learn one batch, numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from autoseg.errors import TrainingFailed
from autoseg.training.batches import Batch, BatchLoader
from autoseg.training.process_group import ProcessGroup
from autoseg.training.settings import TrainingSettings
from autoseg.training.task import Progress
from autoseg.training.trainer import Step, Trainer

PROBE_BATCHES = 5  # at most, until one has anything to learn


def probe(trainer: Trainer, batches: BatchLoader, settings: TrainingSettings, processes: ProcessGroup, say: Callable[[str], None]) -> None:
    """Check before the first epoch that the network can learn one batch by heart.

    The first batch that has anything to learn answers: one without annotation gives no gradient, one with a damaged image no number.

    Raises
    ------
    TrainingFailed : its loss does not fall
    """
    for number in range(PROBE_BATCHES):
        batch = batches.batch(number)
        steps = trainer.probe(batch, steps=settings.probe_steps, learning_rate=settings.optimizer.learning_rate)
        names, values, _ = _contents(batch, processes)
        left_out = [step for step in steps if not step.taken]
        if left_out:
            say(f"probe: {len(left_out)} of {len(steps)} steps left out: {_numbers(left_out[0])}; cases {names}; image values {values}")
        taken = [step for step in steps if step.taken]
        if not taken or taken[0].learns_nothing:
            continue
        before, after = taken[0].loss, steps[-1].loss if steps[-1].taken else math.nan
        found = f"loss {before:.3f} before, {after:.3f} after {len(steps) - 1} steps on the same patches ({names})"
        if not after < before:  # also where it is no number any more
            raise TrainingFailed(
                "the network cannot learn even one batch by heart",
                found=found,
                expected="a falling loss",
                fix="look at the named cases (autoseg check), or lower the learning rate: --set optimizer.learning_rate=... (a tenth)",
            )
        say(f"probe: {found}")
        return
    say(f"probe: none of the first {PROBE_BATCHES} batches has anything to learn; training begins nevertheless")


def note(
    step: Step, batch: Batch, progress: Progress, settings: TrainingSettings, processes: ProcessGroup, say: Callable[[str], None]
) -> None:
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
    names, values, finite = _contents(batch, processes)
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


def _contents(batch: Batch, processes: ProcessGroup) -> tuple[str, str, bool]:
    """Return the names of the cases in the whole batch, the range of their image values in words, and whether all of them are finite."""
    damaged = [name for name, image in zip(batch.cases, batch.image, strict=True) if not bool(torch.isfinite(image).all())]
    contents = processes.gather((batch.cases, damaged, float(batch.image.min()), float(batch.image.max())))
    names = ", ".join(name for cases, _, _, _ in contents for name in cases)
    span = ", ".join(f"{low:.4g} to {high:.4g}" for _, _, low, high in contents)
    culprits = ", ".join(dict.fromkeys(name for _, some, _, _ in contents for name in some))
    return names, span + (f", not all finite in {culprits}" if culprits else ""), not culprits
