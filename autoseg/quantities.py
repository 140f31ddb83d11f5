"""Durations as people write them, and quantities as text. An amount of memory is parsed by `machine`, which knows what there is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoseg.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)\s*"


def seconds(duration: str | float | None) -> float | None:
    """Return the seconds of a duration; a bare number counts seconds, `None` stays `None`.

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


def format_duration(duration: float) -> str:
    """Return seconds as people read them.

    >>> format_duration(59.6), format_duration(75), format_duration(7260)
    ('1 min 00 s', '1 min 15 s', '2 h 01 min')
    """
    whole = max(0, round(duration))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def format_estimate(seconds: float) -> str:
    """Return a predicted time, no more exact than a prediction is.

    >>> format_estimate(45), format_estimate(1000), format_estimate(9000), format_estimate(900_000)
    ('45 s', '17 min', '2.5 h', '10 days')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def format_bytes(amount: float) -> str:
    """Return an amount of memory or disk.

    >>> format_bytes(1.45e9), format_bytes(2e6)
    ('1.4 GB', '2 MB')
    """
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


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
