"""The records next to results: what `predict` made and with what (prediction.json), and what failed (failed.csv)."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import files, images, schema
from autoseg.checking import Fault
from autoseg.checksums import KEY, checked, with_checksum, without_checksum
from autoseg.errors import AutosegError, SomeCasesFailed, UnreadableFile, naming
from autoseg.labels import Labels
from autoseg.postprocessing import PostprocessingRules
from autoseg.version import __version__
from autoseg.workspace import Workspace

RECORD = "prediction.json"
FAILED = "failed.csv"
MADE_BY = "autoseg predict"
_SELDOM = 20  # times the time that writing the record takes lie between two writes
_FAILED_COLUMNS = ("case", "stage", "reason", "detail")
_EXCLUDED = re.compile(r"[;,]?\s*or leave the case out with --exclude(?: '[^']*'| [^\s,;()]+)?")  # an option of plan and check alone


@dataclass(kw_only=True)
class Record:
    """What was predicted, with what: prediction.json in the output folder, or NAME.json next to a single output file."""

    output: Path
    single: bool
    settings: dict[str, Any]
    labels: Labels
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # name of a result's file, also of one that is still to be made -> model
    _due: float = 0.0  # when to write again, by `time.monotonic`

    @property
    def folder(self) -> Path:
        """Where failed.csv goes."""
        return self.output.parent if self.single else self.output

    @property
    def file(self) -> Path:
        """Where the record goes."""
        return sidecar(self.output) if self.single else self.output / RECORD

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the cases recorded before, whatever they were predicted with; none where the file is not a record of ours."""
        known = read_record(self.file) or {"cases": {}}
        of_cases = {Path(str(facts.get("file"))).name: _model_of(facts) for facts in known["cases"].values()}
        self.results = {**known.get("results", {}), **of_cases, **self.results}
        return dict(known["cases"])

    def begin(self, targets: Iterable[Path]) -> None:
        """Record before the first result which files are to be made: then none is taken for somebody else's, whenever this ends."""
        self.results |= {target.name: str(self.settings["model"]) for target in targets}
        self.write()

    def keep(self, name: str, facts: dict[str, Any]) -> None:
        """Note one case, with the settings it was predicted with."""
        self.cases[name] = {**facts, "settings": self.settings}

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the file."""
        return {
            "made_by": MADE_BY,
            "version": __version__,
            **self.settings,
            **self.labels.to_json(),
            "results": self.results,
            "cases": self.cases,
        }

    def write_soon(self) -> None:
        """Write after this case, unless writing would take more than a small share of the time: of thousands, a few are made again."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the record, so that the same command goes on after any end; cases of earlier commands stay listed."""
        begin = time.monotonic()
        if self.file.exists() and read_record(self.file) is None:
            return  # a file of somebody else's that happens to have this name
        earlier = self.read()
        files.write_json(self.file, with_checksum({**self.to_json(), "cases": {**earlier, **self.cases}}))
        self._due = time.monotonic() + _SELDOM * (time.monotonic() - begin)


