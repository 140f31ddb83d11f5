"""`train`: from a plan to trained, validated folds."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import extensions, files, images, locks, machine, pictures, threads
from autoseg.cases import Dataset
from autoseg.checksums import without_checksum
from autoseg.errors import AutosegError, SettingsError
from autoseg.networks import memory_estimate
from autoseg.pipeline import finished_model, parallel_folds
from autoseg.pipeline.planned import read_together
from autoseg.pipeline.records import read_summary
from autoseg.pipeline.reporter import LoggingReporter, NullReporter, Reporter, counter
from autoseg.pipeline.selecting import select
from autoseg.pipeline.validating import References, full_image_dice, is_validated, out_of_fold, require_learned, validate_fold
from autoseg.planning import validation
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan
from autoseg.planning.memory import modelled_footprint
from autoseg.planning.plan import FootprintOf
from autoseg.preprocessing import store
from autoseg.quantities import format_duration
from autoseg.training import batchgenerators_backend, loop
from autoseg.training import tensorboard as board
from autoseg.training.history import EpochRow
from autoseg.training.length import RunLength
from autoseg.training.process_group import ProcessGroup, joined
from autoseg.training.settings import TrainingSettings
from autoseg.workspace import Run, Workspace


def train(
    root: Path | str | Workspace,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    deterministic: bool = False,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    tensorboard: bool = False,
    folds_at_once: int = 1,
    started: float | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train folds of one or all configurations, and validate each on the cases it has not seen.

    Started by `torchrun --nproc-per-node N --no-python autoseg train ...`, N processes train every fold together, one card each.

    Parameters
    ----------
    configuration : "2d", "3d_lowres", "3d_fullres", "3d_cascade" or "all"; by default the plan's own 3D one
    fold : one fold; by default all
    epochs, time_budget : length of one fold's training; the budget is in seconds and includes what is prepared before it and its
        validation, but not what `select` does when all folds are there
    settings : training settings that replace those of the plan, by their dotted names
    tensorboard : also write TensorBoard's event files; needs the extra of that name
    folds_at_once : number of folds trained on this machine, each by a call of its own: they share its memory, and the command that
        started them selects at the end
    started : `time.monotonic()` of the moment from which the first fold's time budget counts; None: now. That of each later fold
        counts from the end of the fold before it

    Returns
    -------
    per configuration and fold the summary of its validation

    Raises
    ------
    InputError : the workspace, the data or a setting is at fault; before anything long begins where that can be known
    NothingLearned : everything is finished and written, but within its time budget a fold learned next to nothing
    Interrupted : stopped; the same command resumes
    """
    reporter = reporter or LoggingReporter()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    files.require_writable(workspace.root)
    plan, dataset, folds_there = read_together(workspace)
    splits = tuple(Split(train=split["train"], validation=split["validation"]) for split in folds_there)
    settings = dict(settings or {})
    extensions.allow(*(c.architecture.entry for c in plan.configurations if c.architecture is not None))
    chosen = machine.choose_device(device)
    checked = loop.check_settings(plan, settings)
    _require_extras(checked, tensorboard=tensorboard)
    asked = RunLength(epochs=epochs, time_budget=time_budget, started=time.monotonic() if started is None else started)
    length = _settled_length(asked, plan, checked, settings, deterministic=deterministic, reporter=reporter)
    folds, names = _folds(splits, fold), _wanted(plan, configuration)
    if any(plan.configuration(name).previous_stage for name in names):
        _require_out_of_fold(splits, dataset)
    devices = machine.choose_devices(device)
    with joined(chosen) as processes, threads.choosing(reporter.say, keep=deterministic):
        work = _Work(
            workspace=workspace, plan=plan, dataset=dataset, splits=splits, length=length,
            deterministic=deterministic, settings=settings, device=processes.device or chosen,
            seed=seed, workers=workers, overwrite=overwrite, extend=True, tensorboard=tensorboard, processes=processes,
            devices=devices if processes.size == 1 else (), folds_at_once=folds_at_once,
            reporter=reporter if processes.is_main else NullReporter())  # fmt: skip
        _require_room(work, names, folds)
        results: dict[str, Any] = {}
        for name in names:
            results |= _train_configuration(work, name, folds)
            work = _clock_restarted(work)
        if processes.is_main and folds_at_once == 1:
            _select(workspace, reporter)
        processes.wait()
    if folds_at_once == 1 and length.seconds is not None:
        require_learned({key: workspace.root / "runs" / key for key in results}, results, plan, checked, length.seconds)
    return results


