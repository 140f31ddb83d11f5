"""How much memory a case takes while it is worked on: one formula for check, fingerprint, preprocessing and the preflight of a plan."""

from __future__ import annotations

from autoseg import images
from autoseg.cases.values import Case
from autoseg.errors import AutosegError
from autoseg.images import Header

SMALL_FILES = 500_000  # bytes on disk, of all images of a case: not worth opening hundreds of files for


def case_bytes(voxels: float, channels: int, *, itemsize: int = 4, resampled: float = 0.0) -> float:
    """Return the bytes of memory that a case takes at its peak, on top of `workers.WORKER_BYTES`.

    Parameters
    ----------
    voxels : of the image as stored
    itemsize : bytes of one stored value; float32 where it is not known
    resampled : voxels of the preprocessed image; 0: the case is only read and examined

    The peak is the largest of three: two copies of the channels while they are put together; the channels, one of them as float32,
    mask and label, next to the result; the result while it is quantised and compressed. Resampling holds slabs of up to 80 MB.

    Source: measured, largest resident size of a worker (MB), formula with WORKER_BYTES in parentheses; 1 x 13.1 million voxels of
    int16: check 208, fingerprint 230 (264), preprocessing 231 (423); float32: 234, 256 (290), 255 (449); 4 x 6.4 million of float32:
    217, 226 (280), 413 (475); 6.6 million of int16 resampled to 19.7 million: 380 (397).
    """
    channel_bytes = channels * itemsize * voxels
    making = channel_bytes + 9 * voxels + (4 * channels + 2) * resampled
    return max(2 * channel_bytes, making, (6 * channels + 4) * resampled) + (80e6 if resampled else 0.0)


def header_of(case: Case) -> Header | None:
    """Return the header of a case's first image; None where the files are small, or cannot be read: the worker will say why."""
    try:
        if all(path.is_file() for path in case.images) and sum(path.stat().st_size for path in case.images) < SMALL_FILES:
            return None
        return images.read_header(case.images[0])
    except (AutosegError, OSError):
        return None


def reading_bytes(case: Case, channels: int) -> float:
    """Return the bytes of memory that it takes to read and examine a case, by the header of its first image."""
    header = header_of(case)
    if header is None:
        return 40.0 * SMALL_FILES
    z, y, x = header.shape
    return case_bytes(z * y * x, channels, itemsize=header.dtype.itemsize)
