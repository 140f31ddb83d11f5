"""`predict` and `evaluate`: from a trained model and new scans to label maps on their own grids, and to scores."""

from __future__ import annotations

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import __version__, cases, evaluation, files, images, postprocessing, prediction, workers
from autoseg.cases import Case
from autoseg.errors import (
    AutosegError,
    FaultyCases,
    InputError,
    MissingPath,
    SomeCasesFailed,
    UnreadableFile,
    UsageError,
    short_of_space,
)
from autoseg.images import Image
from autoseg.labels import Labels, make_labels
from autoseg.pipeline.listener import Listener, Logged, counter
from autoseg.prediction import Model
from autoseg.workspace import Workspace

RECORD = "prediction.json"
FAILED = "failed.csv"
MADE_BY = "autoseg predict"
_FAILED_COLUMNS = ("case", "stage", "reason", "detail")


def predict(
    model: Path | str | Workspace | Model,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    tta: bool = True,
    probabilities: bool = False,
    uncertainty: bool = False,
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
    probabilities : also write `NAME_probabilities.nii.gz`, one volume per label or region
    uncertainty : also write `NAME_uncertainty.nii.gz`: 0 where the model is sure, 1 where all labels are equally likely
    overwrite : replace results that are there, also files that no earlier prediction made

    Returns
    -------
    the record that is also written beside the results: per case the files, seconds and warnings

    Raises
    ------
    SomeCasesFailed : finished, and failed.csv beside the results names case, stage and reason of the rest
    ModelError, MissingPath, MissingChannel : nothing was done
    UsageError : a result would replace a scan, or a file that no earlier prediction made; nothing was done
    """
    listener = listener or Logged()
    opened = model if isinstance(model, Model) else load(model, configuration=configuration, fold=fold, device=device).model
    found = cases.find_inputs([Path(path) for path in inputs], channels=len(opened.plan.channels))
    for note in _channels_taken_for_cases(found, opened):
        listener.say(f"warning: {note}")
    rules = opened.rules if postprocess else None
    record = _Record(
        output=Path(output),
        single=_is_one_file(Path(output), found),
        settings={
            "model": opened.identity,
            "tta": tta,
            "probabilities": probabilities,
            "uncertainty": uncertainty,
            "postprocessing": None if rules is None else list(rules.sentences()),
        },
        labels=opened.plan.labels,
    )
    targets = _targets(found, Path(output), single=record.single)
    earlier = record.read()
    if not overwrite:
        _refuse_to_replace(targets, earlier)
    listener.say(f"{len(found)} to segment with {opened.describe()}")
    failures: list[tuple[str, str, AutosegError]] = []
    for index, case in enumerate(found):
        listener.progress("predict", index, len(found))
        target = targets[case.name]
        if not overwrite and _is_current(earlier.get(case.name), case, target, record):
            record.keep(case.name, earlier[case.name])
            continue
        done = _predict_case(opened, case, target, rules=rules, tta=tta, probabilities=probabilities, uncertainty=uncertainty)
        if isinstance(done, _Failed):
            failures.append((case.name, done.stage, done.error))
            listener.say(f"warning: {case.name} failed at {done.stage}: {done.error.summary}")
            continue
        for warning in done["warnings"]:
            listener.say(f"warning: {case.name}: {warning}")
        record.keep(case.name, done)
        record.write()
        listener.progress("predict", index + 1, len(found))
    record.write()
    _report_failures(record.folder / FAILED, failures, len(found))
    listener.say(f"{len(record.cases)} segmented; results in {Path(output)}")
    return record.to_json()


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
    if output is not None and (Path(output).suffix != ".json" or Path(output).is_dir()):
        raise UsageError("the summary is a JSON file", file=output, expected="a name that ends in .json; a CSV table goes beside it",
                         fix="-o summary.json")  # fmt: skip
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


@dataclass(frozen=True)
class _Failed:
    """A case without a result."""

    stage: str
    error: AutosegError


@dataclass(kw_only=True)
class _Record:
    """What was predicted, with what: prediction.json in the output folder, or NAME.json beside a single output file."""

    output: Path
    single: bool
    settings: dict[str, Any]
    labels: Labels
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where failed.csv goes."""
        return self.output.parent if self.single else self.output

    @property
    def file(self) -> Path:
        """Where the record goes."""
        return sidecar(self.output) if self.single else self.output / RECORD

    def read(self) -> dict[str, dict[str, Any]]:
        """Cases recorded before, whatever they were predicted with; none where the file is not a record of ours."""
        known = _record_in(self.file)
        return {} if known is None else dict(known["cases"])

    def keep(self, name: str, facts: dict[str, Any]) -> None:
        """Note one case, with the settings it was predicted with."""
        self.cases[name] = {**facts, "settings": self.settings}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"made_by": MADE_BY, "version": __version__, **self.settings, **self.labels.to_json(), "cases": self.cases}

    def write(self) -> None:
        """After each case, so that the same command goes on after any end; cases of earlier commands stay listed."""
        if self.file.exists() and _record_in(self.file) is None:
            return  # a file of somebody else's that happens to have this name
        files.write_json(self.file, {**self.to_json(), "cases": {**self.read(), **self.cases}})