def _require_extras(settings: TrainingSettings, *, tensorboard: bool) -> None:
    if settings.augmentation.backend == "batchgenerators":
        batchgenerators_backend.require(settings.augmentation)
    if tensorboard:
        board.require()


def _select(workspace: Workspace, reporter: Reporter) -> None:
    """Choose among the configurations; where that fails, the training is finished all the same."""
    try:
        select(workspace, pairs="predicted", reporter=reporter)
    except AutosegError as error:
        reporter.say(f"warning: nothing selected, though the training is finished: {error}")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The cases of one fold, by name."""

    train: Sequence[str]
    validation: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What one call of `train` was asked to do, and with what."""

    workspace: Workspace
    plan: Plan
    dataset: Dataset
    splits: Sequence[Split]
    length: RunLength  # of the fold that is trained next
    deterministic: bool
    settings: Mapping[str, Any]
    device: str
    seed: int
    workers: int | None
    overwrite: bool
    extend: bool  # finished runs continue where more is asked for
    tensorboard: bool
    processes: ProcessGroup
    devices: Sequence[str]  # with several, each has a fold of its own
    folds_at_once: int
    reporter: Reporter


def _clock_restarted(work: _Work) -> _Work:
    """Return the work with a time budget that counts from now."""
    return replace(work, length=work.length.from_now(time.monotonic()))


def _require_room(work: _Work, names: Sequence[str], folds: Sequence[int]) -> None:
    """Raise unless what is to be trained fits into memory, with each process's share of the batches.

    Raises
    ------
    NotEnough : it does not fit
    SettingsError : the batch cannot be divided among the processes
    """
    names = [*names, *(stage for name in names if (stage := work.plan.configuration(name).previous_stage) is not None)]
    new = [n for n in names if work.overwrite or not all(work.workspace.run(n, k).weights.exists() for k in folds)]
    shares = {c.name: len(work.processes.share(c.batch_size)) for c in work.plan.configurations if c.name in names}
    shared = tuple(replace(c, batch_size=shares.get(c.name, c.batch_size)) for c in work.plan.configurations)
    offered = machine.describe(work.device, probe=False)
    footprint: FootprintOf = partial(modelled_footprint, value_bytes=2 if offered.bf16 or not offered.cpu else 4)
    if any(c.architecture is not None for c in shared):
        footprint = memory_estimate.tracer(offered)
    validation.check_memory(replace(work.plan, configurations=shared), new, machine=offered, footprint=footprint)


def _train_configuration(work: _Work, name: str, folds: Sequence[int]) -> dict[str, Any]:
    """Train folds of one configuration; those of the stage before it first, where they are missing."""
    configuration = work.plan.configuration(name)
    if work.processes.is_main:
        _prepare(work, configuration)
    work.processes.wait()
    if configuration.previous_stage is not None:
        stage, before = configuration.previous_stage, replace(work, overwrite=False, extend=False)
        missing = [k for k in range(len(work.splits)) if not _is_done(work, stage, k)]
        if missing:
            work.reporter.say(f"the cascade needs all folds of {stage}; missing: {', '.join(map(str, missing))}")
        work.processes.wait()
        if missing:
            _train_configuration(before, stage, missing)
            work = _clock_restarted(work)
    results = {}
    if len(folds) > 1 and len(work.devices) > 1:
        machine.release()
        commands = {k: _command(work, name, k) for k in folds}
        parallel_folds.train_folds(commands, devices=work.devices, started=work.length.started, reporter=work.reporter)
        return {f"{name}/fold_{k}": without_checksum(files.read_json(work.workspace.run(name, k).summary)) for k in folds}
    for k in folds:
        run = work.workspace.run(name, k)
        with _held(work, name, k):
            if work.processes.is_main:
                _tidy(run, overwrite=work.overwrite)
            work.processes.wait()
            results[f"{name}/fold_{k}"] = _train_fold(work, configuration, k)
        work = _clock_restarted(work)
    return results


