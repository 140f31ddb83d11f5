"""Label maps as files hold them become integers, in the smallest type that holds their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import LabelError

ROUNDING = 0.001  # a stored value may miss its integer by this much: scaled and float-converted maps miss by about 1e-6; 1/255, a mask
# that was divided by its maximum, must not become 0
LARGEST_LABEL = 2**31 - 1
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
    wrong = array[np.abs(array - np.rint(array)) > ROUNDING]
    values, counts = np.unique(wrong, return_counts=True)
    listed = ", ".join(f"{value:.6g} ({count} voxels)" for value, count in list(zip(values, counts, strict=True))[:5])
    more = f" and {len(values) - 5} other values" if len(values) > 5 else ""
    return LabelError(
        "the label map holds values between integers",
        file=path,
        found=listed + more,
        expected=f"integers, or floats within {ROUNDING} of one",
        fix="check that this is the label and no image; a map that was resampled must be resampled with nearest neighbour",
    )
