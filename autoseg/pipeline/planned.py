"""What `plan` left in a workspace, read back and held together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from autoseg import files, locks
from autoseg.cases import Channel, Dataset, folds
from autoseg.errors import PlanMismatch, naming
from autoseg.labels import Labels
from autoseg.planning.configuration import Plan
from autoseg.planning.validation import validate_plan
from autoseg.workspace import Workspace


def read_together(workspace: Workspace) -> tuple[Plan, Dataset, list[dict[str, list[str]]]]:
    """Read plan, data set and folds, at no moment at which `plan` writes them; raises as `read_plan` and the others do."""
    with locks.in_turn(workspace.root) if workspace.root.is_dir() else contextlib.nullcontext():
        plan, dataset = read_plan(workspace), read_dataset(workspace)
        require_fit(plan, dataset, workspace)
        return plan, dataset, read_splits(workspace, dataset)


def read_plan(workspace: Workspace) -> Plan:
    """Read the plan of a workspace as it is now, hand edits included.

    Raises
    ------
    MissingPath, UnreadableFile, SettingsError
    """
    value = files.read_json(workspace.plan, fix="make it first: autoseg plan DATASET -o WORKSPACE")
    with naming(workspace.plan):
        plan = Plan.from_json(value)
        validate_plan(plan)
    return plan


def read_dataset(workspace: Workspace) -> Dataset:
    """Read the data set of a workspace.

    Raises
    ------
    MissingPath : the workspace was planned from a fingerprint alone
    """
    value = files.read_json(workspace.dataset, fix="plan from the images: autoseg plan DATASET -o WORKSPACE")
    return Dataset.from_json(value)


def read_splits(workspace: Workspace, dataset: Dataset) -> list[dict[str, list[str]]]:
    """Read the folds of a workspace, and check them against its cases.

    Raises
    ------
    SettingsError : a fold names unknown cases, or a case is in training and validation at once
    """
    splits: list[dict[str, list[str]]] = files.read_json(workspace.splits)
    with naming(workspace.splits):
        folds.check_folds(splits, [case.name for case in dataset.cases], groups={case.name: case.group for case in dataset.cases})
    return splits


def require_fit(plan: Plan, dataset: Dataset, workspace: Workspace) -> None:
    """Raise unless the plan and the data set of a workspace have the same labels and channels.

    Raises
    ------
    PlanMismatch : they do not: the plan was made for other data, or one of the two was edited
    """
    for what, planned, found in (("labels", plan.labels, dataset.labels), ("channels", plan.channels, dataset.channels)):
        if planned != found:
            raise PlanMismatch(
                f"the plan was made for other {what}",
                file=workspace.plan,
                found=_described(planned),
                expected=f"{_described(found)} (dataset.json)",
                fix="plan this data set again: autoseg plan DATASET -o WORKSPACE",
            )


def _described(what: Labels | Iterable[Channel]) -> str:
    if isinstance(what, Labels):
        return ", ".join(f"{label.name}={label.value}" for label in what.all) + (" with regions" if what.regions else "")
    return ", ".join(f"{channel.name} ({channel.modality})" for channel in what)
