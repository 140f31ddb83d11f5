"""A list of cases as CSV or JSON: the way in for files in no known layout.

CSV (comma, semicolon or tab)::

    case,T1,CT,label,group                      one column per channel, called by its name
    case,channels,label,group                   or all of them in one, with ; between: "a_t1.nii.gz;a_ct.nii.gz"

JSON: a list of such rows, or `{"channels": ..., "labels": ..., "cases": [rows]}` with the declarations as in a dataset.json. A row's
`channels` is a path, a list of paths, or `{name: path}`. Paths are relative to the list. Further columns: `annotated`, the names
of the labels annotated in that case. A list that declares no labels takes them from the dataset.json next to it or in the
folder that holds all its files, and otherwise from the values in the label files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg import files, images
from autoseg.cases.hints import NearestFiles
from autoseg.cases.incomplete import absent_file, file_exists
from autoseg.cases.names import channel_names, channels_from, labels_from
from autoseg.cases.recipes import MODALITIES
from autoseg.cases.rows import Row, rows_of_json
from autoseg.cases.scheme import check_annotated, scheme_of_masks, scheme_of_values
from autoseg.cases.values import Case, Channel, Dataset, can_name_files, composed, left_out, printable, unfit_name
from autoseg.errors import AutosegError, MissingChannel, MissingLabel, MissingPath, SettingsError, UnknownLayout
from autoseg.labels import Labels
from autoseg.presets import refuse_unknown
from autoseg.shards import Shard

_CASE = ("case", "id", "name", "case_id", "patient")
_CHANNELS = ("channels", "images", "image", "channel")
_LABEL = ("label", "labels", "mask", "segmentation", "seg")
_GROUP = ("group", "site", "subject")
_ANNOTATED = ("annotated",)
_COMMENTS = ("comment", "comments", "note", "notes", "remark", "remarks")
_IGNORED = ("fold", "spacing", "split")  # never channels
_SUFFIXES = (".csv", ".tsv", ".json")

_ASKED = 50  # images whose header is read for the number of channels, where nobody named them


def is_list(path: Path) -> bool:
    """Return whether a file is a list of cases: a CSV, or a JSON file with rows. A data set's own dataset.json is not.

    Raises
    ------
    UnreadableFile : named .json, and not JSON
    """
    suffix = path.suffix.casefold()
    if suffix != ".json":
        return suffix in _SUFFIXES
    value = files.read_json(path)
    return isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("cases"), list))


def read_list(path: Path, *, map_labels: Mapping[int, int] | None = None, labelled: bool = True, shard: Shard | None = None) -> Dataset:
    """Return the data set that a list describes; also one that autoseg wrote itself, a workspace's dataset.json.

    Parameters
    ----------
    path : CSV or JSON
    map_labels : value in the files to the label value it stands for
    labelled : whether each case must have a label (not so for prediction)
    shard : only the cases of this part; the files of the others are not looked for

    Raises
    ------
    UnknownLayout : not a list
    UnreadableFile : not CSV or JSON
    SettingsError : columns that cannot be understood, a case that is listed twice, an unknown modality
    LabelError : a declaration of labels that cannot work
    FaultyCases : nobody declared labels, and no case is complete
    """
    path = Path(path)
    if path.suffix.casefold() == ".json":
        value = files.read_json(path)
        if isinstance(value, dict) and "recipe" in value and "root" in value:
            return _checked(Dataset.from_json(value), file=path)
        rows, declared = rows_of_json(value, file=path)
    elif path.suffix.casefold() in _SUFFIXES:
        rows, declared = [*files.read_csv(path)], {}
    else:
        raise UnknownLayout(
            "neither a folder nor a list of cases",
            file=path,
            expected="a folder, or a .csv or .json file",
            fix="write a CSV list with the columns case, channels, label (and group)",
        )
    if not rows:
        raise SettingsError("the list holds no case", file=path, expected="one row per case", fix="add the cases")
    columns = _columns_of(rows, path, labelled=labelled)
    names = _names_in(rows, columns)
    cases, problems = _complete(rows, columns, names, path, labelled=labelled, shard=shard)
    notes: list[str] = []
    if not declared:
        declared, where = _declarations_nearby(path, cases)
        notes += [f"channels and labels are declared by {where}"] if where else []
    channels, channel_notes = _channels(declared, names, cases, file=path)
    problems += [problem for case in cases if (problem := _wrong_number(case, channels)) is not None]
    faulty = {problem.case for problem in problems}
    whole = tuple(sorted((case for case in cases if case.name not in faulty), key=lambda case: case.name))
    labels, label_notes = _labels(declared, whole, map_labels or {}, problems, labelled=labelled, file=path)
    if labelled:
        check_annotated(whole, labels, file=path)
    return Dataset(
        name=path.stem,
        root=path.parent,
        recipe="list",
        channels=channels,
        labels=labels,
        cases=whole,
        notes=(*notes, *channel_notes, *label_notes),
        problems=tuple(problems),
        warnings=_unused(columns, path),
    )


def _unused(columns: _Columns, path: Path) -> tuple[AutosegError, ...]:
    """What is to be reported of columns that nothing is taken from."""
    if not columns.unused:
        return ()
    fix = "call a column with images by the name of its channel, one with patients or sites 'group'; folds are given with --splits"
    return (SettingsError("columns of the list are not used", file=path, found=", ".join(columns.unused), fix=fix),)


def _checked(dataset: Dataset, *, file: Path) -> Dataset:
    """A data set from JSON that anyone may have written, held to what a list is held to: its names become those of files."""
    _refuse_repeated([case.name for case in dataset.cases], file)
    refuse_unknown([channel.modality for channel in dataset.channels], MODALITIES, what="modality", file=file)
    unfit = [case for case in dataset.cases if not can_name_files(case.name)]
    return replace(
        dataset,
        cases=tuple(case for case in dataset.cases if case not in unfit),
        problems=(*dataset.problems, *(unfit_name(case.name, file) for case in unfit)),
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The names of the columns by what they hold; `None` where there is no such column."""

    case: str | None
    label: str | None
    group: str | None
    annotated: str | None
    channels: str | None
    single: tuple[str, ...]  # one per channel, where no column holds them all
    unused: tuple[str, ...]  # nothing is taken from them


