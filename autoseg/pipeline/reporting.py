"""`report`: what a workspace holds, or what a data set is like, as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import cases, checking, evaluation, files, images, pictures, prediction, report
from autoseg.cases import Case, Dataset
from autoseg.checking import Fault
from autoseg.colours import colour_of
from autoseg.errors import AutosegError, UsageError
from autoseg.fingerprint import Fingerprint, read_fingerprint
from autoseg.pipeline import evaluating, preparing
from autoseg.pipeline.evaluating import dice_text, mean_dice
from autoseg.pipeline.planned import read_dataset, read_plan, read_splits
from autoseg.pipeline.records import read_check, read_rules
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.pipeline.reporting_confidence import confidence_sections
from autoseg.pipeline.validating import out_of_fold, out_of_fold_scores, shown_configuration, validated_folds
from autoseg.planning.configuration import Configuration, Plan
from autoseg.quantities import format_bytes, format_duration, format_shape, format_spacing
from autoseg.report import Drawing, Grid, Items, Page, Section, Text, drawings
from autoseg.tables import Table
from autoseg.training.history import EpochRow, read_history
from autoseg.training.settings import read_settings
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace

_MADE_BY = f"Made by autoseg {__version__}. For research use only; not a medical device. This page fetches nothing and runs no script."
_NETWORKS = {"unet": "a U-Net", "residual_unet": "a U-Net with a residual encoder"}


def write_report(
    source: Path | str,
    *,
    output: Path | str | None = None,
    configuration: str | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Write one HTML page about a workspace, trained or not, or about a data set before it is planned.

    Parameters
    ----------
    source : a workspace, or a data set: then it is checked first
    output : the page; by default report.html in the workspace, NAME-report.html for a data set
    configuration : whose out-of-fold results are shown; by default the selected one, else the one with the most cases
    workers : processes that check a data set

    Returns
    -------
    where the page is

    Raises
    ------
    MissingPath : nothing there
    UsageError : the output is no .html file, or a configuration without results
    """
    reporter = reporter or LoggingReporter()
    workspace = Workspace(root=Path(source))
    planned = workspace.plan.exists()
    target = Path(output) if output is not None else workspace.report if planned else Path(f"{workspace.root.resolve().stem}-report.html")
    if target.suffix != ".html" or target.is_dir():
        raise UsageError("the report is an HTML file", file=target, expected="a name that ends in .html", fix="-o report.html")
    if planned:
        page = _of_workspace(workspace, configuration, reporter)
    else:
        checked = preparing.check(workspace.root, workers=workers, reporter=reporter)
        page = _of_dataset(checked.dataset, checked.faults)
    text = report.render(page)
    files.write_text(target, text)
    reporter.say(f"report: {target} ({format_bytes(len(text))}); open it in a browser")
    return target


def _of_dataset(dataset: Dataset, faults: Sequence[Fault]) -> Page:
    errors = sum(fault.severity == "error" for fault in faults)
    verdict = f"{errors} faults to correct before training" if errors else "nothing stands in the way of training"
    return Page(
        title=f"{dataset.name}: data set",
        sentence=f"{len(dataset.cases)} cases were read and checked: {verdict}.",
        cards=[(str(len(dataset.cases)), "cases"), (str(len(dataset.channels)), "channels"), (str(len(dataset.labels.scored)), "labels")],
        sections=[Section(name="data", title="Data", blocks=[_declared(dataset), *_faults(faults, dataset.notes)])],
        made_by=_MADE_BY,
    )


