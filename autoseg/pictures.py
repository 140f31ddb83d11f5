"""Pictures for people: segmentations over their images, and the curves of a training.

Every function returns the bytes of a PNG; writing them is the business of others. matplotlib is imported inside the functions,
without its global state, so that nothing here opens a window or slows down a command that draws nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.metrics import confusion, overlap_of

COLOURS = (
    "#ff6b6b",
    "#4dabf7",
    "#ffd43b",
    "#51cf66",
    "#da77f2",
    "#ff922b",
    "#22d3ee",
    "#f783ac",
    "#a9e34b",
    "#9775fa",
    "#e8b48a",
    "#8ce0c4",
)
LISTED = 12  # label names beside a case

_GROUND, _INK, _FAINT = "#0b0d12", "#f1f3f5", "#868e96"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One case to be drawn: a row of the picture."""

    title: str
    image: NDArray[Any]  # (z, y, x), canonical; or (c, z, y, x): three channels are shown as colours, else the first one
    prediction: NDArray[Any]  # (z, y, x), classes
    spacing: Spacing  # mm
    reference: NDArray[Any] | None = None  # (z, y, x), classes


def overlay(image: NDArray[Any], prediction: NDArray[Any], reference: NDArray[Any] | None, labels: Labels, spacing: Spacing) -> bytes:
    """One case as `overlays` draws it."""
    return overlays([Overlay(title="", image=image, prediction=prediction, reference=reference, spacing=spacing)], labels)


