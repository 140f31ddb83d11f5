"""`check` and `plan`: from a user's folder to a workspace with a plan, before anything expensive starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg import cases, checking, files, fingerprint, locks, machine, presets
from autoseg.cases import Dataset, folds
from autoseg.checking import Fault
from autoseg.checksums import with_checksum
from autoseg.errors import InputError, UsageError, naming
from autoseg.fingerprint import Fingerprint
from autoseg.labels import Labels
from autoseg.networks import memory_estimate
from autoseg.pipeline import replacing
from autoseg.pipeline.reporter import LoggingReporter, Reporter, counter
from autoseg.planning.configuration import Configuration, Plan
from autoseg.planning.importing import import_plan
from autoseg.planning.plan import make_plan
from autoseg.planning.preflight import preflight
from autoseg.quantities import format_bytes
from autoseg.resources import free_memory
from autoseg.tables import Table
from autoseg.training.loss import make_loss
from autoseg.training.settings import read_settings
from autoseg.version import __version__
from autoseg.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A data set as found, and everything that was noticed about it."""

    dataset: Dataset
    faults: tuple[Fault, ...]

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that stop planning."""
        return tuple(fault for fault in self.faults if fault.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for check.json."""
        return {
            "version": __version__,
            "dataset": self.dataset.name,
            "recipe": self.dataset.recipe,
            "cases": len(self.dataset.cases),
            "errors": len(self.errors),
            "faults": [vars(fault) for fault in self.faults],
            "notes": list(self.dataset.notes),
        }


