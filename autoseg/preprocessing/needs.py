"""What preprocessing a case will take: memory of the worker, room on the disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from autoseg.cases import Case
from autoseg.cases.memory import case_bytes, header_of
from autoseg.errors import NotEnough
from autoseg.geometry import Axes, permuted
from autoseg.planning.configuration import Configuration
from autoseg.planning.preflight import stored_bytes_per_voxel
from autoseg.quantities import format_bytes

_LIKELY = 0.5  # of the estimate: with less than this free, the disk will surely not hold the cases


@dataclass(frozen=True, kw_only=True)
class Need:
    """What making a case will take, about."""

    memory: float  # bytes, beyond what a worker has anyway
    disk: float  # bytes


def estimate(case: Case, compressed: int, *, channels: int, axes: Axes, configuration: Configuration) -> Need:
    """Return what a case will take, from the header of its first image, where that is worth reading.

    Parameters
    ----------
    compressed : bytes of the case's files
    axes : canonical axis of each plan axis
    """
    header = header_of(case)
    if header is None:
        return Need(memory=case_bytes(0, channels, resampled=1), disk=3.0 * compressed)
    pairs = list(zip(permuted(header.spacing, axes), configuration.spacing, strict=True))[1 if configuration.planar else 0 :]
    native = float(math.prod(header.shape))
    made = native * math.prod(old / new for old, new in pairs)
    memory = case_bytes(native, channels, itemsize=header.dtype.itemsize, resampled=made)
    return Need(memory=memory, disk=made * stored_bytes_per_voxel(channels))


def check_disk(folder: Path, needed: float) -> None:
    """Raise unless a disk has room for what is needed, about.

    Raises
    ------
    NotEnough : with the room that there is
    """
    free = shutil.disk_usage(folder).free
    if free < _LIKELY * needed:
        raise NotEnough(
            "the disk cannot hold the preprocessed cases",
            file=folder,
            found=f"{format_bytes(free)} free",
            expected=f"about {format_bytes(needed)}",
            fix="free some space, or plan into a folder on another disk with -o",
        )