def _columns_of(rows: Sequence[Row], path: Path, *, labelled: bool) -> _Columns:
    folded = {key.casefold(): key for key in _keys(rows)}
    case, label, group, annotated, channels = (
        next((folded[name] for name in known if name in folded), None) for known in (_CASE, _LABEL, _GROUP, _ANNOTATED, _CHANNELS)
    )
    known = (case, label, group, annotated, channels)
    others = [key for key in _keys(rows) if key not in known and key.casefold() not in _COMMENTS]
    candidates = [] if channels else [key for key in others if key.casefold() not in _IGNORED]
    single = [key for key in candidates if _holds_paths(rows, key, path.parent)] or candidates
    if channels is None and not single:
        fix = "name the column with the images 'channels', or give each channel a column"
        raise _without_column("images", rows, path, fix)
    if labelled and label is None:
        raise _without_column("labels", rows, path, "name the column with the reference segmentations 'label'")
    unused = tuple(key for key in others if key not in single)
    found = _Columns(case=case, label=label, group=group, annotated=annotated, channels=channels, single=tuple(single), unused=unused)
    _check_cells(rows, found, path)
    return found


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _without_column(what: str, rows: Sequence[Row], path: Path, fix: str) -> SettingsError:
    return SettingsError(
        f"the list has no column with {what}", file=path, found=", ".join(rows[0]), expected="case, channels, label (and group)", fix=fix
    )


def _holds_paths(rows: Sequence[Row], column: str, folder: Path) -> bool:
    """Whether a column holds the files of a channel, and not ages or names: some value is a path, or looks like one."""
    values = [value for row in rows if isinstance(value := row.get(column), str) and value]
    return any(images.suffix_of(text) or "/" in text or "\\" in text for text in values) or any(
        file_exists(_resolved(text, folder)) for text in values[:_ASKED]
    )


def _check_cells(rows: Sequence[Row], columns: _Columns, path: Path) -> None:
    """Refuse what only JSON can hold in place of text: lists, tables, NaN."""
    for column in (columns.case, columns.label, columns.group, columns.annotated, columns.channels, *columns.single):
        several = () if column not in (columns.channels, columns.annotated) else list if column == columns.annotated else (list, dict)
        for number, row in enumerate(rows if column else (), start=1):
            value = row.get(column or "")
            items = (value.values() if isinstance(value, dict) else value) if isinstance(value, several) else (value,)
            if not all(isinstance(item, str | int | None) for item in items):
                raise SettingsError(
                    "a row holds something else than text",
                    file=path,
                    found=f"{json.dumps(value, ensure_ascii=False)[:60]} under '{column}' in row {number}",
                    expected="text" + (" or a list of texts" if several else ""),
                    fix="write a name or a path",
                )


