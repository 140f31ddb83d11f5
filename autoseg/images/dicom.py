"""DICOM: a folder with the slices of one series, or a single file. SimpleITK (GDCM) decodes the pixels.

The slices' order comes from their positions, never from their names or instance numbers. What would be guessed silently elsewhere
is named here: several series in a folder, two slices at one place, a gap, a tilted gantry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, UnreadableFile
from autoseg.geometry import Affine, Shape
from autoseg.images import itk
from autoseg.images.grids import usable_affine
from autoseg.images.signatures import looks_like_dicom
from autoseg.images.types import Order, StoredImage

IRREGULAR = 0.05  # of the median distance between slices: positions are written with two or three decimals
SAME_PLACE = 0.01  # mm
_IO = "GDCMImageIO"
_PIXELS = b"\xe0\x7f\x10\x00"  # the tag of the pixel data; what has none (a report, a contour, an index) is no image
_ROWS = b"\x28\x00\x10\x00"  # the tag of the number of rows: an image, also where its pixels were cut off
_MODALITY = "0008|0060"
_SERIES, _DESCRIPTION, _NUMBER, _POSITION = "0020|000e", "0008|103e", "0020|0013", "0020|0032"


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """The tags of one file."""

    path: Path
    series: str
    description: str
    number: int | None  # instance number
    has_position: bool  # the file states one
    shape: Shape  # (z, y, x)
    channels: int
    dtype: np.dtype[Any]
    affine: Affine  # (z, y, x, 1) -> RAS+, mm


def read(path: Path, *, voxels: bool = True, label: bool = False) -> StoredImage:
    """Read a DICOM series as stored, slices sorted by position, axes in our order.

    Parameters
    ----------
    path : a folder that holds one series, or one DICOM file
    voxels : False reads the tags alone

    Raises
    ------
    UnreadableFile : no DICOM image, several series, or a file that cannot be decoded
    GeometryError : two slices at one place, a gap, slices of unequal shape or direction, a tilted gantry
    """
    slices, notes = _slices(path)
    affine, shape = slices[0].affine, slices[0].shape
    if len(slices) > 1:
        slices, more = _sorted(path, slices)
        notes, affine, shape = (*notes, *more), slices[0].affine.copy(), (len(slices), *slices[0].shape[1:])
        affine[:3, 0] = (slices[-1].affine[:3, 3] - slices[0].affine[:3, 3]) / (len(slices) - 1)
    usable, more = usable_affine(affine, shape, path=path)
    array = _voxels([item.path for item in slices]) if voxels else None
    if array is not None and slices[0].channels in (2, 4):
        array, notes = array[:-1], (*notes, "the alpha channel was dropped")
    return StoredImage(
        format="dicom",
        path=path,
        shape=shape,
        channels={2: 1, 4: 3}.get(slices[0].channels, slices[0].channels),
        dtype=np.result_type(*(item.dtype for item in slices)) if array is None else array.dtype,
        affine=usable,
        array=array,
        header=tuple(item.path for item in slices),
        notes=(*notes, *more),
    )


def write(order: Order) -> None:
    """Write a label map on the grid of its series: see `dicom_seg`."""
    from autoseg.images import dicom_seg

    dicom_seg.write(order)


def _slices(path: Path) -> tuple[list[_Slice], tuple[str, ...]]:
    """Return the files of the only series, as the folder lists them, and notes."""
    files = [path] if path.is_file() else sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    found = [item for item in map(_tags, _dicom_files(files)) if item is not None]
    if not found:
        if contours := [file for file in files if looks_like_dicom(file) and b"RTSTRUCT" in file.read_bytes()[:4096]]:
            raise _no_label_map(
                contours[0], "DICOM contours (RTSTRUCT)", "3D Slicer, or plastimatch convert --input FILE --output-labelmap"
            )
        raise UnreadableFile(
            "no DICOM image" if path.is_file() else "no DICOM images in the folder",
            file=path,
            found=f"{len(files)} files, none of them a DICOM image",
            expected="the slices of one series",
            fix="give the folder that holds the slices themselves",
        )
    series: dict[str, list[_Slice]] = {}
    for item in found:
        series.setdefault(item.series, []).append(item)
    if len(series) > 1:
        raise UnreadableFile(
            "several DICOM series in one folder",
            file=path,
            found="\n".join(
                f"{len(items)} slices {items[0].shape[1:]}  {items[0].description or '(no description)'}  {items[0].path.name} ..."
                for items in series.values()
            ),
            expected="one series",
            fix="move each series into a folder of its own",
        )
    skipped = len(files) - len(found)
    return found, (f"{skipped} files that are not DICOM images were skipped",) if skipped else ()


def _no_label_map(path: Path, what: str, tool: str) -> UnreadableFile:
    """Return the error for an object that describes structures, but is no image of theirs."""
    return UnreadableFile(
        f"{what}, not an image", file=path, expected="an image, or a label map with one value per voxel",
        fix=f"convert it to .nii.gz on the grid of its series, for example with {tool}",
    )  # fmt: skip


def _dicom_files(files: Sequence[Path]) -> list[Path]:
    """Return those that are DICOM; raise where one of them is only named so: it may be the first or last slice, which leaves no gap."""
    found = [file for file in files if looks_like_dicom(file)]
    strange = [file for file in files if file not in found and file.suffix.casefold() in (".dcm", ".ima")]
    if strange and len(strange) < len(files):
        raise UnreadableFile(
            "a file that is named as DICOM but is not DICOM",
            file=strange[0],
            found=f"{strange[0].stat().st_size} bytes" + (f"; {len(strange)} such files" if len(strange) > 1 else ""),
            expected="a DICOM slice",
            fix="copy it again from its source, or take it out of the folder",
        )
    return found


def _tags(path: Path) -> _Slice | None:
    """Return the tags of one file; None for a DICOM object without pixels, such as a report."""
    try:
        with itk.silent():
            reader = itk.information(path, itk_io=_IO)
    except RuntimeError as error:
        data = path.read_bytes()
        if _PIXELS in data or _ROWS in data:
            raise _undecodable(path, error) from None
        return None
    tags = {key: reader.GetMetaData(key).strip().strip("\0") for key in reader.GetMetaDataKeys()}
    if tags.get(_MODALITY) == "SEG":
        raise _no_label_map(path, "a DICOM segmentation object (SEG)", "segimage2itkimage --inputDICOM FILE --outputType nii (dcmqi)")
    number, size = tags.get(_NUMBER, ""), reader.GetSize()
    return _Slice(
        path=path,
        series=tags.get(_SERIES, ""),
        description=tags.get(_DESCRIPTION, ""),
        number=int(number) if number.isdigit() else None,
        has_position=_POSITION in tags,
        shape=(size[2] if len(size) > 2 else 1, size[1], size[0]),
        channels=reader.GetNumberOfComponents(),
        dtype=itk.pixel_type(reader),
        affine=itk.ras_affine(reader),
    )


def _sorted(path: Path, slices: Sequence[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Return slices by position along their common normal, and notes; raise at every irregularity."""
    _check_alike(path, slices)
    normal = np.cross(slices[0].affine[:3, 2], slices[0].affine[:3, 1])
    normal /= np.linalg.norm(normal)
    places = np.array([float(normal @ item.affine[:3, 3]) for item in slices])
    order = np.argsort(places, kind="stable")
    ranked, places, notes = _without_twins(path, [slices[index] for index in order], places[order])
    _check_spacing(path, ranked, np.diff(places))
    numbers = [item.number for item in ranked if item.number is not None]
    if len(numbers) == len(ranked) and not _runs_evenly(numbers):
        notes = (*notes, "instance numbers do not follow the positions; slices were sorted by position")
    elif not _runs_evenly([item.path for item in ranked]):
        notes = (*notes, "file names do not follow the positions; slices were sorted by position")
    return ranked, notes


