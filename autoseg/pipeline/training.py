"""`train` and `select`: from a plan to trained, validated folds, and from their out-of-fold results to what `predict` uses."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import __version__, cases, evaluation, files, images, machine, pictures, postprocessing, prediction
from autoseg.cases import Case, Dataset
from autoseg.errors import AutosegError, InputError, MissingPath, SettingsError
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.pipeline import side_by_side
from autoseg.pipeline.listener import Listener, Logged, Unheard, counter
from autoseg.pipeline.predicting import dice_text, mean_dice, score, write_summary
from autoseg.pipeline.preparing import read_dataset, read_plan, read_splits, require_fit
from autoseg.planning import validation
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan
from autoseg.planning.memory import modelled_footprint
from autoseg.preprocessing import store
from autoseg.quantities import clock
from autoseg.training import loop, reference_augmentation
from autoseg.training import tensorboard as board
from autoseg.training.settings import TrainingSettings
from autoseg.training.team import Team, joined
from autoseg.workspace import Run, Workspace

LATE = 0.1  # share of a time budget by which the final validation may exceed it without a warning


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
    beside: int = 1,
    started: float | None = None,
    listener: Listener | None = None,
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
    beside : folds that are trained on this machine at the same time, each by a call of its own: they share its memory, and who
        started them selects at the end
    started : `time.monotonic()` of the moment from which the first fold's time budget counts; None: now. That of each later fold
        counts from the end of the fold before it

    Returns
    -------
    per configuration and fold the summary of its validation

    Raises
    ------
    InputError : the workspace, the data or a setting is at fault; before anything long begins where that can be known
    Interrupted : stopped; the same command resumes
    """
    started = time.monotonic() if started is None else started
    listener = listener or Logged()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    require_fit(plan, dataset, workspace)
    splits = read_splits(workspace, dataset)
    chosen = machine.choose_device(device)
    checked = loop.check_settings(plan, settings or {})
    if checked.augmentation.backend == "batchgenerators":
        reference_augmentation.require(checked.augmentation)
    if tensorboard:
        board.require()
    epochs = _asked_epochs(epochs, time_budget, settings or {}, checked)
    if epochs is None and time_budget is None:
        time_budget = _planned_budget(plan, deterministic, listener)
    elif deterministic and time_budget is not None:
        loop.refuse_time_budget(found="--deterministic with --time-budget")
    _folds(splits, fold)
    if any(plan.configuration(name).previous_stage for name in _wanted(plan, configuration)):
        _require_out_of_fold(splits, dataset)
    devices = machine.choose_devices(device)
    with joined(chosen) as team:
        work = _Work(
            workspace=workspace, plan=plan, dataset=dataset, splits=splits, epochs=epochs, time_budget=time_budget,
            deterministic=deterministic, settings=settings or {}, device=team.device or chosen, seed=seed, workers=workers,
            overwrite=overwrite, extend=True, tensorboard=tensorboard, team=team, devices=devices if team.size == 1 else (), beside=beside,
            listener=listener if team.leads else Unheard())  # fmt: skip
        _require_room(work, _wanted(plan, configuration), _folds(splits, fold))
        results: dict[str, Any] = {}
        for name in _wanted(plan, configuration):
            results |= _train_configuration(work, name, _folds(splits, fold), started=started)
            started = time.monotonic()
        if team.leads and beside == 1:
            try:
                select(workspace, listener=listener)
            except AutosegError as error:
                listener.say(f"warning: nothing selected, though the training is finished: {error}")
        team.wait()
    return results


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What one call of `train` was asked to do, and with what."""

    workspace: Workspace
    plan: Plan
    dataset: Dataset
    splits: Sequence[Mapping[str, Sequence[str]]]
    epochs: int | None
    time_budget: float | None
    deterministic: bool
    settings: Mapping[str, Any]
    device: str
    seed: int
    workers: int | None
    overwrite: bool
    extend: bool  # finished runs go on where more is asked for
    tensorboard: bool
    team: Team
    devices: Sequence[str]  # with several, each has a fold of its own
    beside: int
    listener: Listener


def _require_room(work: _Work, names: Sequence[str], folds: Sequence[int]) -> None:
    """Nothing, if what is to be begun fits into the memory there is, the team's share of each batch considered.

    Raises
    ------
    NotEnough : it does not fit
    SettingsError : the batch cannot be divided among the processes of the team
    """
    names = [*names, *(stage for name in names if (stage := work.plan.configuration(name).previous_stage) is not None)]
    new = [n for n in names if work.overwrite or not all(work.workspace.run(n, k).weights.exists() for k in folds)]
    shares = {c.name: len(work.team.share(c.batch_size)) for c in work.plan.configurations if c.name in names}
    shared = tuple(replace(c, batch_size=shares.get(c.name, c.batch_size)) for c in work.plan.configurations)
    offered = machine.describe(work.device, probe=False)
    footprint = partial(modelled_footprint, value_bytes=2 if offered.bf16 or not offered.cpu else 4)
    validation.check_memory(replace(work.plan, configurations=shared), new, machine=offered, footprint=footprint)


def _train_configuration(work: _Work, name: str, folds: Sequence[int], *, started: float) -> dict[str, Any]:
    """Folds of one configuration; those of the stage before it first, where they are missing.

    Parameters
    ----------
    started : `time.monotonic()` from which the time budget of the fold that is trained first counts
    """
    configuration = work.plan.configuration(name)
    if work.team.leads:
        _prepare(work, configuration)
    work.team.wait()
    if configuration.previous_stage is not None:
        stage, before = configuration.previous_stage, replace(work, overwrite=False, extend=False)
        missing = [k for k in range(len(work.splits)) if not _is_validated(work, stage, k)]
        if missing:
            work.listener.say(f"the cascade needs all folds of {stage}; missing: {', '.join(map(str, missing))}")
        work.team.wait()
        if missing:
            _train_configuration(before, stage, missing, started=started)
            started = time.monotonic()
    results = {}
    if len(folds) > 1 and len(work.devices) > 1:
        machine.release()
        commands = {k: _command(work, name, k) for k in folds}
        side_by_side.train_folds(commands, devices=work.devices, started=started, listener=work.listener)
        return {f"{name}/fold_{k}": files.read_json(work.workspace.run(name, k).summary) for k in folds}
    for k in folds:
        run = work.workspace.run(name, k)
        with files.only_one(run.root, doing=f"training {name} fold {k}") if work.team.leads else contextlib.nullcontext():
            if work.overwrite and work.team.leads:
                files.empty_folder(run.root)
            work.team.wait()
            results[f"{name}/fold_{k}"] = _train_fold(work, configuration, k, started=started)
        started = time.monotonic()
    return results


def select(root: Path | str | Workspace, *, listener: Listener | None = None) -> dict[str, Any]:
    """Choose the best configuration and the post-processing rules from the out-of-fold predictions there are.

    Returns
    -------
    what selection.json holds: per configuration its folds, cases and mean Dice, and the one `predict` uses by default

    Raises
    ------
    MissingPath : no fold is validated yet
    """
    listener = listener or Logged()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    require_fit(plan, dataset, workspace)
    candidates = {c.name: _validated(workspace, c.name) for c in plan.configurations}
    candidates = {name: folds for name, folds in candidates.items() if folds}
    if not candidates:
        raise MissingPath("no fold is trained and validated yet", file=workspace.root, fix=f"train first: autoseg train {workspace.root}")
    table = {name: _selection_row(folds, plan.labels) for name, folds in candidates.items()}
    best = _best(table, plan)
    rules = {name: _choose_rules(workspace, dataset, plan, folds, listener) for name, folds in candidates.items()}
    selection = {"version": __version__, "configurations": table, "selected": best}
    files.write_json(workspace.postprocessing, {name: rule.to_json() for name, rule in rules.items()})
    files.write_json(workspace.selection, selection)
    for name, row in table.items():
        note = "; ".join(rules[name].sentences()) or "no post-processing rule helps"
        dice = "none" if row["dice"] is None else f"{row['dice']:.4f}"
        listener.say(f"{name}: out-of-fold Dice {dice} over {row['cases']} cases of {len(row['folds'])} folds; {note}")
    if len(table) > 1:
        listener.say(f"selected for predict: {best}")
    return selection


def _wanted(plan: Plan, configuration: str | None) -> list[str]:
    there = [c.name for c in plan.configurations]
    if configuration == "all":
        return [name for name in CONFIGURATION_NAMES if name in there]
    if configuration is not None:
        return [plan.configuration(configuration).name]
    return ["3d_fullres" if "3d_fullres" in there else there[0]]


def _folds(splits: Sequence[Mapping[str, Sequence[str]]], fold: int | None) -> list[int]:
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


def _asked_epochs(epochs: int | None, time_budget: float | None, settings: Mapping[str, Any], checked: TrainingSettings) -> int | None:
    """The epochs that were asked for, be it as a setting; None where none were.

    Raises
    ------
    SettingsError : two lengths are asked for
    """
    named = [name for name in settings if name.removeprefix("training.") == "epochs"]
    asked = {"--epochs": epochs, "--time-budget": time_budget} | {f"--set {name}": checked.epochs for name in named}
    given = {word: value for word, value in asked.items() if value is not None}
    if len(given) > 1 and (time_budget is not None or len(set(given.values())) > 1):
        raise SettingsError("several lengths of the training are asked for", found=" and ".join(given), fix="give one of them")
    return checked.epochs if named else epochs


def _planned_budget(plan: Plan, deterministic: bool, listener: Listener) -> float | None:
    """The time per fold that the plan was made for, where it was made for one; else the epochs of its settings count.

    Raises
    ------
    SettingsError : there is one, and a deterministic training is asked for
    """
    seconds = plan.device.get("time_budget")
    if seconds is None:
        return None
    if deterministic:
        loop.refuse_time_budget(found=f"--deterministic, and a plan that gives each fold {clock(seconds)}")
    listener.say(f"each fold trains for {clock(seconds)}, as planned; --time-budget or --epochs choose another length")
    return float(seconds)


def _require_out_of_fold(splits: Sequence[Mapping[str, Sequence[str]]], dataset: Dataset) -> None:
    """The cascade needs a prediction of every case by a network that has not seen it: every case is in one fold's validation."""
    held_out = {name for split in splits for name in split["validation"]}
    missing = [case.name for case in dataset.cases if case.name not in held_out]
    if missing:
        raise SettingsError(
            "a cascade cannot be trained on these folds",
            found=f"{len(missing)} cases are in no fold's validation: {', '.join(missing[:5])}",
            expected="every case in the validation of one fold",
            fix="use the folds that plan makes, or train the configurations before the cascade one by one",
        )


