"""What planning again never replaces without being asked to: models, another data set's plan, a plan edited by hand or in use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoseg import files, fingerprint, locks
from autoseg.cases import Dataset
from autoseg.checksums import is_unchanged
from autoseg.errors import InputError, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.planned import read_dataset, read_plan, require_fit
from autoseg.planning.configuration import Plan
from autoseg.workspace import Run, Workspace

_USED = (
    "channels",
    "labels",
    "regions",
    "ignore",
    "pairs",
    "axis_order",
    "orientation",
    "mirror_axes",
    "swap_axis",
    "intensities",
    "settings",
)
Folds = Sequence[Mapping[str, Sequence[str]]]
_ELSEWHERE = "choose another folder with -o, or give --overwrite"


def refuse(
    workspace: Workspace, result: Plan, facts: Fingerprint, dataset: Dataset | None, split: Folds | None, *, overwrite: bool
) -> None:
    """Raise unless a plan may be written into a workspace; the same again is welcome.

    Parameters
    ----------
    dataset, split : None where the plan is made from a fingerprint

    Raises
    ------
    SettingsError : a training is running with what would be replaced; or, without `overwrite`, the workspace is of another data set,
        its plan was edited by hand, or its models were trained with another plan, other cases or other folds
    PlanMismatch : planning from a fingerprint of other data than that of the workspace
    """
    if not overwrite and dataset is None and workspace.dataset.exists():
        require_fit(result, read_dataset(workspace), workspace)
    if not workspace.plan.exists():
        return
    if not overwrite:
        _refuse_other_data(workspace, facts, dataset)
    changed = _changed(workspace, result, dataset, split)
    if not changed:
        return
    running = [run.root for run in _runs(workspace) if locks.is_locked(run.root)]
    if running:
        raise SettingsError(
            f"a training is running in the workspace with another {' and other '.join(changed)}",
            file=running[0],
            fix="wait for it, end it, or choose another folder with -o",
        )
    if overwrite:
        return
    if any(run.description.exists() for run in _runs(workspace)):
        raise SettingsError(
            f"the workspace holds models that were trained with another {' and other '.join(changed)}",
            file=workspace.root,
            expected="the same again, or an empty workspace",
            fix=f"{_ELSEWHERE} and train again",
        )
    if "plan" in changed and _edited(workspace):
        raise SettingsError(
            "the plan there was edited by hand, or made by an earlier version, and differs from the new one",
            file=workspace.plan,
            expected="the plan as autoseg wrote it",
            fix=f"{_ELSEWHERE}, which replaces it",
        )


def _refuse_other_data(workspace: Workspace, facts: Fingerprint, dataset: Dataset | None) -> None:
    """A data set that was moved, or to which cases were added, still has some of its files."""
    if dataset is None or not workspace.dataset.exists() or not workspace.fingerprint.exists():
        return
    known = read_dataset(workspace)
    if known.root.absolute() == dataset.root.absolute():
        return
    try:
        before = fingerprint.read_fingerprint(workspace.fingerprint)
    except InputError:
        return  # it was reported when it was measured again
    if not _hashes(before) & _hashes(facts):
        raise SettingsError(
            "the workspace is that of another data set",
            file=workspace.root,
            found=f"{known.name} in {known.root}",
            expected=f"{dataset.name} in {dataset.root}",
            fix=f"{_ELSEWHERE}, which replaces its plan",
        )


def _hashes(facts: Fingerprint) -> set[str]:
    return {digest for case in facts.cases for digest in case.files.values()}


def _changed(workspace: Workspace, result: Plan, dataset: Dataset | None, split: Folds | None) -> list[str]:
    """What training uses and would be replaced by something else; a plan that cannot be read is something else."""
    try:
        other_plan = _of_training(read_plan(workspace)) != _of_training(result)
    except InputError:
        other_plan = True
    pairs = {
        "plan": other_plan,
        "cases": dataset is not None and workspace.dataset.exists() and _names(read_dataset(workspace)) != _names(dataset),
        "folds": split is not None and workspace.splits.exists() and files.read_json(workspace.splits) != split,
    }
    return [what for what, differs in pairs.items() if differs]


def _of_training(plan: Plan) -> Any:
    """Neither forecasts of time and memory, which differ from call to call, nor explanations."""
    value = json.loads(files.readable_json(plan.to_json()))
    configurations = {
        name: {key: item for key, item in c.items() if key not in ("predicted", "reasons")} for name, c in value["configurations"].items()
    }
    return configurations, plan.time_budget, {key: value.get(key) for key in _USED}


def _edited(workspace: Workspace) -> bool:
    """Whether the plan is not what autoseg wrote, as far as that is known."""
    try:
        return is_unchanged(files.read_json(workspace.plan)) is not True
    except InputError:
        return True


def _names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def _runs(workspace: Workspace) -> list[Run]:
    return [Run(root=folder) for folder in sorted((workspace.root / "runs").glob("*/fold_*"))]
