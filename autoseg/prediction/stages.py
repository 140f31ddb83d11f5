"""One configuration from the disk or from a model file: the networks of its folds, each held to its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoseg import extensions, networks, schema
from autoseg.errors import ModelError, PlanMismatch, naming
from autoseg.networks import Network, checkpoint
from autoseg.planning.configuration import Configuration, Plan, input_channels
from autoseg.planning.validation import validate_plan
from autoseg.sharing import DISK, Stored
from autoseg.workspace import Run, Workspace

# What a fold's result depends on: one preprocessing and one tiling serve all folds of a stage.
_OF_A_PLAN = ("labels", "channels", "axis_order", "orientation", "intensities")
_OF_A_CONFIGURATION = ("spacing", "normalization", "patch_size", "network", "norm", "strides", "kernel_sizes", "features_per_stage",
                       "blocks_per_stage", "decoder_blocks_per_stage", "previous_stage", "architecture")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One configuration with the networks of its folds, in evaluation mode."""

    configuration: Configuration
    folds: tuple[int, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is opened from, and how."""

    workspace: Workspace  # its paths; of a model file, with the file in the place of the folder
    stored: Stored
    device: str
    default: str | None = None  # of a model file: whose result is the model's


def trained_folds(workspace: Workspace, configuration: str, stored: Stored = DISK) -> tuple[int, ...]:
    """Return the folds of a configuration that have weights, in order."""
    folder = workspace.configuration(configuration)
    found = [name.removeprefix("fold_") for name in stored.children(folder) if stored.exists(Run(root=folder / name).weights)]
    return tuple(sorted(int(number) for number in found if number.isdecimal()))


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What predicting reads of the description of a model."""

    plan: Mapping[str, Any]
    configuration: str
    fold: int | None = None
    training_cases: tuple[str, ...] | None = None


def load_stage(place: Place, name: str, folds: Sequence[int] | None) -> tuple[Stage, Plan, list[str]]:
    """Load the folds of one configuration; return them with their plan and the digest of each one's weights.

    Raises
    ------
    ModelError, PlanMismatch, SettingsError : a fold is missing or damaged, belongs elsewhere, or was trained with another plan
    """
    workspace, stored = place.workspace, place.stored
    there = trained_folds(workspace, name, stored)
    wanted = there if folds is None else tuple(folds)
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        raise ModelError(
            f"{name} has no trained fold {missing[0]}" if missing else f"no fold of {name} is trained",
            file=workspace.configuration(name),
            found=f"folds {', '.join(map(str, there))}" if there else "none",
            expected=f"fold {missing[0]}" if missing else "at least one fold",
            fix=f"autoseg train {workspace.root} --configuration {name}" + (f" --fold {missing[0]}" if missing else "")
            if stored is DISK
            else "export the model again, with this configuration and fold",
        )
    plan: Plan | None = None
    fix = f"train this fold again: autoseg train {workspace.root} --configuration {name} --overwrite"
    loaded, digests = [], []
    for fold in wanted:
        run = workspace.run(name, fold)
        weights, description = (
            checkpoint.load_model(run) if stored is DISK else checkpoint.parse_model(stored.read(run.weights), file=run.weights)
        )
        own = schema.pick(_Description, description)
        head = schema.parse(_Description, own, what="the description of the model", fix=fix, file=run.weights, error=ModelError)
        _require_own(head, workspace, name, fold)
        fold_plan = _usable_plan(head.plan, run)
        plan = fold_plan if plan is None else together(plan, fold_plan, name, run.root)
        digests.append(checkpoint.digest(weights))
        loaded.append(_network(fold_plan, head.configuration, weights, place.device, run, keep=stored is not DISK))
    assert plan is not None, "at least one fold was wanted"
    return Stage(configuration=plan.configuration(name), folds=wanted, networks=tuple(loaded)), plan, digests


def _require_own(head: _Description, workspace: Workspace, name: str, fold: int) -> None:
    """Raise unless a model belongs where it is: to that configuration and fold, and to the cases of this workspace's fold.

    Raises
    ------
    ModelError : it was copied from elsewhere, or the folds were made again since
    """
    run = workspace.run(name, fold)
    found, expected = f"{head.configuration} fold {head.fold}", f"{name} fold {fold}"
    if head.configuration == name and head.fold in (None, fold):
        known = _training_cases(workspace, fold)
        if known is None or head.training_cases is None or set(head.training_cases) == known:
            return
        found, expected = _some(set(head.training_cases)), f"{_some(known)}, as in {workspace.splits}"
    raise ModelError(
        "the model belongs to another fold, configuration or workspace",
        file=run.weights,
        found=found,
        expected=expected,
        fix="put the file of this fold back, or train it again with --overwrite",
    )


def _training_cases(workspace: Workspace, fold: int) -> set[str] | None:
    """Return the cases that a fold of a workspace is trained on; None where the workspace does not say, as where it was copied in part."""
    if not workspace.splits.exists():
        return None
    fix = "plan again: autoseg plan DATASET -o WORKSPACE"
    splits = schema.read(tuple[Mapping[str, tuple[str, ...]], ...], workspace.splits, what="the folds", fix=fix)
    return set(splits[fold].get("train", ())) if fold < len(splits) else None


def _some(names: set[str]) -> str:
    return f"{len(names)} training cases: {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"


def _usable_plan(value: Mapping[str, Any], run: Run) -> Plan:
    """Return the plan of a model, held to what `train` asks of one.

    Raises
    ------
    SettingsError : it cannot be used
    """
    with naming(run.weights):
        plan = Plan.from_json(value)
        validate_plan(plan)
    return plan


def _network(plan: Plan, configuration: str, weights: Mapping[str, Any], device: str, run: Run, *, keep: bool) -> Network:
    """Return a network with its weights, which are compared with those that the plan asks for before any memory is taken.

    `keep`: the network uses their memory; else it gets a copy, because they are a view of a file that may be replaced.
    """
    planned = plan.configuration(configuration)
    own = planned.architecture is not None and bool(planned.architecture.entry)
    if own and planned.architecture is not None:
        extensions.require_allowed(planned.architecture.entry, file=run.weights)
    blocks = sum((*planned.blocks_per_stage, *planned.decoder_blocks_per_stage))
    if blocks > len(weights) and not own:  # of such a plan not even the outline is built
        different = [f"{len(weights)} tensors, and a plan of {blocks} blocks"]
    else:
        with torch.device("cpu" if own else "meta"):  # code of a user's own may compute while it builds
            network = networks.build(
                planned, channels=input_channels(plan, planned), heads=plan.labels.output_channels, deep_supervision=False
            )
        asked = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
        different = [
            f"{name}: {_kind(found.get(name))} instead of {_kind(asked.get(name))}"
            for name in sorted(asked.keys() | found.keys())
            if asked.get(name) != found.get(name)
        ]
        different += [f"{name}: values that are not finite" for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if different:
        raise ModelError(
            "the weights do not fit the network of their plan",
            file=run.weights,
            found="\n".join(different[:3]),
            fix="train this fold again: the file was changed, or made by another version",
        )
    network = network if own or keep else network.to_empty(device="cpu")
    network.load_state_dict(dict(weights), assign=keep)
    return networks.place(network, device).eval().requires_grad_(False)


def _kind(tensor: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "nothing" if tensor is None else f"{tensor[0]} {tensor[1]}"


def together(first: Plan, second: Plan, configuration: str, where: Path) -> Plan:
    """Return the plan by which folds or stages are used together: the first, with the mirror images that both have learned from.

    Raises
    ------
    PlanMismatch : they do not mean the same by their inputs and outputs
    """
    one, other = first.configuration(configuration), second.configuration(configuration)
    pairs = [(what, getattr(first, what), getattr(second, what)) for what in _OF_A_PLAN]
    pairs += [(what, getattr(one, what), getattr(other, what)) for what in _OF_A_CONFIGURATION]
    mirroring, other_mirroring = first.mirroring.along(second.mirror_axes), second.mirroring.along(first.mirror_axes)
    pairs.append(("swap_axis", mirroring.swap_axis, other_mirroring.swap_axis))
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if different:
        raise PlanMismatch(
            f"folds of {configuration} were trained with different {', '.join(what for what, _, _ in different)}",
            file=where,
            found="\n".join(f"{what} {found}" for what, _, found in different),
            expected="\n".join(f"{what} {wanted}" for what, wanted, _ in different),
            fix=f"train all folds of {configuration} again with one plan: autoseg train --overwrite",
        )
    return first.mirrored(mirroring)