def _check_alike(path: Path, slices: Sequence[_Slice]) -> None:
    """Raise unless all are single slices with a position, of one shape and direction."""
    first = slices[0]
    for item in slices[1:]:
        same = item.shape == first.shape and item.channels == first.channels
        if not same or not np.allclose(item.affine[:3, 1:3], first.affine[:3, 1:3], atol=1e-3):
            raise GeometryError(
                "slices of one series differ in shape, spacing or direction",
                file=path,
                details={"first": f"{first.path.name}   {first.shape[1:]}", "other": f"{item.path.name}   {item.shape[1:]}"},
                expected="equal slices",
                fix="take out slices that do not belong to the volume, such as a localizer",
            )
    if first.shape[0] != 1 or not all(item.has_position for item in slices):
        raise GeometryError(
            "slices without a position" if first.shape[0] == 1 else "several multi-frame files in one folder",
            file=path,
            found=next((item.path.name for item in slices if not item.has_position), first.path.name),
            expected="ImagePositionPatient in every slice",
            fix="convert the series with dcm2niix and give the .nii.gz",
        )


def _check_spacing(path: Path, ranked: Sequence[_Slice], steps: NDArray[np.float64]) -> None:
    """Raise unless all slices are equally far apart."""
    usual = float(np.median(steps))
    wrong = np.flatnonzero(np.abs(steps - usual) > IRREGULAR * usual)
    if wrong.size:
        listed = [f"{ranked[i].path.name} -> {ranked[i + 1].path.name}: {steps[i]:.4g} mm" for i in wrong[:5]]
        raise GeometryError(
            "slices are missing or unevenly spaced",
            file=path,
            found="\n".join(listed) + (f"\nand {wrong.size - 5} more" if wrong.size > 5 else ""),
            expected=f"{usual:.4g} mm between neighbours",
            fix="copy the missing slices again, or resample the series to even spacing",
        )


