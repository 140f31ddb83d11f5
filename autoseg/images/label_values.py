"""Label maps as files hold them become integers, in the smallest type that holds their values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import LabelError
from autoseg.quantities import COLOUR

ROUNDING = 0.001  # a stored value may miss its integer by this much: scaled and float-converted maps miss by about 1e-6; 1/255, a mask
# that was divided by its maximum, must not become 0
LARGEST_LABEL = 2**31 - 1
_FEWEST_VALUES = 10  # of fewer, nothing is said
_IN_AREAS = 0.5  # share of the voxels of a structure that have an equal neighbour along y, and along x
_SCATTERED = 8  # values that fill no areas: thin structures may be a few
_PEAK = 0.005  # share of all voxels
_IMAGE = 0.1  # share of all voxels that fill no areas, of an image; label maps of single points have fewer
_FEWEST_VOXELS = 100  # that fill no areas
_MOSTLY = 0.7  # share of all voxels that the peaks of a smeared mask hold
_OVERSHOOT = 0.2  # by which cubic interpolation of a mask leaves 0..1
_KINDS = (np.uint8, np.int16, np.uint16, np.int32)
_SLAB = 1 << 22  # voxels at a time, so that a float map needs no second copy of itself


def as_label_values(array: NDArray[Any], *, path: Path) -> NDArray[np.integer[Any]]:
    """Return label values as integers, same shape, in the smallest of uint8, int16, uint16, int32.

    Integers stay as they are, nearly-integers (within `ROUNDING`) are rounded.

    Raises
    ------
    LabelError : NaN or infinity, values between integers (an interpolated map, or an image), or values beyond 32 bits
    """
    if array.dtype == np.uint8 or array.size == 0:
        return array.astype(np.uint8, copy=False)
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise LabelError(
            "the label map holds values that are no numbers",
            file=path,
            found=f"{int(np.isnan(array).sum())} NaN, {int(np.isinf(array).sum())} infinite voxels",
            expected="integers",
            fix="replace them by the label they should have, or leave the case out with --exclude",
        )
    if low < -LARGEST_LABEL or high > LARGEST_LABEL:
        raise LabelError(
            "label values beyond 32 bits",
            file=path,
            found=f"values from {low:g} to {high:g}",
            expected="integers of at most 32 bits",
            fix="map the labels to smaller numbers; check that this is a label map and no image",
        )
    kind = smallest_kind(round(float(low)), round(float(high)))
    if array.dtype.kind in "biu":
        return array.astype(kind, copy=False)
    return _rounded(array, kind, path)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the values of a label map look like."""

    kind: Literal["labels", "smeared", "image"]  # smeared: a mask that was smoothed, or saved as JPEG
    counts: dict[int, int]  # value -> voxels
    peaks: tuple[int, ...]  # values that fill areas
    names: tuple[tuple[int, str], ...] = ()  # value and name, where the file states them

    @property
    def found(self) -> str:
        """Say which values there are."""
        others = [value for value in self.counts if value not in self.peaks]
        texts = [f"{value} ({self.counts[value]} voxels)" for value in self.peaks[:5]]
        if others:
            voxels = sum(self.counts[value] for value in others)
            texts.append(f"{len(others)} {'other ' * bool(texts)}values from {min(others)} to {max(others)} ({voxels} voxels)")
        return ", ".join(texts)

    def remedy(self, declared: Sequence[int] = ()) -> str:
        """Say what to do about a smeared mask, or about an image; `declared` are the values that labels may have, if any are."""
        if self.kind == "image":
            return "so many values look like an image: check which files are the labels"
        remedy = "store the masks again, resized by nearest neighbour and as PNG"
        means = self.peaks if not declared or {*self.peaks} <= {*declared} else tuple(declared)
        if len(self.peaks) != 2 or len(means) != 2:
            return remedy
        (low, high), top = self.peaks, max(self.counts)
        middle = (low + high + 1) // 2
        options = []
        for first, last, meant in ((low, middle - 1, means[0]), (middle, top, means[1])):
            edges = [first - 1, *sorted(value for value in means if first <= value <= last), last + 1]  # a declared value means itself
            runs = [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]
            options += [f"--map-labels {begin}{f'-{end}' if end > begin else ''}={meant}" for begin, end in runs]
        return f"{remedy}; or take the nearer of the two values: {' '.join(options)}"


