"""The rows of a list of cases, as they are in a CSV or JSON file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import SettingsError, UnreadableFile

Row = dict[str, Any]

_DECLARATIONS = ("channels", "channel_names", "modality", "labels", "regions", "regions_class_order", "ignore")


def rows_of_csv(path: Path) -> list[Row]:
    """Return the rows of a CSV file that are not empty, column to text; the separator is the one that is most frequent in its head.

    Raises
    ------
    UnreadableFile : not in UTF-8, or not CSV: a quote that does not end
    SettingsError : two columns of one name, or a row with more fields than there are columns
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile("the list cannot be read", file=path, found=str(error), expected="CSV in UTF-8", fix="save it again") from None
    head = text.partition("\n")[0]
    delimiter = max((",", ";", "\t"), key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows = []
    try:
        _refuse_repeated_columns(reader.fieldnames or (), path)
        for row in reader:
            if None in row:
                raise SettingsError(
                    "a row has more fields than the head",
                    file=path,
                    found=f"line {reader.line_num}: {row[None]}",
                    expected=f"{len(row) - 1} fields",
                    fix="put paths with the separator in them into quotes",
                )
            filled = {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
            if any(filled.values()):
                rows.append(filled)
    except csv.Error as error:
        raise UnreadableFile(
            "the list is not valid CSV",
            file=path,
            found=f"{error}, after line {reader.line_num}",
            expected='every quote " closed before the next separator',
            fix="close the quote, or remove it",
        ) from None
    return rows


def rows_of_json(value: Any, *, file: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a JSON file, and what it declares about channels and labels.

    Raises
    ------
    SettingsError : not a list of rows
    """
    declared: dict[str, Any] = {}
    rows = value
    if isinstance(value, dict):
        rows = value.get("cases", value.get("training"))
        declared = {key: value[key] for key in _DECLARATIONS if key in value}
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SettingsError(
            "not a list of cases",
            file=file,
            expected='[{"case": ..., "channels": [...], "label": ..., "group": ...}, ...]',
            fix="write one object per case",
        )
    return rows, declared


def _refuse_repeated_columns(head: Sequence[str], path: Path) -> None:
    names = [name.strip() for name in head if name and name.strip()]
    folded = Counter(name.casefold() for name in names)
    if repeated := [name for name in names if folded[name.casefold()] > 1]:
        raise SettingsError(
            "two columns have one name",
            file=path,
            found=", ".join(repeated),
            expected="each column under a name of its own",
            fix="rename one of them, or remove it",
        )