def cache_name(configuration: Configuration) -> str:
    """The cascade's second stage learns from the very arrays of the full resolution."""
    return "3d_fullres" if configuration.name == "3d_cascade" else configuration.name


def _command(work: _Work, name: str, fold: int) -> list[str]:
    """What a user would type to have one fold trained."""
    words = ["train", str(work.workspace.root), "--configuration", name, "--fold", str(fold), "--seed", str(work.seed)]
    words += [] if work.epochs is None else ["--epochs", str(work.epochs)]
    words += [] if work.time_budget is None else ["--time-budget", f"{work.time_budget:f}s"]
    words += [] if work.workers is None else ["--workers", str(work.workers)]
    words += ["--deterministic"] * work.deterministic + ["--overwrite"] * work.overwrite + ["--tensorboard"] * work.tensorboard
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in work.settings.items()}
    return words + [word for key, text in texts.items() for word in ("--set", f"{key}={text}")]


def _prepare(work: _Work, configuration: Configuration) -> None:
    name = cache_name(configuration)
    store.prepare_dataset(
        work.dataset,
        work.plan,
        work.plan.configuration(name),
        work.workspace.preprocessed(name),
        workers=work.workers,
        progress=counter(work.listener, f"preprocess {name}"),
    )


def _train_fold(work: _Work, configuration: Configuration, fold: int, *, started: float) -> dict[str, Any]:
    """Train one fold to its end and validate it; the summary is the leader's, of others it is empty."""
    workspace, plan, device, listener = work.workspace, work.plan, work.device, work.listener
    run, split = workspace.run(configuration.name, fold), work.splits[fold]
    folder = workspace.preprocessed(cache_name(configuration))
    by_name = {case.name: case for case in work.dataset.cases}
    stored = {name: store.open_case(folder, name) for name in (*split["train"], *split["validation"])}
    first_stage = [] if configuration.previous_stage is None else _runs(work, configuration.previous_stage)
    previous = _previous_maps(first_stage, plan, stored) if first_stage else None
    task = loop.TrainingTask(
        plan=plan,
        configuration=configuration,
        fold=fold,
        train_cases=tuple(stored[name] for name in split["train"]),
        validation_cases=tuple(stored[name] for name in split["validation"]),
        run=run,
        device=device,
        seed=work.seed,
        epochs=work.epochs,
        time_budget=work.time_budget,
        started=started,
        extendable=work.extend,
        deterministic=work.deterministic,
        settings=work.settings,
        previous=previous,
        previous_weights={first.root.name: files.read_json(first.summary).get("weights") for first in first_stage},
        team=work.team,
        beside=work.beside,
    )
    references = _References(by_name, plan)

    def validate(network: Any, some: Sequence[store.StoredCase]) -> float | None:
        """Mean full-image Dice of some of the validation cases."""
        scores = {}
        for case in some:
            classes = prediction.segment_prepared(
                network,
                case,
                plan=plan,
                configuration=configuration,
                device=device,
                tta=False,
                previous=None if previous is None else previous[case.name],
            )
            scores[case.name] = evaluation.score_case(
                classes,
                references[case.name],
                plan.labels,
                spacing=case.geometry.canonical_spacing,
                annotated=by_name[case.name].annotated,
            )
        return mean_dice(evaluation.summarise(scores, plan.labels))

    stage = f"{configuration.name} fold {fold}"
    listener.say(f"training {stage}: {len(task.train_cases)} cases, {len(task.validation_cases)} apart for validation")
    with board.Board(run.tensorboard) if work.tensorboard and work.team.leads else contextlib.nullcontext() as events:

        def report(row: dict[str, Any]) -> None:
            """A row of figures to the listener and to TensorBoard."""
            listener.progress(f"train {stage}", row["done"], row["total"], loop.line(row))
            if events is not None:
                events.add(row)

        finished = loop.train(
            task,
            validate=validate,
            report=report,
            draw=lambda history: files.write_bytes(run.progress, pictures.progress(history)),
            say=listener.say,
        )
    summary = {}
    if work.team.leads:
        summary = _validate_fold(run, configuration, [by_name[name] for name in split["validation"]], stored, previous,
                                 device=device, workers=work.workers, network=finished, listener=listener,
                                 time_budget=work.time_budget, started=started)  # fmt: skip
    work.team.wait()
    return summary


