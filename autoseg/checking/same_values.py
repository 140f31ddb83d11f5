"""An image that holds the label, or a label that holds the image: a copy under the wrong name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, error
from autoseg.checking.reading import CaseData


def image_equals_label(data: CaseData) -> Iterator[Fault]:
    """Report channels with the same values as the label."""
    label = data.label
    if label is None:
        return
    for part in data.parts:
        for channel in part.image.array:
            if channel.shape == label.shape and channel.any() and np.array_equal(channel, label.array[0]):
                yield error(
                    "same-file",
                    "image and label hold the same values",
                    case=data.case.name,
                    file=part.path,
                    found=f"also in {data.label_file}" if data.label_file else None,
                    expected="an image, and what is segmented in it",
                    remedy=f"one of them was copied under the wrong name; restore it, or {left_out(data.case.name)}",
                )
