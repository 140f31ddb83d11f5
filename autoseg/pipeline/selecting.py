"""`select`: the best configuration or pair of configurations and the post-processing rules, from out-of-fold results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg import cases, evaluation, files, images, postprocessing, prediction, schema, selection
from autoseg.cases import Dataset
from autoseg.checksums import with_checksum
from autoseg.errors import MissingPath, PlanMismatch
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.pipeline import pairing
from autoseg.pipeline.calibrating import calibrate
from autoseg.pipeline.evaluating import mean_dice
from autoseg.pipeline.planned import read_dataset, read_plan, require_fit
from autoseg.pipeline.records import read_summary
from autoseg.pipeline.reporter import LoggingReporter, NullReporter, Reporter
from autoseg.pipeline.validating import out_of_fold, out_of_fold_scores, validated_folds
from autoseg.planning.configuration import Configuration, Plan
from autoseg.tiling import tile_starts
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace


def select(
    root: Path | str | Workspace,
    *,
    against: Sequence[Path | str] = (),
    pairs: Literal["all", "predicted", "none"] = "all",
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Choose the best configuration or pair of configurations, and the post-processing rules, from the out-of-fold predictions there are.

    Two configurations are compared on the cases that both have predicted out of fold, so missing folds do no harm. Where the
    difference may be chance, the one that takes less work for a scan is chosen; a pair takes the work of both.

    Parameters
    ----------
    root : the workspace
    against : other workspaces of the same data set, to be compared with; `predict` uses this workspace's in any case
    pairs : "all": also compare the mean of every two configurations, for which the cases they share are predicted with both, once;
        "predicted": only the pairs for which that was done before with the networks there are now; "none": no pairs
    device : where pairs are predicted
    workers : processes that score them

    Returns
    -------
    what selection.json holds: per configuration and pair its folds, cases and mean Dice; the differences with their intervals; the one
    `predict` uses by default, and the reasons

    Raises
    ------
    MissingPath : no fold is validated yet
    PlanMismatch : another workspace has other labels
    """
    reporter = reporter or LoggingReporter()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    require_fit(plan, dataset, workspace)
    files.require_writable(workspace.root)
    files.sweep(workspace.root)
    others = [_read_other(Workspace(root=Path(other)), plan.labels) for other in against]
    folds = _validated(workspace, plan)
    tried = _with_pairs(workspace, plan, dataset, folds, pairs=pairs, device=device, workers=workers, reporter=reporter)
    ours = [_candidate(name, found, plan) for name, found in tried.items()]
    theirs = [candidate for other, other_plan in others for candidate in _others(other, other_plan)]
    differences = selection.compare([*ours, *theirs], rng=np.random.default_rng(0))
    names = {candidate.name for candidate in ours}
    best, reasons = selection.choose(ours, [d for d in differences if {d.first, d.second} <= names])
    reasons += tuple(d.sentence() for d in differences if best in (d.first, d.second) and not {d.first, d.second} <= names)
    rules = {name: _choose_rules(dataset, plan, found.paths, reporter) for name, found in tried.items() if name in folds or name == best}
    table = {candidate.name: _row(candidate, tried[candidate.name], plan.labels) for candidate in ours}
    result = {"version": __version__, "configurations": schema.dump(table), "differences": schema.dump(differences), "selected": best,
              "reasons": list(reasons)}  # fmt: skip
    files.write_json(workspace.postprocessing, with_checksum({name: rule.to_json() for name, rule in rules.items()}))
    files.write_json(workspace.selection, with_checksum(result))
    calibrate(workspace, folds, reporter)
    _say_scores(table, rules, reporter)
    if len(ours) + len(theirs) > 1:
        reporter.say("\n".join(reasons))
    if len(table) > 1:
        reporter.say(f"selected for predict: {best}")
    return result


def _say_scores(table: Mapping[str, _Row], rules: Mapping[str, postprocessing.PostprocessingRules], reporter: Reporter) -> None:
    for name, row in table.items():
        dice = "none" if row.dice is None else f"{row.dice:.4f}"
        note = f"; {'; '.join(rules[name].sentences()) or 'no post-processing rule helps'}" if name in rules else ""
        reporter.say(f"{name}: out-of-fold Dice {dice} over {row.cases} cases of {', '.join(row.folds)}{note}")


