"""Reading and writing through the room's door: orientation, channels, labels, exact grids."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg import images
from autoseg.errors import GeometryError, GridMismatch, LabelError, MissingChannel, MissingPath, UnreadableFile
from autoseg.images import Image

ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]  # the 48 ways to store a volume


def world_volume() -> tuple[np.ndarray, np.ndarray]:
    """A volume (x, y, z) with unequal axes and its oblique RAS+ affine: what the patient looks like."""
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    a, b = np.radians((7, -4))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 0.9, 2.5)
    affine[:3, 3] = (-31, 12, 5.5)
    return array, affine


def stored_as(array: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same patient with axes exchanged and flipped."""
    image = nib.Nifti1Image(array, affine)
    codes = np.array([[axes.index(axis), flips[axis]] for axis in range(3)])
    turned = image.as_reoriented(codes)
    return np.ascontiguousarray(turned.get_fdata().astype(array.dtype)), turned.affine


@pytest.mark.parametrize("axes, flips", ORIENTATIONS)
def test_all_48_nifti_orientations_read_alike_and_are_written_back_exactly(tmp_path: Path, axes, flips) -> None:
    array, affine = world_volume()
    stored, stored_affine = stored_as(array, affine, axes, flips)
    nib.save(nib.Nifti1Image(stored, stored_affine), tmp_path / "scan.nii.gz")

    image = images.read(tmp_path / "scan.nii.gz")

    assert np.array_equal(image.array[0], array.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine[:, [2, 1, 0, 3]], affine, atol=1e-5)
    label = (image.array[0] % 7).astype(np.uint8)
    images.write_label(tmp_path / "label.nii.gz", label, like=image)
    written, source = nib.load(tmp_path / "label.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), stored % 7)
    assert np.array_equal(written.affine, source.affine)
    for field in ("sform_code", "qform_code", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(images.read_label(tmp_path / "label.nii.gz", like=image).array[0], label)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def test_channels_come_from_one_file_each_or_from_one_file_with_all(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    single = [save(tmp_path / f"a_000{k}.nii.gz", array[..., k]) for k in range(2)]
    joint = save(tmp_path / "b.nii.gz", array)

    apart, together = images.read_channels(single, channels=2), images.read_channels([joint], channels=2)

    assert apart.array.shape == (2, 4, 3, 2)
    assert np.array_equal(apart.array, array.transpose(3, 2, 1, 0))
    assert np.array_equal(apart.array, together.array)


def test_a_4d_image_with_one_frame_is_one_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4, 1), np.float32))
    assert images.read_channels([path], channels=1).array.shape == (1, 4, 3, 2)


def test_a_4d_image_where_one_channel_is_declared_is_refused_with_the_way_to_store_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4, 2), np.float32))
    with pytest.raises(GeometryError, match="2 volumes") as caught:
        images.read_channels([path], channels=1)
    assert "a.nii.gz" in str(caught.value) and "each channel as a 3D file" in str(caught.value)


def test_missing_channels_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a_0000.nii.gz", np.ones((2, 3, 4), np.float32))
    with pytest.raises(MissingChannel, match="missing") as caught:
        images.read_channels([path, tmp_path / "a_0001.nii.gz"], channels=2)
    assert "a_0001.nii.gz" in str(caught.value)
    with pytest.raises(MissingChannel, match="too few"):
        images.read_channels([path], channels=2)


@pytest.mark.parametrize(
    ("shift", "accepted", "noted"), [(0.0, True, False), (0.019, True, False), (0.03, True, True), (0.06, False, False)]
)
def test_a_gap_is_silent_noted_or_refused_by_its_part_of_a_voxel(tmp_path: Path, shift: float, accepted: bool, noted: bool) -> None:
    image, label = np.diag([0.351562, 0.351562, 2.5, 1.0]), np.diag([0.351562, 0.351562, 2.5, 1.0])
    label[0, 3] += shift * 0.351562
    voxels = np.zeros((4, 6, 5), np.uint8)
    nib.save(nib.Nifti1Image(voxels, image), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(voxels, label), tmp_path / "label.nii.gz")
    scan = images.read(tmp_path / "image.nii.gz")
    if not accepted:
        with pytest.raises(GridMismatch, match="not on the same grid"):
            images.read_label(tmp_path / "label.nii.gz", like=scan)
        return
    read = images.read_label(tmp_path / "label.nii.gz", like=scan)
    assert np.array_equal(read.affine, scan.affine)
    assert any("voxels apart" in note for note in read.notes) == noted


