"""NIfTI-1 and NIfTI-2, `.nii` and `.nii.gz`; as pairs of `.hdr` and `.img`, too, and those of Analyze 7.5.

nibabel knows the headers' layout; the decisions on what a header means are here, because its traps are where readers differ:

- A size is believed only when the file holds as many bytes, and memory is taken only then.
- The sform is taken where it is set and sane, else the qform, else voxel spacing alone, as nibabel does. A disagreement is a
  note. (ITK prefers the qform: two tools can place one file differently.)
- `scl_slope` 0 or not finite means "no scaling", as the standard says of 0.
- A fourth axis, or a fifth where the fourth is 1 (ITK's vector images), and RGB voxels are channels.

A label map is written with the header of its input, byte for byte but for what the new voxels need.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, UnreadableFile
from autoseg.geometry import Affine, Shape, corner_distance
from autoseg.images import formats, gzipped
from autoseg.images.contiguous import contiguous
from autoseg.images.grids import swap_columns, usable_affine
from autoseg.images.types import Order, StoredImage

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre, micrometre; everything else is taken as mm
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
DISAGREEMENT = 0.1  # voxels between sform and qform that deserve a note; rounding alone makes about 0.001
QUATERNION = 1e-3  # by which the squared length of b, c, d may exceed 1: float32 headers exceed it by about 1e-7
SPARE = 4095  # bytes behind the voxels that are taken for padding; and always less than one slice
_SLAB = 1 << 22  # voxels at a time where types are converted


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read a NIfTI file as stored, axes in our order.

    Parameters
    ----------
    path : `.nii` or `.nii.gz`, distinguished by the first bytes
    voxels : False reads the header alone, which does not show a damaged body
    label : a label map, whose values may be large: scaled values in float64, else float32

    Raises
    ------
    MissingPath, UnreadableFile : truncated, corrupt, declares more or other voxels than it holds, unsupported voxel type
    GeometryError : no usable spacing, several volumes along two axes
    """
    body = formats.voxels_of(path)
    with gzipped.opened(path) as stream:
        header, notes = _header(stream, path)
    with gzipped.opened(body) as stream:
        begin = len(stream.read(int(header.sizeof_hdr))) if body == path else 0
        kind, samples, kind_notes = _voxel_type(header, path)
        shape, channels = _shape(header, samples, path)
        offset, offset_notes = _offset(header, path, least=begin + 4 if begin else 0)
        affine, affine_notes = _affine(header, shape, path)
        slope, inter, scale_notes = _scaling(header)
        notes = (*notes, *kind_notes, *offset_notes, *affine_notes, *scale_notes)
        scaled = (slope, inter) != (1.0, 0.0)
        dtype = np.dtype(np.float64 if label else np.float32) if scaled else kind.newbyteorder("=")
        array = None
        if voxels:
            size = math.prod(shape) * channels * samples * kind.itemsize
            notes = (*notes, *_check_length(body, offset=offset, size=size, slice_size=size // (shape[0] * channels)))
            gzipped.skip_to_end(stream, limit=offset - begin)
            flat: NDArray[Any] = gzipped.take(stream, body, size=size, spare=SPARE).view(kind)
            if not kind.isnative:
                flat = flat.byteswap(inplace=True).view(kind.newbyteorder("="))
            if scaled:
                flat = _scaled(flat, slope, inter, dtype, path)
            if samples > 1:
                array = np.moveaxis(flat.reshape(*shape, samples), -1, 0)[:3]
            else:
                array = flat.reshape(channels, *shape)
    if samples == 4:
        notes = (*notes, "the alpha channel was dropped")
    return StoredImage(
        format="nifti", path=path, shape=shape, channels=min(samples, 3) if samples > 1 else channels,
        dtype=dtype, affine=affine, array=array, header=header, notes=notes,
    )  # fmt: skip


def write(order: Order) -> None:
    """Write a stored array; with the header of an input its grid is kept exactly: shape, sform, qform, codes, units, NIfTI version."""
    array, path = order.array, order.path
    if order.target.name.lower().endswith(".hdr"):
        raise UnreadableFile("pairs of files are not written", file=order.target, expected=".nii.gz", fix="write the image as .nii.gz")
    made = _header_like(order.header, array.shape) if order.header is not None else _new_header(array.shape, order.affine)
    made.set_data_dtype(array.dtype)
    first = int(made.sizeof_hdr) + 4
    made["vox_offset"] = first
    made["scl_slope"], made["scl_inter"] = order.scale, 0
    made["magic"] = b"n+2" if isinstance(made, nib.Nifti2Header) else b"n+1"
    with gzipped.writing(path, packed=path.name.endswith(".gz")) as file:
        file.write(made.binaryblock + bytes(4))
        for volume in array:
            for start in range(0, volume.shape[0], _slices(volume)):
                file.write(contiguous(volume[start : start + _slices(volume)]).data)


def _header(stream: Any, path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the header, in the byte order of the file."""
    block = stream.read(348)
    pair = formats.suffix_of(path) == ".hdr"
    little, big = int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")
    sizes = {little: "<", big: ">"}
    if 540 in sizes:
        block += stream.read(192)
    if len(block) not in (348, 540):
        raise gzipped.broken(path, "the file ends within its header", found=f"{len(block)} bytes", expected="at least 348")
    if len(block) == 540:
        if block[4:12] not in (b"n+2\0\r\n\032\n", b"ni2\0\r\n\032\n") or (block[4:7] == b"ni2") != pair:
            raise _not_nifti(path, block[4:12])
        return nib.Nifti2Header(block, endianness=sizes[540], check=False), ()
    if pair and block[344:347] not in (b"ni1", b"n+1") and 348 in sizes:
        return _of_analyze(path)
    if block[344:348] != (b"ni1\0" if pair else b"n+1\0"):
        raise _not_nifti(path, block[344:348])
    if 348 in sizes:
        return nib.Nifti1Header(block, endianness=sizes[348], check=False), ()
    order = "<" if 1 <= int.from_bytes(block[40:42], "little") <= 7 else ">"
    return nib.Nifti1Header(block, endianness=order, check=False), ("the header's own length is wrong and was not used",)


def _of_analyze(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the header of an Analyze pair as one of NIfTI; SPM kept its place in a `.mat` next to it."""
    try:
        image: Any = nib.load(path)
        made = nib.Nifti1Header(endianness=image.header.endianness)
        for key in ("dim", "pixdim", "datatype", "bitpix", "vox_offset"):
            made[key] = image.header[key]
        made.set_sform(image.affine, code=1)
        made["scl_slope"], made["scl_inter"] = image.dataobj.slope, image.dataobj.inter
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, ValueError, TypeError, KeyError) as error:
        raise UnreadableFile(
            "the pair of .hdr and .img cannot be read",
            file=path,
            found=str(error) or type(error).__name__,
            expected="NIfTI or Analyze 7.5",
            fix="copy both files again, or convert them to .nii.gz",
        ) from None
    return made, ("an Analyze header: left and right are as nibabel takes them (first voxel on the right)",)


def _not_nifti(path: Path, magic: bytes) -> UnreadableFile:
    pair = magic[:3] in (b"ni1", b"ni2") or formats.suffix_of(path) == ".hdr"
    return UnreadableFile(
        "header and voxels are in two files (.hdr and .img), named otherwise" if magic[:3] in (b"ni1", b"ni2") else "not a NIfTI file",
        file=path,
        found=f"magic {magic!r}",
        expected="'ni1' or 'ni2' in a .hdr, 'n+1' or 'n+2' in a .nii",
        fix="name the two files .hdr and .img, or convert the pair to .nii.gz"
        if pair
        else "check the file, or convert it again from its source",
    )


def _shape(header: Any, samples: int, path: Path) -> tuple[Shape, int]:
    """Return stored (z, y, x), and the channels along the fourth or fifth axis."""
    dims = [int(n) for n in header["dim"]]
    axes, sizes = dims[0], dims[1:]
    if not 1 <= axes <= 7 or min(sizes[:axes]) < 1:
        raise UnreadableFile(
            "the header declares an impossible shape",
            file=path,
            found=f"dim {dims}",
            expected="1 to 7 axes with at least one voxel each",
            fix="convert the file again from its source",
        )
    sizes = sizes[:axes] + [1] * (7 - axes)
    beyond = [n for n in sizes[3:] if n > 1]
    if len(beyond) > 1:
        raise GeometryError(
            "more than one axis beyond the third",
            file=path,
            found=f"shape {tuple(sizes[:axes])} (x, y, z, ...)",
            expected="three spatial axes, and at most one of channels",
            fix="store each channel in a file of its own",
        )
    channels = beyond[0] if beyond else 1
    if samples > 1 and channels > 1:
        raise GeometryError(
            "several volumes of RGB voxels", file=path, found=f"dim {dims}", expected="one volume", fix="store one volume per file"
        )
    return (sizes[2], sizes[1], sizes[0]), channels


def _voxel_type(header: Any, path: Path) -> tuple[np.dtype[Any], int, tuple[str, ...]]:
    """Return the type of one stored number in the byte order of the file, how many make a voxel (3 for RGB), and notes."""
    name = header.get_value_label("datatype")
    kind, samples = np.dtype("V"), 1
    if not name.startswith("<unknown"):
        voxel = header.get_data_dtype()
        kind, samples = (voxel[0], len(voxel.names)) if voxel.names else (voxel, 1)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise UnreadableFile(
            "the header declares an unknown voxel type" if name.startswith("<unknown") else "an unsupported voxel type",
            file=path,
            found=f"datatype {int(header['datatype'])} {name}",
            expected="integers of 8 to 64 bits, float32, float64, RGB",
            fix="convert the image to float32 or int16",
        )
    declared, bits = int(header["bitpix"]), kind.itemsize * 8 * samples
    notes = () if declared == bits else (f"the header says {declared} bits per voxel for a type of {bits}; the type was taken",)
    return kind, samples, notes


def _offset(header: Any, path: Path, *, least: int) -> tuple[int, tuple[str, ...]]:
    """Return where the voxels begin, in bytes."""
    said = float(header["vox_offset"])
    if not math.isfinite(said) or said < 0 or said != int(said):
        raise UnreadableFile(
            "the header does not say where the voxels begin", file=path, found=f"vox_offset {said}", expected=f"at least {least}",
            fix="convert the file again from its source",
        )  # fmt: skip
    if said < least:
        return least, (f"voxels would begin within the header (vox_offset {said:g}); {least} was taken",)
    return int(said), ()


@np.errstate(all="ignore")  # a damaged header may hold anything; what comes out is checked
def _affine(header: Any, shape: Shape, path: Path) -> tuple[Affine, tuple[str, ...]]:
    """Return stored index (z, y, x, 1) -> world: the sform, else the qform, else the spacing alone; made usable."""
    notes: tuple[str, ...] = ()
    sform, qform = swap_columns(header.get_sform()) if int(header["sform_code"]) > 0 else None, _qform(header)
    if sform is not None and not _sane(sform, shape) and qform is not None and _sane(qform, shape):
        sform, notes = None, ("the sform is degenerate; the qform was taken",)
    if sform is not None and qform is not None and _sane(qform, shape):
        distance = corner_distance(sform, qform, shape)
        spacing = np.linalg.norm(sform[:3, :3], axis=0)
        if distance > DISAGREEMENT * spacing.min():
            notes = (*notes, f"sform and qform disagree by up to {distance:.3g} mm; the sform was taken")
    best = sform if sform is not None else qform
    if best is qform is not None and not np.all(np.isfinite(qform)):
        raise GeometryError(
            "the header's rotation (qform) cannot be used",
            file=path,
            found="quaternion "
            + ", ".join(f"{float(header[f'quatern_{letter}']):.4g}" for letter in "bcd")
            + f"; pixdim {', '.join(f'{float(n):.4g}' for n in header['pixdim'][:4])}",
            expected="finite numbers, and a quaternion whose b, c and d have a length of at most 1",
            fix="write the true affine into the header (sform or qform), or convert the file again from its source",
        )
    if best is None:
        best, notes = _base(header, shape), (*notes, "the header stores no position (qform and sform code 0); spacing alone was taken")
    code = int(header["xyzt_units"]) & 7
    if code in _MM_PER_UNIT:
        best = np.diag([_MM_PER_UNIT[code]] * 3 + [1.0]) @ best
        notes = (*notes, f"lengths are stored in {'metres' if code == 1 else 'micrometres'} and were turned into mm")
    usable, more = usable_affine(best, shape, path=path)
    return usable, (*notes, *more)


def other_form(header: Any, shape: Shape) -> Affine | None:
    """Return the qform of a header whose sform was taken, stored index (z, y, x, 1) -> world, mm; None where there is no other form."""
    qform = _qform(header) if int(header["sform_code"]) > 0 else None
    return qform if qform is not None and _sane(qform, shape) else None


def _qform(header: Any) -> Affine | None:
    """Return the quaternion form. Source: nifti1.h, method 2, with pixdim[0] other than -1 taken as 1."""
    if int(header["qform_code"]) <= 0:
        return None
    b, c, d = (float(header[f"quatern_{letter}"]) for letter in "bcd")
    with np.errstate(all="ignore"):
        rest = 1 - (b * b + c * c + d * d)
        if rest < 1e-7:  # a turn by 180 degrees, but for rounding: as nifti_quatern_to_mat44; much longer ones are damage
            length = math.sqrt(b * b + c * c + d * d) if rest > -QUATERNION else math.nan
            a, b, c, d = 0.0, b / length, c / length, d / length
        else:
            a = math.sqrt(rest) if math.isfinite(rest) else math.nan
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        spacing = np.abs(header["pixdim"][1:4].astype(np.float64))
        spacing[2] *= -1 if float(header["pixdim"][0]) < 0 else 1
        affine = np.eye(4)
        affine[:3, :3] = turn * spacing
        affine[:3, 3] = [float(header[f"qoffset_{letter}"]) for letter in "xyz"]
    return swap_columns(affine)


def _base(header: Any, shape: Shape) -> Affine:
    """Spacing alone: x runs to the left and the middle voxel is at zero, as nibabel reads such headers."""
    spacing = np.abs(header["pixdim"][1:4].astype(np.float64)) * (-1, 1, 1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2
    return swap_columns(affine)


def _sane(affine: Affine, shape: Shape) -> bool:
    """Whether every axis with more than one voxel has a direction of its own."""
    if not np.all(np.isfinite(affine)):
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.all((lengths > 1e-5) | (np.array(shape) == 1)))


def _scaling(header: Any) -> tuple[float, float, tuple[str, ...]]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        notes = () if slope == 0 or math.isnan(slope) else (f"scl_slope is {slope}; no scaling was applied",)
        return 1.0, 0.0, notes
    if not math.isfinite(inter):
        return slope, 0.0, (f"scl_inter is {inter}; 0 was taken",)
    return slope, inter, ()


def _check_length(path: Path, *, offset: int, size: int, slice_size: int) -> tuple[str, ...]:
    """Refuse a file that holds fewer or clearly more bytes than its header declares; called before memory is taken."""
    length = gzipped.unpacked_length(path, expected=offset + size)
    if length < offset + size:
        raise gzipped.wrong_length(path, max(0, length - offset), size)
    rest = length - offset - size
    if rest > SPARE or rest >= slice_size:
        raise UnreadableFile(
            "the file is longer than its header declares",
            file=path,
            found=f"{length - offset} bytes after the header",
            expected=f"{size} bytes of voxels",
            fix="the header does not belong to these voxels: convert the file again from its source",
        )
    return (f"{rest} bytes behind the voxels were ignored",) if rest else ()


def _scaled(array: NDArray[Any], slope: float, inter: float, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """`array * slope + inter`, computed in float64 and rounded once."""
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:  # as many values as a table holds: look them up
        index = array.view(f"u{array.dtype.itemsize}")
        every = np.arange(1 << (8 * array.dtype.itemsize), dtype=index.dtype).view(array.dtype)
        return _cast(every * np.float64(slope) + inter, dtype, path, slope)[index]
    result = np.empty(array.shape, dtype=dtype)
    with np.errstate(all="ignore"):
        for start in range(0, array.size, _SLAB):
            values = array[start : start + _SLAB].astype(np.float64)
            values *= slope
            values += inter
            result[start : start + _SLAB] = _cast(values, dtype, path, slope)
    return result


def _cast(values: NDArray[np.float64], dtype: np.dtype[Any], path: Path, slope: float) -> NDArray[Any]:
    if dtype == np.float32 and values.size:
        with np.errstate(all="ignore"):
            largest = float(np.nanmax(np.abs(values), initial=0, where=np.isfinite(values)))
        if largest > _LARGEST_FLOAT32:
            raise UnreadableFile(
                "the intensities are too large",
                file=path,
                found=f"up to {largest:.3g}, scl_slope {slope:.3g}",
                expected=f"at most {_LARGEST_FLOAT32:.3g}",
                fix="correct scl_slope and scl_inter in the header (1 and 0 mean no scaling)",
            )
    return values.astype(dtype)


def _header_like(header: Any, shape: tuple[int, ...]) -> Any:
    """Return the input's header for an array (c, z, y, x) on its grid."""
    made = header.as_byteswapped("<")
    channels, spatial = shape[0], shape[:0:-1]
    dims = [int(n) for n in made["dim"]]
    if math.prod(dims[4 : dims[0] + 1]) == channels:  # as many volumes as the input: its shape is kept to the last axis
        pass
    elif channels == 1:
        made["dim"] = [3, *spatial, 1, 1, 1, 1]
    else:
        made["dim"] = [4, *spatial, channels, 1, 1, 1]
    made["cal_max"] = made["cal_min"] = made["glmax" if "glmax" in made.keys() else "cal_max"] = 0
    made["intent_code"], made["intent_name"] = 0, b""
    return made


def _new_header(shape: tuple[int, ...], affine: Affine) -> Any:
    """Return a header from an affine alone: sform and qform, both "scanner"."""
    channels, spatial = shape[0], shape[:0:-1]
    made = (nib.Nifti2Header if max(shape) > 32767 else nib.Nifti1Header)(endianness="<")
    made.set_data_shape(spatial if channels == 1 else (*spatial, channels))
    theirs = swap_columns(affine)
    made.set_sform(theirs, code=1)
    made.set_qform(theirs, code=1, strip_shears=True)
    made.set_xyzt_units("mm")
    return made


def _slices(volume: NDArray[Any]) -> int:
    """How many slices to write at a time."""
    return max(1, _SLAB // max(1, volume[0].size))