def overlays(cases: Sequence[Overlay], labels: Labels, *, dpi: int = 130) -> bytes:
    """Prediction filled, reference as a line, over axial, coronal and sagittal slices through the structures.

    Parameters
    ----------
    cases : one row each, in canonical orientation; shown as radiologists look at it: the patient's right is on the left
    labels : names and Dice are listed beside each case
    dpi : pixels per inch; a panel is 2.7 inches wide

    Returns
    -------
    The bytes of a PNG. Slices have the aspect of the body, whatever the spacing; the bar is 1, 2 or 5 times a power of ten in mm.
    A planar image without a spacing is shown as it is stored.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cell, beside, top, gap = 2.7, 2.55, 0.5, 0.06  # inches
    columns = 2 if all(case.prediction.shape[0] == 1 for case in cases) else 4
    heights = [_row_height(case, cell) for case in cases]
    width, height = columns * (cell + gap) + beside, top + sum(heights) + gap * len(cases)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    _head(figure, columns, cell + gap, width, height, with_reference=any(case.reference is not None for case in cases))
    bottom = height - top
    for case, row in zip(cases, heights, strict=True):
        bottom -= row
        for column, (plane, covered) in enumerate(_panels(case)):
            place = (column * (cell + gap) / width, bottom / height, cell / width, row / height)
            _draw_panel(figure.add_axes(place), case, plane, covered, labels)
        listed = min(LISTED, int((row - 0.45) / 0.21))
        _draw_list(figure, case, labels, (columns * (cell + gap) + 0.12) / width, (bottom + row) / height, 1 / height, listed)
        bottom -= gap
    return _png(figure)


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
    return _png(figure)


# heading -> (column of the history, name in the legend, colour, whether it is drawn smoothed over its own values)
CURVES: dict[str, tuple[tuple[str, str, str, bool], ...]] = {
    "loss": (("loss", "training", "#1c7ed6", True), ("validation_loss", "validation", "#f76707", True)),
    "validation Dice": (("validation_dice", "mean over the labels", "#2f9e44", False),),
    "learning rate": (("learning_rate", "learning rate", "#7048e8", False),),
    "seconds per step": (("seconds_per_step", "in all", "#495057", False), ("waiting", "waiting for data", "#e03131", False)),
}

# plane -> (axis across the slice, marks at left, right, bottom, top); left is the patient's right, as radiologists look at it
_PLANES = {"axial": (0, "RLPA"), "coronal": (1, "RLIS"), "sagittal": (2, "APIS")}


def _panels(case: Overlay) -> list[tuple[str, bool]]:
    """Which planes, and whether the segmentation lies over the image."""
    planes = ["axial"] if case.prediction.shape[0] == 1 else list(_PLANES)
    return [("axial", False), *((plane, True) for plane in planes)]


def _row_height(case: Overlay, cell: float) -> float:
    """Inches: as high as the highest of its slices when each fills the width of its panel, within reason."""
    region = _region(case)
    ratios = []
    for plane, _ in _panels(case):
        rows, columns = (axis for axis in range(3) if axis != _PLANES[plane][0])
        extent = [(region[axis].stop - region[axis].start) * case.spacing[axis] for axis in (rows, columns)]
        ratios.append(extent[0] / extent[1])
    return cell * float(np.clip(max(ratios), 0.62, 1.0))


def _region(case: Overlay) -> tuple[slice, slice, slice]:
    """The part of the volume that is shown: all of it, or what lies around the structures where they are small in it."""
    shown = case.prediction > 0 if case.reference is None else (case.prediction > 0) | (case.reference > 0)
    found = ndimage.find_objects(shown.astype(np.uint8))
    if not found:
        return tuple(slice(0, n) for n in shown.shape)  # type: ignore[return-value]
    extent = [(s.stop - s.start) * d for s, d in zip(found[0], case.spacing, strict=True)]
    margin = 0.35 * max(extent)
    wide = [
        slice(max(0, int(s.start - margin / d)), min(n, int(np.ceil(s.stop + margin / d))))
        for s, d, n in zip(found[0], case.spacing, shown.shape, strict=True)
    ]
    kept = [slice(0, n) if (s.stop - s.start) > 0.6 * n else s for s, n in zip(wide, shown.shape, strict=True)]
    return tuple(kept)  # type: ignore[return-value]


def _best_slice(case: Overlay, axis: int) -> int:
    """The slice in which the structures together are best seen: each counts by its area relative to its largest one."""
    truth = case.prediction if case.reference is None or not (case.reference > 0).any() else case.reference
    seen = np.zeros(truth.shape[axis])
    others = tuple(a for a in range(3) if a != axis)
    for index, box in enumerate(ndimage.find_objects(truth), start=1):
        if box is not None:
            areas = np.count_nonzero(truth[box] == index, axis=others)
            seen[box[axis]] += np.sqrt(areas / areas.max())
    if not seen.any():
        return int(truth.shape[axis] // 2)
    best = np.flatnonzero(seen >= seen.max() - 1e-9)
    return int(best[len(best) // 2])


def _draw_panel(axes: Any, case: Overlay, plane: str, covered: bool, labels: Labels) -> None:
    axis, marks = _PLANES[plane]
    region = _region(case)
    index = _best_slice(case, axis)
    rows, columns = (a for a in range(3) if a != axis)
    extent = [(region[a].stop - region[a].start) * case.spacing[a] for a in (rows, columns)]
    photograph = _is_photograph(case)
    pixel = min(max(extent) / 480, case.spacing[rows], case.spacing[columns])  # mm, of the picture
    shape = [max(1, round(e / pixel)) for e in extent]

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        """The slice as it is looked at: rows from top to bottom, columns from left to right."""
        shown = array[..., *(index if a == axis else region[a] for a in range(3))]
        return shown if photograph else shown[..., ::-1, ::-1]

    axes.imshow(_grey(case, cut, shape), interpolation="bilinear", extent=(0, extent[1], 0, extent[0]))
    if covered:
        prediction = cut(case.prediction)
        for number, colour in _colours(labels):
            _draw_label(axes, prediction == number, extent, pixel, colour, filled=True)
        reference = np.zeros_like(prediction) if case.reference is None else cut(case.reference)
        for number, colour in _colours(labels):
            _draw_label(axes, reference == number, extent, pixel, colour, filled=False)
    axes.set_axis_off()
    axes.set_xlim(0, extent[1])
    axes.set_ylim(0, extent[0])
    axes.set_aspect("equal")
    if case.prediction.shape[0] > 1:
        places = (
            (0.02, 0.5, "left", "center"),
            (0.98, 0.5, "right", "center"),
            (0.5, 0.02, "center", "bottom"),
            (0.5, 0.98, "center", "top"),
        )
        for letter, (x, y, horizontal, vertical) in zip(marks, places, strict=True):
            axes.text(x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical, path_effects=_outline(), **_SMALL)
    if not covered and not photograph:
        _draw_bar(axes, extent)


def _is_photograph(case: Overlay) -> bool:
    """One slice without a spacing, as from a PNG: shown as it is stored, its first row on top, and without a scale."""
    return case.prediction.shape[0] == 1 and tuple(case.spacing) == (1.0, 1.0, 1.0)


def _grey(case: Overlay, cut: Any, shape: Sequence[int]) -> NDArray[np.float32]:
    """The slice as `(rows, columns, 3)`, 0 to 1: from the 0.5 to the 99.5 percentile of what is shown.

    Of a single channel, not more than six standard deviations around the structures: air and bone would leave nothing for them.
    """
    channels = case.image[None] if case.image.ndim == 3 else case.image
    channels = channels if len(channels) == 3 else channels[:1]
    slices = [np.nan_to_num(np.asarray(cut(channel), dtype=np.float32)) for channel in channels]
    low, high = np.percentile(np.stack(slices), [0.5, 99.5])
    structure = channels[0][(case.prediction if case.reference is None else case.reference) > 0] if len(channels) == 1 else np.zeros(0)
    if structure.size and structure.std() > 0:
        low, high = max(low, structure.mean() - 6 * structure.std()), min(high, structure.mean() + 6 * structure.std())
    shown = [np.clip((_enlarged(s, shape) - low) / max(high - low, 1e-6), 0, 1) for s in slices]
    return np.stack(shown * (3 // len(shown)), axis=-1)


def _draw_label(axes: Any, mask: NDArray[np.bool_], extent: Sequence[float], pixel: float, colour: str, *, filled: bool) -> None:
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return
    voxel = [e / n for e, n in zip(extent, mask.shape, strict=True)]  # mm
    around = np.pad(mask[found[0]], 1).astype(np.float32)
    smooth = _enlarged(around, [max(1, round(n * v / pixel)) for n, v in zip(around.shape, voxel, strict=True)])
    rows, columns = ((s.start - 1, s.stop + 1) for s in found[0])
    place = (columns[0] * voxel[1], columns[1] * voxel[1], extent[0] - rows[1] * voxel[0], extent[0] - rows[0] * voxel[0])
    if filled:
        from matplotlib.colors import to_rgba

        layer = np.zeros((*smooth.shape, 4), dtype=np.float32)
        layer[..., :] = to_rgba(colour, 0.0)
        layer[smooth >= 0.5, 3] = 0.42
        axes.imshow(layer, interpolation="bilinear", extent=place)
    else:
        axes.contour(smooth, levels=[0.5], colors=[colour], linewidths=1.3, extent=place, origin="upper")


def _enlarged(array: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return np.asarray(ndimage.zoom(array, factors, order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def _colours(labels: Labels) -> list[tuple[int, str]]:
    """Class and colour of every foreground label."""
    return [(index, COLOURS[(index - 1) % len(COLOURS)]) for index in range(1, len(labels.labels))]


def _draw_bar(axes: Any, extent: Sequence[float]) -> None:
    """A scale bar of about a quarter of the width."""
    wanted = extent[1] / 4
    power = 10 ** np.floor(np.log10(wanted))
    length = power * max(step for step in (1, 2, 5) if step * power <= wanted * 1.0001)
    left, low = 0.04 * extent[1], 0.05 * extent[0]
    axes.plot([left, left + length], [low, low], color=_INK, linewidth=2, solid_capstyle="butt", path_effects=_outline())
    axes.text(left, low + 0.02 * extent[0], f"{length:g} mm", ha="left", va="bottom", path_effects=_outline(), **_SMALL)


_SMALL = {"color": _INK, "fontsize": 8}


def _outline() -> list[Any]:
    """What keeps letters readable on bright tissue."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2, foreground=_GROUND)]