def check(
    dataset: Path,
    *,
    recipe: str | Path | None = None,
    group_regex: str | None = None,
    exclude: Sequence[str] = (),
    map_labels: Mapping[int, int] | None = None,
    fix_geometry: str | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Checked:
    """Read every case of a data set and collect all its faults.

    Parameters
    ----------
    dataset : a folder in a known layout, or a CSV or JSON list of cases
    recipe : name or file of the recipe; found by itself where it is not given
    group_regex : pattern whose first group, in a case's name, is the patient or site
    exclude : names of cases to leave out
    map_labels : value in the files to the label value that it means
    fix_geometry : "copy-image" or "resample-label", for labels that are not on the grid of their image

    Raises
    ------
    InputError : the folder as a whole cannot be understood; single cases never raise
    """
    reporter = reporter or LoggingReporter()
    found = cases.find(Path(dataset), recipe=recipe, group_regex=group_regex, map_labels=map_labels, fix_geometry=fix_geometry)
    found = found.without(exclude)
    reporter.say(_describe(found))
    faults = checking.check(found, workers=workers, progress=counter(reporter, "check"))
    return Checked(dataset=found, faults=tuple(faults))


def plan(
    dataset: Path | None = None,
    *,
    output: Path | None = None,
    from_fingerprint: Path | None = None,
    planner: str | Path = "default",
    network: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    memory: int | None = None,
    time_budget: float | None = None,
    recipe: str | Path | None = None,
    group_regex: str | None = None,
    exclude: Sequence[str] = (),
    map_labels: Mapping[int, int] | None = None,
    fix_geometry: str | None = None,
    splits: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    probe: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Workspace:
    """Check, fingerprint, plan and split a data set.

    Parameters
    ----------
    dataset : as for `check`; not needed with `from_fingerprint`
    output : folder to make; by default `NAME-autoseg` in the current folder
    from_fingerprint : a fingerprint.json to plan from, without any image
    planner : name of a preset, a TOML file, or a plans file of the reference (nnUNetPlans.json)
    network : name of a network in `planners/networks`, a TOML file, or "module:callable" of a user's own; None: the planner's
    settings : constants of the planner that replace those of the preset, by their dotted names
    memory : bytes the training may take; by default what the device has free
    time_budget : seconds one fold may train; the network is chosen to see enough in that time
    splits : a splits.json of the user's own
    probe : measure the rate of the device again, instead of taking what is known of it

    Returns
    -------
    the workspace, with dataset.json, check.json, fingerprint.json, plan.json and splits.json

    Raises
    ------
    FaultyCases : the check found errors; all of them are in the message, nothing was written
    SettingsError : the workspace holds models trained with another plan, cases or folds, and `overwrite` was not given
    """
    reporter = reporter or LoggingReporter()
    preset, imported = _read_preset(planner, network, settings)
    offered = machine.to_plan_for(device, memory=memory, probe=probe, say=reporter.say)
    checked = None
    if from_fingerprint is not None:
        facts = fingerprint.read_fingerprint(Path(from_fingerprint))
        workspace = _workspace(output, facts.name)
    elif dataset is not None:
        files.require_writable(Path(".") if output is None else _workspace(output, "").root)
        checked = check(
            dataset, recipe=recipe, group_regex=group_regex, exclude=exclude, map_labels=map_labels, fix_geometry=fix_geometry,
            workers=workers, reporter=reporter)  # fmt: skip
        _stop_at_errors(checked, reporter)
        workspace = _workspace(output, checked.dataset.name)
        facts = _measured(checked.dataset, workspace, workers=workers, overwrite=overwrite, reporter=reporter)
    else:
        raise UsageError("nothing to plan", expected="a data set, or --fingerprint FILE", fix="autoseg plan DATASET")
    result = _planned(facts, preset, imported, offered, time_budget=time_budget)
    if memory is None and not _fits(result, now := machine.free_now(offered)):
        result = _planned(facts, preset, imported, now, time_budget=time_budget)
    split = None if checked is None else _split(checked.dataset, facts, splits=splits, seed=seed)
    if checked is not None and split is not None and (unused := folds.never_used(split, checked.dataset.cases)):
        reporter.say(f"warning: {len(unused)} cases are in no fold of the split and never used: {checking.some(unused)}")
    _preflight(result, facts, workspace, reporter, folds=5 if split is None else len(split))
    workspace.root.mkdir(parents=True, exist_ok=True)
    with locks.in_turn(workspace.root):
        files.sweep(workspace.root)
        replacing.refuse(workspace, result, facts, None if checked is None else checked.dataset, split, overwrite=overwrite)
        if checked is not None:
            files.write_json(workspace.check, with_checksum(checked.to_json()))
            files.write_json(workspace.dataset, checked.dataset.to_json())
            files.write_json(workspace.splits, split)
        files.write_json(workspace.fingerprint, with_checksum(facts.to_json()))
        files.write_json(workspace.plan, with_checksum(result.to_json()))
    reporter.say(describe_plan(result))
    return workspace


def _planned(facts: Fingerprint, preset: presets.Preset, imported: Any, offered: machine.Machine, *, time_budget: float | None) -> Plan:
    """Return the plan for a machine; where there is a plans file of the reference, by that."""
    trace = memory_estimate.tracer(offered, loss=_loss_to_trace(preset, facts.labels))
    if imported is None:
        return make_plan(facts, preset=preset, machine=offered, time_budget=time_budget, footprint=trace)
    return import_plan(imported, facts, preset=preset, machine=offered, footprint=trace)


def _fits(plan: Plan, now: machine.Machine) -> bool:
    """Return whether everything planned can be trained in the memory that is free now."""
    if not now.memory_bytes < plan.device["memory_bytes"]:
        return True
    return all((c.predicted.training_memory_bytes or 0) <= now.memory_bytes for c in plan.configurations if c.predicted is not None)


def _read_preset(
    planner: str | Path, network: str | Path | None, settings: Mapping[str, Any] | None
) -> tuple[presets.Preset, Any]:  # fmt: skip
    """Return the preset to plan with, and what a plans file of the reference holds where that is the planner.

    Raises
    ------
    UsageError : a network or settings next to a plans file, which says both
    """
    if not str(planner).endswith(".json"):
        return presets.planner(planner, network=network, changes=settings), None
    if network is not None or settings:
        raise UsageError("a plans file says which network is planned, and how", file=planner, found="--network or --set",
                         fix="leave these out, or plan with --planner nnunet")  # fmt: skip
    return presets.planner("nnunet"), files.read_json(Path(planner))


def _loss_to_trace(preset: presets.Preset, labels: Labels) -> memory_estimate.TraceLoss | None:
    """Return the loss of a preset, where it is not the usual one: it may take more memory."""
    chosen = read_settings(preset.values["training"]).loss
    if chosen.voxel_loss == "cross_entropy" and chosen.region_loss == "dice":
        return None
    return make_loss(labels, batch_dice=False, settings=replace(chosen, boundary_weight=0.0, further="none"))


def _measured(dataset: Dataset, workspace: Workspace, *, workers: int | None, overwrite: bool, reporter: Reporter) -> Fingerprint:
    """Return the fingerprint in the workspace where it is of the very same files, else a new one."""
    known = None if overwrite or not workspace.fingerprint.exists() else _known_fingerprint(workspace, reporter)
    if known is not None and not any(case.grid_fix for case in dataset.cases):  # which fix it was measured with is not recorded
        changed = fingerprint.outdated(known, dataset, progress=counter(reporter, "compare with the fingerprint"))
        if not changed:
            reporter.say(f"fingerprint: no file has changed since it was measured; {workspace.fingerprint} is used again")
            return replace(known, name=dataset.name)
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        reporter.say(f"fingerprint: measured again, since {changed[0]}{more}")
    return fingerprint.extract(dataset, workers=workers, progress=counter(reporter, "fingerprint"))


def _known_fingerprint(workspace: Workspace, reporter: Reporter) -> Fingerprint | None:
    """Return the known fingerprint; None where it cannot be read or was changed, which is reported, or is of another version."""
    try:
        known = fingerprint.read_fingerprint(workspace.fingerprint)
    except InputError as error:
        reporter.say(f"warning: fingerprint: measured again, since {workspace.fingerprint} cannot be used: {error.summary}")
        return None
    return known if known.version == __version__ else None


def describe_plan(plan: Plan) -> Table:
    """Return the plan to be shown: the figures of each configuration, and the reasons for them."""
    head = f"plan '{plan.planner}' for {plan.name} on {plan.device.get('name', plan.device.get('device'))}"
    figures = {c.name: _figures(c) for c in plan.configurations}
    columns = list(dict.fromkeys(column for row in figures.values() for column in row))
    blocks = [(head, plan.reasons), *((f"{c.name}: {', '.join(figures[c.name].values())}", c.reasons) for c in plan.configurations)]
    return Table(
        text="\n".join(line for first, reasons in blocks for line in (first, *(f"  - {reason}" for reason in reasons))),
        columns=("", *columns),
        rows=tuple(
            (name, *(row.get(column, "").removeprefix(f"{column} ").removesuffix(f" {column}") for column in columns))
            for name, row in figures.items()
        ),
        figures=True,
        title=head,
        remarks=(("all configurations", plan.reasons), *((c.name, c.reasons) for c in plan.configurations)),
    )


def _figures(c: Configuration) -> dict[str, str]:
    """Return the figures of a configuration by the head of their column."""
    figures = {
        "patch": f"patch {'x'.join(map(str, c.patch_size))}",
        "batch": f"batch {c.batch_size}",
        "spacing": f"spacing {'x'.join(f'{s:g}' for s in (round(s, 3) if s >= 0.1 else float(f'{s:.3g}') for s in c.spacing))} mm",
        "stages": f"{c.stages} stages",
        "features": f"features {c.features_per_stage[0]}..{c.features_per_stage[-1]}",
    }
    if c.predicted is not None:
        figures["weights"] = f"{c.predicted.parameters / 1e6:.2f} M weights"
        if c.predicted.training_memory_bytes:
            figures["memory"] = format_bytes(c.predicted.training_memory_bytes)
        if c.predicted.seconds_per_epoch:
            figures["s per epoch"] = f"{c.predicted.seconds_per_epoch:.0f} s per epoch"
    return figures


def _preflight(plan: Plan, facts: Fingerprint, workspace: Workspace, reporter: Reporter, *, folds: int) -> None:
    """Report what it will take, before anything expensive; raise where it cannot work."""
    place = next(folder for folder in (workspace.root, *workspace.root.absolute().parents) if folder.is_dir())
    found = preflight(
        plan,
        facts,
        folds=folds,
        epochs=int((plan.settings or {}).get("epochs", 1000)),
        disk_free=shutil.disk_usage(place).free,
        memory_free=free_memory(),
        time_budget=plan.time_budget,
    )
    text = "\n".join(f"{what:<28} {needed:>12}   {there}" for what, needed, there in found.rows)
    reporter.say(Table(text=text, columns=("", "this takes", "there is"), rows=tuple(tuple(row) for row in found.rows)))
    if found.problem is not None:
        raise found.problem


def _describe(dataset: Dataset) -> str:
    channels = ", ".join(f"{c.name} ({c.modality})" for c in dataset.channels)
    labels = ", ".join(f"{label.name}={label.value}" for label in dataset.labels.foreground)
    lines = [f"{dataset.name}: {len(dataset.cases)} cases, layout '{dataset.recipe}'", f"  channels {channels}", f"  labels   {labels}"]
    if dataset.labels.regions:
        lines.append("  regions  " + ", ".join(region.name for region in dataset.labels.regions))
    lines += [f"  note: {note}" for note in dataset.notes]
    return "\n".join(lines)


def _split(dataset: Dataset, facts: Fingerprint, *, splits: Path | None, seed: int) -> list[dict[str, list[str]]]:
    if splits is not None:
        with naming(splits):
            return folds.own_folds(files.read_json(splits), dataset.cases)
    return folds.make_folds(dataset.cases, presence=facts.presence, seed=seed)


def _workspace(output: Path | None, name: str) -> Workspace:
    """Return the folder to make; refuse before any work where it cannot be one."""
    root = Path(output) if output is not None else Path(f"{name}-autoseg")
    if root.exists() and not root.is_dir():
        raise UsageError("the workspace must be a folder", file=root, found="a file", fix="choose another place with -o")
    return Workspace(root=root)


def _stop_at_errors(checked: Checked, reporter: Reporter) -> None:
    for fault in checked.faults:
        if fault.severity == "warning":
            reporter.say(f"warning: {checking.sentence(fault)}")
    faulty = checking.faulty(checked.faults)
    if faulty is not None:
        raise faulty