def _runs_evenly(items: list[Any]) -> bool:
    return items in (sorted(items), sorted(items, reverse=True))


def _without_twins(
    path: Path, ranked: list[_Slice], places: NDArray[np.float64]
) -> tuple[list[_Slice], NDArray[np.float64], tuple[str, ...]]:
    """Drop copies of a slice; refuse different slices at one place."""
    keep = [0]
    notes: tuple[str, ...] = ()
    for index in range(1, len(ranked)):
        last = keep[-1]
        if places[index] - places[last] > SAME_PLACE:
            keep.append(index)
            continue
        twins = (ranked[last].path, ranked[index].path)
        if not np.array_equal(_voxels(twins[:1]), _voxels(twins[1:])):
            count = int(np.sum(np.abs(places - places[last]) <= SAME_PLACE))
            raise GeometryError(
                f"{count} different slices at the same place",
                file=path,
                found=f"{twins[0].name} and {twins[1].name}, both at {places[last]:.4g} mm",
                expected="one slice at each place",
                fix="a time series or several reconstructions: keep one volume per folder",
            )
        notes = (*notes, f"{twins[1].name} is a copy of {twins[0].name} and was left out")
    return [ranked[index] for index in keep], places[keep], notes


def _voxels(files: Sequence[Path]) -> NDArray[Any]:
    """Return the decoded slices (c, z, y, x), rescaled to the units of the modality."""
    import SimpleITK as sitk

    planes = []
    for path in files:
        try:
            with itk.silent():
                picture = sitk.ReadImage(str(path), imageIO=_IO)
        except RuntimeError as error:
            raise _undecodable(path, error) from None
        plane = sitk.GetArrayFromImage(picture)
        samples = picture.GetNumberOfComponentsPerPixel()
        plane = plane if samples > 1 else plane[..., None]
        planes.append(plane.reshape((1,) * (4 - plane.ndim) + plane.shape))  # (z, y, x, samples)
    return np.moveaxis(np.concatenate(planes), -1, 0)


def _undecodable(path: Path, error: RuntimeError) -> UnreadableFile:
    return UnreadableFile(
        "a DICOM file cannot be decoded",
        file=path,
        found=str(error).strip().splitlines()[-1],
        expected="a whole DICOM image",
        fix="copy the file again, or convert the series with dcm2niix",
    )
