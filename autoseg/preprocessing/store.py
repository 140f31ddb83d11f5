"""The cache of preprocessed cases: one folder per case, safe to delete, rebuilt case by case.

::

    NAME/image.b2nd      (c, z, y, x), 16-bit codes with scale and offset per channel, or float32; compressed in small blocks
         label.b2nd      (z, y, x) classes
         mask.b2nd       (z, y, x), what was not zero; only where a channel is normalised inside it
         locations.npy   (n, 3) some voxels of each class
         case.json       geometry, scales, the hash of every file, and the key: what the case was made from, and how

A case is made under a temporary name and renamed when whole, so a killed run leaves whole cases or nothing. The key is a hash of
the bytes of the case's files, of the part of the plan that matters here, and of the format's version: `preprocess_dataset` makes
again what is missing, what has another key, and what was damaged, and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import files, images, locks, schema
from autoseg.cases import Case, Dataset, load_classes, load_image
from autoseg.checksums import checked, with_checksum, without_checksum
from autoseg.errors import AutosegError, DiskFull, FaultyCases, InputError, MissingPath, SettingsError, UnreadableFile
from autoseg.geometry import Shape
from autoseg.labels import Labels
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration, Plan
from autoseg.preprocessing.blocks import damaged, forget_open_files, read_box
from autoseg.preprocessing.case import GridTransform, Preprocessed, preprocess_case
from autoseg.preprocessing.codes import compress, quantize
from autoseg.preprocessing.locations import find_locations, wanted_keys
from autoseg.preprocessing.needs import Need, check_disk, estimate
from autoseg.workers import map_cases

STORE_FORMAT = 2  # raised whenever the same input would give other files
RECORD = "case.json"

_LONGEST_PLACE = 250  # bytes of a folder's name

Slices = tuple[slice, slice, slice]


def preprocess_dataset(
    dataset: Dataset,
    plan: Plan,
    configuration: Configuration,
    folder: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> None:
    """Bring the cache of one configuration up to date; what is whole and current is left alone.

    Processes that need the same cases prepare them in turn: the second finds them made. Cases in use by a training stay as they are.

    Parameters
    ----------
    folder : of the configuration's cases, `Workspace.preprocessed(name)`
    workers : as in `workers.map_cases`
    progress : called with (done, total)
    waiting : called where another process prepares cases, before that one is waited for

    Raises
    ------
    SettingsError : cases must be made again, and another process trains on them
    FaultyCases : several cases could not be made; the others are there
    AutosegError : the one that could not be made: the data's own error, or `WorkerDied`
    NotEnough : the disk is full, or too small to begin with
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locks.in_turn(folder.parent, waiting=waiting):
        forget_open_files()
        files.sweep(folder)
        recipe = _Recipe(plan=plan, configuration=configuration, folder=folder)
        _make_what_is_stale(dataset, recipe, workers=workers, progress=progress)


def _make_what_is_stale(dataset: Dataset, recipe: _Recipe, *, workers: int | None, progress: Callable[[int, int], None] | None) -> None:
    folder, configuration = recipe.folder, recipe.configuration
    stale = [case for case in dataset.cases if not _is_current(case, recipe)]
    _refuse_moved(dataset, [path for case in stale for path in case.files], folder)
    _refuse_to_replace([case.name for case in stale if _place(folder, case.name).exists()], folder)
    whole = len(dataset.cases) - len(stale)
    if progress is not None:
        progress(whole, len(dataset.cases))
    needs = [_need(case, recipe) for case in stale]
    check_disk(folder, sum(need.disk for need in needs))
    outcomes = map_cases(
        functools.partial(_make_current, recipe=recipe),
        stale,
        names=[case.name for case in stale],
        stage=f"preprocessing for {configuration.name}",
        workers=workers,
        peak_bytes=[need.memory for need in needs],
        progress=None if progress is None else lambda done, _: progress(whole + done, len(dataset.cases)),
    )
    errors = [outcome.failure.as_error() for outcome in outcomes if outcome.failure is not None]
    files.sweep(folder)
    _raise_for_cases(errors)


