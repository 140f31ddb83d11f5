"""JSON files of autoseg with a checksum over everything they say, so that a damaged or edited one is noticed when it is read.

The checksum is one more key, `checksum`; files that earlier versions wrote have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg import files
from autoseg.errors import AutosegError, UnreadableFile

KEY = "checksum"


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object for a JSON file together with its checksum."""
    return {**value, KEY: checksum(value)}


def without_checksum(value: Any) -> Any:
    """Return an object of a JSON file without the checksum; whatever else is there as it is."""
    return {name: item for name, item in value.items() if name != KEY} if isinstance(value, Mapping) else value


def is_unchanged(value: Any) -> bool | None:
    """Return whether an object of a JSON file is the one that was written; None where it has no checksum."""
    if not isinstance(value, Mapping) or KEY not in value:
        return None
    return bool(value[KEY] == checksum(without_checksum(value)))


def checked(value: Any, *, file: Path, what: str, fix: str, error: type[AutosegError] = UnreadableFile) -> Any:
    """Return what a JSON file says without its checksum.

    Parameters
    ----------
    what : the file in the user's words

    Raises
    ------
    AutosegError : of the class `error`: it is not what was written
    """
    if is_unchanged(value) is False:
        raise error(
            f"{what} was changed since it was written",
            file=file,
            found="another content than its checksum is of",
            expected="the file as autoseg wrote it",
            fix=fix,
        )
    return without_checksum(value)


def checksum(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys, as hexadecimal digits."""
    as_read = json.loads(json.dumps(value, default=files.plain))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
