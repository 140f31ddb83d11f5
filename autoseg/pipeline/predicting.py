"""`predict` and `evaluate`: from a trained model and new scans to label maps on their own grids, and to scores."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import __version__, cases, evaluation, files, images, postprocessing, prediction, workers
from autoseg.cases import Case
from autoseg.errors import AutosegError, FaultyCases, InputError, MissingPath, SomeCasesFailed, UsageError
from autoseg.images import Image
from autoseg.labels import Labels, make_labels
from autoseg.pipeline.listener import Listener, Logged, counter
from autoseg.prediction import Model
from autoseg.workspace import Workspace

RECORD = "prediction.json"
FAILED = "failed.csv"


def predict(
    model: Path | str | Workspace | Model,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    tta: bool = True,
    probabilities: bool = False,
    postprocess: bool = True,
    device: str = "auto",
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Segment scans; each result lies on exactly the grid of its input, with the label values of the training set.

    Parameters
    ----------
    model : a workspace, a model file, or an opened model
    inputs : files, or one folder; several channels by the suffixes _0000, _0001, ...
    output : a file where there is one input and the name has an image suffix; else a folder
    fold : one fold of the cross-validation; by default the mean of all that are trained

    Returns
    -------
    the record that is also written beside the results: per case the files, seconds and warnings

    Raises
    ------
    SomeCasesFailed : finished, and failed.csv beside the results names case, stage and reason of the rest
    ModelError, MissingPath, MissingChannel : nothing was done
    """
    listener = listener or Logged()
    opened = model if isinstance(model, Model) else load(model, configuration=configuration, fold=fold, device=device).model
    found = cases.find_inputs([Path(path) for path in inputs], channels=len(opened.plan.channels))
    targets, folder = _targets(found, Path(output))
    rules = opened.rules if postprocess else None
    listener.say(f"{len(found)} to segment with {opened.describe()}")
    record_file = folder / RECORD
    settings = {"model": opened.identity, "tta": tta, "probabilities": probabilities, "postprocessing": rules is not None}
    earlier = {} if overwrite else _earlier(record_file, settings)
    done: dict[str, dict[str, Any]] = {}
    failures: list[tuple[str, str, AutosegError]] = []
    for index, case in enumerate(found):
        listener.progress("predict", index, len(found))
        key = _state_of(case.images)
        if targets[case.name].exists() and earlier.get(case.name, {}).get("input") == key:
            done[case.name] = earlier[case.name]
            continue
        stage = "read"
        try:
            started = time.perf_counter()
            image = cases.load_image(case, channels=len(opened.plan.channels))
            read = time.perf_counter() - started
            stage = "segment"
            result = prediction.segment(opened, image, tta=tta, probabilities=probabilities)
            classes = result.classes if rules is None else postprocessing.apply(result.classes, rules, opened.plan.labels, image.spacing)
            stage = "write"
            started = time.perf_counter()
            images.write_label(targets[case.name], opened.plan.labels.decode(classes), like=image)
            if result.probabilities is not None:
                images.write_image(_probabilities_file(targets[case.name]), result.probabilities, affine=image.affine, like=image)
            seconds = {"read": read, **result.seconds, "write": time.perf_counter() - started}
        except AutosegError as error:
            failures.append((case.name, stage, error))
            listener.say(f"warning: {case.name} failed at {stage}: {error.summary}")
            continue
        warnings = [*image.notes, *result.warnings]
        for warning in warnings:
            listener.say(f"warning: {case.name}: {warning}")
        done[case.name] = {
            "file": str(targets[case.name]),
            "input": key,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "warnings": warnings,
            "voxels": _volumes(classes, opened.plan.labels),
        }
        listener.progress("predict", index + 1, len(found))
    record = {"version": __version__, **settings, **opened.plan.labels.to_json(), "cases": done}
    files.write_json(record_file, record)
    _write_failures(folder / FAILED, failures)
    if failures:
        raise SomeCasesFailed(
            f"{len(failures)} of {len(found)} cases failed",
            file=folder / FAILED,
            details={name: error.summary for name, _, error in failures[:5]},
            fix="see the reasons there, mend the files, and give the same command again: the others are kept",
        )
    listener.say(f"{len(done)} segmented; results in {targets[found[0].name] if len(found) == 1 else folder}")
    return record