def _model_of(facts: Mapping[str, Any]) -> str:
    settings = facts.get("settings")
    return str(settings.get("model")) if isinstance(settings, Mapping) else ""


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """The scores of one case, by label and metric."""

    case: str
    labels: Mapping[str, Mapping[str, float | None]]
    mean: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is read of summary.json."""

    labels: Mapping[str, Mapping[str, Any]]
    mean: Mapping[str, Any]
    cases: tuple[CaseScores, ...]
    weights: str | None = None
    predictions: Mapping[str, str] = field(default_factory=dict)  # hash of each that was scored; empty in an earlier version


def read_summary(file: Path) -> Summary:
    """Read the scores in a summary.json.

    Raises
    ------
    MissingPath, UnreadableFile : it is missing or damaged
    """
    fix = "remove the folder it is in and run the training again: the cases are predicted and scored again"
    value = files.read_json(file, fix=fix)
    summary = schema.parse(Summary, schema.pick(Summary, value), what="the summary", fix=fix, file=file, error=UnreadableFile)
    checked(value, file=file, what="the summary", fix=fix)
    return summary


def read_rules(workspace: Workspace) -> dict[str, PostprocessingRules]:
    """Return the post-processing rules in postprocessing.json by configuration; none where nothing was chosen yet.

    Raises
    ------
    UnreadableFile, SettingsError : the file is damaged, or holds what is no rule
    """
    file, fix = workspace.postprocessing, "choose the rules again: autoseg select"
    if not file.exists():
        return {}
    chosen = schema.read(dict[str, Any], file, what="the post-processing rules", fix=fix)
    with naming(file):
        return {name: PostprocessingRules.from_json(rules) for name, rules in without_checksum(chosen).items()}


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """What is read of check.json."""

    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def read_check(file: Path) -> CheckRecord:
    """Return what the last check of a data set found.

    Raises
    ------
    UnreadableFile : the file is damaged, or was changed since it was written
    """
    what, fix = "the result of the check", "check the data set again: run the same autoseg plan command"
    value = checked(files.read_json(file, fix=fix), file=file, what=what, fix=fix)
    return schema.parse(CheckRecord, schema.pick(CheckRecord, value), what=what, fix=fix, file=file, error=UnreadableFile)


def read_record(file: Path) -> dict[str, Any] | None:
    """Return what `predict` wrote there; None where there is nothing, or something else.

    Raises
    ------
    UnreadableFile : it is damaged, or was changed since `predict` wrote it
    """
    fix = "put it back as it was; or remove it, and give evaluate the labels with --labels, predict another place with -o"
    known = files.read_json(file, fix=fix) if file.exists() else None
    if not isinstance(known, dict) or (known.get("made_by") != MADE_BY and not known.keys() >= {KEY, "cases", "results"}):
        return None
    record: dict[str, Any] = checked(known, file=file, what="the record of a prediction", fix=fix)
    what, error = "the record of a prediction", UnreadableFile
    schema.parse(dict[str, dict[str, Any]], record.get("cases"), what=what, fix=fix, file=file, error=error)
    schema.parse(dict[str, str], record.get("results", {}), what=what, fix=fix, file=file, error=error)
    return record


def sidecar(target: Path) -> Path:
    """Return the JSON file next to a single result.

    >>> sidecar(Path("out/liver.nii.gz")).as_posix()
    'out/liver.json'
    """
    return target.with_name(images.stem_of(target) + ".json")


def file_state(paths: Iterable[Path]) -> list[str]:
    """Return what identifies the state of each file without reading it: place, size and time."""
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]


def is_state_of(recorded: Any, paths: Sequence[Path]) -> bool:
    """Return whether files are as `file_state` recorded them, wherever their folder is now."""
    if not isinstance(recorded, list) or not all(isinstance(text, str) and text.count(" ") >= 2 for text in recorded):
        return False
    return [_without_folder(text) for text in recorded] == [_without_folder(text) for text in file_state(paths)]


def _without_folder(state: str) -> str:
    return state.rpartition("/")[2]


def report_failures(path: Path, failures: Sequence[tuple[str, str, AutosegError]], total: int) -> None:
    """Write failed.csv, the cases without a result; remove an old one when all went well.

    Raises
    ------
    SomeCasesFailed : there are any
    """
    if not failures:
        if path.is_file() and path.read_bytes().startswith(",".join(_FAILED_COLUMNS).encode()):
            path.unlink()
        return
    for _, _, error in failures:
        error.fix = error.fix and _EXCLUDED.sub("", error.fix)
    rows = [dict(zip(_FAILED_COLUMNS, (name, stage, error.summary, str(error)), strict=True)) for name, stage, error in failures]
    files.write_text(path, csv_text(rows))
    raise SomeCasesFailed(
        f"{len(failures)} of {total} cases failed",
        file=path,
        details={name: error.summary for name, _, error in failures[:5]},
        fix="see the reasons there, fix the files, and run the same command again: the others are kept",
    )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