def content_of(array: NDArray[np.integer[Any]]) -> Content:
    """Return what the values of a label map `(..., y, x)` look like.

    A value that stands for a structure fills areas, so that most of its voxels have equal neighbours along y and along x. Where many values
    do not, they are the grey borders of a smeared mask, or those of an image.
    """
    planes = array.reshape(-1, *array.shape[-2:])
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        length = int(array.max(initial=0)) + 1
        histogram = sum((np.bincount(plane.ravel(), minlength=length) for plane in planes), np.zeros(length, np.int64))
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    else:
        values, counts = np.unique(array, return_counts=True)
    known = dict(zip(values.tolist(), counts.tolist(), strict=True))
    if len(values) < _FEWEST_VALUES or min(array.shape[-2:]) < 2:
        return Content(kind="labels", counts=known, peaks=tuple(known))
    equal = np.zeros((2, len(values)), np.int64)
    for plane in planes:
        index = np.searchsorted(values, plane)
        for axis, (first, second) in enumerate(((index[1:], index[:-1]), (index[:, 1:], index[:, :-1]))):
            equal[axis] += np.bincount(first[first == second], minlength=len(values))
    areal = equal.min(axis=0) >= _IN_AREAS * counts
    peaks = areal & (counts >= _PEAK * counts.sum())
    kind: Literal["labels", "smeared", "image"] = "labels"
    if np.count_nonzero(~areal) >= max(_SCATTERED, len(values) / 2):
        scattered = counts[~areal].sum() / counts.sum()
        if np.count_nonzero(peaks) > 1 and counts[peaks].sum() > _MOSTLY * counts.sum():
            kind = "smeared"
        elif scattered > _IMAGE and counts[~areal].sum() > _FEWEST_VOXELS:
            kind = "image"
    return Content(kind=kind, counts=known, peaks=tuple(values[peaks].tolist()))


def value_text(value: int) -> str:
    """Return a label value of a picture as text, as `--map-labels` takes it: a number, or a colour.

    >>> value_text(7), value_text(COLOUR + 0xFF0000), value_text(COLOUR + 0x808080)
    ('7', 'ff0000', '0x808080')
    """
    if not COLOUR <= value < 2 * COLOUR:
        return str(value)
    digits = f"{value - COLOUR:06x}"
    return f"0x{digits}" if digits.isdigit() and digits[0] != "0" else digits


def smallest_kind(low: int, high: int) -> np.dtype[Any]:
    """Return the first of uint8, int16, uint16, int32 that holds both values.

    >>> smallest_kind(0, 300)
    dtype('int16')
    """
    return next((np.dtype(kind) for kind in _KINDS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), np.dtype(np.int64))


def _rounded(array: NDArray[Any], kind: np.dtype[Any], path: Path) -> NDArray[np.integer[Any]]:
    """Round a float map slab by slab."""
    result = np.empty(array.shape, dtype=kind)
    source, target = array.reshape(-1), result.reshape(-1)
    for start in range(0, source.size, _SLAB):
        slab = source[start : start + _SLAB]
        whole = np.rint(slab)
        wrong = np.abs(slab - whole) > ROUNDING
        if wrong.any():
            raise _between(array, path)
        target[start : start + _SLAB] = whole.astype(kind)
    return result


def _between(array: NDArray[Any], path: Path) -> LabelError:
    """Return the error for a map with values between integers: a soft mask, an interpolated map, or an image."""
    wrong = np.abs(array - np.rint(array)) > ROUNDING
    values, counts = np.unique(np.char.mod("%.3g", array[wrong][:_SLAB]), return_counts=True)
    order = np.argsort(values.astype(float))
    listed = ", ".join(f"{values[index]} ({counts[index]} voxels)" for index in order[:5])
    more = f" and {len(values) - 5} other values" if len(values) > 5 else ""
    low, high, share = float(array.min()), float(array.max()), float(wrong.mean())
    remedy = "check that this is the label and no image; a map that was resampled must be resampled with nearest neighbour"
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        remedy = f"a soft mask: binarise it at 0.5, for example: fslmaths {shlex.quote(path.name)} -thr 0.5 -bin binary.nii.gz"
    return LabelError(
        "the label map holds values between integers",
        file=path,
        found=f"{listed}{more}; {share:.2%} of all voxels, values from {low:.3g} to {high:.3g}",
        expected=f"integers, or floats within {ROUNDING} of one",
        fix=remedy,
    )