def load(model: Path | str | Workspace, *, configuration: str | None = None, fold: int | None = None, device: str = "auto") -> LoadedModel:
    """Open a trained model and keep it warm.

    Raises
    ------
    ModelError : no such fold, or a damaged model
    """
    path = model.root if isinstance(model, Workspace) else Path(model)
    opened = prediction.open_model(path, configuration=configuration, folds=None if fold is None else (fold,), device=device)
    return LoadedModel(model=replace(opened, rules=_rules(Workspace(root=path), opened.configuration.name)))


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model in memory; every call of `predict` works in this process and reads no file but the scan."""

    model: Model

    def predict(
        self, scan: Any, affine: NDArray[Any] | None = None, *, tta: bool = True, postprocess: bool = True
    ) -> NDArray[np.integer[Any]]:
        """The label values of one scan, on the scan's own grid and in its own axis order.

        Parameters
        ----------
        scan : a file (or one file per channel), a nibabel image, or an array `(x, y, z)` or `(x, y, z, c)` as nibabel gives it
        affine : voxel-to-world, 4 x 4, of an array; not for the others

        Returns
        -------
        an array `(x, y, z)` of label values, indexed as nibabel indexes the scan

        Raises
        ------
        UnreadableFile, MissingChannel, GeometryError : the scan is at fault
        """
        image = _scan(scan, affine, len(self.model.plan.channels))
        classes = prediction.segment(self.model, image, tta=tta).classes
        if postprocess and self.model.rules is not None:
            classes = postprocessing.apply(classes, self.model.rules, self.model.plan.labels, image.spacing)
        return images.to_memory(self.model.plan.labels.decode(classes), like=image)


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    output: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int | None = None,
    listener: Listener | None = None,
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
    listener = listener or Logged()
    pairs, notes = _pairs(Path(predictions), Path(references))
    for note in notes:
        listener.say(f"warning: {note}")
    scheme = _label_scheme(Path(predictions), None if labels is None else Path(labels), pairs)
    known = [Case(name=name, images=(predicted,), label=reference) for name, (predicted, reference) in pairs.items()]
    summary = score({name: predicted for name, (predicted, _) in pairs.items()}, known, scheme, parallel=workers, listener=listener)
    summary = {**summary, "notes": list(notes)}
    if output is not None:
        write_summary(Path(output), summary)
    return summary


def score(
    predictions: Mapping[str, Path], references: Sequence[Case], labels: Labels, *, parallel: int | None = None, listener: Listener
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
        progress=counter(listener, "evaluate"),
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
        files.write_text(path.with_suffix(".csv"), _csv(rows))


def _rules(workspace: Workspace, configuration: str) -> postprocessing.Rules | None:
    """The post-processing rules that were chosen for a configuration; none where nothing was chosen yet."""
    if not workspace.postprocessing.exists():
        return None
    chosen = files.read_json(workspace.postprocessing).get(configuration)
    return None if chosen is None else postprocessing.Rules.from_json(chosen)


def _scan(scan: Any, affine: NDArray[Any] | None, channels: int) -> Image:
    if isinstance(scan, (str, Path)):
        return images.read_channels([Path(scan)], channels=channels)
    if isinstance(scan, (list, tuple)):
        return images.read_channels([Path(path) for path in scan], channels=channels)
    if affine is None and hasattr(scan, "affine"):
        scan, affine = np.asarray(scan.dataobj), scan.affine
    if affine is None:
        raise UsageError("an array needs its affine", expected="predict(array, affine)", fix="give the 4 x 4 voxel-to-world matrix")
    return images.from_memory(np.asarray(scan), np.asarray(affine), channels=channels)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _targets(found: Sequence[Case], output: Path) -> tuple[dict[str, Path], Path]:
    """Where each result goes, and the folder of the record."""
    suffix = images.suffix_of(output)
    if suffix and len(found) == 1:
        targets, folder = {found[0].name: output}, output.parent
    elif suffix:
        raise UsageError(
            "several inputs cannot go into one file",
            file=output,
            found=f"{len(found)} inputs",
            expected="a folder",
            fix="give a folder with -o",
        )
    else:
        targets = {case.name: output / f"{case.name}{images.label_suffix(case.images[0])}" for case in found}
        folder = output
    taken = {path.resolve() for case in found for path in case.images}
    clash = [str(path) for path in targets.values() if path.resolve() in taken]
    if clash:
        raise UsageError("a result would replace its own input", file=clash[0], fix="give another place with -o")
    if folder.exists() and not folder.is_dir():
        raise UsageError("the output folder is a file", file=folder, fix="give another place with -o")
    return targets, folder


def _probabilities_file(target: Path) -> Path:
    suffix = images.suffix_of(target)
    stem = target.name.removesuffix(suffix)
    return target.with_name(f"{stem}_probabilities.nii.gz")


def _earlier(record: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Cases that the same command has finished before."""
    if not record.exists():
        return {}
    try:
        known = files.read_json(record)
    except InputError:
        return {}
    same = all(known.get(key) == value for key, value in settings.items())
    return dict(known.get("cases", {})) if same else {}


def _state_of(paths: Iterable[Path]) -> list[str]:
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]


def _volumes(classes: NDArray[Any], labels: Labels) -> dict[str, int]:
    counts = np.bincount(classes.reshape(-1), minlength=len(labels.labels))
    return {label.name: int(counts[index + 1]) for index, label in enumerate(labels.foreground)}


def _write_failures(path: Path, failures: Sequence[tuple[str, str, AutosegError]]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [{"case": name, "stage": stage, "reason": error.summary, "detail": str(error)} for name, stage, error in failures]
    files.write_text(path, _csv(rows))


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
    return {_stem(path): path for path in found if not _stem(path).endswith("_probabilities")}


def _stem(path: Path) -> str:
    return path.name.removesuffix(images.suffix_of(path))


def _label_scheme(predictions: Path, given: Path | None, pairs: Mapping[str, tuple[Path, Path]]) -> Labels:
    beside = (predictions if predictions.is_dir() else predictions.parent) / RECORD
    if given is not None:
        value = files.read_json(given)
        return Labels.from_json(value) if "pairs" in value else cases.find(given).labels
    if beside.exists():
        return Labels.from_json(files.read_json(beside))
    values: set[int] = set()
    for pair in pairs.values():
        for path in pair:
            values.update(np.unique(images.read_label(path).array).tolist())
    return make_labels({"background": 0} | {f"label {value}": value for value in sorted(values) if value != 0})