def _of_workspace(workspace: Workspace, asked: str | None, reporter: Reporter) -> Page:
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    folds = _validated(workspace, plan)
    shown = shown_configuration(workspace, folds, asked)
    summary = None if shown is None else evaluation.summarise(out_of_fold_scores(folds[shown]), plan.labels)
    results: list[Section] = []
    if summary is None or shown is None:
        sentence = f"Planned for {len(dataset.cases)} cases; no fold has been validated yet."
    else:
        sentence = _sentence(summary, shown, len(dataset.cases))
        results = [
            Section(name="scores", title="Scores by label", blocks=_scores(summary, plan)),
            Section(name="cases", title="Worst, median and best cases", blocks=_gallery(folds[shown], summary, dataset, plan, reporter)),
            Section(name="configurations", title="Configurations compared", blocks=_compared(workspace, folds, plan)),
            *confidence_sections(workspace, shown, folds, plan),
        ]
    training = _training(workspace, plan)
    sections = [
        *results,
        *([Section(name="training", title="Training", blocks=training)] if training else []),
        Section(name="data", title="Data", blocks=_data(workspace, dataset)),
        Section(name="plan", title="Plan", blocks=[Grid(table=preparing.describe_plan(plan))]),
        Section(name="methods", title="Methods and how to reproduce", blocks=_methods(workspace, plan, dataset, summary, shown)),
    ]
    cards = [(str(len(dataset.cases)), "cases"), (str(len(plan.labels.scored)), "labels")]
    if summary is not None and shown is not None:
        means = {name: dice.mean for name, dice in evaluation.statistics_of_labels(summary).items()}
        weakest = min((mean, name) for name, mean in means.items() if mean is not None)
        cards = [(dice_text(summary), "mean Dice out of fold"), (f"{weakest[0]:.3f}", f"Dice of the weakest label, {weakest[1]}"),
                 (f"{len(evaluation.scores_in(summary))} of {len(dataset.cases)}", "cases validated"), (str(len(folds[shown])), "folds"),
                 (shown, "configuration")]  # fmt: skip
    return Page(title=f"{plan.name}: segmentation model", sentence=sentence, cards=cards, sections=sections, made_by=_MADE_BY)


def _validated(workspace: Workspace, plan: Plan) -> dict[str, list[Path]]:
    """Return the validated folds of every configuration that has some; with the selected pair of configurations, if there is one."""
    folds = validated_folds(workspace, plan)
    selected = prediction.read_selection(workspace).selected
    if selected is None or selected in folds or not Run(root=(pair := workspace.configuration(selected))).summary.exists():
        return folds
    return folds | {selected: [pair]}


