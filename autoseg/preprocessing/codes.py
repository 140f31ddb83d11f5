"""Arrays in few bytes: floats as integer codes, arrays as compressed blocks. Pure; what is written where is the store's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVELS = 65535  # of a 16-bit code: half a step is 8e-6 of a channel's range
_COARSEST = 1 / 128  # mean deviations of a channel; where a step is larger than this, float32 is kept
_BLOCK = 24  # voxels, at most, along each axis of what is decoded at once: a patch of 64 voxels is read in half a millisecond
_PLANAR_BLOCK = 128  # the same for single slices
_BLOCKS = 4  # per chunk and axis


def quantize(image: NDArray[np.float32], steps: Sequence[float | None]) -> tuple[NDArray[Any], list[float], list[float]]:
    """Return integer codes and, per channel, the scale and offset that turn them back; the image itself where that would be too coarse.

    Parameters
    ----------
    image : (c, z, y, x)
    steps : per channel, the step between neighbouring values where they are whole multiples of one (`Preprocessed.steps`)

    Returns
    -------
    codes (c, z, y, x), uint8 or uint16, or the float32 image; scales; offsets: value = code * scale + offset

    Values that come from integers and were not resampled keep their own steps, and nothing is lost. Else a step is
    range / 65535: less than a hundredth of the noise of any scanner, in half the bytes of float32. Rare outliers can stretch the
    range until a step shows; then nothing is rounded.
    """
    parts = [_channel_codes(channel, step) for channel, step in zip(image, steps, strict=True)]
    if any(part is None for part in parts):
        return image, [1.0] * len(image), [0.0] * len(image)
    codes, scale, offset = zip(*(part for part in parts if part is not None), strict=True)
    return np.stack(codes), list(scale), list(offset)


def _channel_codes(channel: NDArray[np.float32], step: float | None) -> tuple[NDArray[Any], float, float] | None:
    low, high = float(channel.min()), float(channel.max())
    if step and (high - low) / step < _LEVELS:
        codes = _rounded(channel, low, step, tolerance=0.02)
        if codes is not None:
            return codes.astype(np.uint8) if (high - low) / step < 255.5 else codes, step, low
    step = (high - low) / _LEVELS
    some = channel[:: max(1, len(channel) // 16)]  # the mean deviation, unlike the standard one, hardly sees a single outlier
    if step > _COARSEST * float(np.abs(some - some.mean()).mean()):
        return None
    codes = _rounded(channel, low, step or 1.0, tolerance=1.0)
    assert codes is not None, "no value is further than half a step from a whole number of steps"
    return codes, step or 1.0, low


def _rounded(channel: NDArray[np.float32], low: float, step: float, *, tolerance: float) -> NDArray[np.uint16] | None:
    """Return whole numbers of steps above `low`; None where a value is further than `tolerance` steps from one."""
    codes = np.empty(channel.shape, dtype=np.uint16)
    for plane, out in zip(channel, codes, strict=True):  # plane by plane: no second float volume
        counts = (plane - np.float32(low)) * np.float32(1 / step)
        whole = np.rint(counts)
        if tolerance < 0.5 and np.abs(counts - whole).max() > tolerance:
            return None
        out[...] = whole
    return codes


def compress(array: NDArray[Any], *, planar: bool) -> bytes:
    """Return the bytes of a b2nd file (blosc2) of an array `(..., z, y, x)`, in blocks that suit the patches read from it.

    Parameters
    ----------
    planar : patches will be single slices
    """
    import blosc2

    edges = (1, _PLANAR_BLOCK, _PLANAR_BLOCK) if planar or array.shape[-3] == 1 else (_BLOCK,) * 3
    blocks = [-(-n // -(-n // edge)) for n, edge in zip(array.shape[-3:], edges, strict=True)]  # equal parts, no larger than the edge
    chunks = [min(n, _BLOCKS * block) for n, block in zip(array.shape[-3:], blocks, strict=True)]
    lead = [1] * (array.ndim - 3)
    way = {"codec": blosc2.Codec.LZ4, "clevel": 9, "filters": [blosc2.Filter.SHUFFLE]}
    if array.dtype.itemsize == 1:  # nothing to shuffle: the mere pass over the bytes would double the time of a read
        way = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [blosc2.Filter.NOFILTER]}
    packed = blosc2.asarray(
        np.ascontiguousarray(array), chunks=lead + chunks, blocks=lead + blocks, cparams={**way, "filters_meta": [0], "nthreads": 1}
    )
    return bytes(packed.to_cframe())
