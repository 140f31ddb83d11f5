"""`evaluate`: label maps against references, per case and label and in summary; also the scoring that `train` validates with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autoseg import cases, evaluation, files, images, workers
from autoseg.cases import Case
from autoseg.checksums import with_checksum
from autoseg.errors import AutosegError, FaultyCases, GridMismatch, LabelError, MissingPath, UsageError, naming
from autoseg.images.label_values import content_of
from autoseg.labels import Labels, make_labels
from autoseg.metrics import ALL, METRICS, QUICK
from autoseg.pipeline import journal
from autoseg.pipeline.records import RECORD, csv_text, read_record, sidecar
from autoseg.pipeline.reporter import LoggingReporter, Reporter, counter
from autoseg.planning.configuration import Plan
from autoseg.quantities import parse_length
from autoseg.schema import nearest
from autoseg.sharing import SUFFIX, open_model_file
from autoseg.sharing.stored import read_json
from autoseg.tables import Table

_MOST_LABELS = 1000  # more different values than any atlas has structures


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    output: Path | str | None = None,
    labels: Path | str | None = None,
    metrics: str | Sequence[str] | None = None,
    tolerance: float | Mapping[str, float] = evaluation.TOLERANCE,
    by: str | None = None,
    resample: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare label maps with references of equal name, case by case.

    Parameters
    ----------
    predictions, references : two files, or two folders
    output : where to write the summary; a CSV table of the same name, one row per case and label, is written next to it
    labels : a file with the label scheme (plan.json, dataset.json of a workspace or data set, prediction.json, a model file), or a data
        set; by default the one next to the predictions, else the values that occur
    metrics : names from `autoseg.metrics.METRICS`, "quick" or "all"; by default all, unless the largest case is so large that they
        would take more than about a second, then the quick ones
    tolerance : of the NSD and the boundary IoU, in mm; one for all labels, or one per label (the others have 2 mm)
    by : also summarise groups of cases: "group" for those of the data set that `labels` names, else a regular expression whose
        first group, in a case's name, is the patient, site or scanner
    resample : compare a prediction on another grid than its reference by the nearest voxel at each voxel of the reference,
        instead of refusing it

    Returns
    -------
    the summary, as in summary.json; with `by` also `"groups": {NAME: {"cases", "labels", "mean"}}`

    Raises
    ------
    MissingPath : a file or folder is not there, or no two names agree
    UsageError : an unknown metric, or a tolerance for an unknown label
    FaultyCases : pairs that cannot be compared, all of them
    """
    reporter = reporter or LoggingReporter()
    if output is not None and (Path(output).suffix != ".json" or Path(output).is_dir()):
        raise UsageError("the summary is a JSON file", file=output, expected="a name that ends in .json; a CSV table is written next to it",
                         fix="-o summary.json")  # fmt: skip
    if output is not None:
        files.require_writable(Path(output).parent)
    pairs, notes = _pairs(Path(predictions), Path(references))
    for note in notes:
        reporter.say(f"warning: {note}")
    groups = {} if by is None else _groups(by, list(pairs), None if labels is None else Path(labels))
    scheme = _label_scheme(Path(predictions), None if labels is None else Path(labels), pairs)
    known = [Case(name=name, images=(predicted,), label=reference) for name, (predicted, reference) in pairs.items()]
    if metrics is None:
        voxels = max(math.prod(images.read_header(predicted).shape) for predicted, _ in pairs.values())
        metrics = evaluation.affordable_metrics(voxels, scheme)
        if metrics == QUICK:
            reporter.say(f"large scans: only {', '.join(metrics)} are computed; --metrics all computes surface and lesion metrics as well")
    summary = score(
        {name: predicted for name, (predicted, _) in pairs.items()}, known, scheme, metrics=_metric_names(metrics),
        tolerance=_known_tolerance(tolerance, scheme), resample=resample, parallel=workers, reporter=reporter)  # fmt: skip
    summary = {**summary, "notes": list(notes)}
    if groups:
        summary["groups"] = evaluation.summarise_groups(summary, groups, scheme)
    if output is not None:
        write_summary(Path(output), summary)
    return summary


