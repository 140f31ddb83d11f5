"""A list of cases as CSV or JSON: the way in for files that lie in no known layout.

CSV (comma, semicolon or tab)::

    case,T1,CT,label,group                      one column per channel, called by its name
    case,channels,label,group                   or all of them in one, with ; between: "a_t1.nii.gz;a_ct.nii.gz"

JSON: a list of such rows, or `{"channels": ..., "labels": ..., "cases": [rows]}` with the declarations as in a dataset.json. A row's
`channels` is a path, a list of paths, or `{name: path}`. Paths are relative to the list. Further columns: `annotated`, the names
of the labels annotated in that case. A list that declares no labels takes them from the dataset.json beside it or in the
folder that holds all its files, and else from the values in the label files.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg import files, images
from autoseg.cases.names import channel_names, channels_from, labels_from
from autoseg.cases.scheme import check_annotated, scheme_of_masks, scheme_of_values
from autoseg.cases.values import Case, Channel, Dataset, can_name_files, left_out, printable
from autoseg.errors import AutosegError, MissingChannel, MissingLabel, MissingPath, SettingsError, UnknownLayout, UnreadableFile
from autoseg.labels import Labels

_CASE = ("case", "id", "name", "case_id", "patient")
_CHANNELS = ("channels", "images", "image", "channel")
_LABEL = ("label", "labels", "mask", "segmentation", "seg")
_GROUP = ("group", "site", "subject")
_ANNOTATED = ("annotated",)
_IGNORED = ("fold", "spacing", "comment", "notes", "split")
_SUFFIXES = (".csv", ".tsv", ".json")

_ASKED = 50  # images asked for their channels where nobody named them

Row = dict[str, Any]


def is_list(path: Path) -> bool:
    """Whether a file is a list of cases: a CSV, or a JSON file with rows. A data set's own dataset.json is not.

    Raises
    ------
    UnreadableFile : named .json, and not JSON
    """
    suffix = path.suffix.casefold()
    if suffix != ".json":
        return suffix in _SUFFIXES
    value = files.read_json(path)
    return isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("cases"), list))


def read_list(path: Path, *, map_labels: Mapping[int, int] | None = None, labelled: bool = True) -> Dataset:
    """The data set that a list describes.

    Parameters
    ----------
    path : CSV or JSON
    map_labels : value in the files to the label value it stands for
    labelled : whether each case must have a label (not so for prediction)

    Raises
    ------
    UnknownLayout : not a list
    SettingsError : columns that cannot be understood, a case that is listed twice
    LabelError : a declaration of labels that cannot work
    """
    path = Path(path)
    if path.suffix.casefold() == ".json":
        value = files.read_json(path)
        if isinstance(value, dict) and "recipe" in value and "root" in value:
            return Dataset.from_json(value)
        rows, declared = _rows_of_json(value, file=path)
    elif path.suffix.casefold() in _SUFFIXES:
        rows, declared = _rows_of_csv(path), {}
    else:
        raise UnknownLayout(
            "neither a folder nor a list of cases",
            file=path,
            expected="a folder, or a .csv or .json file",
            fix="write a CSV list with the columns case, channels, label (and group)",
        )
    if not rows:
        raise SettingsError("the list holds no case", file=path, expected="one row per case", fix="add the cases")
    cases, names, problems = _cases(rows, path, labelled=labelled)
    notes: list[str] = []
    if not declared:
        declared, where = _declarations_nearby(path, cases)
        notes += [f"channels and labels are declared by {where}"] if where else []
    channels, channel_notes = _channels(declared, names, cases, file=path)
    problems += [problem for case in cases if (problem := _wrong_number(case, channels)) is not None]
    faulty = {problem.case for problem in problems}
    whole = tuple(sorted((case for case in cases if case.name not in faulty), key=lambda case: case.name))
    labels, label_notes = _labels(declared, whole, map_labels or {}, labelled=labelled, file=path)
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
    )


def _rows_of_csv(path: Path) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile("the list cannot be read", file=path, found=str(error), expected="CSV in UTF-8", fix="save it again") from None
    head = text.partition("\n")[0]
    delimiter = max((",", ";", "\t"), key=head.count)
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), start=2):
        if None in row:
            raise SettingsError(
                "a row has more fields than the head",
                file=path,
                found=f"line {number}: {row[None]}",
                expected=f"{len(row) - 1} fields",
                fix="put paths with the separator in them into quotes",
            )
        filled = {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
        if any(filled.values()):
            rows.append(filled)
    return rows


def _rows_of_json(value: Any, *, file: Path) -> tuple[list[Row], dict[str, Any]]:
    declared: dict[str, Any] = {}
    rows = value
    if isinstance(value, dict):
        rows = value.get("cases", value.get("training"))
        declared = {key: item for key, item in value.items() if key in ("channels", "channel_names", "modality", "labels", "regions",
                                                                        "regions_class_order", "ignore")}  # fmt: skip
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SettingsError(
            "not a list of cases",
            file=file,
            expected='[{"case": ..., "channels": [...], "label": ..., "group": ...}, ...]',
            fix="write one object per case",
        )
    return rows, declared


def _cases(rows: Sequence[Row], path: Path, *, labelled: bool) -> tuple[list[Case], tuple[str, ...] | None, list[AutosegError]]:
    """The cases, the names of the channels where the list gives them, and the cases that are not whole."""
    keys = {key for row in rows for key in row}
    case_key, label_key, group_key = _key(keys, _CASE), _key(keys, _LABEL), _key(keys, _GROUP)
    channels_key, annotated_key = _key(keys, _CHANNELS), _key(keys, _ANNOTATED)
    special = {case_key, label_key, group_key, channels_key, annotated_key}
    columns = [key for key in rows[0] if key not in special and key.casefold() not in _IGNORED] if channels_key is None else []
    if channels_key is None and not columns:
        raise SettingsError(
            "the list has no column with images",
            file=path,
            found=", ".join(rows[0]),
            expected="case, channels, label (and group)",
            fix="name the column with the images 'channels', or give each channel a column",
        )
    if labelled and label_key is None:
        raise SettingsError(
            "the list has no column with labels",
            file=path,
            found=", ".join(rows[0]),
            expected="case, channels, label (and group)",
            fix="name the column with the reference segmentations 'label'",
        )
    names: tuple[str, ...] | None = tuple(columns) or None
    cases: list[Case] = []
    problems: list[AutosegError] = []
    seen: set[str] = set()
    for row in rows:
        listed, row_names = _images(row, channels_key, columns)
        names = names or row_names
        given = str(row.get(case_key) or "") if case_key else ""
        label = str(row.get(label_key) or "") if label_key else ""
        name = given or _stem(label or (listed[0] if listed else ""))
        if name in seen:
            raise SettingsError(
                "a case is listed twice", file=path, found=name, expected="one row per case", fix="give each case its own name"
            )
        seen.add(name)
        if not can_name_files(name):
            problems.append(_unfit_name(name, path))
            continue
        case = Case(
            name=name,
            images=tuple(_resolved(item, path.parent) for item in listed if item),
            label=_resolved(label, path.parent) if label else None,
            group=str(row[group_key]) if group_key and row.get(group_key) not in (None, "") else None,
            annotated=_words(row.get(annotated_key)) if annotated_key else None,
        )
        problem = _problem(case, listed, path, labelled=labelled)
        if problem is None:
            cases.append(case)
        else:
            problems.append(problem)
    return cases, names, problems


def _unfit_name(name: str, file: Path) -> SettingsError:
    return SettingsError(
        "a name that no file could have",
        case=printable(name),
        file=file,
        found=repr(name),
        expected="letters, digits and signs, no slash",
        fix="give the case another name",
    )


def _images(row: Row, channels_key: str | None, columns: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    if channels_key is None:
        return [str(row.get(column) or "") for column in columns], tuple(columns)
    value = row.get(channels_key)
    if isinstance(value, dict):
        return [str(item) for item in value.values()], tuple(str(name) for name in value)
    if isinstance(value, list):
        return [str(item) for item in value], None
    return [item.strip() for item in str(value or "").split(";") if item.strip()], None


def _problem(case: Case, listed: Sequence[str], file: Path, *, labelled: bool) -> AutosegError | None:
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
    for path in (*case.images, *([case.label] if isinstance(case.label, Path) else [])):
        if path.is_symlink() and not path.exists():
            return broken_link(case.name, path)
        if not path.exists():
            there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
            hint = f"nearest there: {', '.join(close)}" if close else "correct the path; it is relative to the list"
            return MissingPath("a listed file is not there", case=case.name, file=path, fix=hint)
    return None


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
    """The dataset.json beside the list, or in the nearest folder that holds all the files of the cases."""
    places = [path.parent]
    every = [str(p) for case in cases for p in (*case.images, case.label) if isinstance(p, Path)]
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
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return channels_from([str(item["name"]) for item in value], stated=[item.get("modality") for item in value])
    if names is None and value is not None:
        names = channel_names(value, file=file)
    if names is not None:
        return channels_from(names)
    return channels_of_most(cases)


def channels_of_most(cases: Sequence[Case]) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    """Channels that nobody named, as most of the images have them: colours of a picture, or numbers."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for case in cases[:: 1 + len(cases) // _ASKED]:
        if len(case.images) > 1:
            kinds[tuple(f"channel {index}" for index in range(len(case.images)))] += 1
            continue
        with contextlib.suppress(AutosegError):  # what cannot be read is reported by the check, case by case
            header = images.read_header(case.images[0])
            many = ("R", "G", "B") if header.channels == 3 and not header.stored.placed else None
            kinds[many or tuple(f"channel {index}" for index in range(header.channels)) if header.channels > 1 else ("image",)] += 1
    return channels_from(kinds.most_common(1)[0][0] if kinds else ("image",))


def broken_link(name: str, path: Path) -> MissingPath:
    """The error for a link to a file that is not there, as git-annex and moved disks leave them."""
    return MissingPath(
        "the link leads to no file",
        case=name,
        file=path,
        found=f"a link to {os.readlink(path)}",
        expected="the file itself",
        fix="mount the disk or fetch the file (git annex get, datalad get), or link it anew",
    )


def _labels(
    declared: Mapping[str, Any], cases: Sequence[Case], map_labels: Mapping[int, int], *, labelled: bool, file: Path
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
    return scheme_of_values(cases, map_labels)


def _key(keys: set[str], known: Sequence[str]) -> str | None:
    folded = {key.casefold(): key for key in keys}
    return next((folded[name] for name in known if name in folded), None)


def _resolved(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / Path(text).expanduser()))


def _stem(text: str) -> str:
    name = Path(text).name
    return name.removesuffix(images.suffix_of(name) or "")


def _words(value: Any) -> tuple[str, ...] | None:
    if value in (None, ""):
        return None
    return tuple(str(item).strip() for item in (value if isinstance(value, list) else str(value).split(";")))
