"""Segmentations over their images, one row of slices per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.colours import colour_of
from autoseg.geometry import Spacing, triple
from autoseg.labels import Labels
from autoseg.metrics import confusion, overlap_of
from autoseg.pictures.png import png

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
    return png(figure)


def panels(case: Overlay, labels: Labels, *, dpi: int = 150) -> tuple[tuple[str, bytes], ...]:
    """Return the pictures of a row one by one, for pages that place them themselves.

    Parameters
    ----------
    case, labels, dpi : as for `overlays`

    Returns
    -------
    (plane, bytes of a PNG) of the bare image and of each plane with the segmentation, all of one height.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cell = 2.7  # inches
    found = []
    for plane, covered in _panels(case):
        figure = Figure(figsize=(cell, _row_height(case, cell)), dpi=dpi, facecolor=_GROUND)
        FigureCanvasAgg(figure)
        _draw_panel(figure.add_axes((0, 0, 1, 1)), case, plane, covered, labels)
        found.append((plane if covered else f"{plane}, image alone", png(figure)))
    return tuple(found)


def legend(case: Overlay, labels: Labels) -> list[tuple[str, str, str]]:
    """Return colour, name and Dice of each label or region of a case; no Dice without a reference."""
    colours = dict(_colours(labels))
    return [(colours.get(index, _INK), name, text) for name, index, text in _dice_rows(case, labels)]


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
        return triple(slice(0, n) for n in shown.shape)
    extent = [(s.stop - s.start) * d for s, d in zip(found[0], case.spacing, strict=True)]
    margin = 0.35 * max(extent)
    wide = [
        slice(max(0, int(s.start - margin / d)), min(n, int(np.ceil(s.stop + margin / d))))
        for s, d, n in zip(found[0], case.spacing, shown.shape, strict=True)
    ]
    kept = [slice(0, n) if (s.stop - s.start) > 0.6 * n else s for s, n in zip(wide, shown.shape, strict=True)]
    return triple(kept)


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
        """Return the slice as it is looked at: rows from top to bottom, columns from left to right."""
        shown = array[..., *(index if a == axis else region[a] for a in range(3))]
        return shown if photograph else shown[..., ::-1, ::-1]

    shown = _grey(case, cut, shape)
    if covered:
        shown = _filled(shown, cut(case.prediction), labels)
        if case.reference is not None:
            _draw_outlines(axes, cut(case.reference), shape, extent, labels)
    axes.imshow(shown, interpolation="bilinear", extent=(0, extent[1], 0, extent[0]))
    axes.set_axis_off()
    axes.set_xlim(0, extent[1])
    axes.set_ylim(0, extent[0])
    axes.set_aspect("equal")
    if case.prediction.shape[0] > 1:
        places = ((0.02, 0.5, "left"), (0.98, 0.5, "right"), (0.5, 0.02, "bottom"), (0.5, 0.98, "top"))
        for letter, (x, y, side) in zip(marks, places, strict=True):
            across, upright = (side, "center") if side in ("left", "right") else ("center", side)
            axes.text(x, y, letter, transform=axes.transAxes, ha=across, va=upright, path_effects=_outline(), **_SMALL)
    if not covered and not photograph:
        _draw_bar(axes, extent)


def _is_photograph(case: Overlay) -> bool:
    """One slice without a spacing, as from a PNG: shown as it is stored, its first row on top, and without a scale."""
    return case.prediction.shape[0] == 1 and tuple(case.spacing) == (1.0, 1.0, 1.0)


def _grey(case: Overlay, cut: Any, shape: Sequence[int]) -> NDArray[np.float32]:
    """The slice as `(rows, columns, 3)`, 0 to 1: from the 0.5 to the 99.5 percentile of what is shown.

    Of a single channel, not more than six standard deviations around the structures: air and bone would leave nothing for them.
    """
    from skimage import exposure

    channels = case.image[None] if case.image.ndim == 3 else case.image
    channels = channels if len(channels) == 3 else channels[:1]
    slices = [np.nan_to_num(np.asarray(cut(channel), dtype=np.float32)) for channel in channels]
    low, high = np.percentile(np.stack(slices), [0.5, 99.5])
    structure = channels[0][(case.prediction if case.reference is None else case.reference) > 0] if len(channels) == 1 else np.zeros(0)
    if structure.size and structure.std() > 0:
        low, high = max(low, structure.mean() - 6 * structure.std()), min(high, structure.mean() + 6 * structure.std())
    window = (float(low), float(max(high, low + 1e-6)))
    shown = [exposure.rescale_intensity(_enlarged(s, shape), in_range=window, out_range=(0, 1)) for s in slices]
    return np.stack(shown * (3 // len(shown)), axis=-1)


def _filled(image: NDArray[np.float32], classes: NDArray[Any], labels: Labels) -> NDArray[Any]:
    """Return the image `(rows, columns, 3)` with every class of the slice filled in its colour, with smooth borders."""
    from matplotlib.colors import to_rgb
    from skimage.color import label2rgb

    covered = np.zeros(image.shape[:2], dtype=np.int64)
    for number, _ in _colours(labels):
        if (mask := classes == number).any():
            covered[_enlarged(mask.astype(np.float32), covered.shape) >= 0.5] = number
    colours = [to_rgb(colour) for number, colour in _colours(labels) if (covered == number).any()]
    if not colours:
        return image
    mixed = label2rgb(covered, image=image, colors=colours, alpha=0.42, bg_label=0, bg_color=None, saturation=1)
    return np.clip(mixed, 0, 1)


def _draw_outlines(axes: Any, classes: NDArray[Any], shape: Sequence[int], extent: Sequence[float], labels: Labels) -> None:
    """Draw a line around every class of the slice."""
    from skimage.measure import find_contours

    for number, colour in _colours(labels):
        if (mask := classes == number).any():
            smooth = np.pad(_enlarged(mask.astype(np.float32), shape), 1)  # the line is closed at the edge of the picture, too
            for line in find_contours(smooth, 0.5):
                row, column = ((line - 0.5) / shape * extent).T  # pixel centres of the padded picture, in mm
                axes.plot(column, extent[0] - row, color=colour, linewidth=1.3)


def _enlarged(array: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    from skimage.transform import resize

    return np.asarray(resize(array, tuple(shape), order=1, mode="edge", anti_aliasing=False), dtype=np.float32)


def _colours(labels: Labels) -> list[tuple[int, str]]:
    """Class and colour of every foreground label."""
    return [(index, colour_of(index)) for index in range(1, labels.class_count)]


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
    size = labels.class_count + (labels.ignore_class is not None)
    reference = case.prediction if case.reference is None else case.reference
    counts = confusion(case.prediction, reference, classes=size)
    writes = {region.name: labels.classes_of([region.writes])[0] for region in labels.regions}
    rows = []
    for name, members in labels.scored:
        both = overlap_of(counts, members, ignore=labels.ignore_class)
        if both.dice is not None:
            rows.append((both.reference, name, writes.get(name, members[0]), "" if case.reference is None else f"{both.dice:.3f}"))
    if len(rows) > LISTED:
        rows.sort(reverse=True)
    return [row[1:] for row in rows]


def _shortened(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "\u2026"
