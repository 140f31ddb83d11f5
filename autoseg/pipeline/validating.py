"""The validation of a trained fold: out-of-fold predictions through the code of `predict`, written, scored and kept."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from autoseg import cases, evaluation, files, images, prediction
from autoseg.cases import Case
from autoseg.checksums import without_checksum
from autoseg.errors import InputError, NothingLearned, UsageError
from autoseg.pipeline.calibrating import fold_calibration, write_counts
from autoseg.pipeline.evaluating import dice_text, mean_dice, score, write_summary
from autoseg.pipeline.records import Summary, read_summary
from autoseg.pipeline.reporter import Reporter
from autoseg.planning.configuration import Configuration, Plan
from autoseg.prediction.confidence import Tally
from autoseg.preprocessing import store
from autoseg.quantities import format_duration
from autoseg.training.history import read_history
from autoseg.training.length import RunLength
from autoseg.training.settings import TrainingSettings
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace

NOTHING = 0.05  # mean Dice out of fold below which a network has learned nothing of use
LATE = 0.1  # share of a time budget by which the final validation may exceed it without a warning


def validate_fold(
    run: Run,
    configuration: Configuration,
    held_out: Sequence[Case],
    stored: Mapping[str, store.StoredCase],
    previous: Mapping[str, Any] | None,
    *,
    device: str,
    workers: int | None,
    network: Any,
    reporter: Reporter,
    length: RunLength,
) -> dict[str, Any]:
    """Predict the fold's validation cases with the finished model through the code of `predict`, write and score them.

    Goes on where it was stopped: predictions are written whole, and those that the same model made in the same way are kept.
    If the first case shows that a time budget will be exceeded, a warning says by how much; the validation is done all the same.
    """
    stage = f"validate {configuration.name} {run.root.name}"
    targets = _targets(run, held_out)
    weights, description = files.hash_file(run.weights), files.read_json(run.description)
    plan = Plan.from_json(description["plan"])  # without mirror images where the run was too brief for them
    if (summary := _summary_of(run, targets, reporter)) is not None and summary.get("weights") == weights:
        reporter.say(f"{configuration.name} {run.root.name} is trained and validated: Dice {dice_text(summary)}")
        return summary
    how = {"version": __version__, "weights": weights, "tta": True, "device": device.split(":")[0]}
    kept = _kept_predictions(run, how, targets)
    if kept:
        reporter.say(f"{stage}: continuing after {len(kept)} of {len(held_out)} cases")
    voxels = {case.name: math.prod(stored[case.name].shape) for case in held_out if targets[case.name] not in kept}
    begin, first = time.monotonic(), next(iter(voxels), None)
    spent = max(description["seconds"], length.since_started(begin))  # the former also has what earlier calls took
    for index, case in enumerate(held_out):
        reporter.progress(stage, index, len(held_out))
        target = targets[case.name]
        if target in kept:
            continue
        tally = Tally(stored[case.name].label(), plan.labels, annotated=case.annotated)
        classes = prediction.segment_preprocessed(
            network, stored[case.name], plan=plan, configuration=configuration, device=device, tta=True,
            previous=None if previous is None else previous[case.name], observer=tally)  # fmt: skip
        write_counts(run, case.name, tally.counts())  # before the label map: where that is, this is
        images.write_label(target, plan.labels.decode(classes), like=images.read(case.images[0]))
        if case.name == first and length.seconds is not None:
            seconds = (time.monotonic() - begin) * sum(voxels.values()) / voxels[first]
            _warn_if_late(stage, seconds, spent, length.seconds, reporter)
    reporter.progress(stage, len(held_out), len(held_out))
    largest = max(math.prod(stored[case.name].geometry.canonical_shape) for case in held_out)
    metrics = evaluation.affordable_metrics(largest, plan.labels)
    summary = {**score(targets, held_out, plan.labels, metrics=metrics, parallel=workers, reporter=reporter), "weights": weights,
               "calibration": fold_calibration(run, list(targets)),
               "predictions": {name: files.hash_file(path) for name, path in targets.items()}}  # fmt: skip
    write_summary(run.summary, summary)
    reporter.say(f"{configuration.name} {run.root.name}: mean Dice {dice_text(summary)} over {len(held_out)} cases not seen")
    return summary


def require_learned(
    runs: Mapping[str, Path], summaries: Mapping[str, Mapping[str, Any]], plan: Plan, settings: TrainingSettings, seconds: float
) -> None:
    """Raise unless every fold finds at least a little of what it was trained to find.

    Parameters
    ----------
    runs, summaries : of each finished fold, by "configuration/fold_K": its folder, and the summary of its validation
    plan, settings : for the number of steps that was to be expected
    seconds : the time budget of a fold

    Raises
    ------
    NothingLearned : the out-of-fold Dice of a fold is below `NOTHING`; everything is written all the same
    """
    found = {}
    for key, summary in summaries.items():
        dice = mean_dice(summary)
        if dice is not None and dice < NOTHING:
            history = read_history(Run(root=runs[key]))
            done = history[-1].step if history else 0
            predicted = plan.configuration(key.split("/")[0]).predicted
            pace = predicted.seconds_per_epoch / settings.steps_per_epoch if predicted and predicted.seconds_per_epoch else None
            planned = "" if pace is None else f", where about {seconds / pace:.0f} were planned for {format_duration(seconds)}"
            found[key] = f"mean Dice {dice:.4f} out of fold after {done} steps{planned}"
    if found:
        raise NothingLearned(
            "the training is finished, but it learned next to nothing",
            found="\n".join(f"{key}: {text}" for key, text in found.items()),
            expected=f"a mean Dice above {NOTHING}",
            fix="with far fewer steps than planned: close other programs, or give a longer --time-budget;\n"
            "with as many as planned: look at the pictures of autoseg report, the labels may not fit the images.\n"
            "Then train again with --overwrite",
        )


def full_image_dice(
    network: Any,
    some: Sequence[store.StoredCase],
    *,
    plan: Plan,
    configuration: Configuration,
    device: str,
    references: References,
    previous: Mapping[str, Any] | None,
) -> float | None:
    """Return the mean Dice of some full images during training, without mirror images; None where no label occurs in them."""
    scores = {}
    for case in some:
        before = None if previous is None else previous[case.name]
        classes = prediction.segment_preprocessed(
            network, case, plan=plan, configuration=configuration, device=device, tta=False, previous=before
        )
        spacing, annotated = case.geometry.canonical_spacing, references.case(case.name).annotated
        scores[case.name] = evaluation.score_case(classes, references[case.name], plan.labels, spacing=spacing, annotated=annotated)
    return mean_dice(evaluation.summarise(scores, plan.labels))


def _targets(run: Run, held_out: Iterable[Case]) -> dict[str, Path]:
    """Return the file of each case's out-of-fold prediction."""
    return {case.name: run.validation / f"{case.name}{images.label_suffix(case.images[0])}" for case in held_out}


