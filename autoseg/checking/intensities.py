"""Intensities that cannot be trained on: not finite, one single value, a few voxels absurdly far from all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, error, warning
from autoseg.checking.reading import CaseData
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("intensities")


def non_finite(data: CaseData) -> Iterator[Fault]:
    """Report NaN, infinity and values that mark what was not measured."""
    for part in data.parts:
        array = part.image.array
        if array.dtype.kind != "f" or all(-_LIMITS.absurd < low and high < _LIMITS.absurd for low, high in part.extremes):
            continue
        with np.errstate(invalid="ignore"):
            strange = {
                "NaN": np.count_nonzero(np.isnan(array)),
                "+Inf": np.count_nonzero(np.isposinf(array)),
                "-Inf": np.count_nonzero(np.isneginf(array)),
            }
            beyond = np.count_nonzero((np.abs(array) >= _LIMITS.absurd) & np.isfinite(array))
        listed = [f"{count} {name}" for name, count in {**strange, f"beyond {_LIMITS.absurd:g}": beyond}.items() if count]
        yield error(
            "non-finite",
            f"the image holds {'values that are not numbers' if any(strange.values()) else 'absurdly large values'}",
            case=data.case.name,
            file=part.path,
            found=f"{', '.join(listed)} of {array.size} voxels",
            expected="finite numbers",
            remedy=f"replace them, by 0 where they mean background; or leave the case out with {left_out(data.case.name)}",
        )


def far_out(data: CaseData) -> Iterator[Fault]:
    """Report a few voxels that are so far from all others that they alone decide mean and deviation."""
    for part in data.parts:
        for channel, (low, high) in zip(part.image.array, part.finite, strict=True):
            yield from _far_out(data.case.name, part.path, channel, low, high)


def _far_out(case: str, path: Path, channel: NDArray[Any], low: float, high: float) -> Iterator[Fault]:
    if not low < high or max(-low, high) >= _LIMITS.absurd:
        return
    some = channel.ravel()[:: 1 + channel.size // 50_000].astype(np.float32)
    some = some[np.isfinite(some)]
    bottom, top = np.percentile(some, (0.1, 99.9)) if some.size else (low, high)
    usual = float(top - bottom)
    if usual > 0 and max(high - top, bottom - low) >= _LIMITS.far_out * usual:
        yield warning(
            "far-out",
            "a few voxels are absurdly far from all others",
            case=case,
            file=path,
            found=f"from {low:g} to {high:g}, while 99.8 % lie between {bottom:g} and {top:g}",
            expected="intensities of one scale",
            remedy="such values mark what was not measured, or are a defect of the file: replace them; z-score normalisation would leave "
            f"nothing of the rest. Or leave the case out: {left_out(case)}",
        )


def constant(data: CaseData) -> Iterator[Fault]:
    """Report an image without content, an error, or one empty channel among others, a warning."""
    empty = data.constant
    if not any(empty):
        return
    place = empty.index(True)  # among the channels that could be read
    part = data.parts[place] if len(data.parts) > 1 else data.parts[0]
    number = part.number if len(data.case.images) > 1 else place
    value = [low for part in data.parts for low, _ in part.finite][place]
    if all(empty):
        summary, remedy = "the image holds one single value", f"leave the case out: {left_out(data.case.name)}"
    else:
        summary, remedy = f"channel {number} holds one single value", "it teaches the network nothing about this case"
    yield (error if all(empty) else warning)(
        "constant", summary, case=data.case.name, file=part.path, found=f"{value:g} everywhere", expected="an image", remedy=remedy
    )