def _validate_fold(
    run: Run,
    configuration: Configuration,
    held_out: Sequence[Case],
    stored: Mapping[str, store.StoredCase],
    previous: Mapping[str, Any] | None,
    *,
    device: str,
    workers: int | None,
    network: Any,
    listener: Listener,
    time_budget: float | None,
    started: float,
) -> dict[str, Any]:
    """Predict the fold's validation cases with the finished model through the code of `predict`, write and score them.

    Goes on where it was stopped: predictions are written whole, and those that the same model made in the same way are kept.
    Where the first case tells that a time budget will be exceeded, a warning says by how much; the validation is done all the same.
    """
    stage = f"validate {configuration.name} {run.root.name}"
    targets = _targets(run, held_out)
    weights, description = files.hash_file(run.weights), files.read_json(run.description)
    plan = Plan.from_json(description["plan"])  # without mirror images where the run was too brief for them
    if (summary := _summary_of(run, targets)) is not None and summary.get("weights") == weights:
        listener.say(f"{configuration.name} {run.root.name} is trained and validated: Dice {dice_text(summary)}")
        return summary
    how = {"version": __version__, "weights": weights, "tta": True, "device": device.split(":")[0]}
    kept = _kept_predictions(run, how, targets)
    if kept:
        listener.say(f"{stage}: going on after {len(kept)} of {len(held_out)} cases")
    voxels = {case.name: math.prod(stored[case.name].shape) for case in held_out if targets[case.name] not in kept}
    begin, first = time.monotonic(), next(iter(voxels), None)
    spent = max(description["seconds"], begin - started)  # the former also has what earlier calls took
    for index, case in enumerate(held_out):
        listener.progress(stage, index, len(held_out))
        target = targets[case.name]
        if target in kept:
            continue
        classes = prediction.segment_prepared(
            network, stored[case.name], plan=plan, configuration=configuration, device=device, tta=True,
            previous=None if previous is None else previous[case.name])  # fmt: skip
        images.write_label(target, plan.labels.decode(classes), like=images.read(case.images[0]))
        if case.name == first and time_budget is not None:
            seconds = (time.monotonic() - begin) * sum(voxels.values()) / voxels[first]
            _warn_if_late(stage, seconds, spent, time_budget, listener)
    listener.progress(stage, len(held_out), len(held_out))
    summary = {**score(targets, held_out, plan.labels, parallel=workers, listener=listener), "weights": weights}
    write_summary(run.summary, summary)
    listener.say(f"{configuration.name} {run.root.name}: mean Dice {dice_text(summary)} over {len(held_out)} cases not seen")
    return summary