def _validated(workspace: Workspace, plan: Plan) -> dict[str, list[Path]]:
    """Return the validated folds of every configuration that has some; raise `MissingPath` where there are none at all."""
    if not (found := validated_folds(workspace, plan)):
        raise MissingPath("no fold is trained and validated yet", file=workspace.root, fix=f"train first: autoseg train {workspace.root}")
    return found


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Where the out-of-fold predictions of a configuration or a pair are, and of which folds they are."""

    paths: Sequence[Path]
    folds: tuple[str, ...]


def _with_pairs(
    workspace: Workspace,
    plan: Plan,
    dataset: Dataset,
    folds: Mapping[str, Sequence[Path]],
    *,
    pairs: str,
    device: str,
    workers: int | None,
    reporter: Reporter,
) -> dict[str, _Tried]:
    """Return what is compared: the configurations that have validated folds, and their pairs."""
    tried = {name: _Tried(paths=paths, folds=tuple(path.name for path in paths)) for name, paths in folds.items()}
    if pairs == "none" or len(folds) < 2:
        return tried
    found = pairing.compared_pairs(workspace, plan, dataset, folds, predict_missing=pairs == "all", device=device, workers=workers,
                                   reporter=reporter)  # fmt: skip
    if pairs == "predicted" and not found:
        reporter.say(f"pairs of configurations are not compared yet; once all is trained: autoseg select {workspace.root}")
    return tried | {pair.name: _Tried(paths=[pair.run.root], folds=pair.folds) for pair in found}


def _candidate(name: str, tried: _Tried, plan: Plan, *, prefix: str = "") -> selection.Candidate:
    work = sum(_work(plan.configuration(part), plan) for part in prediction.parts_of(name))
    return selection.Candidate(name=prefix + name, cases=out_of_fold_scores(tried.paths), work=work)


def _read_other(workspace: Workspace, labels: Labels) -> tuple[Workspace, Plan]:
    """Return another workspace of the same data set, and its plan."""
    plan = read_plan(workspace)
    if plan.labels != labels:
        raise PlanMismatch(
            "the workspaces have other labels", file=workspace.root, found=", ".join(name for name, _ in plan.labels.scored),
            expected=", ".join(name for name, _ in labels.scored), fix="compare workspaces of the same data set")  # fmt: skip
    _validated(workspace, plan)
    return workspace, plan


def _others(workspace: Workspace, plan: Plan) -> list[selection.Candidate]:
    """Return the candidates of another workspace, named after its folder; of its pairs those that it has predicted before."""
    tried = _with_pairs(workspace, plan, read_dataset(workspace), _validated(workspace, plan), pairs="predicted", device="cpu", workers=0,
                        reporter=NullReporter())  # fmt: skip
    return [_candidate(name, found, plan, prefix=f"{workspace.root.name}/") for name, found in tried.items()]


def _work(configuration: Configuration, plan: Plan) -> float:
    """Return the floating-point operations of the network for a median case, first stages included; its voxels where they are not known."""
    first = _work(plan.configuration(configuration.previous_stage), plan) if configuration.previous_stage else 0.0
    shape = (max(round(n), tile) for n, tile in zip(configuration.median_shape, configuration.patch_size, strict=True))
    tiles = math.prod(len(tile_starts(n, tile, 0.5)) for n, tile in zip(shape, configuration.patch_size, strict=True))
    flops = configuration.predicted.forward_flops if configuration.predicted else None
    return first + tiles * (flops / configuration.batch_size if flops else math.prod(configuration.patch_size))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One configuration or pair in selection.json."""

    folds: tuple[str, ...]
    cases: int
    dice: float | None  # mean over labels of their means over cases
    labels: Mapping[str, Any]  # statistics of the Dice
    work: float


def _row(candidate: selection.Candidate, tried: _Tried, labels: Labels) -> _Row:
    summary = evaluation.summarise(candidate.cases, labels)
    dice = {name: value["dice"] for name, value in summary["labels"].items()}
    return _Row(folds=tried.folds, cases=len(candidate.cases), dice=mean_dice(summary), labels=dice, work=candidate.work)


def _choose_rules(dataset: Dataset, plan: Plan, folds: Sequence[Path], reporter: Reporter) -> postprocessing.PostprocessingRules:
    """Choose the rules that pay on the out-of-fold predictions; cases are read again in each round, one in memory at a time."""
    by_name = {case.name: case for case in dataset.cases if case.annotated is None}  # what was not annotated cannot be judged
    files_of = {name: path for name, path in out_of_fold(folds).items() if name in by_name}

    def triples() -> Iterator[tuple[NDArray[Any], NDArray[Any], Spacing]]:
        """Yield prediction, reference and spacing of each case, one in memory at a time."""
        for index, (name, path) in enumerate(files_of.items()):
            reporter.progress("post-processing rules", index, len(files_of))
            predicted = images.read_label(path)
            reference = cases.load_classes(by_name[name], plan.labels, like=predicted)
            yield plan.labels.encode(predicted.array[0]), reference, predicted.spacing
        reporter.progress("post-processing rules", len(files_of), len(files_of))

    return postprocessing.learn(triples, plan.labels, typical=_typical_volumes(folds))


def _typical_volumes(folds: Sequence[Path]) -> dict[str, float] | None:
    """Return the median volume in mm3 of every label or region in the references of the validated cases; None where one never occurs."""
    volumes: dict[str, list[float]] = {}
    for fold in folds:
        for case in read_summary(Run(root=fold).summary).cases:
            for name, scores in case.labels.items():
                volume = 1000 * (scores["reference_ml"] or 0.0)
                volumes.setdefault(name, []).extend([volume] if volume > 0 else [])
    return {name: float(np.median(found)) for name, found in volumes.items()} if all(volumes.values()) else None
