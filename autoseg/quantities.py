"""Durations, lengths and spacings as people write them, and quantities as text; an amount of memory is parsed by `machine`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from autoseg.errors import UsageError

COLOUR = 1 << 24  # + 0xRRGGBB: the label value that stands for a colour other than black
_UNITS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}  # from the largest to the smallest
_WRITTEN = {
    "d": ("d", "day", "days"), "h": ("h", "hr", "hrs", "hour", "hours"), "min": ("m", "min", "mins", "minute", "minutes"),
    "s": ("s", "sec", "secs", "second", "seconds"),
}  # fmt: skip
_NUMBER = r"\d+(?:[.,]\d+)?"  # some write a comma
_PIECE = rf"({_NUMBER})\s*([a-z]*)[\s,]*"
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "nm": 1e-6, "inch": 25.4}
_LENGTHS = {"": "mm", "millimeter": "mm", "µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometer": "um", "in": "inch"}


def parse_duration(duration: str | float | None) -> float | None:
    """Return the seconds of a duration; a bare number counts seconds, behind a unit the next smaller one; `None` stays `None`.

    Raises
    ------
    UsageError : not a duration, or not positive

    >>> parse_duration("1h30m"), parse_duration("1h30"), parse_duration("90 minutes"), parse_duration(20)
    (5400.0, 5400.0, 5400.0, 20.0)
    """
    if duration is None:
        return None
    text = str(duration).strip()
    pieces = re.findall(_PIECE, text.lower()) if re.fullmatch(f"(?:{_PIECE})+", text.lower()) else []
    names, total, last = list(_UNITS), 0.0, -1
    for number, word in pieces:
        if not word:
            place = last + 1 if last >= 0 else len(names) - 1
        else:
            place = next((index for index, unit in enumerate(names) if word in _WRITTEN[unit]), len(names))
        if place >= len(names) or place <= last:
            total = 0.0
            break
        total, last = total + float(number.replace(",", ".")) * _UNITS[names[place]], place
    if total <= 0:
        raise UsageError("not a duration", found=text, expected="such as 90s, 10m, 1h30m", fix="--time-budget 10m")
    return total


def millimetres(unit: str) -> float | None:
    """Return the length of a unit in mm; `None` for a word that is no unit of length.

    >>> millimetres("µm"), millimetres(""), millimetres("pixel")
    (0.001, 1.0, None)
    """
    word = unit.strip().casefold()
    return _MM.get(_LENGTHS.get(word, word))


def parse_length(text: str) -> float:
    """Return the mm of a length such as "2", "2 mm" or "0.5cm".

    Raises
    ------
    ValueError : not a length

    >>> parse_length("2mm"), parse_length("500 um")
    (2.0, 0.5)
    """
    match = re.fullmatch(r"\s*([-+.\deE]+?|[-+]?inf|nan)\s*([^\W\d]*)\s*", text)
    unit = millimetres(match[2]) if match else None
    if match is None or unit is None:
        raise ValueError(text)
    return float(match[1]) * unit


def parse_spacing(value: object) -> tuple[float, float, float] | None:
    """Return a spacing `(z, y, x)` in mm as people write it: three numbers, a text, or a number under each axis; else `None`.

    >>> parse_spacing([3, "0.5", 0.5]), parse_spacing("0.3 x 0.1 x 0.1 um"), parse_spacing({"x": 1, "y": 1, "z": 5})
    ((3.0, 0.5, 0.5), (0.0003, 0.0001, 0.0001), (5.0, 1.0, 1.0))
    """
    unit: float | None = 1.0
    if isinstance(value, dict):
        axes = {str(key).lower(): number for key, number in value.items()}
        value = [axes.get(axis) for axis in "zyx"] if set(axes) == set("xyz") else None
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*[\[(]?(.+?)[\])]?\s*([^\W\d]*)\s*", value)
        unit = millimetres(match[2]) if match else None
        value = re.split(r"\s*[x×*;]\s*|\s*,\s+|,(?=\d)|\s+", match[1].strip()) if match else None
    if not isinstance(value, list) or len(value) != 3 or unit is None or any(isinstance(number, bool) for number in value):
        return None
    try:
        z, y, x = (float(f"{float(number) * unit:.12g}") for number in value)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(0 < number < math.inf for number in (z, y, x)) else None


def label_values(text: str) -> range:
    """Return the label values that a text means: a number, a range of up to 65,536, or a colour (ff0000, 0xff0000, #ff0000).

    Raises
    ------
    ValueError : none of these

    >>> label_values("7"), label_values("128-255"), label_values("ff0000") == label_values("0xFF0000")
    (range(7, 8), range(128, 256), True)
    """
    text = text.strip()
    if colour := re.fullmatch(r"(?:0x|#)([0-9a-fA-F]{6})|(?!\d{1,6}$)([0-9a-fA-F]{6})|(0\d{5})", text):
        code = int(colour[1] or colour[2] or colour[3], 16)
        value = COLOUR + code if code else 0
        return range(value, value + 1)
    if (limits := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text)) and int(limits[1]) <= int(limits[2]) < int(limits[1]) + (1 << 16):
        return range(int(limits[1]), int(limits[2]) + 1)
    return range(int(text), int(text) + 1)


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