def _raise_for_cases(errors: Sequence[AutosegError]) -> None:
    """Raise what happened to some cases; a full disk is one fault, however many cases met it."""
    full = next((error for error in errors if isinstance(error, DiskFull)), None)
    if full is not None or len(errors) == 1:
        raise full or errors[0]
    if errors:
        raise FaultyCases(errors, fix="fix these cases, or leave them out; the others are done and will not be done again")


def _refuse_to_replace(names: Sequence[str], folder: Path) -> None:
    if names and locks.is_in_use(folder):
        raise SettingsError(
            "the data or the plan has changed, and another process trains on the preprocessed cases",
            file=folder,
            found=f"{len(names)} cases to be made again, such as {names[0]}",
            expected="the cases as that training began with them",
            fix="wait for it, or end it; then run the same command again",
        )


def open_case(folder: Path, name: str) -> StoredCase:
    """Open a stored case, to be read in parts.

    Raises
    ------
    MissingPath : the cache does not hold this case
    UnreadableFile : its record is damaged
    """
    place = _place(folder, name)
    return StoredCase(folder=folder, name=name, place=place, record=_read_record(place))


class StoredCase:
    """One preprocessed case. Arrays are in plan axes; nothing is read before it is asked for. Threads may share it."""

    def __init__(self, *, folder: Path, name: str, place: Path, record: _Record) -> None:
        self.name: str = name
        self.channels: int = len(record.scale)
        self.shape: Shape = record.geometry.shape
        self.geometry: GridTransform = record.geometry
        self.annotated: tuple[str, ...] | None = record.case.annotated
        self._folder, self._place = folder, place
        self._scale, self._offset = (np.array(values, dtype=np.float32)[:, None, None, None] for values in (record.scale, record.offset))
        self._spans: Mapping[int, tuple[int, int]] = record.locations
        self._files: Mapping[str, _FileRecord] = record.files

    def image(self, slices: Slices | None = None) -> NDArray[np.float32]:
        """Return channels `(c, z, y, x)` inside the slices, which must be inside the case; all of it without them."""
        codes = self._read("image.b2nd", (slice(None), *slices) if slices else ())
        if codes.dtype == np.float32:
            return codes
        values = codes.astype(np.float32)
        values *= self._scale
        values += self._offset
        return values

    def label(self, slices: Slices | None = None) -> NDArray[Any]:
        """Return classes `(z, y, x)` inside the slices; `Labels.ignore_class` where nothing was annotated."""
        return self._read("label.b2nd", slices or ())

    def mask(self, slices: Slices | None = None) -> NDArray[np.bool_] | None:
        """Return what was not zero `(z, y, x)`; None unless a channel is normalised inside it."""
        return self._read("mask.b2nd", slices or ()).view(bool) if "mask.b2nd" in self._files else None

    @functools.cached_property
    def locations(self) -> Mapping[int, NDArray[Any]]:
        """Some voxels `(n, 3)` of each key of `locations.wanted_keys` that occurs."""
        file = self._place / "locations.npy"
        data = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self._files[file.name].sha256:
            raise damaged(file, "another content than was written")
        voxels = np.load(io.BytesIO(data), allow_pickle=False)
        return {key: voxels[begin:end] for key, (begin, end) in self._spans.items()}

    def _read(self, file: str, where: tuple[slice, ...]) -> NDArray[Any]:
        facts = self._files[file]
        return read_box(self._place / file, where, size=facts.bytes, version=facts.sha256)


