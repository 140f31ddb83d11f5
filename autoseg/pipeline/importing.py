"""`import`: models that nnU-Net v2 trained become a workspace that `predict` opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from autoseg import files, networks, presets, schema
from autoseg.cases import Channel, modality_of
from autoseg.cases.names import labels_from
from autoseg.checksums import with_checksum
from autoseg.errors import MissingPath, ModelError, SettingsError, UsageError, naming
from autoseg.networks import checkpoint
from autoseg.networks.nnunet_names import renamed
from autoseg.networks.torch_archive import Call, Name, read_archive, read_pickle
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.planning.configuration import Plan, input_channels
from autoseg.planning.importing import NAMES, plan_of_model
from autoseg.postprocessing import PostprocessingRules, Rule
from autoseg.version import __version__
from autoseg.workspace import Workspace

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_BEFORE = {"3d_cascade_fullres": "3d_lowres"}
_LARGEST = "remove_all_but_largest_component_from_segmentation"
_FIX = "give the folder that nnUNetv2_train wrote, such as nnUNet_results/Dataset004_X/nnUNetTrainer__nnUNetPlans__3d_fullres"


@dataclass(frozen=True, kw_only=True)
class _DatasetFile:
    """What is read of the dataset.json next to a model."""

    labels: Mapping[str, Any]
    channel_names: Mapping[str, str] = field(default_factory=dict)
    modality: Mapping[str, str] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is read of a checkpoint besides the weights."""

    trainer_name: str = ""
    current_epoch: int = 0
    inference_allowed_mirroring_axes: tuple[int, ...] | None = None


def import_model(
    source: Path | str, output: Path | str, *, postprocessing: bool = False, overwrite: bool = False, reporter: Reporter | None = None
) -> Workspace:
    """Import a model of nnU-Net v2: all its folds, and the low resolution before a cascade.

    Plain and residual-encoder U-Nets, 2d, 3d, cascades, regions, ignore label. Scans are seen as nnU-Net's reader sees them, and
    mirrored as its trainer did. Checkpoints are read without unpickling.

    Parameters
    ----------
    source : a folder TRAINER__PLANS__CONFIGURATION, or the folder of several of these
    output : the workspace to make
    postprocessing : also take over the rules in postprocessing.pkl; nnU-Net adopts rules on weak evidence, so by default not
    overwrite : replace a folder that is there

    Raises
    ------
    MissingPath : no such folder, or a file of the model is not there
    ModelError : a checkpoint that cannot be read safely, or whose weights do not fit its plan
    SettingsError : something that autoseg does not do as nnU-Net does; named
    UsageError : the output is there
    """
    reporter, source, output = reporter or LoggingReporter(), Path(source), Path(output)
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise UsageError("the output is there already", file=output, fix="choose another folder with -o, or give --overwrite")
    folders = _model_folders(source)
    plan = _plan(folders)
    files.require_writable(output.parent)
    with files.whole_folder(output) as temporary:
        workspace = Workspace(root=temporary)
        axes: set[int] = set()
        for name, folder in folders.items():
            for fold, file in _checkpoints(folder, reporter).items():
                axes |= _import_fold(file, name, fold, plan, workspace, reporter)
        files.write_json(workspace.plan, with_checksum(replace(plan, mirror_axes=tuple(sorted(axes))).to_json()))
        if postprocessing:
            rules = {NAMES[name]: _rules(folder, plan) for name, folder in folders.items()}
            files.write_json(workspace.postprocessing, with_checksum({name: rule.to_json() for name, rule in rules.items() if rule}))
    return Workspace(root=output)


def _model_folders(source: Path) -> dict[str, Path]:
    """Return the folder of each configuration, with the stage before a cascade."""
    if not source.is_dir():
        raise MissingPath("no such folder", file=source, fix=_FIX)
    single = (source / "plans.json").exists()
    given = [source] if single else sorted(path.parent for path in source.glob("*__*__*/plans.json"))
    found: dict[str, Path] = {}
    for folder in given:
        name = folder.resolve().name.split("__")[-1]
        if name not in NAMES:
            raise SettingsError("a configuration that autoseg does not know", file=folder, found=name, expected=", ".join(NAMES), fix=_FIX)
        if name in found:
            raise SettingsError(
                f"several models of {name}",
                file=source,
                found=f"{found[name].name}, {folder.name}",
                expected="one",
                fix="give one of these folders",
            )
        found[name] = folder
    for name in list(found):
        if name in _BEFORE and _BEFORE[name] not in found:
            first = found[name].resolve().with_name(found[name].resolve().name.removesuffix(name) + _BEFORE[name])
            if not (first / "plans.json").exists():
                raise MissingPath("a cascade without its first stage", file=first, fix="copy that folder next to the cascade's")
            found[_BEFORE[name]] = first
    if not found:
        raise MissingPath("no model of nnU-Net v2", file=source, expected="plans.json, dataset.json, fold_0/checkpoint_final.pth", fix=_FIX)
    return found


