"""GIPL: `.gipl` and `.gipl.gz`, a big-endian header of 256 bytes with spacing and origin and no directions (LPS is meant).

Checked against SimpleITK in the tests.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, UnreadableFile
from autoseg.geometry import Affine, Shape
from autoseg.images import bodies, gzipped
from autoseg.images.grids import usable_affine
from autoseg.images.turning import contiguous
from autoseg.images.values import Raw

_LAYOUT = np.dtype(
    [
        ("sizes", ">u2", 4),
        ("kind", ">u2"),
        ("spacing", ">f4", 4),
        ("text", "S80"),
        ("matrix", ">f4", 20),
        ("flag", "u1", 2),
        ("range", ">f8", 2),
        ("origin", ">f8", 4),
        ("offset", ">f4"),
        ("calibration", ">f4"),
        ("gap", ">f4"),
        ("user", ">f4"),
        ("magic", ">u4"),
    ]
)
_MAGICS = (719555000, 4026526128)
_KINDS = {1: "u1", 7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}
_CODES = {"i1": 7, "u1": 8, "i2": 15, "u2": 16, "u4": 31, "i4": 32, "f4": 64, "f8": 65}
_LPS = np.diag([-1.0, -1.0, 1.0])  # LPS <-> RAS


def read(path: Path, *, voxels: bool = True) -> Raw:
    """One GIPL image as stored, axes in our order.

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt, or an unsupported type
    GeometryError : no usable spacing
    """
    with gzipped.opened(path) as stream:
        block = stream.read(_LAYOUT.itemsize)
        header = np.frombuffer(block.ljust(_LAYOUT.itemsize, b"\0"), dtype=_LAYOUT)[0]
        if int(header["magic"]) not in _MAGICS or int(header["kind"]) not in _KINDS:
            raise _damaged(path, f"magic {int(header['magic'])}, type {int(header['kind'])}", f"magic {_MAGICS[0]} and a known type")
        sizes = [max(1, int(n)) for n in header["sizes"]]  # unused axes are 0 or 1
        shape: Shape = (sizes[2], sizes[1], sizes[0])
        affine = np.eye(4)
        with np.errstate(all="ignore"):
            affine[:3, :3] = np.diag(header["spacing"][:3].astype(np.float64))
            affine[:3, 3] = header["origin"][:3]
            affine[:3] = _LPS @ affine[:3]
        usable, notes = usable_affine(affine[:, [2, 1, 0, 3]] + 0.0, shape, path=path)
        dtype = np.dtype(">" + _KINDS[int(header["kind"])])
        array = None
        if voxels:
            size = math.prod(sizes) * dtype.itemsize
            length = gzipped.unpacked_length(path, expected=size + _LAYOUT.itemsize) - _LAYOUT.itemsize
            if length != size:
                raise bodies.wrong_length(path, length, size)
            array = gzipped.take(stream, path, size=size).view(dtype).astype(dtype.newbyteorder("=")).reshape(sizes[3], *shape)
    return Raw(
        format="gipl", path=path, shape=shape, channels=sizes[3], dtype=dtype.newbyteorder("="), affine=usable,
        array=array, header=block, notes=notes,
    )  # fmt: skip


def write(path: Path, array: NDArray[Any], *, affine: Affine, header: bytes | None) -> None:
    """Write a stored array `(c, z, y, x)`, in place; the caller renames. With the header of an input its bytes are kept.

    Raises
    ------
    GeometryError : axes that do not run along left, posterior, superior; the format has no directions
    UnreadableFile : 64-bit integers
    """
    kind = {"?": "u1", "f2": "f4"}.get(array.dtype.str[1:], array.dtype.str[1:])
    if kind not in _CODES:
        raise UnreadableFile("a type that GIPL cannot hold", file=path, found=str(array.dtype), fix="write it as .nii.gz")
    if header is not None:
        made = np.frombuffer(bytearray(header), dtype=_LAYOUT).copy()
    else:
        made = np.zeros(1, dtype=_LAYOUT)
        theirs = (_LPS @ affine[:3])[:, [2, 1, 0, 3]]
        signs = np.sign(np.diag(theirs[:, :3]))
        if not np.allclose(theirs[:, :3], np.diag(np.diag(theirs[:, :3])), atol=1e-6):
            raise GeometryError("GIPL has no directions", file=path, found="oblique or exchanged axes", fix="write the image as .nii.gz")
        array = array[:, :: int(signs[2]), :: int(signs[1]), :: int(signs[0])]
        corner = np.where(signs < 0, np.array(array.shape[:0:-1]) - 1, 0)
        made["spacing"][0, :3] = np.abs(np.diag(theirs[:, :3]))
        made["spacing"][0, 3] = 1
        made["origin"][0, :3] = theirs[:, :3] @ corner + theirs[:, 3]
        made["magic"] = _MAGICS[0]
    made["sizes"] = [*array.shape[:0:-1], array.shape[0]]
    made["kind"] = _CODES[kind]
    made["range"] = (float(array.min()), float(array.max()))
    with gzipped.writing(path, packed=path.name.lower().endswith(".gz")) as file:
        file.write(made.tobytes())
        file.write(contiguous(array).astype(">" + kind).data)


def _damaged(path: Path, found: str, expected: str) -> UnreadableFile:
    return UnreadableFile("not a GIPL image", file=path, found=found, expected=expected, fix="convert the image again from its source")