def _record_in(file: Path) -> dict[str, Any] | None:
    """What `predict` wrote there; None where there is nothing, or something else."""
    try:
        known = files.read_json(file) if file.exists() else None
    except InputError:
        return None
    ours = isinstance(known, dict) and known.get("made_by") == MADE_BY and isinstance(known.get("cases"), dict)
    return known if ours else None


def sidecar(target: Path) -> Path:
    """The JSON file beside a single result.

    >>> sidecar(Path("out/liver.nii.gz")).as_posix()
    'out/liver.json'
    """
    return target.with_name(target.name.removesuffix(images.suffix_of(target)) + ".json")


def _predict_case(
    model: Model,
    case: Case,
    target: Path,
    *,
    rules: postprocessing.Rules | None,
    tta: bool,
    probabilities: bool,
    uncertainty: bool,
) -> dict[str, Any] | _Failed:
    """Read, segment and write one case; what goes wrong with it stays with it."""
    plan, stage = model.plan, "read"
    try:
        started = time.perf_counter()
        key = _state_of(case.images)
        image = cases.load_image(case, channels=len(plan.channels))
        read = time.perf_counter() - started
        stage = "segment"
        result = prediction.segment(model, image, tta=tta, probabilities=probabilities or uncertainty)
        classes = result.classes if rules is None else postprocessing.apply(result.classes, rules, plan.labels, image.spacing)
        stage = "write"
        started = time.perf_counter()
        images.write_label(target, plan.labels.decode(classes), like=image)
        if result.probabilities is not None and probabilities:
            images.write_image(_beside(target, "probabilities"), result.probabilities, affine=image.affine, like=image)
        if result.probabilities is not None and uncertainty:
            doubt = entropy(result.probabilities, regions=bool(plan.labels.regions))
            images.write_image(_beside(target, "uncertainty"), doubt[None], affine=image.affine, like=image)
        seconds = {"read": read, **result.seconds, "write": time.perf_counter() - started}
    except AutosegError as error:
        return _Failed(stage, error)
    except OSError as error:
        told = UnreadableFile("the file cannot be read or written", file=error.filename, found=error.strerror, fix="check path and rights")
        return _Failed(stage, short_of_space(error) or told)
    return {
        "file": str(target),
        "input": key,
        "result": _state_of([target]),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "warnings": [*image.notes, *result.warnings],
        "voxels": _volumes(classes, plan.labels),
    }


def entropy(probabilities: NDArray[np.float32], *, regions: bool) -> NDArray[np.float32]:
    """How unsure: the entropy of the labels over its largest possible value; of regions, that of the most doubtful one.

    Parameters
    ----------
    probabilities : (heads, z, y, x), each in 0..1; over labels they add up to 1

    Returns
    -------
    (z, y, x), 0..1

    >>> entropy(np.array([[0.5, 1.0], [0.5, 0.0]], dtype=np.float32).reshape(2, 1, 1, 2), regions=False).round(3).tolist()
    [[[1.0, 0.0]]]
    """
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    if regions:
        single = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return single.max(axis=0).astype(np.float32)
    return (-(p * np.log(p)).sum(axis=0) / np.log(len(p))).clip(0, 1).astype(np.float32)


def _is_one_file(output: Path, found: Sequence[Case]) -> bool:
    """Whether the output is the name of one label map."""
    suffix = "" if output.is_dir() else images.suffix_of(output)
    if suffix and len(found) > 1:
        raise UsageError(
            "several inputs cannot go into one file",
            file=output,
            found=f"{len(found)} inputs",
            expected="a folder",
            fix="give a folder with -o",
        )
    return bool(suffix)


