"""Crop to what is not zero: scanners and skull stripping leave wide borders of exact zeros that teach nothing.

Which voxels were outside is kept as a mask of its own; labels are never given a special value for it. Only the resampling of
labels has to distinguish background inside from background outside, as the reference does: `mark_outside` and `split_outside`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import Box, nonzero_box

MASKED_OUT = -1  # while labels are resampled only: background outside the mask, a label like any other


def crop(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_], Box]:
    """Return a view of `array` on the box around everything that is not zero, the mask on that box, and the box.

    Parameters
    ----------
    array : (c, z, y, x)

    Returns
    -------
    (c, z, y, x) view; (z, y, x) mask, true where any channel is not zero, holes filled; the box in the given array

    Source: nnU-Net 2.8.1, crop to non-zero.
    """
    box, mask = nonzero_box(array)
    return array[:, *box.slices], mask[box.slices], box


def mark_outside(classes: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Return classes `(z, y, x)` with background outside `mask` as `MASKED_OUT`; foreground outside stays what it is.

    Source: nnU-Net 2.8.1, where outside competes with background when labels are resampled.
    """
    marked = classes.astype(np.int16)
    marked[(classes == 0) & ~mask] = MASKED_OUT
    return marked


def split_outside(marked: NDArray[np.int16]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the inverse: classes in the smallest unsigned type that holds them, and the mask of what is not outside."""
    inside = marked != MASKED_OUT
    classes = np.where(inside, marked, 0)
    return classes.astype(np.uint8 if classes.size == 0 or classes.max() < 256 else np.uint16), inside