def _names_in(rows: Sequence[Row], columns: _Columns) -> tuple[str, ...] | None:
    """The names of the channels, where the list gives them: as columns, or in its first row that has names."""
    if columns.channels is None:
        return columns.single
    return next((tuple(map(str, value)) for row in rows if isinstance(value := row.get(columns.channels), dict)), None)


def _complete(
    rows: Sequence[Row], columns: _Columns, names: tuple[str, ...] | None, path: Path, *, labelled: bool, shard: Shard | None
) -> tuple[list[Case], list[AutosegError]]:
    """The complete cases, and what is wrong with each of the others."""
    listed = [_listed_images(row, columns, names or (), path) for row in rows]
    cases = [_case(row, columns, paths, path.parent) for row, paths in zip(rows, listed, strict=True)]
    _refuse_repeated([case.name for case in cases], path)
    if shard is not None:
        own = [index for index, case in enumerate(cases) if shard.holds(case.name)]
        cases, listed = [cases[index] for index in own], [listed[index] for index in own]
    nearest = NearestFiles()
    _refuse_elsewhere(cases, listed, path, nearest)
    complete: list[Case] = []
    problems: list[AutosegError] = []
    for case, paths in zip(cases, listed, strict=True):
        problem = _problem(case, paths, path, nearest, labelled=labelled)
        if problem is None:
            complete.append(case)
        else:
            problems.append(problem)
    return complete, problems


def _refuse_elsewhere(cases: Sequence[Case], listed: Sequence[Sequence[str]], path: Path, nearest: NearestFiles) -> None:
    """Raise one error where not one file of several cases is there, in place of one for each: the paths start from another folder."""
    texts = [text for texts in listed for text in texts if text]
    if len(cases) < 2 or not texts or any(file_exists(file) for case in cases for file in case.files):
        return
    inside = [entry for entry in sorted(path.parent.iterdir())[:_ASKED] if entry.is_dir()]
    better = next((folder for folder in (*path.parent.parents, *inside) if file_exists(_resolved(texts[0], folder))), None)
    raise MissingPath(
        "none of the listed files is there",
        file=printable(str(_resolved(texts[0], path.parent))),
        found=f"{len(cases)} cases; the path above is that of the first one, '{printable(texts[0])}' from the folder of the list",
        expected="absolute paths, or paths relative to the list",
        fix=f"put the list into {better}: the files are there" if better else _correction(_resolved(texts[0], path.parent), nearest),
    )


def _listed_images(row: Row, columns: _Columns, names: Sequence[str], path: Path) -> list[str]:
    """The paths of a row, one per channel; those under names in the order of the channels."""
    if columns.channels is None:
        return [str(row.get(column) or "") for column in columns.single]
    value = row.get(columns.channels)
    if isinstance(value, dict):
        refuse_unknown([*value], names, what="channel", file=path)
        return [str(value.get(name) or "") for name in names]
    if isinstance(value, list):
        return [str(item or "") for item in value]
    return [item.strip() for item in str(value or "").split(";") if item.strip()]


def _case(row: Row, columns: _Columns, listed: Sequence[str], folder: Path) -> Case:
    def text(column: str | None) -> str:
        value = None if column is None else row.get(column)
        return "" if value is None else str(value)

    label = text(columns.label)
    return Case(
        name=text(columns.case) or images.stem_of(label or next(iter(listed), "")),
        images=tuple(_resolved(item, folder) for item in listed if item),
        label=_resolved(label, folder) if label else None,
        group=text(columns.group) or None,
        annotated=_words(row.get(columns.annotated)) if columns.annotated else None,
    )


def _refuse_repeated(names: Iterable[str], file: Path) -> None:
    repeated = next((name for name, count in Counter(map(composed, names)).items() if count > 1), None)
    if repeated is not None:
        raise SettingsError(
            "a case is listed twice", file=file, found=repeated, expected="one row per case", fix="give each case its own name"
        )


def _problem(case: Case, listed: Sequence[str], file: Path, nearest: NearestFiles, *, labelled: bool) -> AutosegError | None:
    if not can_name_files(case.name):
        return unfit_name(case.name, file)
    lacking = [index for index, item in enumerate(listed) if not item]
    if lacking or not listed:
        return MissingChannel(
            "a channel is missing",
            case=case.name,
            file=file,
            found=f"channel {lacking[0]} is empty" if lacking else "no image",
            expected="a path for each channel",
            fix=f"complete the row, or leave the case out with {left_out(case.name)}",
        )
    if labelled and case.label is None:
        return MissingLabel(
            "the case has no label",
            case=case.name,
            file=file,
            expected="a path in the column 'label'",
            fix=f"complete the row, or leave the case out with {left_out(case.name)}",
        )
    for path in case.files:
        if absent := absent_file(case.name, path, lambda path: _correction(path, nearest)):
            return absent
    return None


