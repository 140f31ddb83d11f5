"""What was measured of a machine, kept in the user's cache folder: the same command then gives the same plan.

There is one file for each processor or card and number of cores, because a home folder may be shared by many machines. The folder is
only a convenience: where it cannot be read or written, everything is measured again, and nothing fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from autoseg import files, schema
from autoseg.errors import InputError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The figures of one device that are too unsteady to be measured for each plan."""

    name: str  # of the device, with its cores
    device: str  # "cpu", "cuda:0", "mps"
    torch: str  # version that the rate was measured with
    conv_flops: float  # FLOP/s, in coarse steps
    memory_bytes: int  # that were free, rounded down
    date: str  # of the measurement of the rate, ISO 8601
    format: int = FORMAT


def cache_folder() -> Path | None:
    """Return the folder for what autoseg may keep for this user; None where there is no home folder.

    `$XDG_CACHE_HOME/autoseg` where that is set, else what is usual: `~/.cache/autoseg`, `~/Library/Caches/autoseg` on macOS,
    `%LOCALAPPDATA%\\autoseg\\Cache` on Windows.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():  # others are to be ignored, says the XDG base directory specification
        return Path(named) / "autoseg"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "autoseg" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / "Library" / "Caches" / "autoseg" if sys.platform == "darwin" else home / ".cache" / "autoseg"


def file_of(name: str, device: str) -> Path | None:
    """Return where the measurements of a device are kept; None where there is no home folder."""
    folder = cache_folder()
    return (
        None
        if folder is None
        else folder / "machines" / (re.sub(r"[^A-Za-z0-9._]+", "-", name)[:100] + f"_{device.replace(':', '-')}.json")
    )


def read(name: str, device: str) -> Measurements | None:
    """Return what is known of a device; None where nothing is, or where the file cannot be read or is damaged."""
    file = file_of(name, device)
    try:
        if file is None or not file.exists():
            return None
        found = schema.read(Measurements, file, what="the measurements of this machine", fix="remove the file")
    except (InputError, OSError):
        return None
    usable = (found.format, found.name, found.device) == (FORMAT, name, device) and found.conv_flops > 0 and found.memory_bytes > 0
    return found if usable else None


def keep(found: Measurements) -> Path | None:
    """Write the measurements of a device; return the file, or None where it cannot be written."""
    file = file_of(found.name, found.device)
    with contextlib.suppress(InputError, OSError):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(file, schema.dump(found))
            return file
    return None