def _targets(run: Run, held_out: Iterable[Case]) -> dict[str, Path]:
    """Where each case's out-of-fold prediction lies."""
    return {case.name: run.validation / f"{case.name}{images.label_suffix(case.images[0])}" for case in held_out}


def _warn_if_late(stage: str, seconds: float, spent: float, time_budget: float, listener: Listener) -> None:
    """Tell of a final validation that takes clearly longer than there is left of the time budget."""
    left = max(0.0, time_budget - spent)
    if seconds > left + LATE * time_budget:
        listener.say(
            f"warning: {stage} takes about {clock(seconds)}, and {clock(left)} are left of the time budget of {clock(time_budget)}; "
            "it is done all the same, and goes on where it is stopped; a longer --time-budget would hold it"
        )


def _summary_of(run: Run, targets: Mapping[str, Path]) -> dict[str, Any] | None:
    """The summary of a fold's validation; None where it is not over: no summary yet, of other cases, or a prediction is gone."""
    if not run.summary.exists():
        return None
    summary: dict[str, Any] = files.read_json(run.summary)
    whole = {case["case"] for case in summary["cases"]} == set(targets) and all(path.exists() for path in targets.values())
    return summary if whole else None


def _kept_predictions(run: Run, how: Mapping[str, Any], targets: Mapping[str, Path]) -> set[Path]:
    """The predictions that are there and were made in this way; all else in the folder is removed, but for what lies beside them."""
    try:
        same = files.read_json(run.predicted_with) == how
    except InputError:  # none, or damaged
        same = False
    if not same:
        files.remove_tree(run.validation)
        files.write_json(run.predicted_with, how)
    kept = {case: path for case, path in targets.items() if path.exists()}
    beside = tuple(f"{case}." for case in kept)  # TIFF has its spacing in a file of its own
    for path in run.validation.iterdir():
        if path.is_file() and not path.name.startswith(beside) and path != run.predicted_with:
            path.unlink()
    return set(kept.values())