def score(
    predictions: Mapping[str, Path],
    references: Sequence[Case],
    labels: Labels,
    *,
    metrics: Sequence[str] = QUICK,
    tolerance: float | Mapping[str, float] = evaluation.TOLERANCE,
    resample: bool = False,
    parallel: int | None = None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Return the summary of predicted label maps, by case name, against the references of those cases.

    Raises
    ------
    FaultyCases : pairs that cannot be read or are on different grids, all of them
    """
    scores: dict[str, Any] = {}
    faults: list[AutosegError] = []
    outcomes = workers.map_cases(
        partial(score_pair, labels=labels, metrics=tuple(metrics), tolerance=tolerance, resample=resample),
        [(predictions[case.name], case) for case in references],
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
        raise FaultyCases(faults, fix="fix these files, or take them out of the folder")
    return evaluation.summarise(scores, labels, tolerance=tolerance)


def mean_dice(summary: Mapping[str, Any]) -> float | None:
    """Return the one figure of a summary: the mean over labels of their mean Dice; `None` where no label occurs."""
    return evaluation.statistics_of_mean(summary).mean


def dice_text(summary: Mapping[str, Any]) -> str:
    """Return the mean Dice for a sentence."""
    value = mean_dice(summary)
    return "none (no label occurs)" if value is None else f"{value:.4f}"


def table(summary: Mapping[str, Any]) -> Table:
    """Return the summary to be shown: one row per label, one for their mean, and one for each group of cases."""
    shown = [name for name, metric in METRICS.items() if (metric.shown or metric.named) and name in summary["mean"]]
    heads = [METRICS[name].title for name in shown]
    columns = ("label", heads[0], "std", *heads[1:], "cases", "absent", "missed", "false positive")
    means = {"mean": (summary["mean"], len(summary["cases"]))}
    means |= {f"mean of {group}": (part["mean"], len(part["cases"])) for group, part in summary.get("groups", {}).items()}
    rows = [
        (name, *_figures(row, shown), str(row[shown[0]]["n"]), *(str(row[key]) for key in ("absent", "missed", "false_positive")))
        for name, row in summary["labels"].items()
    ]
    rows += [(name, *_figures(row, shown), str(number), "", "", "") for name, (row, number) in means.items()]
    return Table(text=_aligned(columns, rows), columns=columns, rows=tuple(rows), figures=True)


def _figures(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """Return the mean and standard deviation of the first metric, and the means of the others."""
    first, *others = (_figure(row[metric]["mean"]) for metric in shown)
    return [first, _figure(row[shown[0]]["std"]), *others]


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with the first column set to the left, the others to the right."""
    lines = (columns, *rows)
    widths = [max(5, *map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _metric_names(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics that were asked for; Dice is always one of them, as every sentence needs it."""
    named = {"quick": QUICK, "all": ALL}
    words = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    names = [name for word in words if word for name in named.get(word, (word,))]
    if not names:
        raise UsageError("no metric is named", found=repr(wanted), expected=", ".join((*named, *METRICS)), fix="--metrics quick")
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        known = ", ".join((*named, *METRICS))
        raise UsageError(
            "unknown metric", found=unknown[0], expected=known, fix=f"did you mean '{nearest(unknown[0], (*named, *METRICS))}'?"
        )
    return tuple(name for name in METRICS if name in names or name == "dice")


def _known_tolerance(tolerance: float | Mapping[str, float], labels: Labels) -> float | Mapping[str, float]:
    """Return the tolerance, unless it is impossible or for a label that does not exist."""
    values = tolerance.values() if isinstance(tolerance, Mapping) else (tolerance,)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise UsageError("a tolerance is a distance in mm", found=str(tolerance), expected="0 or more", fix="--tolerance 2")
    known = [name for name, _ in labels.scored]
    for name in tolerance if isinstance(tolerance, Mapping) else ():
        if name not in known:
            raise UsageError(
                "a tolerance for an unknown label", found=name, expected=", ".join(known), fix=f"did you mean '{nearest(name, known)}'?"
            )
    return tolerance


def parse_tolerance(words: Sequence[str]) -> float | dict[str, float]:
    """Return what `--tolerance` says: one distance in mm for all labels, or `LABEL=MM` for some.

    >>> parse_tolerance(["1.5 mm"]), parse_tolerance(["liver=3", "tumour=1"]), parse_tolerance([])
    (1.5, {'liver': 3.0, 'tumour': 1.0}, 2.0)
    """
    pairs = [word.rpartition("=") for given in words for word in given.split(",")]
    try:
        values = {name.strip(): parse_length(number) for name, _, number in pairs}
    except ValueError:
        raise UsageError(
            "a tolerance is a distance in mm", found=", ".join(words), expected="MM, or LABEL=MM", fix="--tolerance 2"
        ) from None
    if len(pairs) > 1 and "" in values:  # also "1,5", which means 1.5
        raise UsageError(
            "one tolerance for all labels, or one per label",
            found=", ".join(words),
            expected="MM, or LABEL=MM",
            fix="--tolerance liver=3, or --tolerance 1.5",
        )
    return values.get("", values) if values else evaluation.TOLERANCE


def score_pair(
    task: tuple[Path, Case], *, labels: Labels, metrics: tuple[str, ...], tolerance: float | Mapping[str, float], resample: bool = False
) -> evaluation.Scores:
    """Read one prediction and its reference and score them; the work of one worker."""
    file, case = task
    if resample and isinstance(case.label, Path):
        onto = images.read_label(case.label)
        predicted = cases.load_label(replace(case, label=file, grid_fix="resample-label"), file, like=onto)
    else:
        predicted = images.read_label(file)
    try:
        reference = cases.load_classes(case, labels, like=predicted)
    except GridMismatch as error:
        rows = {"prediction": error.details.get("image", ""), "reference": error.details.get("label", "")}
        raise GridMismatch(
            "the prediction and its reference are not on the same grid", case=case.name, file=file, found=error.found, details=rows,
            expected=error.expected, fix="give the reference of this very scan, or --resample to compare on the reference's grid",
        ) from None  # fmt: skip
    return evaluation.score_case(
        labels.encode(predicted.array[0]), reference, labels, spacing=predicted.spacing, metrics=metrics, tolerance=tolerance,
        annotated=case.annotated)  # fmt: skip


def _groups(by: str, names: Sequence[str], dataset: Path | None) -> dict[str, str]:
    """Return the group of each case that has one.

    Raises
    ------
    UsageError : the data set has no groups
    SettingsError : a wrong regular expression, or one that matches no case
    """
    if by != "group":
        return cases.groups_by_name(names, by, option="--by")
    known = {case.name: case.group for case in cases.find(dataset).cases} if dataset is not None else {}
    groups = {name: group for name in names if (group := known.get(name)) is not None}
    if not groups:
        raise UsageError(
            "no case has a group",
            found="--by group" + ("" if dataset is None else f", and {dataset} with no group for these cases"),
            expected="a data set with groups, or a regular expression whose first group is in the cases' names",
            fix="--by group --labels DATASET, or --by '^(site[0-9]+)'",
        )
    return groups


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json, and next to it a CSV table of the same name."""
    files.write_json(path, with_checksum(summary))
    rows = evaluation.case_rows(summary)
    if rows:
        files.write_text(path.with_suffix(".csv"), csv_text(rows))


def _pairs(predictions: Path, references: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    for path in (predictions, references):
        if not path.exists():
            raise MissingPath("no such file or folder", file=path, fix="check the spelling of the path")
    if predictions.is_file() and references.is_file():
        return {images.stem_of(predictions): (predictions, references)}, []
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
    by_stem: dict[str, Path] = {}
    for path in found:
        stem = images.stem_of(path)
        if stem in by_stem:
            raise UsageError("two files have one name", file=path, found=f"also {by_stem[stem].name}", expected="one label map per case",
                             fix="take the one away that is not meant")  # fmt: skip
        if not stem.endswith(("_probabilities", "_uncertainty")):
            by_stem[stem] = path
    return by_stem


def _label_scheme(predictions: Path, given: Path | None, pairs: Mapping[str, tuple[Path, Path]]) -> Labels:
    if given is not None and given.suffix == SUFFIX:
        return _labels_of_model(given)
    if given is not None:
        value = files.read_json(given) if given.suffix == ".json" else None  # else a data set: a folder, or a list of cases
        return Labels.from_json(value) if isinstance(value, dict) and "pairs" in value else cases.find(given).labels
    for record in (predictions / RECORD,) if predictions.is_dir() else (sidecar(predictions), predictions.parent / RECORD):
        known = read_record(record)
        if known is not None:
            return Labels.from_json(known)
    if head := journal.read(predictions / journal.FOLDER).head:  # of a prediction that was killed, or is still running
        return Labels.from_json(head)
    values: set[int] = set()
    for pair in pairs.values():
        for path in pair:
            values.update(_values_of_labels(path))
    return make_labels({"background": 0} | {f"label {value}": value for value in sorted(values) if value != 0})


def _labels_of_model(path: Path) -> Labels:
    """Return the labels of a model file."""
    file, plan = open_model_file(path), path / "plan.json"
    with naming(plan):
        return Plan.from_json(read_json(file, plan, fix="export the model again")).labels


def _values_of_labels(path: Path) -> Iterable[int]:
    """Return the values of a label map; raise for a scan or a smeared mask, whose every grey value would be a label to score."""
    content = content_of(images.read_label(path).array)
    if content.kind == "labels" and len(content.counts) <= _MOST_LABELS:
        return content.counts
    raise LabelError(
        "a label map with smeared borders" if content.kind == "smeared" else "this looks like an image, not like a label map",
        file=path,
        found=content.found,
        expected="label maps with a few values each, as predictions and as references",
        fix="give the folder of the label maps, or name their values: --labels dataset.json",
    )
