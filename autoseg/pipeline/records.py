"""The records next to results: what `predict` made and with what (prediction.json), and what failed (failed.csv)."""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import files, images, locks, schema
from autoseg.checking import Fault
from autoseg.checksums import KEY, checked, with_checksum, without_checksum
from autoseg.errors import AutosegError, SomeCasesFailed, UnreadableFile, naming
from autoseg.labels import Labels
from autoseg.pipeline import journal
from autoseg.pipeline.journal import Journal, Lines
from autoseg.postprocessing import PostprocessingRules
from autoseg.shards import Shard
from autoseg.sharing import DISK, Stored
from autoseg.sharing.stored import read_json
from autoseg.version import __version__
from autoseg.workspace import Workspace

RECORD = "prediction.json"
FAILED = "failed.csv"
MADE_BY = "autoseg predict"
_FAILED_COLUMNS = ("case", "stage", "reason", "detail")
_STATE = re.compile(r"(?P<path>.*) (?P<bytes>\d+) (?P<time>\d+)(?: (?P<hash>[0-9a-f]{64}))?", re.DOTALL)
_EXCLUDED = re.compile(r"[;,]?\s*or leave the case out with --exclude(?: '[^']*'| [^\s,;()]+)?")  # an option of plan and check alone


@dataclass(kw_only=True)
class Record:
    """What was predicted, with what: prediction.json in the output folder, or NAME.json next to a single output file."""

    output: Path
    single: bool
    settings: dict[str, Any]
    labels: Labels
    shard: Shard | None = None
    digest: str = ""  # of the model file that is used; empty for a workspace
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # name of a result's file, also of one that is still to be made -> model
    _somebody_elses: bool = False  # the file that happens to have the record's name

    @property
    def folder(self) -> Path:
        """Where failed.csv goes."""
        return self.output.parent if self.single else self.output

    @property
    def file(self) -> Path:
        """Where the record goes."""
        return sidecar(self.output) if self.single else self.output / RECORD

    @functools.cached_property
    def lines(self) -> Path:
        """Where the lines of each process go, until the record takes them in."""
        return self.output.with_name(f".{self.output.name}.{journal.FOLDER}") if self.single else self.output / journal.FOLDER

    @functools.cached_property
    def journal(self) -> Journal:
        """The lines of this process."""
        return Journal(self.lines, shard=self.shard, head={"version": __version__, "settings": self.settings, **self.labels.to_json()})

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the cases recorded before, whatever they were predicted with; none where the file is not a record of ours."""
        return self._known()[0]

    def _known(self) -> tuple[dict[str, dict[str, Any]], Lines]:
        lines = journal.read(self.lines, shard=self.shard)  # before the record: what is gone from here is there
        there = read_record(self.file)
        self._somebody_elses = there is None and self.file.exists()
        known = there or {"cases": {}}
        recorded = {**known["cases"], **lines.cases}
        of_cases = {Path(str(facts.get("file"))).name: _model_of(facts) for facts in recorded.values()}
        self.results = {**known.get("results", {}), **lines.results, **of_cases, **self.results}
        return recorded, lines

    def begin(self, targets: Iterable[Path]) -> None:
        """Note before the first result which files are to be made: then none is taken for somebody else's, whenever this ends."""
        model = str(self.settings["model"])
        new = [target.name for target in targets if self.results.get(target.name) != model]
        if new:
            self.results |= dict.fromkeys(new, model)
            self.journal.note(results=new, flush=True)

    def keep(self, name: str, facts: dict[str, Any], *, earlier: Mapping[str, Any] | None = None) -> None:
        """Note one case, with the settings it was predicted with and the model file, unless that is what was recorded earlier."""
        facts = {key: value for key, value in facts.items() if key not in ("settings", "model_digest")} | self._of_file()
        self.cases[name] = {**facts, "settings": self.settings}
        if self.cases[name] != earlier:
            self.journal.note(case=name, facts=facts)

    def fail(self, name: str, stage: str, error: AutosegError) -> None:
        """Note a case without a result."""
        self.journal.note(case=name, failed={"stage": stage, "reason": error.summary})

    def _of_file(self) -> dict[str, str]:
        return {"model_digest": self.digest} if self.digest else {}

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the file."""
        return {
            "made_by": MADE_BY,
            "version": __version__,
            **self.settings,
            **self._of_file(),
            **self.labels.to_json(),
            "results": self.results,
            "cases": self.cases,
        }

    def write(self) -> None:
        """Write the record, and remove the lines it has taken in; cases of earlier commands stay listed.

        Of a shard, the lines stay for the command without one.
        """
        self.journal.close()
        if self.shard is not None or not self.folder.is_dir():
            return
        with locks.in_turn(self.folder):  # two commands may end in the same moment
            earlier, lines = self._known()
            if not self._somebody_elses:
                files.write_json(self.file, with_checksum({**self.to_json(), "cases": {**earlier, **self.cases}}))
            journal.remove(lines.over)


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


def read_rules(workspace: Workspace, stored: Stored = DISK) -> dict[str, PostprocessingRules]:
    """Return the post-processing rules in postprocessing.json by configuration; none where nothing was chosen yet.

    Raises
    ------
    UnreadableFile, SettingsError : the file is damaged, or holds what is no rule
    """
    file, fix = workspace.postprocessing, "choose the rules again: autoseg select"
    if not stored.exists(file):
        return {}
    chosen = schema.parse(dict[str, Any], read_json(stored, file, fix=fix), what="the post-processing rules", fix=fix, file=file)
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
    """Return what identifies the content of each file: place, size, time and hash."""
    return [_state(path, images.hash_image(path)) for path in paths]


def current_state(recorded: Any, paths: Sequence[Path]) -> list[str] | None:
    """Return the state of files whose content is the one that `file_state` recorded, wherever they are now; else None.

    They are read only where name, size and time are not as recorded: after a copy, or a `touch`.
    """
    if not isinstance(recorded, list) or len(recorded) != len(paths):
        return None
    found = [state for text, path in zip(recorded, paths, strict=True) if (state := _unchanged(text, path)) is not None]
    return found if len(found) == len(paths) else None


def _unchanged(recorded: Any, path: Path) -> str | None:
    known = _STATE.fullmatch(recorded) if isinstance(recorded, str) else None
    if known is None:
        return None
    size, changed = images.size_and_time(path)
    name, bytes, time, digest = Path(known["path"]).name, int(known["bytes"]), int(known["time"]), known["hash"]
    if digest is None:  # of an earlier version
        facts = path.stat()
        same = (name, bytes, time) == (path.resolve().name, facts.st_size, facts.st_mtime_ns)
        return _state(path, images.hash_image(path)) if same else None
    if (name, bytes, time) == (path.resolve().name, size, changed) or (bytes == size and images.hash_image(path) == digest):
        return _state(path, digest)
    return None


def _state(path: Path, digest: str) -> str:
    size, changed = images.size_and_time(path)
    return f"{path.resolve()} {size} {changed} {digest}"


def report_failures(path: Path | None, failures: Sequence[tuple[str, str, AutosegError]], total: int) -> None:
    """Write failed.csv, the cases without a result; remove an old one when all went well. Without a path, of a shard, nothing is written.

    Raises
    ------
    SomeCasesFailed : there are any
    """
    if not failures:
        if path is not None and path.is_file() and path.read_bytes().startswith(",".join(_FAILED_COLUMNS).encode()):
            path.unlink()
        return
    for _, _, error in failures:
        error.fix = error.fix and _EXCLUDED.sub("", error.fix)
    rows = [dict(zip(_FAILED_COLUMNS, (name, stage, error.summary, str(error)), strict=True)) for name, stage, error in failures]
    if path is not None:
        files.write_text(path, csv_text(rows))
    raise SomeCasesFailed(
        f"{len(failures)} of {total} cases failed",
        file=path,
        details={name: error.summary for name, _, error in failures[:5]},
        fix="see the reasons there, fix the files, and run the same command again: the others are kept"
        if path is not None
        else "fix the files; the same command without --shard does what is missing and writes failed.csv",
    )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
