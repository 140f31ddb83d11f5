"""The version of autoseg, on its own so that every room can import it."""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.1.0"


def other_autoseg() -> Path | None:
    """Return where a package called "autoseg" is installed, or None.

    Our distribution is called autoseg-unet. That other project has the same import name and the same command.
    """
    folders = (Path(entry) for entry in sys.path if entry.endswith("-packages"))
    return next((found for folder in folders for found in folder.glob("autoseg-*.dist-info") if not _is_ours(found)), None)


def _is_ours(installed: Path) -> bool:
    """Whether this is an installation of ours from before the distribution was renamed."""
    try:
        return "autoseg plan" in (installed / "METADATA").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
