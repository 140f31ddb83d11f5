"""DICOM folders: order from positions, every irregularity named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg import images
from autoseg.errors import GeometryError, UnreadableFile

sitk = pytest.importorskip("SimpleITK")

UID = "1.2.826.0.1.3680043.2.1125."


def write_series(
    folder: Path, volume: np.ndarray, *, places: list[float] | None = None, series: str = "1", shift: tuple[float, float] = (0, 0),
    slope: str = "1", intercept: str = "-1024", prefix: str = "", modality: str = "CT",
) -> list[Path]:  # fmt: skip
    """One file per slice (z, y, x), axial, 0.5 x 0.7 mm pixels; `shift` mm of x and y per slice tilts the stack."""
    folder.mkdir(exist_ok=True)
    places = [2.5 * k for k in range(len(volume))] if places is None else places
    paths = []
    for number, (plane, place) in enumerate(zip(volume, places, strict=True)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.5, 0.7, 2.5))
        tags = {
            "0008|0060": modality,
            "0020|000d": UID + "9",
            "0020|000e": UID + series,
            "0008|0018": f"{UID}{series}.{number}.{prefix or 0}",
            "0020|0013": str(number),
            "0020|0032": f"{10 + shift[0] * number}\\{-20 + shift[1] * number}\\{place}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|0030": "0.7\\0.5",
            "0028|1052": intercept,
            "0028|1053": slope,
            "0008|103e": f"series {series}",
        }
        image.SetOrigin((10 + shift[0] * number, -20 + shift[1] * number, place))
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{prefix}{number:03d}.dcm"))
        writer.Execute(image)
        paths.append(folder / f"{prefix}{number:03d}.dcm")
    return paths


@pytest.fixture
def volume() -> np.ndarray:
    return np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)


def test_a_series_is_read_in_hounsfield_units_on_its_grid(tmp_path: Path, volume) -> None:
    write_series(tmp_path / "ct", volume)
    image = images.read(tmp_path / "ct")
    assert np.array_equal(image.array[0], volume[:, ::-1, ::-1])  # LPS to RAS; SimpleITK writes the rescaled values
    assert image.spacing == (2.5, 0.7, 0.5)
    first_voxel = image.affine @ (0, 5, 6, 1)
    np.testing.assert_allclose(first_voxel[:3], (-10, 20, 0), atol=1e-6)
    header = images.read_header(tmp_path / "ct")
    assert header.shape == image.shape and np.array_equal(header.affine, image.affine) and header.dtype == image.array.dtype
    images.write_label(tmp_path / "label.nii.gz", image.array[0] % 3, like=image)
    assert np.array_equal(images.read_label(tmp_path / "label.nii.gz", like=image).array, image.array % 3)


def test_slices_without_suffix_and_preamble_are_a_series(tmp_path: Path, volume) -> None:
    for number, path in enumerate(write_series(tmp_path / "ct", volume)):
        path.with_name(f"IM{number:04d}").write_bytes(path.read_bytes()[132:])
        path.unlink()
    assert images.is_series(tmp_path / "ct")
    assert np.array_equal(images.read(tmp_path / "ct").array[0], volume[:, ::-1, ::-1])
    assert np.array_equal(images.read(tmp_path / "ct" / "IM0002").array[0, 0], volume[2, ::-1, ::-1])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README").write_text("no picture")
    (tmp_path / "notes" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert not images.is_series(tmp_path / "notes")


def test_slices_are_sorted_by_position_and_disorder_is_noted(tmp_path: Path, volume) -> None:
    order = [3, 0, 4, 1, 2]
    write_series(tmp_path / "ct", volume[order], places=[2.5 * k for k in order])
    image = images.read(tmp_path / "ct")
    assert np.array_equal(image.array[0], volume[:, ::-1, ::-1])
    assert any("sorted by position" in note for note in image.notes)


def test_a_gap_is_named_with_its_neighbours(tmp_path: Path, volume) -> None:
    paths = write_series(tmp_path / "ct", volume)
    paths[2].unlink()
    with pytest.raises(GeometryError, match="missing") as caught:
        images.read(tmp_path / "ct")
    assert "001.dcm -> 003.dcm: 5 mm" in str(caught.value)


def test_a_copy_of_a_slice_is_left_out_and_a_different_slice_at_its_place_is_refused(tmp_path: Path, volume) -> None:
    paths = write_series(tmp_path / "ct", volume)
    (tmp_path / "ct" / "copy.dcm").write_bytes(paths[1].read_bytes())
    image = images.read(tmp_path / "ct")
    assert np.array_equal(image.array[0], volume[:, ::-1, ::-1])
    assert any("copy" in note and "001.dcm" in note for note in image.notes)
    (tmp_path / "ct" / "copy.dcm").unlink()
    write_series(tmp_path / "ct", volume[2:3] + 1, places=[2.5], prefix="x")
    with pytest.raises(GeometryError, match="same place") as caught:
        images.read(tmp_path / "ct")
    assert "001.dcm" in str(caught.value) and "x000.dcm" in str(caught.value)


def test_several_series_in_one_folder_are_listed(tmp_path: Path, volume) -> None:
    write_series(tmp_path / "ct", volume)
    write_series(tmp_path / "ct", volume[:2], series="2", prefix="b")
    with pytest.raises(UnreadableFile, match="several DICOM series") as caught:
        images.read(tmp_path / "ct")
    assert "5 slices (6, 7)  series 1" in str(caught.value) and "2 slices (6, 7)  series 2" in str(caught.value)


def test_a_tilted_gantry_is_refused_and_a_hair_is_mended(tmp_path: Path, volume) -> None:
    write_series(tmp_path / "tilted", volume, shift=(0, 0.8))
    with pytest.raises(GeometryError, match="sheared"):
        images.read(tmp_path / "tilted")
    write_series(tmp_path / "hair", volume, shift=(0, 0.02))
    image = images.read(tmp_path / "hair")
    assert any("made orthogonal" in note for note in image.notes)


def test_a_folder_without_dicom_images_is_named_and_other_files_are_skipped(tmp_path: Path, volume) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    with pytest.raises(UnreadableFile, match="no DICOM images"):
        images.read(tmp_path / "empty")
    write_series(tmp_path / "ct", volume)
    (tmp_path / "ct" / "notes.txt").write_text("a note")
    assert any("1 files" in note for note in images.read(tmp_path / "ct").notes)


def test_a_truncated_slice_is_named(tmp_path: Path, volume) -> None:
    paths = write_series(tmp_path / "ct", volume)
    paths[3].write_bytes(paths[3].read_bytes()[:-60])
    with pytest.raises(UnreadableFile) as caught:
        images.read(tmp_path / "ct")
    assert "003.dcm" in str(caught.value)


def test_a_single_file_is_one_slice(tmp_path: Path, volume) -> None:
    paths = write_series(tmp_path / "ct", volume)
    image = images.read(paths[2])
    assert np.array_equal(image.array[0], volume[2:3, ::-1, ::-1])
    assert images.label_suffix(paths[2]) == ".nii.gz"


def test_a_slice_that_is_no_dicom_any_more_is_named_also_at_the_end_of_the_series(tmp_path: Path, volume) -> None:
    write_series(tmp_path / "s", volume)
    last = sorted((tmp_path / "s").iterdir())[-1]
    last = last.rename(last.with_suffix(".dcm"))
    last.write_bytes(b"")
    with pytest.raises(UnreadableFile, match="named as DICOM but is not DICOM") as caught:
        images.read(tmp_path / "s")
    assert last.name in str(caught.value)


def test_objects_that_are_no_label_maps_are_named_for_what_they_are(tmp_path: Path, volume) -> None:
    segmentation = write_series(tmp_path / "seg", volume[:1], modality="SEG")
    with pytest.raises(UnreadableFile, match="a DICOM segmentation object") as caught:
        images.read_label(segmentation[0])
    assert "dcmqi" in (caught.value.fix or "")
    (tmp_path / "contours").mkdir()
    preamble = bytes(128) + b"DICM" + b"\x08\x00\x60\x00CS\x08\x00RTSTRUCT"
    (tmp_path / "contours" / "rs.dcm").write_bytes(preamble)
    with pytest.raises(UnreadableFile, match="DICOM contours"):
        images.read_label(tmp_path / "contours")
