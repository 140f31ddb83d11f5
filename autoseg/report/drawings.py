"""SVG drawings: scores of cases as strips, curves of training runs. Colours are those of the page, so dark and print work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

POINTS = 400  # of a curve; more cannot be seen
_WIDTH, _ROW, _LEFT, _RIGHT = 720, 34, 170, 30


def strips(rows: Sequence[tuple[str, str, Sequence[float], float, tuple[float, float] | None]]) -> Markup:
    """Return one strip for each label: a dot for each case, the mean as a line, its interval as a bar.

    Parameters
    ----------
    rows : name, colour, values between 0 and 1, their mean, and its interval where there is one
    """
    height = len(rows) * _ROW + 30
    parts = [_axis(tick, len(rows)) for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    for index, (name, colour, values, mean, interval) in enumerate(rows):
        middle = index * _ROW + 20
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end" class="name">{}</text>').format(_LEFT - 10, middle + 4, _short(name)))
        if interval is not None:
            low, high = (_x(value) for value in interval)
            bar = Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="20" class="interval"/>')
            parts.append(bar.format(low, middle - 10, max(high - low, 1.0)))
        for number, value in enumerate(values):
            offset = ((number * 0.618034) % 1 - 0.5) * 14  # spread evenly, the same in every report
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}" fill-opacity="0.75"/>')
            parts.append(dot.format(_x(value), middle + offset, colour))
        parts.append(Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" class="mean"/>').format(_x(mean), middle - 12, middle + 12))
    return _svg(height, parts, "Dice of every case, by label")


def curves(runs: Mapping[str, Sequence[tuple[float, float]]], *, title: str, unit: str, from_zero: bool = False) -> Markup:
    """Return the curves of several runs in one pair of axes.

    Parameters
    ----------
    runs : name of the run -> (x, y) in order
    title : of the vertical axis
    unit : of the horizontal axis
    from_zero : whether the vertical axis goes from 0 to 1
    """
    points = [point for run in runs.values() for point in run]
    if not points:
        return Markup("")
    right = max(x for x, _ in points) or 1.0
    low, high = (0.0, 1.0) if from_zero else (min(y for _, y in points), max(y for _, y in points))
    high = high if high > low else low + 1.0
    top, bottom, left, width = 24, 220, 60, _WIDTH - _RIGHT

    def place(x: float, y: float) -> str:
        return f"{left + (width - left) * x / right:.1f},{bottom - (bottom - top) * (y - low) / (high - low):.1f}"

    parts = [Markup('<text x="{}" y="14" class="name">{}</text>').format(left, title)]
    for value in _ticks(low, high):
        y = bottom - (bottom - top) * (value - low) / (high - low)
        parts.append(Markup('<line x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}" class="tick"/>').format(left, width, y))
        label = Markup('<text x="{}" y="{:.1f}" text-anchor="end" class="figure">{:.4g}</text>')
        parts.append(label.format(left - 6, y + 4, value))
    for value in _ticks(0.0, right):
        below = Markup('<text x="{:.1f}" y="{}" text-anchor="middle" class="figure">{:.4g}</text>')
        parts.append(below.format(left + (width - left) * value / right, bottom + 16, value))
    parts.append(Markup('<text x="{}" y="{}" text-anchor="end" class="figure">{}</text>').format(width, bottom + 32, unit))
    for index, (name, run) in enumerate(runs.items()):
        shown = run[:: max(1, math.ceil(len(run) / POINTS))]
        line = Markup('<polyline points="{}" class="curve c{}"><title>{}</title></polyline>')
        parts.append(line.format(" ".join(place(x, y) for x, y in shown), index % 6, name))
        place_of_name = (left + 10 + 130 * (index % 5), bottom + 50 + 16 * (index // 5))
        parts.append(Markup('<text x="{}" y="{}" class="figure c{}">{}</text>').format(*place_of_name, index % 6, name))
    return _svg(bottom + 60 + 16 * ((len(runs) - 1) // 5), parts, title)


@dataclass(frozen=True, kw_only=True)
class Square:
    """One of two plots next to each other whose axes are the same, with the diagonal on which both agree."""

    title: str
    across: str
    upright: str
    low: float = 0.0  # of both axes; they end at 1
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)  # drawn in the colours of curves
    dots: Mapping[tuple[str, str], Sequence[tuple[float, float, str]]] = field(default_factory=dict)  # (name, colour) -> x, y, what it is


def squares(plots: Sequence[Square]) -> Markup:
    """Return two plots next to each other; values outside the axes are drawn at their edge."""
    parts = [part for index, plot in enumerate(plots) for part in _square(plot, 50 + index * 350)]
    return _svg(375, parts, " and ".join(plot.title for plot in plots))


def _square(plot: Square, left: float, *, top: float = 26, side: float = 270) -> list[Markup]:
    bottom, span = top + side, 1 - plot.low

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (min(1.0, max(0.0, (value - plot.low) / span)) for value in (x, y))
        return left + side * across, bottom - side * up

    parts = [Markup('<text x="{}" y="14" class="name">{}</text>').format(left, plot.title)]
    for value in _ticks(plot.low, 1.0):
        x, y = place(value, value)
        parts.append(Markup('<path d="M{:.1f} {:.1f}H{:.1f}M{:.1f} {:.1f}V{:.1f}" class="tick" fill="none"/>').format(
            left, y, left + side, x, top, bottom))  # fmt: skip
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end" class="figure">{:.4g}</text>').format(left - 6, y + 4, value))
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle" class="figure">{:.4g}</text>').format(x, bottom + 16, value))
    corner = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="diagonal"/>')
    parts.append(corner.format(left, bottom, left + side, top))
    parts.append(Markup('<text x="{}" y="{}" text-anchor="end" class="figure">{}</text>').format(left + side, bottom + 34, plot.across))
    upright = Markup('<text transform="translate({:.1f} {:.1f}) rotate(-90)" text-anchor="end" class="figure">{}</text>')
    parts.append(upright.format(left - 34, top, plot.upright))
    for index, (name, points) in enumerate(plot.lines.items()):
        shown = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(Markup('<polyline points="{}" class="curve c{}"><title>{}</title></polyline>').format(shown, index, name))
        parts.append(Markup('<text x="{}" y="{}" class="figure c{}">{}</text>').format(left + 130 * index, bottom + 54, index, name))
    for index, ((name, colour), cases) in enumerate(plot.dots.items()):
        for x, y, what in cases:
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}" fill-opacity="0.75"><title>{}</title></circle>')
            parts.append(dot.format(*place(x, y), colour, what))
        if index < 4:
            key = Markup('<text x="{}" y="{}" class="figure"><tspan fill="{}">&#9679;</tspan> {}</text>')
            parts.append(key.format(left + 140 * (index % 2), bottom + 54 + 16 * (index // 2), colour, _short(name)))
    return parts


def _svg(height: float, parts: Sequence[Markup], label: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">').format(_WIDTH, height, label)
    return head + Markup("").join(parts) + Markup("</svg>")


def _axis(tick: float, rows: int) -> Markup:
    line = Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="4" y2="{1}" class="tick"/>').format(_x(tick), rows * _ROW + 8)
    name = Markup('<text x="{:.1f}" y="{}" text-anchor="middle" class="figure">{:.1f}</text>')
    return line + name.format(_x(tick), rows * _ROW + 24, tick)


def _ticks(low: float, high: float) -> list[float]:
    """Return some round numbers between two others.

    >>> _ticks(0, 1), _ticks(1.05, 1.58)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [1.2, 1.4])
    """
    wanted = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _x(value: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value


def _short(name: str) -> Markup:
    return escape(name if len(name) <= 24 else name[:23] + "\u2026")
