"""`evaluate`: label maps against references, per case and label and in summary; also the scoring that `train` validates with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg import cases, evaluation, files, images, workers
from autoseg.cases import Case
from autoseg.errors import (
    AutosegError,
    FaultyCases,
    MissingPath,
    UsageError,
)
from autoseg.labels import Labels, make_labels
from autoseg.pipeline.records import RECORD, csv_text, read_record, sidecar
from autoseg.pipeline.reporter import LoggingReporter, Reporter, counter


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    output: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare label maps with references of equal name, case by case.

    Parameters
    ----------
    predictions, references : two files, or two folders
    output : where to write the summary; beside it a CSV table of the same name
    labels : a JSON file with the label scheme (plan.json, dataset.json of a workspace or data set, prediction.json); by default
        the one beside the predictions, else the values that occur

    Returns
    -------
    the summary, as in summary.json

    Raises
    ------
    MissingPath : a file or folder is not there, or no two names agree
    FaultyCases : pairs that cannot be compared, all of them
    """
    reporter = reporter or LoggingReporter()
    if output is not None and (Path(output).suffix != ".json" or Path(output).is_dir()):
        raise UsageError("the summary is a JSON file", file=output, expected="a name that ends in .json; a CSV table goes beside it",
                         fix="-o summary.json")  # fmt: skip
    pairs, notes = _pairs(Path(predictions), Path(references))
    for note in notes:
        reporter.say(f"warning: {note}")
    scheme = _label_scheme(Path(predictions), None if labels is None else Path(labels), pairs)
    known = [Case(name=name, images=(predicted,), label=reference) for name, (predicted, reference) in pairs.items()]
    summary = score({name: predicted for name, (predicted, _) in pairs.items()}, known, scheme, parallel=workers, reporter=reporter)
    summary = {**summary, "notes": list(notes)}
    if output is not None:
        write_summary(Path(output), summary)
    return summary


def score(
    predictions: Mapping[str, Path], references: Sequence[Case], labels: Labels, *, parallel: int | None = None, reporter: Reporter
) -> dict[str, Any]:
    """The summary of predicted label maps, by case name, against the references of those cases.

    Raises
    ------
    FaultyCases : pairs that cannot be read or lie on different grids, all of them
    """
    scores: dict[str, Any] = {}
    faults: list[AutosegError] = []
    outcomes = workers.run_cases(
        score_pair,
        [(predictions[case.name], case, labels) for case in references],
        names=[case.name for case in references],
        stage="evaluation",
        workers=parallel,
        progress=counter(reporter, "evaluate"),
    )
    for outcome in outcomes:
        if outcome.failure is None:
            scores[outcome.name] = outcome.value
        else:
            faults.append(outcome.failure.as_error())
    if faults:
        raise FaultyCases(faults, fix="mend these files, or take them out of the folder")
    return evaluation.summarise(scores, labels)


def mean_dice(summary: Mapping[str, Any]) -> float | None:
    """The one figure of a summary: the mean over labels of their mean Dice; `None` where no label occurs."""
    value = summary["mean"]["dice"]["mean"]
    return None if value is None else float(value)


def dice_text(summary: Mapping[str, Any]) -> str:
    """The mean Dice for a sentence."""
    value = mean_dice(summary)
    return "none (no label occurs)" if value is None else f"{value:.4f}"


def table(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal: one line per label."""
    width = max(len("label"), *(len(name) for name in summary["labels"]))
    lines = [f"{'label':<{width}}   Dice    std    IoU    cases  absent  missed  false positive"]
    for name, row in summary["labels"].items():
        figures = [_figure(row["dice"]["mean"]), _figure(row["dice"]["std"]), _figure(row["iou"]["mean"])]
        counts = f"{row['dice']['n']:5d}  {row['absent']:6d}  {row['missed']:6d}  {row['false_positive']:14d}"
        lines.append(f"{name:<{width}}  {'  '.join(figures)}    {counts}")
    mean = summary["mean"]
    figures = [_figure(mean["dice"]["mean"]), _figure(mean["dice"]["std"]), _figure(mean["iou"]["mean"])]
    lines.append(f"{'mean':<{width}}  {'  '.join(figures)}    {len(summary['cases']):5d}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def score_pair(task: tuple[Path, Case, Labels]) -> Any:
    """Read one prediction and its reference and score them; the work of one worker."""
    file, case, labels = task
    predicted = images.read_label(file)
    reference = cases.load_classes(case, labels, like=predicted)
    return evaluation.score_case(labels.encode(predicted.array[0]), reference, labels, spacing=predicted.spacing, annotated=case.annotated)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """summary.json, and a table of the same name as CSV beside it."""
    files.write_json(path, summary)
    rows = evaluation.case_rows(summary)
    if rows:
        files.write_text(path.with_suffix(".csv"), csv_text(rows))


def _pairs(predictions: Path, references: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    for path in (predictions, references):
        if not path.exists():
            raise MissingPath("no such file or folder", file=path, fix="check the spelling of the path")
    if predictions.is_file() and references.is_file():
        return {_stem(predictions): (predictions, references)}, []
    if predictions.is_file() or references.is_file():
        raise UsageError("compare two files or two folders", found=f"{predictions} and {references}", fix="give two of a kind")
    ours, theirs = _by_stem(predictions), _by_stem(references)
    common = [name for name in ours if name in theirs]
    if not common:
        raise MissingPath(
            "no prediction has a reference of the same name",
            file=predictions,
            found=", ".join(list(ours)[:3]) or "no image",
            expected="names such as " + (", ".join(list(theirs)[:3]) or f"(no image in {references})"),
            fix="give the files of a pair the same name",
        )
    notes = []
    if len(common) < len(ours):
        notes.append(f"{len(ours) - len(common)} predictions without a reference are left out: {_some(ours, theirs)}")
    if len(common) < len(theirs):
        notes.append(f"{len(theirs) - len(common)} references without a prediction are left out: {_some(theirs, ours)}")
    return {name: (ours[name], theirs[name]) for name in sorted(common)}, notes


def _some(names: Mapping[str, Path], known: Mapping[str, Path]) -> str:
    missing = [name for name in names if name not in known]
    return ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")


def _by_stem(folder: Path) -> dict[str, Path]:
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and images.suffix_of(path) and not path.name.startswith(".")]
    return {_stem(path): path for path in found if not _stem(path).endswith(("_probabilities", "_uncertainty"))}


def _stem(path: Path) -> str:
    return path.name.removesuffix(images.suffix_of(path))


def _label_scheme(predictions: Path, given: Path | None, pairs: Mapping[str, tuple[Path, Path]]) -> Labels:
    if given is not None:
        value = files.read_json(given)
        return Labels.from_json(value) if isinstance(value, dict) and "pairs" in value else cases.find(given).labels
    for beside in (predictions / RECORD,) if predictions.is_dir() else (sidecar(predictions), predictions.parent / RECORD):
        known = read_record(beside)
        if known is not None:
            return Labels.from_json(known)
    values: set[int] = set()
    for pair in pairs.values():
        for path in pair:
            values.update(np.unique(images.read_label(path).array).tolist())
    return make_labels({"background": 0} | {f"label {value}": value for value in sorted(values) if value != 0})
