"""A trained model in memory: its plan, and per stage the networks of its folds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg import extensions, files, machine, networks, schema
from autoseg.checksums import checked
from autoseg.errors import MissingPath, ModelError, PlanMismatch, naming
from autoseg.fingerprint import Fingerprint, read_fingerprint
from autoseg.networks import Network, checkpoint
from autoseg.planning.configuration import Configuration, Plan, input_channels
from autoseg.planning.validation import validate_plan
from autoseg.postprocessing import PostprocessingRules
from autoseg.workspace import Run, Workspace

PREFERRED = ("3d_fullres", "3d_cascade", "2d", "3d_lowres")  # where no selection was made

AND = "+"  # between the configurations of an ensemble, in its name

# What a fold's result depends on: one preprocessing and one tiling serve all folds of a stage.
_OF_A_PLAN = ("labels", "channels", "axis_order", "intensities")
_OF_A_CONFIGURATION = ("spacing", "normalization", "patch_size", "network", "norm", "strides", "kernel_sizes", "features_per_stage",
                       "blocks_per_stage", "decoder_blocks_per_stage", "previous_stage", "architecture")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One configuration with the networks of its folds, in evaluation mode."""

    configuration: Configuration
    folds: tuple[int, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Everything that segmenting needs, in memory; nothing is read from the disk any more.

    `stages` is one configuration, or for a cascade the low resolution before it.
    """

    plan: Plan
    stages: tuple[Stage, ...]
    device: str
    identity: str  # changes when any weight does
    fingerprint: Fingerprint | None = None  # of the training data, to warn of scans far outside
    rules: PostprocessingRules | None = None  # by default of `predict`
    partners: tuple[Model, ...] = ()  # of an ensemble: the other configurations, whose probabilities are averaged with this one's

    @property
    def members(self) -> tuple[Model, ...]:
        """The configurations of an ensemble as models of their own; of one configuration, itself."""
        return (replace(self, partners=()), *self.partners)

    @property
    def name(self) -> str:
        """The configurations whose result is the model's: `3d_fullres`, or `2d+3d_fullres`."""
        return AND.join(member.configuration.name for member in self.members)

    @property
    def configuration(self) -> Configuration:
        """The configuration whose result is the model's; of an ensemble, the first."""
        return self.stages[-1].configuration

    def describe(self) -> str:
        """Return the model in one phrase."""
        parts = [member._described() for member in self.members]
        text = "the mean of " + " and of ".join(f"{name} ({folds})" for name, folds in parts) if self.partners else ", ".join(parts[0])
        return f"{self.plan.name}: {text}, on {self.device}"

    def _described(self) -> tuple[str, str]:
        """Return the configuration with the stage before it, and its folds."""
        folds = self.stages[-1].folds
        which = f"fold {folds[0]}" if len(folds) == 1 else f"the mean of folds {', '.join(map(str, folds))}"
        return ", then ".join(stage.configuration.name for stage in self.stages), which


def open_model(path: Path, *, configuration: str | None = None, folds: Sequence[int] | None = None, device: str = "auto") -> Model:
    """Load the trained folds of a workspace.

    Parameters
    ----------
    path : a workspace
    configuration : one, or several joined by "+", whose probabilities are averaged; by default what `select` chose, else the first of
        `PREFERRED` that is trained
    folds : by default all that are trained. The first stage of a cascade always uses all of its own
    device : as for `machine.choose_device`

    Raises
    ------
    MissingPath : no such folder
    ModelError : nothing is trained, a wanted fold is not there, or a file is damaged
    PlanMismatch : the folds were trained with different plans, or the stages of a cascade were
    SettingsError : the plan in a model file cannot be understood
    """
    if not path.is_dir():
        if path.exists():
            raise ModelError(
                "not a workspace",
                file=path,
                expected="the folder that `autoseg plan` made",
                fix="give the workspace that holds the runs/ folder",
            )
        raise MissingPath("no such workspace", file=path, fix="check the spelling of the path")
    workspace = Workspace(root=path)
    chosen = machine.choose_device(device)
    members = [_open_one(workspace, name, folds, chosen) for name in parts_of(configuration or _default_configuration(workspace))]
    if len(members) == 1:
        return members[0]
    for member in members[1:]:
        _require_same_meaning(members[0], member, workspace)
    identity = hashlib.sha256(" ".join(member.identity for member in members).encode()).hexdigest()[:16]
    return replace(members[0], partners=tuple(members[1:]), identity=identity)


def parts_of(name: str) -> tuple[str, ...]:
    """Return the configurations in the name of one or of an ensemble, each once.

    >>> parts_of("2d+3d_fullres")
    ('2d', '3d_fullres')
    """
    return tuple(dict.fromkeys(name.split(AND)))


def _open_one(workspace: Workspace, name: str, folds: Sequence[int] | None, chosen: str) -> Model:
    """Load one configuration, and the stage before it."""
    last, plan, digests = _load_stage(workspace, name, folds, chosen)
    stages = [last]
    if last.configuration.previous_stage is not None:
        first, other_plan, more = _load_stage(workspace, last.configuration.previous_stage, None, chosen)
        plan = _together(plan, other_plan, first.configuration.name, workspace.configuration(first.configuration.name))
        stages.insert(0, first)
        digests = [*more, *digests]
    return Model(
        plan=plan,
        stages=tuple(stages),
        device=chosen,
        identity=hashlib.sha256(" ".join([name, *digests]).encode()).hexdigest()[:16],
        fingerprint=read_fingerprint(workspace.fingerprint) if workspace.fingerprint.exists() else None,
    )


def _require_same_meaning(one: Model, other: Model, workspace: Workspace) -> None:
    """Raise unless two configurations look at the same channels along the same axes, and their heads mean the same.

    Raises
    ------
    PlanMismatch : their probabilities cannot be averaged
    """
    pairs = [(what, getattr(one.plan, what), getattr(other.plan, what)) for what in ("labels", "channels", "axis_order")]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if different:
        names = " and ".join(member.configuration.name for member in (one, other))
        raise PlanMismatch(
            f"{names} were trained with different {', '.join(what for what, _, _ in different)}",
            file=workspace.configuration(other.configuration.name),
            found="\n".join(f"{what} {found}" for what, _, found in different),
            expected="\n".join(f"{what} {wanted}" for what, wanted, _ in different),
            fix=f"train both with one plan: autoseg train {workspace.root} --configuration {other.configuration.name} --overwrite",
        )


def open_fold(workspace: Workspace, plan: Plan, configuration: str, fold: int, *, device: str) -> Network:
    """Load the network of one trained fold, for use under a plan.

    Raises
    ------
    ModelError : it is damaged, or belongs elsewhere
    PlanMismatch : it was trained with another plan
    """
    stage, own, _ = _load_stage(workspace, configuration, (fold,), device)
    _together(plan, own, configuration, workspace.run(configuration, fold).root)
    return stage.networks[0]


def trained_folds(workspace: Workspace, configuration: str) -> tuple[int, ...]:
    """Return the folds of a configuration that have a model file, in order."""
    folder = workspace.configuration(configuration)
    if not folder.is_dir():
        return ()
    found = [run.name.removeprefix("fold_") for run in folder.glob("fold_*") if Run(root=run).weights.exists()]
    return tuple(sorted(int(number) for number in found if number.isdigit()))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What `select` wrote into selection.json."""

    version: str = ""
    configurations: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[Mapping[str, Any], ...] = ()
    selected: str | None = None
    reasons: tuple[str, ...] = ()


def read_selection(workspace: Workspace) -> Selection:
    """Return what `select` chose; an empty selection where it was not run yet.

    Raises
    ------
    UnreadableFile, SettingsError : the file is damaged, or was changed since it was written
    """
    if not workspace.selection.exists():
        return Selection()
    what, fix = "the selection", f"select again: autoseg select {workspace.root}"
    value = checked(files.read_json(workspace.selection, fix=fix), file=workspace.selection, what=what, fix=fix)
    return schema.parse(Selection, value, what=what, fix=fix, file=workspace.selection)


def _default_configuration(workspace: Workspace) -> str:
    for name in (read_selection(workspace).selected, *PREFERRED):
        if name is not None and all(trained_folds(workspace, part) for part in parts_of(name)):
            return name
    raise ModelError(
        "no fold is trained yet",
        file=workspace.root,
        expected="runs/CONFIGURATION/fold_K/model.safetensors",
        fix=f"autoseg train {workspace.root}",
    )


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What predicting reads of the description of a model."""

    plan: Mapping[str, Any]
    configuration: str
    fold: int | None = None
    training_cases: tuple[str, ...] | None = None


def _load_stage(workspace: Workspace, name: str, folds: Sequence[int] | None, device: str) -> tuple[Stage, Plan, list[str]]:
    there = trained_folds(workspace, name)
    wanted = there if folds is None else tuple(folds)
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        raise ModelError(
            f"{name} has no trained fold {missing[0]}" if missing else f"no fold of {name} is trained",
            file=workspace.configuration(name),
            found=f"folds {', '.join(map(str, there))}" if there else "none",
            expected=f"fold {missing[0]}" if missing else "at least one fold",
            fix=f"autoseg train {workspace.root} --configuration {name}" + (f" --fold {missing[0]}" if missing else ""),
        )
    plan: Plan | None = None
    fix = f"train this fold again: autoseg train {workspace.root} --configuration {name} --overwrite"
    loaded, digests = [], []
    for fold in wanted:
        run = workspace.run(name, fold)
        weights, description = checkpoint.load_model(run)
        own = schema.pick(_Description, description)
        head = schema.parse(_Description, own, what="the description of the model", fix=fix, file=run.weights, error=ModelError)
        _require_own(head, workspace, name, fold)
        fold_plan = _usable_plan(head.plan, run)
        plan = fold_plan if plan is None else _together(plan, fold_plan, name, run.root)
        loaded.append(_network(fold_plan, head.configuration, weights, device, run))
        digests.append(checkpoint.digest(weights))
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


def _network(plan: Plan, configuration: str, weights: Mapping[str, Any], device: str, run: Run) -> Network:
    planned = plan.configuration(configuration)
    if planned.architecture is not None and planned.architecture.entry:
        extensions.require_allowed(planned.architecture.entry, file=run.weights)
    network = networks.build(planned, channels=input_channels(plan, planned), heads=plan.labels.output_channels, deep_supervision=False)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ModelError(
            "the weights do not fit the network of their plan",
            file=run.weights,
            found=str(error).splitlines()[-1].strip(),
            fix="train this fold again: the file was changed, or made by another version",
        ) from None
    return networks.place(network, device).eval().requires_grad_(False)


def _together(first: Plan, second: Plan, configuration: str, where: Path) -> Plan:
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