def _correction(path: Path, nearest: NearestFiles) -> str:
    close = nearest(path)
    return f"nearest there: {', '.join(close)}" if close else "correct the path; it is relative to the list"


def _wrong_number(case: Case, channels: Sequence[Channel]) -> AutosegError | None:
    if len(case.images) in (1, len(channels)):
        return None
    return MissingChannel(
        "the case has another number of channels",
        case=case.name,
        file=case.images[0],
        found=f"{len(case.images)} files",
        expected=f"{len(channels)}: {', '.join(c.name for c in channels)}",
        fix="complete the row",
    )


def _declarations_nearby(path: Path, cases: Sequence[Case]) -> tuple[dict[str, Any], Path | None]:
    """The dataset.json next to the list, or in the nearest folder that holds all the files of the cases."""
    places = [path.parent]
    every = [str(path) for case in cases for path in case.files]
    if every:
        places.append(Path(os.path.commonpath(every)))
        places.append(places[-1].parent)
    for place in places:
        file = place / "dataset.json"
        if file.is_file() and file != path:
            value = files.read_json(file)
            if isinstance(value, dict) and "labels" in value:
                return value, file
    return {}, None


def _channels(
    declared: Mapping[str, Any], names: tuple[str, ...] | None, cases: Sequence[Case], *, file: Path
) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    value = next((declared[key] for key in ("channels", "channel_names", "modality") if key in declared), None)
    if isinstance(value, list) and value and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
        if names is not None and sorted(names) == sorted(item["name"] for item in value):
            value = _in_order_of(names, value)
        stated = [item.get("modality") for item in value]
        refuse_unknown([str(modality) for modality in stated if modality is not None], MODALITIES, what="modality", file=file)
        return channels_from([item["name"] for item in value], stated=stated)
    if names is None and value is not None:
        names = channel_names(value, file=file)
    if names is not None:
        return channels_from(names)
    return channels_of_most(cases)


def _in_order_of(names: Sequence[str], declared: Sequence[Any]) -> list[Any]:
    """The declared channels in the order of the columns, as the files are."""
    return sorted(declared, key=lambda item: names.index(item["name"]))


def channels_of_most(cases: Sequence[Case]) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    """Return channels that nobody named, as most of the images have them: colours of a picture, or numbers."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for case in cases[:: 1 + len(cases) // _ASKED]:
        if len(case.images) > 1:
            kinds[tuple(f"channel {index}" for index in range(len(case.images)))] += 1
            continue
        with contextlib.suppress(AutosegError):  # what cannot be read is reported by the check, case by case
            header = images.read_header(case.images[0])
            many = ("R", "G", "B") if header.channels == 3 and not header.stored.has_position else None
            kinds[many or tuple(f"channel {index}" for index in range(header.channels)) if header.channels > 1 else ("image",)] += 1
    return channels_from(kinds.most_common(1)[0][0] if kinds else ("image",))


def _labels(
    declared: Mapping[str, Any],
    cases: Sequence[Case],
    map_labels: Mapping[int, int],
    problems: Sequence[AutosegError],
    *,
    labelled: bool,
    file: Path,
) -> tuple[Labels, tuple[str, ...]]:
    if "labels" in declared:
        return labels_from(
            declared["labels"],
            file=file,
            regions=declared.get("regions"),
            order=declared.get("regions_class_order"),
            ignore=declared.get("ignore"),
            merge=map_labels,
        )
    if not labelled:
        return scheme_of_masks(["label"], {})
    return scheme_of_values(cases, map_labels, problems=problems)


def _resolved(text: str, folder: Path) -> Path:
    path = Path(os.path.normpath(folder / os.path.expanduser(text)))
    if "\\" in text and os.sep == "/" and not file_exists(path):  # a list from Windows
        return _resolved(text.replace("\\", "/"), folder)
    return images.header_of(path)


def _words(value: Any) -> tuple[str, ...] | None:
    if value in (None, ""):
        return None
    return tuple(str(item).strip() for item in (value if isinstance(value, list) else str(value).split(";")))
