"""The curves of a training run, from the rows of its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from autoseg.pictures.png import png


def progress(history: Sequence[Mapping[str, Any]], *, title: str = "", dpi: int = 110) -> bytes:
    """The curves of a training: loss, validation Dice, learning rate, seconds per step and how much of them was waiting for data.

    Parameters
    ----------
    history : one row per epoch; the columns that are drawn are those of `CURVES`, and a panel without any is left out
    title : above the curves
    dpi : pixels per inch; a panel is 5 x 3.2 inches

    Returns
    -------
    The bytes of a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [_with_waiting(row) for row in history]
    panels = {name: curves for name, curves in CURVES.items() if any(_points(rows, curve[0]) for curve in curves)} or dict(CURVES)
    across = 2 if len(panels) == 4 else len(panels)
    down = -(-len(panels) // across)
    width, height, above = 5.0 * across, 3.2 * down, 0.4 if title else 0.0  # inches
    figure = Figure(figsize=(width, height + above), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.text(0.15 / width, 1 - 0.26 / (height + above), title, fontsize=13, fontweight="bold", color="#212529", va="center")
    for number, (heading, curves) in enumerate(panels.items()):
        left, low = 5.0 * (number % across) + 0.62, 3.2 * (down - 1 - number // across) + 0.5
        axes = figure.add_axes((left / width, low / (height + above), 4.2 / width, 2.3 / (height + above)))
        _draw_curves(axes, heading, rows, curves)
    return png(figure)


# heading -> (column of the history, name in the legend, colour, whether it is drawn smoothed over its own values)
CURVES: dict[str, tuple[tuple[str, str, str, bool], ...]] = {
    "loss": (("loss", "training", "#1c7ed6", True),),
    "validation Dice": (("validation_dice", "mean over the labels", "#2f9e44", False),),
    "learning rate": (("learning_rate", "learning rate", "#7048e8", False),),
    "seconds per step": (("seconds_per_step", "in all", "#495057", False), ("waiting", "waiting for data", "#e03131", False)),
}


def _with_waiting(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history with the seconds of each step in which the network waited for data."""
    seconds, share = row.get("seconds_per_step"), row.get("data_wait")
    return {**row, "waiting": None if seconds is None or share is None else seconds * share}


def _draw_curves(axes: Any, heading: str, rows: Sequence[Mapping[str, Any]], curves: Sequence[tuple[str, str, str, bool]]) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = [_draw_curve(axes, rows, *curve) for curve in curves]
    axes.set_title(heading, loc="left", fontsize=11, color="#212529")
    axes.grid(True, color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#495057", labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("epoch", fontsize=9, color="#495057")
    epochs = [float(row.get("epoch", index)) for index, row in enumerate(rows)] or [0.0]
    room = 0.03 * (max(epochs) - min(epochs)) + 0.2
    axes.set_xlim(min(epochs) - room, max(epochs) + room)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#ced4da")
    if not any(drawn):
        axes.text(0.5, 0.5, "no figures yet", transform=axes.transAxes, ha="center", va="center", color="#adb5bd")
    elif len(curves) > 1 and drawn[1]:
        axes.legend(frameon=False, fontsize=9, labelcolor="#495057", loc="upper right")
    if heading == "validation Dice":
        _mark_best(axes, rows)
    if heading == "seconds per step":
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    if heading == "learning rate":
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.set_ylim(bottom=0)


def _draw_curve(axes: Any, history: Sequence[Mapping[str, Any]], column: str, name: str, colour: str, smoothed: bool) -> bool:
    points = _points(history, column)
    if not points:
        return False
    epochs, values = map(np.array, zip(*points, strict=True))
    dots = "o" if len(values) < 25 and not smoothed else None
    if smoothed and len(values) >= 10:
        axes.plot(epochs, values, color=colour, linewidth=1, alpha=0.3)
        values = ndimage.gaussian_filter1d(values, max(1.0, len(values) / 50), mode="nearest")
    axes.plot(epochs, values, color=colour, linewidth=2, label=name, marker=dots or ("o" if len(values) == 1 else None), markersize=4)
    if name.startswith("waiting"):
        axes.fill_between(epochs, values, color=colour, alpha=0.15, linewidth=0)
    return True


def _points(history: Sequence[Mapping[str, Any]], column: str) -> list[tuple[float, float]]:
    rows = [(row.get("epoch", index), row.get(column)) for index, row in enumerate(history)]
    return [(float(epoch), float(value)) for epoch, value in rows if value is not None and np.isfinite(value)]


def _mark_best(axes: Any, history: Sequence[Mapping[str, Any]]) -> None:
    points = _points(history, "validation_dice")
    if points:
        epoch, value = max(points, key=lambda point: point[1])
        axes.plot([epoch], [value], marker="o", color="#2f9e44", markersize=6, linestyle="")
        axes.annotate(f"{value:.3f}", (epoch, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9, color="#2f9e44")
    bottom = _dice_axis_from([value for _, value in points])
    axes.set_ylim(bottom, 1.08 if bottom == 0 else min(1.0, max(value for _, value in points) + 0.4 * (1 - bottom) ** 2 + 0.01))


def _dice_axis_from(values: Sequence[float]) -> float:
    """Where the axis of Dice begins: low enough for all but the first quarter of the values, and high enough to tell them apart.

    >>> _dice_axis_from([0.86, 0.88, 0.885, 0.889, 0.89, 0.891]), _dice_axis_from([0.1, 0.3, 0.35, 0.4]), _dice_axis_from([0.9])
    (0.85, 0.0, 0.0)
    """
    settled = list(values)[len(values) // 4 :]
    if len(values) < 4:
        return 0.0
    lowest = min(settled) - max(max(settled) - min(settled), 0.02)
    return math.floor(lowest * 20) / 20 if lowest > 0.5 else 0.0