def test_headers_rounded_in_the_sixth_digit_are_one_grid(tmp_path: Path) -> None:
    """As labels of 512 x 512 slices come whose tool wrote 0.351563 for 0.351562."""
    first, second = np.diag([2.5, 0.351562, 0.351562, 1]), np.diag([2.499999, 0.351563, 0.351562, 1])
    image, label = (Image(array=np.empty((1, 6, 512, 512), np.uint8), affine=affine) for affine in (first, second))
    assert images.require_same_grid(image, label) == ()


def test_what_float32_cannot_hold_is_no_gap() -> None:
    """A micrometre grid three metres from the origin: neighbouring float32 numbers are further apart than 0.05 voxels."""
    first, second = (np.diag([0.001, 0.001, 0.001, 1]) for _ in range(2))
    first[:3, 3], second[:3, 3] = 3000.0, np.nextafter(np.float32(3000), np.float32(4000))
    image, label = (Image(array=np.empty((1, 2, 3, 4), np.uint8), affine=affine) for affine in (first, second))
    assert images.grid_gap(image, label)[0] > 0.2
    assert images.require_same_grid(image, label) == ()


def test_a_refused_grid_shows_the_digits_that_differ_and_the_turn() -> None:
    first, second = np.diag([2.5, 0.351562, 0.351562, 1]), np.diag([2.5, 0.351562, 0.351592, 1])
    image, label = (Image(array=np.empty((1, 6, 512, 1000), np.uint8), affine=affine) for affine in (first, second))
    with pytest.raises(GridMismatch) as caught:
        images.require_same_grid(image, label)
    assert "0.35156)" in caught.value.details["image"] and "0.35159)" in caught.value.details["label"]
    turned = first.copy()
    turned[:2, :2] = np.array([[0.998, -0.0632], [0.0632, 0.998]]) @ first[:2, :2]
    with pytest.raises(GridMismatch, match="axes turned by 3.62 degrees"):
        images.require_same_grid(image, Image(array=label.array, affine=turned))


def test_channels_on_different_grids_are_refused_with_the_distance_and_two_remedies(tmp_path: Path) -> None:
    first = save(tmp_path / "a_0000.nii.gz", np.ones((2, 3, 4), np.float32))
    moved = np.diag([1.0, 2.0, 3.0, 1.0])
    moved[0, 3] = 4.0
    second = save(tmp_path / "a_0001.nii.gz", np.ones((2, 3, 4), np.float32), moved)
    with pytest.raises(GridMismatch, match="not on the same grid") as caught:
        images.read_channels([first, second], channels=2)
    assert "4 mm" in str(caught.value) and "copy the geometry" in str(caught.value) and "resample" in str(caught.value)
    other = save(tmp_path / "b_0001.nii.gz", np.ones((2, 3, 5), np.float32))
    with pytest.raises(GridMismatch, match="differ in shape"):
        images.read_channels([first, other], channels=2)


def test_below_a_twentieth_of_a_voxel_the_first_geometry_is_taken(tmp_path: Path) -> None:
    first = save(tmp_path / "a_0000.nii.gz", np.ones((2, 3, 4), np.float32))
    nearly = np.diag([1.0, 2.0, 3.0, 1.0])
    nearly[2, 3] = 0.14  # mm, of 3 mm slices
    second = save(tmp_path / "a_0001.nii.gz", np.ones((2, 3, 4), np.float32), nearly)
    image = images.read_channels([first, second], channels=2)
    assert np.array_equal(image.affine, images.read(first).affine)
    nearly[2, 3] = 0.16
    with pytest.raises(GridMismatch):
        images.read_channels([first, save(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.float32), nearly)], channels=2)


def test_two_files_at_45_degrees_are_turned_alike_although_rounding_differs(tmp_path: Path) -> None:
    array = np.arange(4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3)
    paths = []
    for number, degrees in enumerate((45 - 2e-3, 45 + 2e-3)):
        turn = np.radians(degrees)
        affine = np.eye(4)
        affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        paths.append(save(tmp_path / f"a_{number}.nii.gz", array, affine))
    assert images.read(paths[0]).stored.orientation != images.read(paths[1]).stored.orientation
    image = images.read_channels(paths, channels=2)
    assert np.array_equal(image.array[0], image.array[1])