@dataclass(frozen=True, kw_only=True)
class _FileRecord:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _CaseRecord:
    """What decides about the arrays besides the bytes of the files and the plan."""

    annotated: tuple[str, ...] | None
    grid_fix: str | None
    channels: tuple[bool, ...]  # whether each is a folder
    label: bool | tuple[str, ...]  # names of the masks, or whether there is a label map


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A file that the case was made from, as it was then."""

    file: str
    bytes: int
    mtime_ns: int
    ctime_ns: int  # programs that restore the time of the content cannot restore this one


@dataclass(frozen=True, kw_only=True)
class _Record:
    """case.json."""

    geometry: GridTransform
    scale: tuple[float, ...]  # per channel
    offset: tuple[float, ...]
    locations: Mapping[int, tuple[int, int]]
    files: Mapping[str, _FileRecord]
    key: str
    recipe: Mapping[str, Any]
    case: _CaseRecord
    sources: tuple[_Source, ...]


# --- what is current ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How cases are made, and where they go."""

    plan: Plan
    configuration: Configuration
    folder: Path

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What decides about the arrays, as plain values."""
        plan, configuration = self.plan, self.configuration
        labels = plan.labels.to_json()
        normal = configuration.normalization
        return {
            "format": STORE_FORMAT,
            "axis_order": list(plan.axis_order),
            **({"orientation": plan.orientation} if plan.orientation != "canonical" else {}),
            "planar": configuration.planar,
            "spacing": list(configuration.spacing[1:] if configuration.planar else configuration.spacing),
            "normalization": list(normal),
            "intensities": [
                vars(i) if NORMALIZATIONS[scheme].dataset_intensities else None for scheme, i in zip(normal, plan.intensities, strict=True)
            ],
            "labels": {key: value for key, value in labels.items() if key != "pairs"},
        }


def _is_current(case: Case, recipe: _Recipe) -> bool:
    """Return whether recipe, sources and what was made of them are unchanged; no voxel is read."""
    place = _place(recipe.folder, case.name)
    try:
        record = _read_record(place)
        current = record.recipe == recipe.facts and record.case == _facts(case) and record.sources == _sources(case)
        return current and _sealed(place, record)
    except (AutosegError, OSError):
        return False  # whatever is wrong with it, it is made again


def _make_current(case: Case, *, recipe: _Recipe) -> None:
    """Make the case, unless only times have changed and every byte is what it was: the work of one worker."""
    place = _place(recipe.folder, case.name)
    sources = _sources(case)  # before the bytes are read: who changes a file meanwhile has it made again the next time
    key = _key(case, recipe)
    kept = _kept_record(place)
    if kept is not None and kept.key == key and _unharmed(place, kept):
        with files.whole_folder(place, keep=kept.files) as temporary:
            _write_record(temporary, replace(kept, sources=sources))
        return
    image = load_image(case, channels=len(recipe.plan.channels))
    classes = load_classes(case, recipe.plan.labels, like=image) if case.label else None
    prepared = preprocess_case(image, classes, plan=recipe.plan, configuration=recipe.configuration)
    del image, classes
    with files.whole_folder(place) as temporary:
        arrays = _write_arrays(temporary, prepared, recipe.plan.labels, planar=recipe.configuration.planar)
        _write_record(temporary, _Record(**arrays, key=key, recipe=recipe.facts, case=_facts(case), sources=sources))


def _refuse_moved(dataset: Dataset, needed: Sequence[Path], folder: Path) -> None:
    """Raise one error where not one file of the data set is there, in place of one for each case: their folder was moved or renamed."""
    if needed and not any(path.exists() for case in dataset.cases for path in case.files):
        gone = next((place for place in reversed([dataset.root, *dataset.root.parents]) if not place.exists()), dataset.root)
        raise MissingPath(
            "the data set is not where it was planned",
            file=gone,
            found=f"not one of its files is there; the first was {needed[0]}",
            fix=f"put it back; or, where it has a new place, plan it again from there, which keeps the models: "
            f"autoseg plan NEW_PLACE -o {folder.parent.parent}",
        )


def _need(case: Case, recipe: _Recipe) -> Need:
    try:
        compressed = sum(source.bytes for source in _sources(case))
    except InputError:  # the worker will say why
        return Need(memory=0, disk=0)
    return estimate(case, compressed, channels=len(recipe.plan.channels), axes=recipe.plan.axis_order, configuration=recipe.configuration)


def _sources(case: Case) -> tuple[_Source, ...]:
    """Return the size and times of every file that the case is made from, those in folders included."""
    found = []
    for path in case.files:
        try:
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                facts = file.stat()
                found.append(_Source(file=str(file), bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, ctime_ns=facts.st_ctime_ns))
        except FileNotFoundError:
            raise MissingPath(
                "no such file", file=path, fix="put it back, or plan without the case: autoseg plan DATASET --exclude CASE"
            ) from None
    return tuple(found)


def _facts(case: Case) -> _CaseRecord:
    return _CaseRecord(
        annotated=case.annotated,
        grid_fix=case.grid_fix,
        channels=tuple(path.is_dir() for path in case.images),
        label=tuple(name for name, _ in case.label) if isinstance(case.label, tuple) else case.label is not None,
    )


def _key(case: Case, recipe: _Recipe) -> str:
    """Hash of all that decides about the arrays, the bytes of the files among it."""
    facts = {"recipe": recipe.facts, "case": schema.dump(_facts(case)), "files": [images.hash_image(path) for path in case.files]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_record(place: Path) -> _Record:
    fix = "run the same command again: it prepares what is missing"
    what, file = "a preprocessed case", place / RECORD
    value = files.read_json(file, fix=fix)
    record = schema.parse(_Record, without_checksum(value), what=what, fix=fix, file=file, error=UnreadableFile)
    checked(value, file=file, what=what, fix=fix)
    return record


def _kept_record(place: Path) -> _Record | None:
    try:
        return _read_record(place)
    except InputError:
        return None


def _sealed(place: Path, record: _Record) -> bool:
    """Return whether every file has its size and the very time of the record, given to all when the case was whole, the record last."""
    seal = (place / RECORD).stat()
    for name, expected in record.files.items():
        facts = (place / name).stat()
        if facts.st_size != expected.bytes or facts.st_mtime_ns != seal.st_mtime_ns or facts.st_ctime_ns > seal.st_ctime_ns:
            return False
    return True


def _unharmed(place: Path, record: _Record) -> bool:
    """Return whether every file has the bytes it was written with."""
    return all((place / name).is_file() and files.hash_file(place / name) == r.sha256 for name, r in record.files.items())


# --- files -------------------------------------------------------------------------------------------------------------------


def _place(folder: Path, name: str) -> Path:
    """Return the folder of a case; characters that a file system might not take are spelt out."""
    quoted = urllib.parse.quote(name, safe=" ()[]+,=@")
    if len(quoted) > _LONGEST_PLACE:  # a letter beyond A to Z takes six signs
        quoted = name.replace("%", "%25")
    if len(quoted.encode()) > _LONGEST_PLACE:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return folder / (f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted)


def _write_arrays(place: Path, prepared: Preprocessed, labels: Labels, *, planar: bool) -> dict[str, Any]:
    """Write what a case consists of, and return the fields of the record that describe it."""
    codes, scale, offset = quantize(prepared.image, prepared.steps)
    contents = {"image.b2nd": compress(codes, planar=planar)}
    del codes
    found: dict[int, NDArray[Any]] = {}
    if prepared.label is not None:
        contents["label.b2nd"] = compress(prepared.label, planar=planar)
        found = find_locations(prepared.label, wanted_keys(labels), outside=prepared.outside)
    if prepared.mask is not None:
        contents["mask.b2nd"] = compress(prepared.mask.view(np.uint8), planar=planar)
    present = {key: voxels for key, voxels in found.items() if len(voxels)}
    ends = np.cumsum([len(voxels) for voxels in present.values()]).tolist()
    spans = {key: (end - len(voxels), end) for (key, voxels), end in zip(present.items(), ends, strict=True)}
    table = io.BytesIO()
    np.save(table, np.concatenate([*present.values()]) if present else np.zeros((0, 3), dtype=np.uint16))
    contents["locations.npy"] = table.getvalue()
    for name, content in contents.items():
        (place / name).write_bytes(content)  # by Python, not by blosc2: so a full disk is an error like any other
    return {
        "geometry": prepared.geometry,
        "scale": tuple(scale),
        "offset": tuple(offset),
        "locations": spans,
        "files": {name: _FileRecord(bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in sorted(contents.items())},
    }


def _write_record(place: Path, record: _Record) -> None:
    """Write the record, then give all files one time: the seal that `_sealed` looks for."""
    written = schema.dump(record)
    if not record.geometry.flips:  # cases of earlier versions know nothing of it
        del written["geometry"]["flips"]
    (place / RECORD).write_text(json.dumps(with_checksum(written), allow_nan=False) + "\n")
    now = time.time_ns()
    for name in (*record.files, RECORD):
        os.utime(place / name, ns=(now, now))