@contextlib.contextmanager
def _held(work: _Work, name: str, fold: int) -> Iterator[None]:
    """Train a fold once at a time, on preprocessed cases that nobody replaces meanwhile."""
    if not work.processes.is_main:
        yield
        return
    cases = work.workspace.preprocessed(cache_name(work.plan.configuration(name)))
    root, doing = work.workspace.run(name, fold).root, f"training {name} fold {fold}"
    with locks.exclusive_lock(root, doing=doing, waiting=work.reporter.say), locks.in_use(cases):
        yield


def _tidy(run: Run, *, overwrite: bool) -> None:
    """Remove what killed processes left half-written in the folders of a fold; everything in them where the fold is trained again."""
    for folder in (run.root, run.state, run.validation):
        files.sweep(folder)
    if overwrite:
        files.empty_folder(run.root)


def _wanted(plan: Plan, configuration: str | None) -> list[str]:
    there = [c.name for c in plan.configurations]
    if configuration == "all":
        return [name for name in CONFIGURATION_NAMES if name in there]
    if configuration is not None:
        return [plan.configuration(configuration).name]
    return ["3d_fullres" if "3d_fullres" in there else there[0]]


def _folds(splits: Sequence[Split], fold: int | None) -> list[int]:
    if fold is None:
        return list(range(len(splits)))
    if fold >= len(splits):
        raise SettingsError(
            "there is no such fold",
            found=f"--fold {fold}",
            expected=f"0 to {len(splits) - 1}, or all",
            fix="choose one of those, or write other splits",
        )
    return [fold]


def _settled_length(
    asked: RunLength, plan: Plan, checked: TrainingSettings, settings: Mapping[str, Any], *, deterministic: bool, reporter: Reporter
) -> RunLength:
    """Return the length that was asked for, be it as a setting; else the time per fold that the plan was made for, if it was for one.

    Raises
    ------
    SettingsError : two lengths are asked for, or a time budget for a deterministic training
    """
    named = [name for name in settings if name.removeprefix("training.") == "epochs"]
    words = {"--epochs": asked.epochs, "--time-budget": asked.time_budget} | {f"--set {name}": checked.epochs for name in named}
    given = {word: value for word, value in words.items() if value is not None}
    if len(given) > 1 and (asked.time_budget is not None or len(set(given.values())) > 1):
        raise SettingsError("several lengths of the training are asked for", found=" and ".join(given), fix="give one of them")
    length = replace(asked, epochs=checked.epochs) if named else asked
    if not given and plan.time_budget is not None:
        length = replace(length, time_budget=plan.time_budget)
        if deterministic:
            loop.refuse_time_budget(found=f"--deterministic, and a plan that gives each fold {format_duration(plan.time_budget)}")
        reporter.say(
            f"each fold trains for {format_duration(plan.time_budget)}, as planned; --time-budget or --epochs choose another length"
        )
    elif deterministic and length.seconds is not None:
        loop.refuse_time_budget(found="--deterministic with --time-budget")
    return length


def _require_out_of_fold(splits: Sequence[Split], dataset: Dataset) -> None:
    """Raise unless every case is in one fold's validation: the cascade needs a prediction of each by a network that has not seen it."""
    held_out = {name for split in splits for name in split.validation}
    missing = [case.name for case in dataset.cases if case.name not in held_out]
    if missing:
        raise SettingsError(
            "a cascade cannot be trained on these folds",
            found=f"{len(missing)} cases are in no fold's validation: {', '.join(missing[:5])}",
            expected="every case in the validation of one fold",
            fix="use the folds that plan makes, or train the configurations before the cascade one by one",
        )


def cache_name(configuration: Configuration) -> str:
    """Return the cache that a configuration learns from: the cascade's second stage has that of the full resolution."""
    return "3d_fullres" if configuration.name == "3d_cascade" else configuration.name


def _command(work: _Work, name: str, fold: int) -> list[str]:
    """Return what a user would type to have one fold trained."""
    words = ["train", str(work.workspace.root), "--configuration", name, "--fold", str(fold), "--seed", str(work.seed)]
    words += [] if work.length.epochs is None else ["--epochs", str(work.length.epochs)]
    words += [] if work.length.seconds is None else ["--time-budget", f"{work.length.seconds:f}s"]
    words += [] if work.workers is None else ["--workers", str(work.workers)]
    words += ["--deterministic"] * work.deterministic + ["--overwrite"] * work.overwrite + ["--tensorboard"] * work.tensorboard
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in work.settings.items()}
    return words + [word for key, text in texts.items() for word in ("--set", f"{key}={text}")]