def _targets(found: Sequence[Case], output: Path, *, single: bool) -> dict[str, Path]:
    """Where each result goes; refused before any work where that cannot be."""
    if single:
        _require_label_format(output, found[0])
        targets = {found[0].name: output}
    else:
        targets = {case.name: output / f"{case.name}{images.label_suffix(case.images[0])}" for case in found}
    taken = {path.resolve() for case in found for path in case.images}
    clash = [str(path) for path in targets.values() if path.resolve() in taken]
    if clash:
        raise UsageError("a result would replace its own input", file=clash[0], fix="give another place with -o")
    folder = output.parent if single else output
    for place in (folder, *folder.absolute().parents):
        if place.exists() and not place.is_dir():
            raise UsageError("results need a folder, and there is a file of that name", file=place, fix="give another place with -o")
    return targets


def _require_label_format(output: Path, case: Case) -> None:
    suffix = images.suffix_of(output)
    holds_labels = images.label_suffix(output) == suffix
    if holds_labels and suffix in (".png", ".bmp"):
        holds_labels = images.suffix_of(case.images[0]) == suffix or images.read_header(case.images[0]).shape[0] == 1
    if not holds_labels:
        raise UsageError("this label map cannot be written in that format", file=output, found=suffix, expected="such as .nii.gz",
                         fix="give the output another suffix")  # fmt: skip


def _refuse_to_replace(targets: Mapping[str, Path], earlier: Mapping[str, Mapping[str, Any]]) -> None:
    """Files that no earlier prediction made may be somebody's references."""
    ours = {facts.get("file") for facts in earlier.values()}
    foreign = [path for path in targets.values() if path.exists() and str(path) not in ours]
    if foreign:
        raise UsageError(
            f"{len(foreign)} of the results' names are taken by files that no earlier prediction made",
            file=foreign[0],
            expected="a new place, or results of an earlier prediction",
            fix="give another place with -o, or --overwrite to replace them",
        )


def _is_current(facts: Mapping[str, Any] | None, case: Case, target: Path, record: _Record) -> bool:
    """Whether the result there is of this scan, this model and these settings, untouched since."""
    if facts is None or not target.exists() or not all(path.exists() for path in case.images):
        return False
    same = facts.get("file") == str(target) and facts.get("settings") == record.settings
    return same and facts.get("input") == _state_of(case.images) and facts.get("result") == _state_of([target])


def _channels_taken_for_cases(found: Sequence[Case], model: Model) -> list[str]:
    """Files of one name with channel suffixes, given to a model of one channel, are probably channels."""
    if len(model.plan.channels) > 1:
        return []
    stems = Counter(case.name[:-5] for case in found if re.fullmatch(r".+_\d{4}", case.name))
    return [
        f"{count} files of '{stem}' look like its channels, but the model has one channel: each is segmented by itself"
        for stem, count in stems.items()
        if count > 1
    ]


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.name.removesuffix(images.suffix_of(target))}_{what}.nii.gz")


def _state_of(paths: Iterable[Path]) -> list[str]:
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]


def _volumes(classes: NDArray[Any], labels: Labels) -> dict[str, int]:
    counts = np.bincount(classes.reshape(-1), minlength=len(labels.labels))
    return {label.name: int(counts[index + 1]) for index, label in enumerate(labels.foreground)}


def _report_failures(path: Path, failures: Sequence[tuple[str, str, AutosegError]], total: int) -> None:
    """failed.csv names the cases without a result; an old one goes when all went well.

    Raises
    ------
    SomeCasesFailed : there are any
    """
    if not failures:
        if path.exists() and path.read_text().startswith(",".join(_FAILED_COLUMNS)):
            path.unlink()
        return
    rows = [dict(zip(_FAILED_COLUMNS, (name, stage, error.summary, str(error)), strict=True)) for name, stage, error in failures]
    files.write_text(path, _csv(rows))
    raise SomeCasesFailed(
        f"{len(failures)} of {total} cases failed",
        file=path,
        details={name: error.summary for name, _, error in failures[:5]},
        fix="see the reasons there, mend the files, and give the same command again: the others are kept",
    )


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
        known = _record_in(beside)
        if known is not None:
            return Labels.from_json(known)
    values: set[int] = set()
    for pair in pairs.values():
        for path in pair:
            values.update(np.unique(images.read_label(path).array).tolist())
    return make_labels({"background": 0} | {f"label {value}": value for value in sorted(values) if value != 0})