def _figures(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Grid:
    return Grid(table=Table(text="", columns=tuple(columns), rows=tuple(tuple(row) for row in rows), figures=True))


def _sentence(summary: dict[str, Any], shown: str, cases: int) -> str:
    interval, scored = _interval(summary), len(evaluation.scores_in(summary))
    between = f" (95 % interval {interval})" if interval else ""
    part = "all" if scored == cases else f"{scored} of"
    return (f"{shown} reaches a mean Dice of {dice_text(summary)}{between} on {part} {cases} cases, each predicted by a network that "
            "was not trained on it.")  # fmt: skip


def _interval(summary: dict[str, Any]) -> str:
    interval = evaluation.statistics_of_mean(summary).ci95
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _scores(summary: dict[str, Any], plan: Plan) -> list[Any]:
    rows = []
    scores, statistics = evaluation.scores_in(summary), evaluation.statistics_of_labels(summary)
    for index, (name, members) in enumerate(plan.labels.scored):
        values = [dice for labels in scores.values() if (dice := labels.get(name, {}).get("dice")) is not None]
        mean = statistics[name].mean
        if mean is not None:
            colour = colour_of(members[0] if members else index + 1)
            rows.append((name, colour, values, mean, statistics[name].ci95))
    caption = "Each dot is a case; the line is the mean of the label, the bar its 95 % bootstrap interval."
    return [
        Drawing(svg=drawings.strips(rows), caption=caption),
        Grid(table=evaluating.table(summary)),
        Items(items=summary["rules"], head="How to read the table", folded=True),
    ]


def _gallery(folds: Sequence[Path], summary: dict[str, Any], dataset: Dataset, plan: Plan, reporter: Reporter) -> list[Any]:
    known = {case.name: case for case in dataset.cases}
    predictions = out_of_fold(folds)
    wanted = report.remarkable_cases(summary)
    blocks: list[Any] = [Text(text="Prediction filled, reference as a line; the patient's right is on the left of the picture.")]
    for index, (name, reasons) in enumerate(wanted.items()):
        reporter.progress("pictures", index, len(wanted))
        try:
            blocks.append(_pictured(known[name], predictions[name], reasons, plan))
        except (AutosegError, KeyError) as error:
            why = error.summary if isinstance(error, AutosegError) else "its prediction or its files are no longer there"
            blocks.append(Text(text=f"{name} ({', '.join(reasons)}) cannot be shown: {why}."))
    reporter.progress("pictures", len(wanted), len(wanted))
    return blocks


def _pictured(case: Case, prediction: Path, reasons: Sequence[str], plan: Plan) -> report.CasePictures:
    image = cases.load_image(case, channels=len(plan.channels))
    predicted = images.read_label(prediction, like=image)
    overlay = pictures.Overlay(
        title=case.name, image=image.array, prediction=plan.labels.encode(predicted.array[0]), spacing=image.spacing,
        reference=cases.load_classes(case, plan.labels, like=image))  # fmt: skip
    return report.CasePictures(
        case=case.name, reasons=reasons, panels=pictures.panels(overlay, plan.labels), legend=pictures.legend(overlay, plan.labels)
    )


def _compared(workspace: Workspace, folds: dict[str, list[Path]], plan: Plan) -> list[Any]:
    rows = []
    for name, found in folds.items():
        summary = evaluation.summarise(out_of_fold_scores(found), plan.labels)
        rows.append((name, str(len(found)), str(len(evaluation.scores_in(summary))), dice_text(summary), _interval(summary)))
    columns = ("configuration", "folds", "cases", "mean Dice", "95 % interval")
    blocks: list[Any] = [_figures(columns, tuple(rows))]
    if workspace.selection.exists():
        blocks.append(Items(items=prediction.read_selection(workspace).reasons, head="Choice"))
    if workspace.postprocessing.exists():
        found_rules = [f"{name}: {text}" for name, rules in read_rules(workspace).items() if name in folds for text in rules.sentences()]
        blocks.append(Items(items=found_rules or ["no rule improves the out-of-fold results"], head="Post-processing"))
    return blocks


def _training(workspace: Workspace, plan: Plan) -> list[Any]:
    """Return the curves of all folds and their figures; nothing where no epoch is finished."""
    histories = {
        f"{c.name} {path.parent.name}": read_history(Run(root=path.parent))
        for c in plan.configurations
        for path in sorted(workspace.configuration(c.name).glob("fold_*/history.jsonl"))
    }
    histories = {name: rows for name, rows in histories.items() if rows}
    if not histories:
        return []
    rows = []
    for name, history in histories.items():
        last, best = history[-1], max((row.validation_dice for row in history if row.validation_dice is not None), default=None)
        waiting = float(np.mean([row.data_wait for row in history]))
        rows.append((name, str(last.epoch), str(last.step), format_duration(last.elapsed), "-" if best is None else f"{best:.3f}",
                     f"{last.seconds_per_step:.3g} s", f"{100 * waiting:.0f} %", format_bytes(last.memory)))  # fmt: skip
    columns = ("fold", "epochs", "steps", "time", "best Dice while training", "per step", "waiting for data", "memory")

    def drawn(figure: Callable[[EpochRow], Any], title: str, *, from_zero: bool = False) -> Drawing:
        runs = {}
        for name, history in histories.items():
            if points := [(row.elapsed / 60, figure(row)) for row in history if figure(row) is not None]:
                runs[name] = points
        return Drawing(svg=drawings.curves(runs, title=title, unit="minutes", from_zero=from_zero), caption=f"{title}, all folds.")

    return [
        drawn(lambda row: row.validation_dice, "Dice on validation cases", from_zero=True),
        drawn(lambda row: row.loss, "Training loss"),
        _figures(columns, tuple(rows)),
    ]


def _data(workspace: Workspace, dataset: Dataset) -> list[Any]:
    blocks: list[Any] = [_declared(dataset)]
    if workspace.fingerprint.exists():
        blocks += _measured(read_fingerprint(workspace.fingerprint))
    if workspace.check.exists():
        known = read_check(workspace.check)
        blocks += _faults(known.faults, known.notes)
    if workspace.splits.exists():
        split = read_splits(workspace, dataset)
        rows = [(str(number), *(str(len(names)) for names in fold.values())) for number, fold in enumerate(split)]  # train, validation
        columns = ("fold", "cases to train on", "held out")
        blocks.append(_figures(columns, tuple(rows)))
    return blocks


def _declared(dataset: Dataset) -> Items:
    groups = len({case.group for case in dataset.cases if case.group is not None})
    labels = dataset.labels
    return Items(
        items=[
            f"{len(dataset.cases)} cases in layout '{dataset.recipe}'" + (f", of {groups} patients or sites" if groups else ""),
            "channels: " + ", ".join(f"{channel.name} ({channel.modality})" for channel in dataset.channels),
            "labels: " + ", ".join(f"{label.name}={label.value}" for label in labels.foreground),
            *([f"regions: {', '.join(region.name for region in labels.regions)}"] if labels.regions else []),
            *([f"left and right: {', '.join(' / '.join(pair) for pair in labels.pairs)}"] if labels.pairs else []),
        ]
    )


def _measured(facts: Fingerprint) -> list[Grid]:
    """Return tables of spacings and sizes, of intensities, and of label volumes."""
    spacings, shapes = (np.array([getattr(case, what) for case in facts.cases], dtype=float) for what in ("spacing", "shape"))
    sizes = [
        _spread("spacing in mm (z, y, x)", spacings, ".3g"),
        _spread("size in voxels", shapes, ".0f"),
        _spread("field of view in mm", spacings * shapes, ".0f"),
    ]
    intensities = [
        (channel.name, *(f"{value:.4g}" for value in (i.mean, i.std, i.percentile_00_5, i.percentile_99_5)))
        for channel, i in zip(facts.channels, facts.intensities, strict=True)
    ]
    volumes = []
    for name in facts.label_voxels:
        found = [case.label_voxels.get(name, 0) * float(np.prod(case.spacing)) / 1000 for case in facts.cases]
        if there := [[volume] for volume in found if volume > 0]:
            first, *others = _spread(name, np.array(there), ".3g")
            volumes.append((first, f"{len(there)} of {len(found)}", *others))
    extremes = ("smallest", "median", "largest")
    return [
        _figures(("", *extremes), sizes),
        _figures(("channel, inside the labels", "mean", "std", "0.5 %", "99.5 %"), intensities),
        _figures(("volume in ml", "cases with it", *extremes), volumes),
    ]


def _spread(name: str, values: NDArray[np.float64], digits: str) -> tuple[str, ...]:
    """Return a name and the smallest, median and largest value of each column."""
    return (name, *(" x ".join(f"{v:{digits}}" for v in row) for row in (values.min(0), np.median(values, axis=0), values.max(0))))


def _faults(faults: Sequence[Fault], notes: Sequence[str]) -> list[Any]:
    blocks: list[Any] = [Grid(table=checking.table(faults))] if faults else [Text(text="No fault was found in the data.")]
    return blocks + ([Items(items=notes, head="Assumptions")] if notes else [])


def _methods(workspace: Workspace, plan: Plan, dataset: Dataset, summary: dict[str, Any] | None, shown: str | None) -> list[Any]:
    settings = read_settings(plan.settings or {})
    parts = prediction.parts_of(shown) if shown else (plan.configurations[-1].name,)
    averaged = " The probabilities of these configurations were averaged." if len(parts) > 1 else ""
    epochs = f"{settings.epochs} epochs of {settings.steps_per_epoch} steps"
    folds = len(read_splits(workspace, dataset)) if workspace.splits.exists() else 0
    score = "" if summary is None or mean_dice(summary) is None else f" The mean Dice out of fold was {dice_text(summary)}."
    paragraph = (
        f"Segmentation models were trained with autoseg {__version__} on {len(dataset.cases)} scans "
        f"({', '.join(dict.fromkeys(channel.modality for channel in plan.channels))}; labels: "
        f"{', '.join(name for name, _ in plan.labels.scored)}). {'. '.join(_in_words(plan.configuration(part)) for part in parts)}, "
        f"planned for {f'{format_duration(plan.time_budget)} a fold' if plan.time_budget else epochs}, with Dice and cross-entropy losses, "
        f"deep supervision and data augmentation" + (f", in a cross-validation of {folds} folds." if folds > 1 else ".")
    )
    written = [path for path in (workspace.plan, workspace.dataset, workspace.fingerprint, workspace.splits) if path.exists()]
    length = f" --time-budget {plan.time_budget:g}s" if plan.time_budget else ""
    root = workspace.root.name
    commands = [
        f"autoseg plan DATASET -o {root} --planner {plan.planner}{length}",
        *(f"autoseg train {root} --configuration {part}" for part in parts),
        f"autoseg select {root}",
        f"autoseg predict {root} SCANS -o PREDICTIONS",
    ]
    machine = f"planned for {plan.device.get('name', plan.device.get('device'))}"
    return [
        Text(text=paragraph + averaged + score),
        Text(text="\n".join(commands), code=True),
        Items(items=[machine, *(f"{path.name}: sha256 {files.hash_file(path)}" for path in written)], head="Machine and files"),
    ]


def _in_words(c: Configuration) -> str:
    """Return how scans are prepared for a configuration, and what its network is."""
    return (
        f"Scans were resampled to {format_spacing(c.spacing)} and normalised by {' and '.join(dict.fromkeys(c.normalization))}. "
        f"The configuration {c.name} is {_NETWORKS.get(c.network, c.network)} with {c.stages} resolutions, {c.features_per_stage[0]} to "
        f"{c.features_per_stage[-1]} features and {c.norm} normalisation, trained on patches of {format_shape(c.patch_size)} voxels in "
        f"batches of {c.batch_size}"
    )