def _prepare(work: _Work, configuration: Configuration) -> None:
    name = cache_name(configuration)
    store.preprocess_dataset(
        work.dataset,
        work.plan,
        work.plan.configuration(name),
        work.workspace.preprocessed(name),
        workers=work.workers,
        progress=counter(work.reporter, f"preprocess {name}"),
        waiting=lambda: work.reporter.say("another process prepares cases in this workspace: waiting for it"),
    )


def _train_fold(work: _Work, configuration: Configuration, fold: int) -> dict[str, Any]:
    """Train one fold to its end and validate it; the summary is the main process's, of others it is empty."""
    workspace, plan, device, reporter = work.workspace, work.plan, work.device, work.reporter
    run, split = workspace.run(configuration.name, fold), work.splits[fold]
    folder = workspace.preprocessed(cache_name(configuration))
    by_name = {case.name: case for case in work.dataset.cases}
    steps = work.length.of(loop.check_settings(plan, work.settings)).steps if work.extend and work.length.epochs is not None else None
    finished: Any = finished_model.opened(workspace, plan, configuration.name, fold, asked_steps=steps, device=device, reporter=reporter)
    stored = {name: store.open_case(folder, name) for name in (*split.train, *split.validation)}
    before = configuration.previous_stage
    first_stage = [] if before is None else [workspace.run(before, k) for k in range(len(work.splits))]
    previous = _previous_maps(first_stage, plan, stored) if first_stage else None
    task = loop.TrainingTask(
        plan=plan,
        configuration=configuration,
        fold=fold,
        train_cases=tuple(stored[name] for name in split.train),
        validation_cases=tuple(stored[name] for name in split.validation),
        run=run,
        device=device,
        seed=work.seed,
        length=work.length,
        extendable=work.extend,
        deterministic=work.deterministic,
        settings=work.settings,
        previous=previous,
        previous_weights={first.root.name: read_summary(first.summary).weights for first in first_stage},
        processes=work.processes,
        folds_at_once=work.folds_at_once,
    )
    validate = partial(
        full_image_dice, plan=plan, configuration=configuration, device=device, references=References(by_name, plan), previous=previous
    )
    stage, loss = f"{configuration.name} fold {fold}", loop.check_settings(plan, work.settings).loss.words
    reporter.say(f"training {stage}: {len(task.train_cases)} cases, {len(task.validation_cases)} held out for validation; loss: {loss}")
    with board.Board(run.tensorboard) if work.tensorboard and work.processes.is_main else contextlib.nullcontext() as events:

        def report(row: EpochRow) -> None:
            """Give a row of figures to the reporter and to TensorBoard."""
            reporter.progress(f"train {stage}", row.done, row.total, str(row))
            if events is not None:
                events.add(row)

        if finished is None:
            finished = loop.train(
                task,
                validate=validate,
                report=report,
                draw=lambda history: files.write_bytes(run.progress, pictures.progress(history)),
                say=reporter.say,
            )
    summary = {}
    if work.processes.is_main:
        summary = validate_fold(run, configuration, [by_name[name] for name in split.validation], stored, previous, device=device,
                                workers=work.workers, network=finished, reporter=reporter, length=work.length)  # fmt: skip
    work.processes.wait()
    return summary


def _is_done(work: _Work, name: str, fold: int) -> bool:
    held_out = set(work.splits[fold].validation)
    return is_validated(work.workspace.run(name, fold), [case for case in work.dataset.cases if case.name in held_out])


def _previous_maps(first_stage: Sequence[Run], plan: Plan, stored: Mapping[str, store.StoredCase]) -> dict[str, NDArray[np.integer[Any]]]:
    """Return the first stage's out-of-fold predictions on the grid of the preprocessed cases, one byte a voxel."""
    found = out_of_fold([run.root for run in first_stage])
    maps = {}
    for name, case in stored.items():
        classes = plan.labels.encode(images.read_label(found[name]).array[0])
        maps[name] = case.geometry.preprocess_classes(classes)
    return maps
