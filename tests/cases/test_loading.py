"""Reading the files of one case: label maps, one file per label, and pictures on the slices of a DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg import checking, images
from autoseg.cases import Case, find, load_classes, load_image
from autoseg.errors import GridMismatch, LabelError, MissingLabel
from autoseg.geometry import affine_from_spacing
from autoseg.labels import make_labels

LABELS = make_labels({"background": 0, "a": 3, "b": 7})


def test_a_label_map_becomes_classes_on_the_grid_of_the_image(tmp_path: Path, volume: Callable[..., Path]) -> None:
    case = Case(name="c", images=(volume(tmp_path / "i.nii.gz", [1, 2]),), label=volume(tmp_path / "l.nii.gz", [0, 3, 7, 7]))
    image = load_image(case, channels=1)
    classes = load_classes(case, LABELS, like=image)
    assert classes.shape == image.shape == (3, 4, 5) and classes.ravel()[:5].tolist() == [0, 1, 2, 2, 0]


def test_one_file_per_label_is_joined_the_later_label_above(tmp_path: Path, volume: Callable[..., Path]) -> None:
    masks = (
        ("b", volume(tmp_path / "b.nii.gz", [0, 0, 1, 1])),
        ("a", volume(tmp_path / "a.nii.gz", [0, 1, 1])),
        ("zzz", tmp_path / "none.nii.gz"),
    )
    case = Case(name="c", images=(tmp_path / "i.nii.gz",), label=masks)
    assert load_classes(case, LABELS).ravel()[:5].tolist() == [0, 1, 2, 2, 0]
    with pytest.raises(MissingLabel):
        load_classes(Case(name="c", images=(), label=masks[2:]), LABELS)


def test_errors_know_their_case(tmp_path: Path, volume: Callable[..., Path]) -> None:
    image, label = volume(tmp_path / "i.nii.gz"), tmp_path / "l.nii.gz"
    images.write_image(label, np.zeros((1, 3, 4, 6), dtype=np.uint8), affine=affine_from_spacing((3, 1, 2)))
    case = Case(name="liver 7", images=(image,), label=label)
    with pytest.raises(GridMismatch, match="case 'liver 7'"):
        load_classes(case, LABELS, like=load_image(case, channels=1))
    with pytest.raises(MissingLabel, match="case 'x'"):
        load_classes(Case(name="x", images=(image,)), LABELS)
    with pytest.raises(LabelError, match="case 'liver 7'"):
        load_classes(Case(name="liver 7", images=(image,), label=volume(tmp_path / "m.nii.gz", [9])), LABELS)


def write_series(
    folder: Path, array: NDArray[Any], *, names: list[str], direction: NDArray[Any], spacing: tuple[float, float, float]
) -> None:
    """DICOM slices `(z, y, x)` of one series; `direction` has the axes of columns, rows and slices in LPS as columns."""
    sitk = pytest.importorskip("SimpleITK")
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, (plane, name) in enumerate(zip(array, names, strict=True)):
        position = direction[:, 2] * spacing[2] * number + [5, -7, 11]
        picture = sitk.GetImageFromArray(plane[None].astype(np.int16))
        picture.SetSpacing(spacing)
        picture.SetMetaData("0008|0060", "CT")
        picture.SetMetaData("0020|000e", "1.2.826.0.1.3680043.2.1125.1")
        picture.SetMetaData("0020|000d", "1.2.826.0.1.3680043.2.1125.2")
        picture.SetMetaData("0020|0013", str(number + 1))
        picture.SetMetaData("0020|0032", "\\".join(f"{v:.6f}" for v in position))
        picture.SetMetaData("0020|0037", "\\".join(f"{v:.6f}" for v in direction[:, :2].T.ravel()))
        writer.SetFileName(str(folder / name))
        writer.Execute(picture)


@pytest.mark.parametrize(
    "direction", [np.diag([1.0, 1, 1]), np.diag([1.0, 1, 1])[:, [1, 0, 2]], np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])]
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("same_names", [False, True])
def test_pictures_lie_on_their_slices_whatever_the_order_and_orientation(
    tmp_path: Path, direction: NDArray[Any], reverse: bool, same_names: bool
) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, (4, 6, 5)) * 100 + rng.integers(0, 50, (4, 6, 5))
    names = [f"IMG-{number:04d}.dcm" for number in (range(4, 0, -1) if reverse else range(1, 5))]
    root = tmp_path / "Train_Sets" / "MR" / "7" / "T2SPIR"
    write_series(root / "DICOM_anon", array, names=names, direction=direction, spacing=(1.5, 1.25, 3.0))
    (root / "Ground").mkdir()
    for plane, name in zip(array, names, strict=True):
        from skimage import io

        picture = name.replace("dcm", "png") if same_names else name.replace("IMG", "liver").replace("dcm", "png")
        io.imsave(root / "Ground" / picture, np.where(plane >= 100, 63, 0).astype(np.uint8), check_contrast=False)
    dataset = find(tmp_path / "Train_Sets", recipe="chaos-t2")
    (case,) = dataset.cases
    image = load_image(case, channels=1)
    classes = load_classes(case, dataset.labels, like=image)
    np.testing.assert_array_equal(classes == 1, image.array[0] >= 100)
    assert not [fault for fault in checking.check(dataset, workers=0) if fault.severity == "error"]
    assert len(images.hash_image(case.images[0])) == 64, "a series is known by its content too"
    (root / "Ground" / picture).unlink()
    assert [fault.code for fault in checking.check(dataset, workers=0) if fault.severity == "error"] == ["grid"]


def test_a_mask_of_several_values_is_refused(tmp_path: Path, volume: Callable[..., Path]) -> None:
    masks = (("a", volume(tmp_path / "a.nii.gz", [0, 1, 2])),)
    with pytest.raises(LabelError, match="the mask of 'a' holds several values"):
        load_classes(Case(name="c", images=(), label=masks), LABELS)