def _plan(folders: Mapping[str, Path]) -> Plan:
    """Return the plan of all configurations, which must be of one plans file."""
    first = next(iter(folders.values()))
    plans = {folder: files.read_json(folder / "plans.json") for folder in folders.values()}
    if any(value != plans[first] for value in plans.values()):
        raise SettingsError(
            "the models were made by different plans", file=first.parent, fix="import each TRAINER__PLANS__CONFIGURATION by itself"
        )
    path = first / "dataset.json"
    value = files.read_json(path)
    record = schema.parse(_DatasetFile, schema.pick(_DatasetFile, value), what="dataset.json", fix=_FIX, file=path)
    labels, notes = labels_from(record.labels, file=path, order=record.regions_class_order and list(record.regions_class_order))
    if notes:
        raise SettingsError(
            "labels that autoseg does not read as nnU-Net does", file=path, found="\n".join(notes), fix="predict with nnU-Net"
        )
    named = record.channel_names or record.modality
    channels = tuple(Channel(name=named[key], modality=modality_of(named[key]) or "other") for key in sorted(named, key=int))
    with naming(first / "plans.json"):
        return plan_of_model(
            plans[first], list(folders), channels=channels, labels=replace(labels, pairs=()), preset=presets.planner("nnunet")
        )


def _checkpoints(folder: Path, reporter: Reporter) -> dict[int, Path]:
    """Return the checkpoint of each fold; a model of all cases counts as fold 0 where it is the only one."""
    found: dict[int, Path] = {}
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    for run in folds:
        name = run.name.removeprefix("fold_")
        there = [run / file for file in _CHECKPOINTS if (run / file).exists()]
        if not there:
            reporter.say(f"warning: {run} is left out: it has none of {', '.join(_CHECKPOINTS)}")
        elif name.isdigit() or len(folds) == 1:
            found[int(name) if name.isdigit() else 0] = there[0]
            if there[0].name != _CHECKPOINTS[0] or not name.isdigit():
                reporter.say(f"note: {there[0]} is imported as fold {name if name.isdigit() else 0}")
        else:
            reporter.say(f"warning: {run} is left out: it is no fold of the cross-validation")
    if not found:
        raise MissingPath("no trained fold", file=folder, expected="fold_0/checkpoint_final.pth", fix=_FIX)
    return found


def _import_fold(file: Path, name: str, fold: int, plan: Plan, workspace: Workspace, reporter: Reporter) -> set[int]:
    """Write one fold, and return the axes of the plan along which it is mirrored."""
    arrays, rest = read_archive(file, "network_weights")
    facts = schema.parse(_Facts, schema.pick(_Facts, rest), what="the checkpoint", fix=_FIX, file=file, error=ModelError)
    configuration = plan.configuration(NAMES[name])
    axes = {axis + configuration.planar for axis in facts.inference_allowed_mirroring_axes or ()}
    with naming(file):
        weights = {f"body.{ours}": torch.from_numpy(array) for ours, array in renamed(arrays).items()}
        with torch.device("meta"):
            network = networks.build(
                configuration, channels=input_channels(plan, configuration), heads=plan.labels.output_channels, deep_supervision=False
            )
        _require_fit(weights, network)
    own = replace(plan, mirror_axes=tuple(sorted(axes)))
    description = {
        "version": __version__,
        "plan": own.to_json(),
        "configuration": configuration.name,
        "fold": fold,
        "channels": [channel.name for channel in plan.channels],
        **plan.labels.to_json(),
        "epochs": facts.current_epoch,
        "steps": facts.current_epoch * 250,
        "finished": True,
        "imported": f"nnU-Net: {facts.trainer_name}, {file.name}",
    }
    checkpoint.save_model(workspace.run(configuration.name, fold), weights, description)
    reporter.say(f"{configuration.name} fold {fold}: {len(weights)} weights, mirrored along {sorted(axes) or 'no axis'}")
    return axes


def _require_fit(weights: Mapping[str, torch.Tensor], network: networks.Network) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        name = different[0]
        raise ModelError(
            "the weights do not fit the network of their plan",
            found=f"{len(different)} differ, such as {name}: {found.get(name, 'missing')}",
            expected=f"{expected.get(name, 'no such weight')}",
            fix="put back the plans.json that the model was trained with",
        )


def _rules(folder: Path, plan: Plan) -> PostprocessingRules | None:
    """Return nnU-Net's post-processing of a model; None where it has none.

    Raises
    ------
    SettingsError : it does something else than keep the largest component
    """
    places = [folder / "postprocessing.pkl", *sorted(folder.glob("crossval_results_folds_*/postprocessing.pkl"))]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return None
    try:
        functions, arguments = read_pickle(path.read_bytes())
        rules = tuple(_rule(function, given, plan) for function, given in zip(functions, arguments, strict=True))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is not read as rules
        raise SettingsError(
            "post-processing that cannot be read", file=path, found=str(error), expected=_LARGEST, fix="import without --postprocessing"
        ) from None
    return PostprocessingRules(rules=rules)


def _rule(function: Any, given: Any, plan: Plan) -> Rule:
    name = function.text if isinstance(function, Name) else str(function)
    if not name.endswith(_LARGEST) or not isinstance(given, dict):
        raise ValueError(name)
    asked = given.get("labels_or_regions")
    wanted = {_number(value) for value in (asked if isinstance(asked, Sequence) else [asked])}
    if wanted == set(plan.labels.values[1:]):
        return Rule(target=None, keep_largest=True)
    members = {region.name: set(region.members) for region in plan.labels.regions} or {
        label.name: {label.value} for label in plan.labels.all
    }
    for target, values in members.items():
        if values == wanted:
            return Rule(target=target, keep_largest=True)
    raise ValueError(f"labels {sorted(wanted)}")


def _number(value: Any) -> int:
    """Return an integer, also one of numpy as it is written in a pickle."""
    if isinstance(value, Call) and value.name.endswith("multiarray scalar"):
        return int.from_bytes(value.arguments[1], "little", signed=True)
    return int(value)
