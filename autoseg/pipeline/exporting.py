"""`export`: from a trained workspace to one model file that can be handed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg import evaluation, files, prediction, sharing
from autoseg.errors import MissingPath, UsageError
from autoseg.pipeline.evaluating import mean_dice
from autoseg.pipeline.records import read_rules
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.pipeline.validating import out_of_fold_scores
from autoseg.prediction import Model
from autoseg.quantities import format_bytes
from autoseg.sharing import SUFFIX
from autoseg.workspace import Run, Workspace

_DIGEST_NOTE = "`autoseg predict FILE.autoseg ...` shows the digest of this file and writes it into every record of a prediction."


def export(
    root: Path | str | Workspace,
    output: Path | str,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    card: Path | None = None,
    key: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> str:
    """Write the trained model of a workspace as one `.autoseg` file.

    It holds the weights byte for byte, and what `predict` needs besides: plan, fingerprint, selection, post-processing rules,
    calibration; scores and model card. No image goes into it; names of the training cases are part of the weights' description.

    Parameters
    ----------
    configuration : one, or several joined by "+"; by default what `select` chose. The stage before a cascade is included
    fold : one fold; by default all that are trained
    card : the answers for the model card; by default card.toml in the workspace, which is made, with the questions, where it is missing
    key : a private SSH key: a signature is written next to the file
    overwrite : replace a file that is there

    Returns
    -------
    the digest of the model

    Raises
    ------
    ModelError, PlanMismatch, MissingPath : the model cannot be opened, so it is not handed on either
    UsageError : another suffix than .autoseg, or the file is there
    """
    reporter = reporter or LoggingReporter()
    workspace, output = root if isinstance(root, Workspace) else Workspace(root=Path(root)), Path(output)
    _require_target(output, overwrite=overwrite)
    if key is not None and not key.is_file():
        raise MissingPath("no such key", file=key, fix="name a private SSH key, such as ~/.ssh/id_ed25519")
    if not workspace.root.is_dir():
        raise MissingPath("no such workspace", file=workspace.root, fix="check the spelling of the path")
    answers = _answers(workspace, card, reporter)
    folds = None if fold is None else (fold,)
    model = prediction.open_model(workspace.root, configuration=configuration, folds=folds, device="cpu")
    for note in _unfinished(workspace, model):
        reporter.say(note)
    scores = _scores(workspace, model)
    facts = _facts(workspace, model, scores)
    members: dict[str, Path | bytes] = {
        **{_member(run.weights, workspace): run.weights for run in _runs(workspace, model)},
        **{_member(path, workspace): path for path in _optional(workspace) if path.exists()},
        "plan.json": _json(model.plan.to_json()),
        "scores.json": _json(scores),
        sharing.CARD: _json(sharing.card_json(answers, dict(facts))),
        "README.md": sharing.readme(answers, facts, _DIGEST_NOTE).encode(),
    }
    digest = sharing.write_model_file(output, members, configuration=model.name)
    reporter.say(f"{model.describe().rpartition(', on ')[0]}: {output}, {format_bytes(output.stat().st_size)}, digest {digest}")
    for note in sharing.missing_answers(sharing.open_model_file(output)):
        reporter.say(f"{note}; answer in {card or workspace.card}, and export again with --overwrite")
    sharing.signature_file(output).unlink(missing_ok=True)  # of the file that was there before
    if key is not None:
        reporter.say(f"signed: {sharing.sign(output, digest, key)}")
    return digest


def _require_target(output: Path, *, overwrite: bool) -> None:
    if output.suffix != SUFFIX:
        raise UsageError("a model file has the suffix .autoseg", file=output, fix=f"-o {output.with_suffix(SUFFIX)}")
    if output.exists() and not overwrite:
        raise UsageError("the file is there already", file=output, fix="give another name with -o, or --overwrite to replace it")
    files.require_writable(output.parent)


def _answers(workspace: Workspace, given: Path | None, reporter: Reporter) -> sharing.Card:
    """Return the answers in the file that was given, else in card.toml of the workspace; make that one where it is missing."""
    if given is not None or workspace.card.exists():
        return sharing.read_card(given or workspace.card)
    files.write_text(workspace.card, sharing.template())
    reporter.say(f"the questions of the model card are in {workspace.card}")
    return sharing.Card()


def _runs(workspace: Workspace, model: Model) -> list[Run]:
    """Return the folds of all configurations of a model, those of first stages included, each once."""
    stages = [stage for member in model.members for stage in member.stages]
    wanted = dict.fromkeys((stage.configuration.name, fold) for stage in stages for fold in stage.folds)
    return [workspace.run(name, fold) for name, fold in wanted]


def _optional(workspace: Workspace) -> tuple[Path, ...]:
    return (workspace.fingerprint, workspace.selection, workspace.postprocessing, workspace.root / "calibration.json")


def _member(path: Path, workspace: Workspace) -> str:
    return path.relative_to(workspace.root).as_posix()


def _json(value: Any) -> bytes:
    return (files.readable_json(value) + "\n").encode()


def _unfinished(workspace: Workspace, model: Model) -> list[str]:
    """Return a warning for each fold whose training has not reached its end."""
    found = [run for run in _runs(workspace, model) if run.description.exists()]
    return [
        f"warning: the training of {run.root.parent.name} {run.root.name} is not finished; its weights are exported as they are now"
        for run in found
        if files.read_json(run.description).get("finished") is False
    ]


def _scores(workspace: Workspace, model: Model) -> dict[str, Any]:
    """Return the out-of-fold scores of each configuration of a model that is validated, without those of single cases."""
    scores = {}
    for member in model.members:
        folds = [workspace.run(member.configuration.name, fold).root for fold in member.stages[-1].folds]
        validated = [folder for folder in folds if Run(root=folder).summary.exists()]
        if found := out_of_fold_scores(validated):
            summary = evaluation.summarise(found, model.plan.labels)
            scores[member.configuration.name] = {
                "folds": [folder.name for folder in validated],
                "cases": len(found),
                "labels": summary["labels"],
                "mean": summary["mean"],
            }
    return scores


def _facts(workspace: Workspace, model: Model, scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a model, name and text, for its card."""
    plan = model.plan
    facts = [
        ("Data set", plan.name),
        ("Channels", ", ".join(f"{channel.name} ({channel.modality})" for channel in plan.channels)),
        ("Labels", ", ".join(f"{label.name} = {label.value}" for label in plan.labels.foreground)),
        ("Model", model.describe().rpartition(", on ")[0].partition(": ")[2]),
    ]
    for member in model.members:
        c = member.configuration
        facts.append((f"{c.name}, spacing and patch (z, y, x)", f"{_by(c.spacing, '.3g')} mm, {_by(c.patch_size, 'd')} voxels"))
        if (found := scores.get(c.name)) is not None:
            dice = mean_dice(found)
            text = "none" if dice is None else f"{dice:.4f}"
            facts.append(
                (f"{c.name}, Dice out of fold", f"{text}, mean over labels and {found['cases']} cases of {', '.join(found['folds'])}")
            )
    rules = read_rules(workspace).get(model.name)
    facts.append(("Post-processing", "; ".join(rules.sentences()) if rules is not None and rules.sentences() else "none"))
    facts.append(("Planned by", f"autoseg {plan.version}, preset {plan.planner}"))
    return facts


def _by(numbers: tuple[Any, ...], form: str) -> str:
    return " x ".join(format(number, form) for number in numbers)
