"""FreeSurfer's `.mgz` and `.mgh`. Read only; nibabel knows the header, and a size is believed only when the file holds as many bytes."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np

from autoseg.images import gzipped
from autoseg.images.grids import swap_columns, usable_affine
from autoseg.images.types import StoredImage

_HEADER = 284  # bytes before the voxels
_SPARE = 1 << 20  # bytes behind the voxels: the settings of the scanner, and a history of commands
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read an MGH file as stored, axes in our order.

    Raises
    ------
    UnreadableFile : truncated, corrupt, not an MGH file, or an unsupported voxel type
    GeometryError : no usable spacing or axes
    """
    with gzipped.opened(path) as stream:
        block = stream.read(_HEADER)
        header = nib.MGHImage.header_class(block, check=False) if len(block) == _HEADER else None
        dims = [] if header is None else [int(n) for n in header["dims"]]
        if header is None or int(header["version"]) != 1 or min(dims) < 1 or int(header["type"]) not in _TYPES:
            shown = (
                f"version {int(header['version'])}, dimensions {dims}, type {int(header['type'])}"
                if header is not None
                else f"{len(block)} bytes"
            )
            raise gzipped.broken(path, "not an MGH file of FreeSurfer", found=shown, expected="version 1, and numbers of 8 to 32 bits")
        kind, shape, channels = np.dtype(_TYPES[int(header["type"])]), (dims[2], dims[1], dims[0]), dims[3]
        affine, notes = usable_affine(swap_columns(header.get_affine()), shape, path=path)
        size = math.prod(dims) * kind.itemsize
        array = None
        if voxels:
            length = gzipped.unpacked_length(path, expected=_HEADER + size)
            if length < _HEADER + size:
                raise gzipped.wrong_length(path, max(0, length - _HEADER), size)
            array = gzipped.take(stream, path, size=size, spare=_SPARE).view(kind).astype(kind.newbyteorder("="), copy=False)
            array = array.reshape(channels, *shape)
    return StoredImage(
        format="mgh", path=path, shape=shape, channels=channels, dtype=kind.newbyteorder("="), affine=affine, array=array, notes=notes,
        has_position=bool(header["goodRASFlag"]),
    )  # fmt: skip