def _head(figure: Any, columns: int, step: float, width: float, height: float, *, with_reference: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = ["image", "segmentation"] if columns == 2 else ["image", *_PLANES]
    for column, name in enumerate(names):
        figure.text((column + 0.5) * step / width, 1 - 0.27 / height, name, color=_INK, fontsize=11, ha="center", va="center")
    keys: list[Any] = [Patch(facecolor="#adb5bd", alpha=0.6, label="prediction")]
    if with_reference:
        keys.append(Line2D([], [], color="#dee2e6", linewidth=1.6, label="reference"))
    figure.legend(
        handles=keys, loc="center left", bbox_to_anchor=((columns * step + 0.02) / width, 1 - 0.27 / height), ncols=2, frameon=False,
        fontsize=9, labelcolor=_INK, handlelength=1.2, handletextpad=0.5, columnspacing=1.0,
    )  # fmt: skip


def _draw_list(figure: Any, case: Overlay, labels: Labels, x: float, top: float, inch: float, listed: int) -> None:
    """Title, label names and Dice beside a row."""
    colours = dict(_colours(labels))
    rows = _dice_rows(case, labels)
    line = top - 0.22 * inch
    width = figure.get_size_inches()[0]
    figure.text(x, line, _shortened(case.title), color=_INK, fontsize=10.5, fontweight="bold", va="center")
    if case.reference is not None:
        figure.text(x + 2.3 / width, line, "Dice", color=_FAINT, fontsize=9, va="center", ha="right")
    for name, index, text in rows[:listed]:
        line -= 0.21 * inch
        figure.text(x, line, "\u25a0", color=colours.get(index, _INK), fontsize=10, va="center")
        figure.text(x + 0.17 / width, line, _shortened(name), color=_INK, fontsize=9, va="center")
        figure.text(x + 2.3 / width, line, text, color=_INK, fontsize=9, va="center", ha="right")
    if len(rows) > listed:
        figure.text(x, line - 0.21 * inch, f"and {len(rows) - listed} more", color=_FAINT, fontsize=9, va="center")


def _dice_rows(case: Overlay, labels: Labels) -> list[tuple[str, int, str]]:
    """Name, class that lends its colour, and Dice of each target that is there; the largest first where there are many."""
    size = len(labels.labels) + (labels.ignore_class is not None)
    reference = case.prediction if case.reference is None else case.reference
    counts = confusion(case.prediction, reference, classes=size)
    writes = {region.name: labels.classes_of([region.writes])[0] for region in labels.regions}
    rows = []
    for name, members in labels.targets:
        both = overlap_of(counts, members, ignore=labels.ignore_class)
        if both.dice is not None:
            rows.append((both.reference, name, writes.get(name, members[0]), "" if case.reference is None else f"{both.dice:.3f}"))
    if len(rows) > LISTED:
        rows.sort(reverse=True)
    return [row[1:] for row in rows]


def _shortened(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "\u2026"


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


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return stream.getvalue()
