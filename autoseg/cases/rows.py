"""The rows of a list of cases, as they are in a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoseg.errors import SettingsError

Row = dict[str, Any]

_DECLARATIONS = ("channels", "channel_names", "modality", "labels", "regions", "regions_class_order", "ignore")


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