def _warn_if_late(stage: str, seconds: float, spent: float, time_budget: float, reporter: Reporter) -> None:
    """Return warn of a final validation that takes clearly longer than there is left of the time budget."""
    left = max(0.0, time_budget - spent)
    if seconds > left + LATE * time_budget:
        reporter.say(
            f"warning: {stage} takes about {format_duration(seconds)}, and {format_duration(left)} are left of the time budget "
            f"of {format_duration(time_budget)}; it is done all the same, and resumes where it is stopped; "
            "a longer --time-budget would hold it"
        )


def _summary_of(run: Run, targets: Mapping[str, Path], reporter: Reporter | None = None) -> dict[str, Any] | None:
    """Return the summary of a fold's validation; None where it is not over: no summary yet, a damaged one, or one of other predictions."""
    if not run.summary.exists():
        return None
    try:
        scored = read_summary(run.summary)
    except InputError as error:
        if reporter is not None:
            reporter.say(f"warning: {run.summary} is made again: {error.summary}")
        return None
    whole = {case.case for case in scored.cases} == set(targets) and not _harmed(targets, scored)
    summary: dict[str, Any] = without_checksum(files.read_json(run.summary))
    return summary if whole else None


def _harmed(targets: Mapping[str, Path], summary: Summary) -> set[str]:
    """Return the cases whose prediction is gone, or is not the one that was scored."""
    scored = summary.predictions
    return {name for name, path in targets.items() if not path.exists() or (name in scored and files.hash_file(path) != scored[name])}