class _References:
    """Reference label maps as classes, read once each and kept: small next to the images."""

    def __init__(self, by_name: Mapping[str, Case], plan: Plan) -> None:
        self._cases = by_name
        self._labels = plan.labels
        self._known: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._known:
            self._known[name] = cases.load_classes(self._cases[name], self._labels)
        return self._known[name]


def _runs(work: _Work, name: str) -> list[Run]:
    """All folds of a configuration."""
    return [work.workspace.run(name, k) for k in range(len(work.splits))]


def _is_validated(work: _Work, name: str, fold: int) -> bool:
    """Whether a fold has predicted and scored each of its validation cases, and all of it is there."""
    run, names = work.workspace.run(name, fold), set(work.splits[fold]["validation"])
    return _summary_of(run, _targets(run, [case for case in work.dataset.cases if case.name in names])) is not None


def _previous_maps(first_stage: Sequence[Run], plan: Plan, stored: Mapping[str, store.StoredCase]) -> dict[str, NDArray[np.integer[Any]]]:
    """The first stage's out-of-fold predictions on the grid of the preprocessed cases, one byte a voxel."""
    found = _out_of_fold([run.root for run in first_stage])
    maps = {}
    for name, case in stored.items():
        classes = plan.labels.encode(images.read_label(found[name]).array[0])
        maps[name] = case.geometry.prepare_classes(classes)
    return maps


