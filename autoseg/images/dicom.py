"""DICOM: a folder with the slices of one series, or a single file. Read only; SimpleITK (GDCM) decodes the pixels.

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

from autoseg.errors import GeometryError, MissingPath, UnreadableFile
from autoseg.geometry import Affine, Shape
from autoseg.images.grids import usable_affine
from autoseg.images.types import StoredImage

IRREGULAR = 0.05  # of the median distance between slices: positions are written with two or three decimals
SAME_PLACE = 0.01  # mm
_LPS = np.diag([-1.0, -1.0, 1.0])  # LPS <-> RAS
_KINDS = {
    f"{bits}-bit {sign} integer": np.dtype(f"{sign[0].replace('s', 'i')}{bits // 8}")
    for bits in (8, 16, 32)
    for sign in ("signed", "unsigned")
}
_PIXELS = b"\xe0\x7f\x10\x00"  # the tag of the pixel data; what has none (a report, a contour, an index) is no image
_ROWS = b"\x28\x00\x10\x00"  # the tag of the number of rows: an image, also where its pixels were cut off
_SERIES, _DESCRIPTION, _NUMBER, _POSITION = "0020|000e", "0008|103e", "0020|0013", "0020|0032"


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """One file: where it lies and what it belongs to. World is LPS as in the file."""

    path: Path
    series: str
    description: str
    number: int | None  # instance number
    place: bool  # the file states a position
    shape: Shape  # (z, y, x)
    channels: int
    dtype: np.dtype[Any]
    affine: Affine  # (x, y, z, 1) -> LPS


def read(path: Path, *, voxels: bool = True) -> StoredImage:
    """A DICOM series as stored, slices sorted by position, axes in our order.

    Parameters
    ----------
    path : a folder that holds one series, or one DICOM file
    voxels : False reads the tags alone

    Raises
    ------
    MissingPath : no such file or folder
    UnreadableFile : no DICOM image, several series, or a file that cannot be decoded
    GeometryError : two slices at one place, a gap, slices of unequal shape or direction, a tilted gantry
    """
    slices, notes = _slices(path)
    if len(slices) == 1:
        affine = slices[0].affine
        files: tuple[Path, ...] = (slices[0].path,)
        shape = slices[0].shape
    else:
        slices, more = _sorted(path, slices)
        notes, files = (*notes, *more), tuple(item.path for item in slices)
        affine = slices[0].affine.copy()
        affine[:3, 2] = (slices[-1].affine[:3, 3] - slices[0].affine[:3, 3]) / (len(slices) - 1)
        shape = (len(slices), *slices[0].shape[1:])
    ours = affine.copy()
    ours[:3] = _LPS @ affine[:3]
    usable, mended = usable_affine(ours[:, [2, 1, 0, 3]] + 0.0, shape, path=path)
    array = _voxels(files) if voxels else None
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
        notes=(*notes, *mended),
    )


def _slices(path: Path) -> tuple[list[_Slice], tuple[str, ...]]:
    """The files of the only series, as the folder lists them."""
    if not path.exists():
        raise MissingPath("no such file or folder", file=path, fix="check the spelling of the path")
    files = [path] if path.is_file() else sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    strange = [file for file in files if file.suffix.casefold() in (".dcm", ".ima") and not _looks_like_dicom(file)]
    if strange and len(strange) < len(files):  # the slice that it was may be the first or last: no gap would tell
        raise UnreadableFile(
            "a file that is named as DICOM but is not DICOM",
            file=strange[0],
            found=f"{strange[0].stat().st_size} bytes" + (f"; {len(strange)} such files" if len(strange) > 1 else ""),
            expected="a DICOM slice",
            fix="copy it again from its source, or take it out of the folder",
        )
    found = [item for item in (_tags(file) for file in files if _looks_like_dicom(file)) if item is not None]
    if not found:
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
    return found, (f"{skipped} files that are no DICOM images were skipped",) if skipped else ()


def _looks_like_dicom(path: Path) -> bool:
    """DICM behind the preamble, or, in files without one, a tag of group 0002 or 0008 first."""
    with open(path, "rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


def _tags(path: Path) -> _Slice | None:
    """The tags of one file; None for a DICOM object without pixels, such as a report."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # GDCM's remarks on tags are no news for the user
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        data = path.read_bytes()
        if _PIXELS in data or _ROWS in data:
            raise _undecodable(path, error) from None
        return None
    keys = set(reader.GetMetaDataKeys())

    def tag(key: str) -> str:
        """The text of a tag; empty where the file has none."""
        return reader.GetMetaData(key).strip().strip("\0") if key in keys else ""

    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * np.array(reader.GetSpacing()) if reader.GetDimension() == 3 else np.eye(3)
    affine[:3, 3] = reader.GetOrigin()[:3] if reader.GetDimension() == 3 else 0
    size = reader.GetSize()
    return _Slice(
        path=path,
        series=tag(_SERIES),
        description=tag(_DESCRIPTION),
        number=int(tag(_NUMBER)) if tag(_NUMBER).isdigit() else None,
        place=_POSITION in keys,
        shape=(size[2] if len(size) > 2 else 1, size[1], size[0]),
        channels=reader.GetNumberOfComponents(),
        dtype=_KINDS.get(sitk.GetPixelIDValueAsString(reader.GetPixelID()).replace("vector of ", ""), np.dtype(np.float32)),
        affine=affine,
    )


def _sorted(path: Path, slices: Sequence[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Slices by position along their common normal; every irregularity is named."""
    first = slices[0]
    for item in slices[1:]:
        same = item.shape == first.shape and item.channels == first.channels
        if not same or not np.allclose(item.affine[:3, :2], first.affine[:3, :2], atol=1e-3):
            raise GeometryError(
                "slices of one series differ in shape, spacing or direction",
                file=path,
                details={"first": f"{first.path.name}   {first.shape[1:]}", "other": f"{item.path.name}   {item.shape[1:]}"},
                expected="equal slices",
                fix="take out slices that do not belong to the volume, such as a localizer",
            )
    if first.shape[0] != 1 or not all(item.place for item in slices):
        raise GeometryError(
            "slices without a position" if first.shape[0] == 1 else "several multi-frame files in one folder",
            file=path,
            found=next((item.path.name for item in slices if not item.place), first.path.name),
            expected="ImagePositionPatient in every slice",
            fix="convert the series with dcm2niix and give the .nii.gz",
        )
    normal = np.cross(first.affine[:3, 0], first.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    places = np.array([float(normal @ item.affine[:3, 3]) for item in slices])
    order = np.argsort(places, kind="stable")
    ranked, places = [slices[index] for index in order], places[order]
    ranked, places, notes = _without_twins(path, ranked, places)
    steps = np.diff(places)
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
    names = [item.path for item in ranked]
    numbers = [item.number for item in ranked]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) and known not in (sorted(known), sorted(known, reverse=True)):
        notes = (*notes, "instance numbers do not follow the positions; slices were sorted by position")
    elif names not in (sorted(names), sorted(names, reverse=True)):
        notes = (*notes, "file names do not follow the positions; slices were sorted by position")
    return ranked, notes


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
    """The decoded slices (c, z, y, x), rescaled to the units of the modality."""
    import SimpleITK as sitk

    planes = []
    for path in files:
        try:
            picture = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
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
