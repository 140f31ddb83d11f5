"""Intensities of one channel to the numbers a network likes. One function per scheme; the plan says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import SettingsError
from autoseg.fingerprint import ChannelIntensities

_SMALLEST = np.float32(1e-8)  # a spread below this is no spread. Source: nnU-Net 2.8.1


def normalize(
    channel: NDArray[Any], scheme: str, *, intensities: ChannelIntensities | None = None, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], float | None]:
    """One channel, normalised, and what its intensities were multiplied by.

    Parameters
    ----------
    channel : (z, y, x), cropped
    scheme : "ct", "zscore", "zscore_mask", "rescale_0_1", "rgb_0_1" or "none"
    intensities : of the data set's foreground in this channel; "ct" needs them
    mask : (z, y, x), what is not zero; "zscore_mask" needs it

    Returns
    -------
    a new array (z, y, x); the factor between a step in the input and one in it, None where it is not the same everywhere

    Raises
    ------
    SettingsError : no such scheme, or values outside 0..255 under "rgb_0_1"

    Source: nnU-Net 2.8.1; mean and standard deviation are those of the population.
    """
    if scheme not in _SCHEMES:
        raise SettingsError(
            "no such normalisation",
            found=scheme,
            expected=", ".join(_SCHEMES),
            fix="correct `normalization` in plan.json, or plan again",
        )
    values = np.array(channel, dtype=np.float32, order="C")
    factor = _SCHEMES[scheme](values, intensities, mask)
    return values, factor


def _ct(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> float:
    """Hounsfield units mean the same in every scan: the whole data set's foreground sets range, mean and spread."""
    assert intensities is not None
    np.clip(values, np.float32(intensities.percentile_00_5), np.float32(intensities.percentile_99_5), out=values)
    values -= np.float32(intensities.mean)
    return _divide(values, np.float32(intensities.std))


def _zscore(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> float:
    """Each scan by its own mean and spread."""
    mean, spread = values.mean(), values.std()
    values -= mean
    return _divide(values, spread)


def _zscore_mask(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> None:
    """Each scan by the mean and spread inside the mask; outside it keeps its zeros."""
    assert mask is not None
    inside = values[mask]
    if inside.size:
        values[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST)


def _rescale(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> float:
    values -= values.min()
    return _divide(values, values.max())


def _rgb(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> float:
    if values.min() < 0 or values.max() > 255:
        raise SettingsError(
            "not the values of a colour image",
            found=f"{values.min():g} to {values.max():g}",
            expected="0 to 255",
            fix="declare the channel as another modality than RGB",
        )
    return _divide(values, np.float32(255))


def _none(values: NDArray[np.float32], intensities: ChannelIntensities | None, mask: NDArray[np.bool_] | None) -> float:
    """As it is."""
    return 1.0


def _divide(values: NDArray[np.float32], spread: np.float32) -> float:
    divisor = max(spread, _SMALLEST)
    values /= divisor
    return 1 / float(divisor)


_SCHEMES: dict[str, Callable[[NDArray[np.float32], ChannelIntensities | None, NDArray[np.bool_] | None], float | None]] = {
    "ct": _ct,
    "zscore": _zscore,
    "zscore_mask": _zscore_mask,
    "rescale_0_1": _rescale,
    "rgb_0_1": _rgb,
    "none": _none,
}
