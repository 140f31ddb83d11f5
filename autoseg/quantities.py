"""Durations as people write them, and quantities as text. An amount of memory is parsed by `machine`, which knows what there is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoseg.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)\s*"


def parse_duration(duration: str | float | None) -> float | None:
    """Return the seconds of a duration; a bare number counts seconds, `None` stays `None`.

    Raises
    ------
    UsageError : not a duration, or not positive

    >>> parse_duration("1h30m"), parse_duration("90s"), parse_duration(20)
    (5400.0, 90.0, 20.0)
    """
    if duration is None:
        return None
    text = str(duration).strip()
    total = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, text))
    if not re.fullmatch(f"(?:{_PIECE})+", text) or total <= 0:
        raise UsageError("not a duration", found=text, expected="such as 90s, 10m, 1h30m", fix="--time-budget 10m")
    return total


def format_duration(seconds: float) -> str:
    """Return a duration as people read it, in its two largest units; `parse_duration` reads it back.

    >>> format_duration(59.6), format_duration(75), format_duration(7260), format_duration(266_400)
    ('1 min', '1 min 15 s', '2 h 01 min', '3 d 02 h')
    """
    whole = max(0, round(seconds))
    for unit, smaller in (("d", "h"), ("h", "min"), ("min", "s")):
        count, rest = divmod(whole, int(_UNITS[unit]))
        if count:
            rest //= int(_UNITS[smaller])
            return f"{count} {unit} {rest:02d} {smaller}" if rest else f"{count} {unit}"
    return f"{whole} s"


def format_bytes(amount: float) -> str:
    """Return a number of bytes as people read it: three digits, powers of 1000.

    >>> format_bytes(80e6), format_bytes(7_940_000_000), format_bytes(999_800)
    ('80 MB', '7.94 GB', '1 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(amount) < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def format_shape(values: Sequence[float]) -> str:
    """Return a number for each axis.

    >>> format_shape((40, 56.5, 40)), format_shape(())
    ('40 x 56.5 x 40', '')
    """
    return " x ".join(f"{value:g}" for value in values)


def format_spacing(spacing: Sequence[float]) -> str:
    """Return lengths in mm, one for each axis.

    >>> format_spacing((5.0, 0.78125, 0.78125))
    '5 x 0.781 x 0.781 mm'
    """
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"