def test_a_label_stored_in_another_orientation_is_brought_onto_its_image(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    image = images.read(save(tmp_path / "image.nii.gz", array))
    flipped = np.diag([-1.0, -2.0, 3.0, 1.0])
    flipped[:3, 3] = (1, 4, 0)
    label = images.read_label(save(tmp_path / "label.nii.gz", array[::-1, ::-1], flipped), like=image)
    assert np.array_equal(label.array, image.array)


def test_nearly_integer_labels_are_rounded_and_others_refused(tmp_path: Path) -> None:
    values = np.array([0, 1.0000001, 1.9999999, 2, 300, 0]).reshape(1, 2, 3)
    label = images.read_label(save(tmp_path / "label.nii.gz", values))
    assert label.array.dtype == np.int16
    assert sorted(label.array.ravel().tolist()) == [0, 0, 1, 2, 2, 300]
    with pytest.raises(LabelError, match="between integers") as caught:
        images.read_label(save(tmp_path / "half.nii.gz", values + 0.5))
    assert "0.5 (2 voxels)" in str(caught.value)
    values[0, 0, 0] = np.nan
    with pytest.raises(LabelError, match="no numbers"):
        images.read_label(save(tmp_path / "nan.nii.gz", values))


def test_labels_get_the_smallest_type_that_holds_them(tmp_path: Path) -> None:
    image = images.read(save(tmp_path / "image.nii.gz", np.zeros((2, 3, 4), np.float64)))
    for value, kind in ((3, "uint8"), (255, "uint8"), (256, "int16"), (-1, "int16"), (40000, "uint16"), (70000, "int32")):
        array = np.full((4, 3, 2), value, dtype=np.int64)
        images.write_label(tmp_path / "label.nii.gz", array, like=image)
        written = nib.load(tmp_path / "label.nii.gz")
        assert written.get_data_dtype() == np.dtype(kind)
        assert np.all(np.asarray(written.dataobj) == value)


def test_a_header_tells_what_reading_will_give(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4, 5), np.float64), np.diag([-1.0, 2.0, 3.0, 1.0]))
    header, image = images.read_header(path), images.read(path)
    assert (header.channels, *header.shape) == image.array.shape
    assert header.dtype == image.array.dtype == np.float32
    assert np.array_equal(header.affine, image.affine)
    assert header.spacing == image.spacing == (3, 2, 1)
    assert header.orientation.flips == (False, False, True)


def test_an_array_from_memory_is_an_image_like_any_other() -> None:
    array, affine = world_volume()
    for axes, flips in ORIENTATIONS[::5]:
        stored, stored_affine = stored_as(array, affine, axes, flips)
        image = images.from_memory(stored, stored_affine, channels=1)
        assert np.array_equal(image.array[0], array.transpose(2, 1, 0))
        assert np.array_equal(images.to_memory(image.array[0], like=image), stored)
    with pytest.raises(GeometryError, match="not an image array"):
        images.from_memory(array.ravel(), affine)


def test_an_image_is_written_with_its_type_and_channels(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    affine = images.read(save(tmp_path / "a.nii.gz", np.ones((5, 4, 3), np.float32), np.diag([-1.0, 2.0, 3.0, 1.0]))).affine
    for kind in (np.float32, np.float64, np.int16, np.uint16, np.uint8):
        images.write_image(tmp_path / "b.nii.gz", array.astype(kind), affine=affine)
        assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == kind
        back = images.read(tmp_path / "b.nii.gz")
        assert np.array_equal(back.array, array)
        np.testing.assert_allclose(back.affine, affine, atol=1e-6)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPath):
        images.read(tmp_path / "none.nii.gz")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UnreadableFile, match="unknown image format"):
        images.read(tmp_path / "notes.txt")
    (tmp_path / "empty.nii").write_bytes(b"")
    with pytest.raises(UnreadableFile, match="empty"):
        images.read(tmp_path / "empty.nii")
    assert images.suffix_of("A.b.NII.GZ") == ".nii.gz" and images.suffix_of("a.txt") == ""
