"""Whether intensities are what the declared modality of their channel lets expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from autoseg.cases import Channel, left_out
from autoseg.checking.faults import Fault, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("modalities")


def contradicted_modalities(cohort: Cohort) -> Iterator[Fault]:
    """Report channels whose lowest and highest values contradict their modality."""
    channels = cohort.dataset.channels
    read = [case for case in cohort.cases if len(case.minima) == len(channels)]
    for number, channel in enumerate(channels if read else ()):
        low = {case.name: case.minima[number] for case in read}
        high = {case.name: case.maxima[number] for case in read}
        usual = float(np.median([*low.values()]))
        if channel.modality == "CT":
            yield from _without_negatives(channel, low)
            yield from _beyond_hounsfield(channel, low, high, usual)
        elif channel.modality in ("MR", "PET", "other", "microscopy") and usual <= _LIMITS.air:
            yield warning(
                "modality",
                f"channel '{channel.name}' is declared {channel.modality} but looks like CT",
                found=f"median of the lowest values {usual:g}",
                expected="values that are not Hounsfield units",
                remedy='name the channel "CT" or state its modality, so that it is normalised as CT',
            )
        elif channel.modality == "RGB" and max(high.values()) > 255:
            name = max(high, key=lambda name: high[name])
            yield warning(
                "modality",
                f"channel '{channel.name}' is declared a colour but exceeds 255",
                case=name,
                found=f"{high[name]:g}",
                expected="0 to 255",
                remedy="state the modality that it is",
            )


def _without_negatives(channel: Channel, low: Mapping[str, float]) -> Iterator[Fault]:
    without = [name for name, value in low.items() if value >= 0]
    summary = f"channel '{channel.name}' is declared CT but has no negative values"
    if len(without) == len(low):
        yield warning(
            "modality",
            f"{summary} in any case",
            expected="Hounsfield units: air is -1000, fat about -100",
            remedy="if the intensities are rescaled or of another kind, give the channel another name or modality; CT is clipped and "
            "scaled by the intensities of the whole data set",
        )
        return
    for name in without:
        yield warning(
            "modality",
            summary,
            case=name,
            found=f"lowest value {low[name]:g}",
            expected="negative values, as in the other cases",
            remedy="perhaps 1024 was added, or the air cut away; check the file",
        )


def _beyond_hounsfield(channel: Channel, low: Mapping[str, float], high: Mapping[str, float], usual: float) -> Iterator[Fault]:
    """Cases whose values no CT has, or whose air is elsewhere than that of all others: scaled, or in other units."""
    for name, lowest in low.items():
        beyond = lowest < _LIMITS.lowest or high[name] > _LIMITS.highest
        shrunk = len(low) >= _LIMITS.fewest and usual < _LIMITS.air and usual / _LIMITS.shrunk < lowest < 0
        if beyond or shrunk:
            yield warning(
                "modality",
                f"channel '{channel.name}' is declared CT but its values are not Hounsfield units",
                case=name,
                found=f"from {lowest:g} to {high[name]:g}",
                expected="air at -1000, bone and metal up to some thousands" + (f"; the other cases begin at {usual:g}" if shrunk else ""),
                remedy=f"check whether the values were scaled; or leave the case out: {left_out(name)}",
            )