def _kept_predictions(run: Run, how: Mapping[str, Any], targets: Mapping[str, Path]) -> set[Path]:
    """Return the existing predictions that were made in this way; remove all other files but those that belong to them."""
    try:
        same = files.read_json(run.predicted_with) == how
    except InputError:  # none, or damaged
        same = False
    if not same:
        files.remove_tree(run.validation)
        files.write_json(run.predicted_with, how)
    with contextlib.suppress(InputError):  # no summary yet, or damaged: it says nothing about them
        for case in _harmed(targets, read_summary(run.summary)):
            targets[case].unlink(missing_ok=True)
    kept = {case: path for case, path in targets.items() if path.exists()}
    companions = tuple(f"{case}." for case in kept)  # TIFF has its spacing in a file of its own
    for path in run.validation.iterdir():
        if path.is_file() and not path.name.startswith(companions) and path != run.predicted_with:
            path.unlink()
    return set(kept.values())


class References:
    """Reference label maps as classes, read once each and kept: small next to the images."""

    def __init__(self, by_name: Mapping[str, Case], plan: Plan) -> None:
        self._cases = by_name
        self._labels = plan.labels
        self._known: dict[str, NDArray[Any]] = {}

    def case(self, name: str) -> Case:
        """Return the case of that name."""
        return self._cases[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._known:
            self._known[name] = cases.load_classes(self._cases[name], self._labels)
        return self._known[name]


def is_validated(run: Run, held_out: Iterable[Case]) -> bool:
    """Return whether a fold has predicted and scored each of its validation cases, and all of it is there."""
    return _summary_of(run, _targets(run, held_out)) is not None


def validated_folds(workspace: Workspace, plan: Plan) -> dict[str, list[Path]]:
    """Return the folders of the validated folds of every configuration that has some."""
    found = {c.name: sorted(workspace.configuration(c.name).glob("fold_*/validation/summary.json")) for c in plan.configurations}
    return {name: [path.parent.parent for path in paths] for name, paths in found.items() if paths}


def out_of_fold_scores(folds: Sequence[Path]) -> dict[str, evaluation.Scores]:
    """Return the scores of all cases that some folds have predicted out of fold, by case."""
    return {case.case: case.labels for fold in folds for case in read_summary(Run(root=fold).summary).cases}


def out_of_fold(folds: Sequence[Path]) -> dict[str, Path]:
    """Return the label maps that the summaries of some folds list, by case: no other file that may be there."""
    found: dict[str, Path] = {}
    for fold in folds:
        run = Run(root=fold)
        named = {case.case for case in read_summary(run.summary).cases}
        for path in run.validation.iterdir():
            name = images.stem_of(path)
            if images.suffix_of(path) and name in named:
                found[name] = path
    return found


def shown_configuration(workspace: Workspace, folds: dict[str, list[Path]], asked: str | None) -> str | None:
    """Return the configuration whose results are shown; None where there are no results."""
    if asked is not None and asked not in folds:
        raise UsageError("no fold of this configuration is validated", found=asked, expected=", ".join(folds) or "none is validated yet",
                         fix=f"train it first: autoseg train {workspace.root} --configuration {asked}")  # fmt: skip
    selected = prediction.read_selection(workspace).selected
    chosen = asked or (selected if selected in folds else None)
    return chosen or max(folds, key=lambda name: len(folds[name]), default=None)
