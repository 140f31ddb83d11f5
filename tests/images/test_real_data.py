"""The readers on real scans: odd picture modes, odd axis orders, float label maps, and the folder of damaged cases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from autoseg import images
from autoseg.errors import GeometryError, GridMismatch, InputError, MissingChannel, UnreadableFile


def pair(data: Path, folder: str, case: str) -> tuple[Path, Path]:
    """Image and label of a damaged case."""
    root = data / "broken-cases" / folder
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return root / "imagesTr" / f"{case}_0000.nii.gz", root / "labelsTr" / f"{case}.nii.gz"


def test_microscopy_pictures_of_every_mode_are_one_channel(data: Path) -> None:
    if not (data / "sem-axon").is_dir():
        pytest.skip("no sem-axon")
    modes = set()
    for path in sorted((data / "sem-axon").rglob("*.png")):
        with Pillow.open(path) as picture:
            modes.add(picture.mode)
            first = np.asarray(picture)
        image = images.read_channels([path], channels=1)
        assert np.array_equal(image.array[0, 0], first if first.ndim == 2 else first[..., 0])
        if path.parent.name == "labels":
            label = images.read_label(path)
            assert label.array.dtype == np.uint8 and set(np.unique(label.array).tolist()) <= {0, 127, 128, 130, 233, 255}
    assert "LA" in modes


def test_a_kidney_map_whose_slice_axis_comes_first_is_turned(data: Path) -> None:
    path = data / "big-volumes" / "kits19_labels" / "case_00061.nii.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    image = images.read_label(path)
    theirs = nib.as_closest_canonical(nib.load(path))
    assert image.shape == (29, 512, 512) and image.stored.orientation.axes == (2, 1, 0)
    assert np.array_equal(image.array[0], np.asarray(theirs.dataobj).T)


def test_float_label_maps_of_many_values_become_integers(data: Path, tmp_path: Path) -> None:
    folder = data / "brain-labelmaps" / "labels"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    path = next(p for p in sorted(folder.iterdir()) if nib.load(p).get_data_dtype() == np.float32)
    label = images.read_label(path)
    assert label.array.dtype == np.int16 and len(np.unique(label.array)) > 50
    assert np.array_equal(label.array[0], np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).T)
    images.write_label(tmp_path / "back.nii.gz", label.array[0], like=label)
    back, source = nib.load(tmp_path / "back.nii.gz"), nib.load(path)
    assert back.shape == source.shape and np.array_equal(back.affine, source.affine)
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))


@pytest.mark.parametrize(
    "folder, case, kind, words",
    [
        ("03-truncated-image", "hippocampus_025", UnreadableFile, "ends early"),
        ("09-image-4d", "hippocampus_060", GeometryError, "each channel as a 3D file"),
        ("11-zero-spacing", "hippocampus_077", GeometryError, "spacing must be positive"),
    ],
)
def test_damaged_images_are_refused_by_name(data: Path, folder, case, kind, words) -> None:
    image, _ = pair(data, folder, case)
    with pytest.raises(kind) as caught:
        images.read_channels([image], channels=1)
    assert words in str(caught.value) and str(image) in str(caught.value)


@pytest.mark.parametrize(
    "folder, case, words",
    [
        ("02-label-of-another-scan", "hippocampus_019", "differ in shape"),
        ("04-label-origin-shifted", "hippocampus_035", "13.89 mm"),  # the length of (12, 0, -7)
        ("05-label-axes-swapped", "hippocampus_039", "differ in shape"),
    ],
)
def test_labels_on_another_grid_are_refused_with_both_files(data: Path, folder, case, words) -> None:
    image_file, label_file = pair(data, folder, case)
    image = images.read_channels([image_file], channels=1)
    with pytest.raises(GridMismatch) as caught:
        images.read_label(label_file, like=image)
    assert words in str(caught.value) and str(image_file) in str(caught.value) and str(label_file) in str(caught.value)


def test_odd_but_sound_cases_are_accepted(data: Path, tmp_path: Path) -> None:
    image_file, label_file = pair(data, "08-float-labels-nearly-integer", "hippocampus_053")
    label = images.read_label(label_file, like=images.read(image_file))
    assert set(np.unique(label.array).tolist()) == {0, 1, 2}
    raw = np.asarray(nib.load(label_file).dataobj)
    assert int((label.array == 2).sum()) == int((raw > 1.5).sum())

    image_file, label_file = pair(data, "13-label-stored-lps", "hippocampus_092")
    image = images.read(image_file)
    label = images.read_label(label_file, like=image)
    assert images.read_header(label_file).orientation != image.stored.orientation
    assert np.array_equal(label.array[0], np.asarray(nib.as_closest_canonical(nib.load(label_file)).dataobj).T)

    image_file, label_file = pair(data, "16-oblique-affine", "hippocampus_106")
    image = images.read(image_file)
    images.write_label(tmp_path / "out.nii.gz", images.read_label(label_file, like=image).array[0], like=image)
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, nib.load(image_file).affine)


def test_channels_of_a_damaged_case_are_named(data: Path) -> None:
    first, _ = pair(data, "14-channels-on-different-grids", "STS_019")
    second = first.with_name("STS_019_0001.nii.gz")
    with pytest.raises(GridMismatch, match="channel 1 and channel 0") as caught:
        images.read_channels([first, second], channels=2)
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    first, _ = pair(data, "10-missing-channel", "STS_041")
    with pytest.raises(MissingChannel) as missing:
        images.read_channels([first, first.with_name("STS_041_0001.nii.gz")], channels=2)
    assert "STS_041_0001.nii.gz" in str(missing.value) and isinstance(missing.value, InputError)
