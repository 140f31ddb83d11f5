"""A trained model in memory: its plan, and per stage the networks of its folds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg import machine, schema, sharing
from autoseg.calibration import Calibration
from autoseg.checksums import checked
from autoseg.errors import MissingPath, ModelError, PlanMismatch, UsageError
from autoseg.fingerprint import Fingerprint, parse_fingerprint
from autoseg.networks import Network
from autoseg.planning.configuration import Configuration, Plan
from autoseg.postprocessing import PostprocessingRules
from autoseg.prediction.stages import Place, Stage, load_stage, together, trained_folds
from autoseg.sharing import DISK, Stored
from autoseg.sharing.stored import read_json
from autoseg.workspace import Workspace

PREFERRED = ("3d_fullres", "3d_cascade", "2d", "3d_lowres")  # where no selection was made

AND = "+"  # between the configurations of an ensemble, in its name


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
    stored: Stored = DISK  # where it is from: a workspace's folder, or a model file
    notes: tuple[str, ...] = ()  # what the user should know of the model file: who signed it, what its card does not state
    calibration: Calibration | None = None  # of one configuration; each of an ensemble has its own
    partners: tuple[Model, ...] = ()  # of an ensemble: the other configurations, whose probabilities are averaged with this one's

    @property
    def members(self) -> tuple[Model, ...]:
        """The configurations of an ensemble as models of their own; of one configuration, itself."""
        return (replace(self, partners=()), *self.partners)

    @property
    def digest(self) -> str:
        """Of the model file; empty for a workspace."""
        return self.stored.digest if isinstance(self.stored, sharing.ModelFile) else ""

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
        return f"{self.plan.name}: {text}, on {self.device}" + (f"; model file with digest {self.digest}" if self.digest else "")

    def _described(self) -> tuple[str, str]:
        """Return the configuration with the stage before it, and its folds."""
        folds = self.stages[-1].folds
        which = f"fold {folds[0]}" if len(folds) == 1 else f"the mean of folds {', '.join(map(str, folds))}"
        return ", then ".join(stage.configuration.name for stage in self.stages), which


def open_model(
    path: Path,
    *,
    configuration: str | None = None,
    folds: Sequence[int] | None = None,
    device: str = "auto",
    verify: Path | None = None,
) -> Model:
    """Load the trained folds of a workspace or of a model file.

    Parameters
    ----------
    path : a workspace, or a model file
    configuration : one, or several joined by "+", whose probabilities are averaged; by default what `select` or `export` chose, else the
        first of `PREFERRED` that is trained
    folds : by default all that are trained. The first stage of a cascade always uses all of its own
    device : as for `machine.choose_device`
    verify : of a model file: the `allowed_signers` file with those of whom one must have signed it

    Raises
    ------
    MissingPath : no such folder or file
    ModelError : nothing is trained, a wanted fold is not there, or a file is damaged
    ModelFileError : the model file is damaged, was changed, was not signed by whom it should
    PlanMismatch : the folds were trained with different plans, or the stages of a cascade were
    SettingsError : the plan in a model file cannot be understood
    """
    place, notes = _opened(path, machine.choose_device(device), verify)
    members = [_open_one(place, name, folds) for name in parts_of(configuration or _default_configuration(place))]
    model = replace(members[0], stored=place.stored, notes=notes)
    if len(members) == 1:
        return model
    for member in members[1:]:
        _require_same_meaning(members[0], member, place.workspace)
    identity = hashlib.sha256(" ".join(member.identity for member in members).encode()).hexdigest()[:16]
    return replace(model, partners=tuple(members[1:]), identity=identity)


def _opened(path: Path, device: str, verify: Path | None) -> tuple[Place, tuple[str, ...]]:
    """Return the place of a model, and of a model file what the user should know of it."""
    workspace = Workspace(root=path)
    if path.is_dir():
        if verify is not None:
            raise UsageError("only model files are signed", file=path, fix="leave out --verify, or give a .autoseg file")
        return Place(workspace=workspace, stored=DISK, device=device), ()
    if not path.exists():
        raise MissingPath("no such workspace or model file", file=path, fix="check the spelling of the path")
    if path.suffix != sharing.SUFFIX:
        raise ModelError(
            "neither a workspace nor a model file",
            file=path,
            expected="the folder that `autoseg plan` made, or a .autoseg file that `autoseg export` wrote",
            fix="give the workspace that holds the runs/ folder, or the .autoseg file",
        )
    file = sharing.open_model_file(path)
    signed = () if verify is None else (f"signed by {sharing.verify(path, file.digest, verify)}",)
    place = Place(workspace=workspace, stored=file, device=device, default=file.manifest.configuration)
    return place, (*signed, *sharing.missing_answers(file))


def parts_of(name: str) -> tuple[str, ...]:
    """Return the configurations in the name of one or of an ensemble, each once.

    >>> parts_of("2d+3d_fullres")
    ('2d', '3d_fullres')
    """
    return tuple(dict.fromkeys(name.split(AND)))


def _open_one(place: Place, name: str, folds: Sequence[int] | None) -> Model:
    """Load one configuration, and the stage before it."""
    workspace = place.workspace
    last, plan, digests = load_stage(place, name, folds)
    stages = [last]
    if last.configuration.previous_stage is not None:
        first, other_plan, more = load_stage(place, last.configuration.previous_stage, None)
        plan = together(plan, other_plan, first.configuration.name, workspace.configuration(first.configuration.name))
        stages.insert(0, first)
        digests = [*more, *digests]
    return Model(
        plan=plan,
        stages=tuple(stages),
        device=place.device,
        identity=hashlib.sha256(" ".join([name, *digests]).encode()).hexdigest()[:16],
        fingerprint=_fingerprint(place),
    )


def _fingerprint(place: Place) -> Fingerprint | None:
    file = place.workspace.fingerprint
    fix = "check the path, or plan again"
    return parse_fingerprint(read_json(place.stored, file, fix=fix), file=file) if place.stored.exists(file) else None


def _require_same_meaning(one: Model, other: Model, workspace: Workspace) -> None:
    """Raise unless two configurations look at the same channels along the same axes, and their heads mean the same.

    Raises
    ------
    PlanMismatch : their probabilities cannot be averaged
    """
    pairs = [(what, getattr(one.plan, what), getattr(other.plan, what)) for what in ("labels", "channels", "axis_order", "orientation")]
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
    stage, own, _ = load_stage(Place(workspace=workspace, stored=DISK, device=device), configuration, (fold,))
    together(plan, own, configuration, workspace.run(configuration, fold).root)
    return stage.networks[0]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What `select` wrote into selection.json."""

    version: str = ""
    configurations: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[Mapping[str, Any], ...] = ()
    selected: str | None = None
    reasons: tuple[str, ...] = ()


def read_selection(workspace: Workspace, stored: Stored = DISK) -> Selection:
    """Return what `select` chose; an empty selection where it was not run yet.

    Raises
    ------
    UnreadableFile, SettingsError : the file is damaged, or was changed since it was written
    """
    if not stored.exists(workspace.selection):
        return Selection()
    what, fix = "the selection", f"select again: autoseg select {workspace.root}"
    value = checked(read_json(stored, workspace.selection, fix=fix), file=workspace.selection, what=what, fix=fix)
    return schema.parse(Selection, value, what=what, fix=fix, file=workspace.selection)


def _default_configuration(place: Place) -> str:
    """Return what a model file or `select` names, else the first of `PREFERRED` that is trained."""
    workspace, stored = place.workspace, place.stored
    for name in (place.default or read_selection(workspace, stored).selected, *PREFERRED):
        if name is not None and all(trained_folds(workspace, part, stored) for part in parts_of(name)):
            return name
    raise ModelError(
        "no fold is trained yet",
        file=workspace.root,
        expected="runs/CONFIGURATION/fold_K/model.safetensors",
        fix=f"autoseg train {workspace.root}",
    )
