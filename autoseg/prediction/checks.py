"""Warnings at the door: a scan unlike those that the model was trained on is segmented all the same, but not in silence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import Channel
from autoseg.errors import UnreadableFile
from autoseg.fingerprint import ChannelIntensities, Fingerprint
from autoseg.geometry import Spacing
from autoseg.images import Image
from autoseg.looks import FEWEST, measure
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration, Plan
from autoseg.preprocessing.case import plan_axes

SPACING_TOLERANCE = 1.5  # times finer than the finest training scan, or coarser than the coarsest, along an axis
EXTENT_TOLERANCE = 1.5  # times the largest or smallest field of view, or result, of the training; of n scans, 4 / n more
PLANNED_TOLERANCE = 3.0  # the same against the planned spacing, where the training scans are not known
AIR = -800  # Hounsfield units
FEWEST_FAMILIAR = 0.005  # share of the voxels of an absolute channel that must be in the training's foreground range


def unusual(image: Image, plan: Plan, configuration: Configuration, fingerprint: Fingerprint | None) -> tuple[str, ...]:
    """Return what is unusual about a scan, one sentence each.

    Raises
    ------
    UnreadableFile : a channel holds values that are not finite
    """
    return (
        *_unusual_spacing(image, plan, configuration, fingerprint),
        *_unusual_extent(image, fingerprint),
        *_unusual_looks(image, plan, fingerprint),
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
        planned[list(plan_axes(plan, image).order)] = configuration.spacing
        finest, coarsest = planned / PLANNED_TOLERANCE, planned * PLANNED_TOLERANCE
        lowest = highest = planned
    found = []
    for axis, name in enumerate("zyx"):
        spacing = image.spacing[axis]
        if image.shape[axis] > 1 and not finest[axis] <= spacing <= coarsest[axis]:
            found.append(f"spacing along {name} is {spacing:.3g} mm; the training scans had {lowest[axis]:.3g} to {highest[axis]:.3g} mm")
    return found


def _unusual_extent(image: Image, fingerprint: Fingerprint | None) -> list[str]:
    """A field of view far beyond the training's: a whole body for a model of heads, or a scan whose voxel size is wrong."""
    if fingerprint is None or len(fingerprint.cases) < FEWEST:
        return []
    known = np.array([np.multiply(case.shape, case.spacing) for case in fingerprint.cases])
    extent, margin = np.multiply(image.shape, image.spacing), _margin(len(known))
    return [
        f"the field of view along {name} is {extent[axis]:.3g} mm; the training scans had {known[:, axis].min():.3g} to "
        f"{known[:, axis].max():.3g} mm"
        for axis, name in enumerate("zyx")
        if image.shape[axis] > 1 and not known[:, axis].min() / margin <= extent[axis] <= known[:, axis].max() * margin
    ]


def _unusual_looks(image: Image, plan: Plan, fingerprint: Fingerprint | None) -> list[str]:
    if fingerprint is None:
        return []
    found = []
    for channel, array, familiar in zip(plan.channels, image.array, fingerprint.familiar, strict=False):
        look = measure(array) if familiar is not None else None
        if familiar is not None and look is not None:
            for text in familiar.unusual(look, np.multiply(image.shape, image.spacing)):
                found.append(f"channel '{channel.name}'{' ' if text.startswith('looks') else ': '}{text}")
    return found


def unusual_volumes(voxels: Mapping[str, int], spacing: Spacing, fingerprint: Fingerprint | None) -> list[str]:
    """Return what is unusual about the volumes of a result, one sentence for each label that is far beyond the training's range.

    Parameters
    ----------
    voxels : of each label in the result
    spacing : mm, (z, y, x), of the scan
    """
    if fingerprint is None or len(fingerprint.cases) < FEWEST or not any(voxels.values()):
        return []  # of an empty result, something else is said
    found = []
    for name, count in voxels.items():
        ml = count * float(np.prod(spacing)) / 1000
        known = [case.label_voxels.get(name, 0) * float(np.prod(case.spacing)) / 1000 for case in fingerprint.cases]
        present = [value for value in known if value > 0]
        if count == 0 and len(present) == len(known):
            found.append(f"'{name}' was not found; every training scan has it")
        elif count and len(present) >= FEWEST:
            margin = 2 * _margin(len(present))
            if not min(present) / margin <= ml <= max(present) * margin:
                found.append(f"'{name}' has {ml:.3g} ml; in the training it had {min(present):.3g} to {max(present):.3g} ml")
    return found


def _margin(count: int) -> float:
    """How far beyond the range of n training scans a scan may be: of few, the range says little."""
    return EXTENT_TOLERANCE + 4 / count


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
        if low <= AIR and high > 0 and known.min > AIR / 2 and known.max > known.min:
            return [
                f"channel '{channel.name}' has values down to {low:g}, as CT has; the structures in training had {known.min:g} and more"
            ]
        return []
    within = np.mean((sample >= known.percentile_00_5) & (sample <= known.percentile_99_5))
    if within < FEWEST_FAMILIAR:
        return [
            f"channel '{channel.name}': {within:.2%} of the voxels are between {known.percentile_00_5:g} and {known.percentile_99_5:g}, "
            f"the range of the structures in training; this scan has {low:g} to {high:g}"
        ]
    if scheme == "ct" and low >= 0 > known.percentile_00_5:
        return [f"channel '{channel.name}' has no negative values; CT in Hounsfield units has about -1000 for air"]
    return []
