"""Warnings at the door: a scan unlike those that the model was trained on is segmented all the same, but not in silence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import Channel
from autoseg.errors import UnreadableFile
from autoseg.fingerprint import ChannelIntensities, Fingerprint
from autoseg.images import Image
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration, Plan

SPACING_TOLERANCE = 1.5  # times finer than the finest training scan, or coarser than the coarsest, along an axis
PLANNED_TOLERANCE = 3.0  # the same against the planned spacing, where the training scans are not known
FEWEST_FAMILIAR = 0.005  # share of the voxels of an absolute channel that must be in the training's foreground range


def unusual(image: Image, plan: Plan, configuration: Configuration, fingerprint: Fingerprint | None) -> tuple[str, ...]:
    """Return what is unusual about a scan, one sentence each.

    Raises
    ------
    UnreadableFile : a channel holds values that are not finite
    """
    return (
        *_unusual_spacing(image, plan, configuration, fingerprint),
        *(
            sentence
            for channel, array, scheme, known in zip(plan.channels, image.array, configuration.normalization, plan.intensities, strict=True)
            for sentence in _unusual_intensities(channel, array, scheme, known)
        ),
    )


def _unusual_spacing(image: Image, plan: Plan, configuration: Configuration, fingerprint: Fingerprint | None) -> list[str]:
    if fingerprint is not None and fingerprint.cases:
        known = np.array([case.spacing for case in fingerprint.cases])
        finest, coarsest = known.min(0) / SPACING_TOLERANCE, known.max(0) * SPACING_TOLERANCE
        lowest, highest = known.min(0), known.max(0)
    else:
        planned = np.empty(3)
        planned[list(plan.axis_order)] = configuration.spacing
        finest, coarsest = planned / PLANNED_TOLERANCE, planned * PLANNED_TOLERANCE
        lowest = highest = planned
    found = []
    for axis, name in enumerate("zyx"):
        spacing = image.spacing[axis]
        if image.shape[axis] > 1 and not finest[axis] <= spacing <= coarsest[axis]:
            found.append(f"spacing along {name} is {spacing:.3g} mm; the training scans had {lowest[axis]:.3g} to {highest[axis]:.3g} mm")
    return found


def _unusual_intensities(channel: Channel, array: NDArray[np.generic], scheme: str, known: ChannelIntensities) -> list[str]:
    sample = array.reshape(-1)[:: max(1, array.size // 1_000_000)].astype(np.float64)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableFile(
            f"channel '{channel.name}' holds values that are not numbers",
            found="NaN or infinity",
            expected="finite intensities",
            fix="replace them in the file, or export the scan again",
        )
    if low == high:
        return [f"channel '{channel.name}' has the same value everywhere ({low:g})"]
    if not NORMALIZATIONS[scheme].absolute:
        return []
    familiar = np.mean((sample >= known.percentile_00_5) & (sample <= known.percentile_99_5))
    if familiar < FEWEST_FAMILIAR:
        return [
            f"channel '{channel.name}': {familiar:.2%} of the voxels are between {known.percentile_00_5:g} and {known.percentile_99_5:g}, "
            f"the range of the structures in training; this scan has {low:g} to {high:g}"
        ]
    if scheme == "ct" and low >= 0 > known.percentile_00_5:
        return [f"channel '{channel.name}' has no negative values; CT in Hounsfield units has about -1000 for air"]
    return []