def _out_of_fold(folds: Sequence[Path]) -> dict[str, Path]:
    """The label maps that the summaries of some folds speak of, by case: no other file that may lie there."""
    found: dict[str, Path] = {}
    for fold in folds:
        run = Run(root=fold)
        named = {case["case"] for case in files.read_json(run.summary)["cases"]}
        for path in run.validation.iterdir():
            name = path.name.removesuffix(images.suffix_of(path))
            if images.suffix_of(path) and name in named:
                found[name] = path
    return found


def _validated(workspace: Workspace, name: str) -> list[Path]:
    folder = workspace.configuration(name)
    return sorted(path.parent.parent for path in folder.glob("fold_*/validation/summary.json")) if folder.exists() else []


def _selection_row(folds: Sequence[Path], labels: Labels) -> dict[str, Any]:
    summaries = [files.read_json(Run(root=fold).summary) for fold in folds]
    merged = evaluation.summarise({case["case"]: case["labels"] for summary in summaries for case in summary["cases"]}, labels)
    return {
        "folds": [fold.name for fold in folds],
        "cases": len(merged["cases"]),
        "dice": mean_dice(merged),
        "labels": {name: value["dice"] for name, value in merged["labels"].items()},
    }


def _best(table: Mapping[str, Mapping[str, Any]], plan: Plan) -> str:
    """The highest out-of-fold Dice among those with the most folds; a stage that another follows only where nothing else is trained."""
    first_stages = {c.previous_stage for c in plan.configurations}
    candidates = {name: row for name, row in table.items() if name not in first_stages} or dict(table)
    most = max(len(row["folds"]) for row in candidates.values())
    whole = {name: row for name, row in candidates.items() if len(row["folds"]) == most}
    return max(whole, key=lambda name: whole[name]["dice"] or 0.0)


def _choose_rules(workspace: Workspace, dataset: Dataset, plan: Plan, folds: Sequence[Path], listener: Listener) -> postprocessing.Rules:
    """Rules that pay on the out-of-fold predictions; cases are read again in each round, one in memory at a time."""
    by_name = {case.name: case for case in dataset.cases if case.annotated is None}  # what was not annotated cannot be judged
    files_of = {name: path for name, path in _out_of_fold(folds).items() if name in by_name}

    def triples() -> Iterator[tuple[NDArray[Any], NDArray[Any], Spacing]]:
        """Prediction, reference and spacing of each case, one in memory at a time."""
        for index, (name, path) in enumerate(files_of.items()):
            listener.progress("post-processing rules", index, len(files_of))
            predicted = images.read_label(path)
            reference = cases.load_classes(by_name[name], plan.labels, like=predicted)
            yield plan.labels.encode(predicted.array[0]), reference, predicted.spacing
        listener.progress("post-processing rules", len(files_of), len(files_of))

    return postprocessing.learn(triples, plan.labels, typical=_typical_volumes(folds))


def _typical_volumes(folds: Sequence[Path]) -> dict[str, float] | None:
    """Median volume in mm3 of every label or region in the references of the validated cases; None where one never occurs."""
    volumes: dict[str, list[float]] = {}
    for fold in folds:
        for case in files.read_json(Run(root=fold).summary)["cases"]:
            for name, scores in case["labels"].items():
                volumes.setdefault(name, []).extend([1000 * scores["reference_ml"]] if scores["reference_ml"] > 0 else [])
    return {name: float(np.median(found)) for name, found in volumes.items()} if all(volumes.values()) else None
