"""Normalise the intensities of one channel. One function and one record per scheme; the plan names the scheme.

To add one, write its function and its record in `NORMALIZATIONS`: the choices of presets, the validation and the reasons of a plan, and
the warnings of `predict` follow from the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import SettingsError


class Intensities(Protocol):
    """Statistics of the data set's foreground in one channel."""

    @property
    def mean(self) -> float:
        """Mean intensity."""

    @property
    def std(self) -> float:
        """Standard deviation of the population."""

    @property
    def percentile_00_5(self) -> float:
        """Intensity that 0.5 % of the voxels do not exceed."""

    @property
    def percentile_99_5(self) -> float:
        """Intensity that 99.5 % of the voxels do not exceed."""


_SMALLEST = np.float32(1e-8)  # a smaller spread counts as none. Source: nnU-Net 2.8.1


def normalize(
    channel: NDArray[Any], scheme: str, *, intensities: Intensities | None = None, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], float | None]:
    """Return one channel, normalised, and what its intensities were multiplied by.

    Parameters
    ----------
    channel : (z, y, x), cropped
    scheme : a name in `NORMALIZATIONS`
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
    if scheme not in NORMALIZATIONS:
        raise SettingsError(
            "no such normalisation",
            found=scheme,
            expected=", ".join(NORMALIZATIONS),
            fix="correct `normalization` in plan.json, or plan again",
        )
    values = np.array(channel, dtype=np.float32, order="C")
    factor = NORMALIZATIONS[scheme].apply(values, intensities, mask)
    return values, factor


def _ct(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> float:
    """Normalise by the foreground of the whole data set, since Hounsfield units mean the same in every scan."""
    assert intensities is not None
    np.clip(values, np.float32(intensities.percentile_00_5), np.float32(intensities.percentile_99_5), out=values)
    values -= np.float32(intensities.mean)
    return _divide(values, np.float32(intensities.std))


def _zscore(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> float:
    """Normalise each scan by its own mean and spread."""
    mean, spread = values.mean(), values.std()
    values -= mean
    return _divide(values, spread)


def _zscore_mask(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    """Normalise each scan by the mean and spread inside the mask; outside it keeps its zeros."""
    assert mask is not None
    inside = values[mask]
    if inside.size:
        values[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST)


def _rescale(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> float:
    values -= values.min()
    return _divide(values, values.max())


def _rgb(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> float:
    if values.min() < 0 or values.max() > 255:
        raise SettingsError(
            "not the values of a colour image",
            found=f"{values.min():g} to {values.max():g}",
            expected="0 to 255",
            fix="declare the channel as another modality than RGB",
        )
    return _divide(values, np.float32(255))


def _none(values: NDArray[np.float32], intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> float:
    """Return it unchanged."""
    return 1.0


def _divide(values: NDArray[np.float32], spread: np.float32) -> float:
    divisor = max(spread, _SMALLEST)
    values /= divisor
    return 1 / float(divisor)


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What a normalisation is. `NORMALIZATIONS` holds one record each."""

    apply: Callable[[NDArray[np.float32], Intensities | None, NDArray[np.bool_] | None], float | None]  # changes the array in place
    words: str  # how the plan explains it: {channel}, and {intensities} of the data set
    absolute: bool = False  # relies on the numbers themselves, so that a scan with other numbers is suspicious
    dataset_intensities: bool = False  # needs those of the data set, which become part of a preprocessed case's identity
    masked: bool = False  # needs the mask of what is not zero
    inside_mask: str | None = None  # the normalisation to use instead where cropping removed much of the images


NORMALIZATIONS: Mapping[str, Normalization] = {
    "ct": Normalization(
        apply=_ct, absolute=True, dataset_intensities=True,
        words="holds CT values, which mean the same in every scan: clipped to {intensities.percentile_00_5:.4g} .. "
        "{intensities.percentile_99_5:.4g} (the 0.5 and 99.5 percentiles inside the labels), then minus {intensities.mean:.4g}, divided "
        "by {intensities.std:.4g}"),
    "zscore": Normalization(
        apply=_zscore, inside_mask="zscore_mask",
        words="({channel.modality}) has no absolute scale: the mean of each image is subtracted, and the result divided by its "
        "standard deviation"),
    "zscore_mask": Normalization(
        apply=_zscore_mask, masked=True,
        words="({channel.modality}) has no absolute scale: the mean of each image is subtracted, and the result divided by its "
        "standard deviation, both taken over the non-zero region"),
    "rescale_0_1": Normalization(apply=_rescale, words="is scaled so that each image ranges from 0 to 1"),
    "rgb_0_1": Normalization(apply=_rgb, absolute=True, words="is a colour from 0 to 255, divided by 255"),
    "none": Normalization(apply=_none, absolute=True, words="is used unchanged"),
}  # fmt: skip
