"""Durations as people write them. Memory as people write it is read by `machine`, which knows what there is."""

from __future__ import annotations

import re

from autoseg.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)\s*"


def seconds(duration: str | float | None) -> float | None:
    """Seconds of a duration; a bare number counts seconds, `None` stays `None`.

    Raises
    ------
    UsageError : not a duration, or not positive

    >>> seconds("1h30m"), seconds("90s"), seconds(20)
    (5400.0, 90.0, 20.0)
    """
    if duration is None:
        return None
    text = str(duration).strip()
    total = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, text))
    if not re.fullmatch(f"(?:{_PIECE})+", text) or total <= 0:
        raise UsageError("not a duration", found=text, expected="such as 90s, 10m, 1h30m", fix="--time-budget 10m")
    return total


def clock(duration: float) -> str:
    """Seconds as people read them.

    >>> clock(59.6), clock(75), clock(7260)
    ('1 min 00 s', '1 min 15 s', '2 h 01 min')
    """
    whole = max(0, round(duration))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
