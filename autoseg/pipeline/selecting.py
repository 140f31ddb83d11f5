"""`select`: the best configuration and the post-processing rules, from out-of-fold results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import cases, evaluation, files, images, postprocessing
from autoseg.cases import Dataset
from autoseg.checksums import with_checksum
from autoseg.errors import (
    MissingPath,
)
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.pipeline.evaluating import mean_dice
from autoseg.pipeline.preparing import read_dataset, read_plan, require_fit
from autoseg.pipeline.records import read_summary
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.pipeline.validating import out_of_fold
from autoseg.planning.configuration import Plan
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace


def select(root: Path | str | Workspace, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Choose the best configuration and the post-processing rules from the out-of-fold predictions there are.

    Returns
    -------
    what selection.json holds: per configuration its folds, cases and mean Dice, and the one `predict` uses by default

    Raises
    ------
    MissingPath : no fold is validated yet
    """
    reporter = reporter or LoggingReporter()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    require_fit(plan, dataset, workspace)
    files.sweep(workspace.root)
    candidates = {c.name: _validated(workspace, c.name) for c in plan.configurations}
    candidates = {name: folds for name, folds in candidates.items() if folds}
    if not candidates:
        raise MissingPath("no fold is trained and validated yet", file=workspace.root, fix=f"train first: autoseg train {workspace.root}")
    table = {name: _selection_row(folds, plan.labels) for name, folds in candidates.items()}
    best = _best(table, plan)
    rules = {name: _choose_rules(workspace, dataset, plan, folds, reporter) for name, folds in candidates.items()}
    selection = {"version": __version__, "configurations": table, "selected": best}
    files.write_json(workspace.postprocessing, with_checksum({name: rule.to_json() for name, rule in rules.items()}))
    files.write_json(workspace.selection, with_checksum(selection))
    for name, row in table.items():
        note = "; ".join(rules[name].sentences()) or "no post-processing rule helps"
        dice = "none" if row["dice"] is None else f"{row['dice']:.4f}"
        reporter.say(f"{name}: out-of-fold Dice {dice} over {row['cases']} cases of {len(row['folds'])} folds; {note}")
    if len(table) > 1:
        reporter.say(f"selected for predict: {best}")
    return selection


def _validated(workspace: Workspace, name: str) -> list[Path]:
    folder = workspace.configuration(name)
    return sorted(path.parent.parent for path in folder.glob("fold_*/validation/summary.json")) if folder.exists() else []


def _selection_row(folds: Sequence[Path], labels: Labels) -> dict[str, Any]:
    summaries = [read_summary(Run(root=fold).summary) for fold in folds]
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


def _choose_rules(
    workspace: Workspace, dataset: Dataset, plan: Plan, folds: Sequence[Path], reporter: Reporter
) -> postprocessing.PostprocessingRules:
    """Rules that pay on the out-of-fold predictions; cases are read again in each round, one in memory at a time."""
    by_name = {case.name: case for case in dataset.cases if case.annotated is None}  # what was not annotated cannot be judged
    files_of = {name: path for name, path in out_of_fold(folds).items() if name in by_name}

    def triples() -> Iterator[tuple[NDArray[Any], NDArray[Any], Spacing]]:
        """Prediction, reference and spacing of each case, one in memory at a time."""
        for index, (name, path) in enumerate(files_of.items()):
            reporter.progress("post-processing rules", index, len(files_of))
            predicted = images.read_label(path)
            reference = cases.load_classes(by_name[name], plan.labels, like=predicted)
            yield plan.labels.encode(predicted.array[0]), reference, predicted.spacing
        reporter.progress("post-processing rules", len(files_of), len(files_of))

    return postprocessing.learn(triples, plan.labels, typical=_typical_volumes(folds))


def _typical_volumes(folds: Sequence[Path]) -> dict[str, float] | None:
    """Median volume in mm3 of every label or region in the references of the validated cases; None where one never occurs."""
    volumes: dict[str, list[float]] = {}
    for fold in folds:
        for case in read_summary(Run(root=fold).summary)["cases"]:
            for name, scores in case["labels"].items():
                volumes.setdefault(name, []).extend([1000 * scores["reference_ml"]] if scores["reference_ml"] > 0 else [])
    return {name: float(np.median(found)) for name, found in volumes.items()} if all(volumes.values()) else None
