"""Damage of kinds that no list names: each ends in the right data or in a fault that names file, finding and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from autoseg import checking, images
from autoseg.cases import find
from autoseg.checking import Fault
from autoseg.checking.edges import edge_fit
from autoseg.errors import LabelError
from autoseg.geometry import affine_from_spacing

Write = Callable[..., None]
Declare = Callable[..., Path]


def faults_of(root: Path, **keys: Any) -> list[Fault]:
    return [fault for fault in checking.check(find(root, **keys), workers=0) if fault.code != "few-cases"]


def codes(root: Path) -> list[tuple[str | None, str, str]]:
    return [(fault.case, fault.severity, fault.code) for fault in faults_of(root)]


def organ(seed: int, shape: tuple[int, int, int] = (16, 22, 26)) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image with a bright organ off the middle, and its label: head 1 and tail 2 along y."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    centre = np.array([5.0, 8.0, 9.0]) + rng.uniform(-1, 1, 3)
    inside = ((z - centre[0]) / 4) ** 2 + ((y - centre[1]) / 6) ** 2 + ((x - centre[2]) / 6) ** 2 < 1 + 0.2 * rng.random()
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1) * 60
    image = (100 + 80 * inside + noise).astype(np.float32)
    return image, (inside * (1 + (y > centre[1]))).astype(np.uint8)


@pytest.fixture
def organs(write: Write, declare: Declare) -> Callable[..., Path]:
    """Five cases with an organ; `spoil(image, label)` alters case 'c'."""

    def make(spoil: Callable[[Any, Any], tuple[Any, Any]] | None = None) -> Path:
        for seed, name in enumerate("abcde"):
            image, label = organ(seed)
            if spoil is not None and name == "c":
                image, label = spoil(image, label)
            write(name, image=image, label=label)
        return declare(head=1, tail=2)

    return make


def test_sound_organs_have_no_fault(organs: Callable[..., Path]) -> None:
    assert codes(organs()) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda image, label: (image, label[:, :, ::-1]), "mirrored"),
        (lambda image, label: (image, label[::-1]), "mirrored"),
        (lambda image, label: (image, np.roll(label, 3, axis=1)), "shifted"),
        (lambda image, label: (np.where(label > 0, -500, image).astype(np.float32), label), "the empty part of the image"),
    ],
    ids=["left-right", "upside-down", "shifted", "in-the-dark"],
)
def test_a_label_in_the_wrong_place_is_told(organs: Callable[..., Path], spoil: Any, told: str) -> None:
    root = organs(spoil)
    found = faults_of(root)
    assert {(fault.case, fault.code) for fault in found} == {("c", "label-place")}, str(checking.table(found))
    assert any(told in fault.summary for fault in found), str(checking.table(found))
    assert all(fault.remedy and "--exclude c" in fault.remedy for fault in found)


def test_the_fit_of_a_label_is_that_of_all_border_voxels() -> None:
    image, label = organ(0)
    fit = edge_fit([image], label)
    assert fit is not None
    ratios = []
    rows = [np.flatnonzero((label > 0).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(max(0, row[0] - 4), row[-1] + 5) for row in rows)
    for axis in range(3):
        step = np.abs(np.diff(image, axis=axis))
        border = np.diff(label.astype(int), axis=axis) != 0
        ratios.append(step[border].mean() / step[box].mean())
    assert fit.here == pytest.approx(np.mean(ratios), rel=0.05), "a sample of the steps around it stands for all"
    flipped = edge_fit([image], label[:, :, ::-1])
    assert flipped is not None and flipped.mirrored == pytest.approx(fit.here, rel=0.25), "mirrored back it lies on the same edges"
    assert flipped.mirror.startswith("x")
    assert edge_fit([image], np.zeros_like(label)) is None and edge_fit([np.zeros_like(image)], label) is None


def test_labels_without_edges_are_not_judged_by_them(write: Write, declare: Declare) -> None:
    rng = np.random.default_rng(0)
    for name in "abcdef":
        _, label = organ(int(rng.integers(99)))
        write(name, image=rng.normal(size=label.shape).astype(np.float32), label=label[:, :, ::-1] if name == "c" else label)
    assert codes(declare(head=1, tail=2)) == []


@pytest.mark.parametrize(
    ("value", "severity", "code"), [(3.4e38, "error", "non-finite"), (-1e20, "error", "non-finite"), (1e9, "warning", "far-out")]
)
def test_markers_and_defect_voxels_are_told(organs: Callable[..., Path], value: float, severity: str, code: str) -> None:
    def spoil(image: Any, label: Any) -> tuple[Any, Any]:
        image = image.copy()
        image[0, 0, 0] = value
        return image, label

    (fault,) = [fault for fault in faults_of(organs(spoil)) if fault.code == code]
    assert (fault.case, fault.severity) == ("c", severity) and fault.found and fault.remedy and "c_0000.nii.gz" in str(fault.file)


def test_a_slice_among_volumes_and_a_spacing_in_metres_are_told(write: Write, declare: Declare) -> None:
    for seed, name in enumerate("abcde"):
        image, label = organ(seed)
        if name == "b":
            image, label = image[5:6], label[5:6]
        write(name, image=image, label=label, affine=affine_from_spacing((0.001,) * 3) if name == "d" else None)
    found = {(fault.case, fault.code, fault.summary) for fault in faults_of(declare(head=1, tail=2))}
    assert ("b", "shape", "a single slice among volumes") in found
    assert ("d", "spacing", "an extent that no scan has") in found


def test_a_channel_of_another_case_and_a_channel_given_twice_are_told(tmp_path: Path, smooth: Callable[[int], NDArray[Any]]) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    for number, name in enumerate("abcde"):
        first, second = smooth(2 * number), smooth(2 * number + 1)
        second = smooth(1) if name == "b" else first if name == "c" else np.zeros_like(first) if name in "de" else second
        label = np.zeros(first.shape, np.uint8)
        label[3:8, 2 + number : 7 + number, 4:9] = 1
        for channel, array in enumerate((first, second)):
            path = tmp_path / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            images.write_image(path, array[None], affine=affine_from_spacing((3, 1, 2)))
        images.write_image(tmp_path / "labelsTr" / f"{name}.nii.gz", label[None], affine=affine_from_spacing((3, 1, 2)))
    value = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    found = [(fault.case, fault.summary) for fault in faults_of(tmp_path) if fault.code == "same-channel"]
    assert found == [("b", "a channel of another case"), ("c", "two channels of the case are the same image")], (
        "empty channels are not alike"
    )


def test_masks_of_another_kind_are_named_once_the_labels_are_declared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "abcdef":
        picture = np.kron(rng.integers(0, 255, (6, 7)), np.ones((5, 5))).astype(np.uint8)
        mask = np.where(picture > 128, 255, 0).astype(np.uint8)
        if name == "b":
            mask = mask // 255  # 0 and 1
        if name == "c":
            mask = ndimage.gaussian_filter(mask.astype(float), 1.5).astype(np.uint8)  # borders blurred by an editor
        if name == "d":
            mask[0, 0] = 250  # one stray
        Pillow.fromarray(picture).save(tmp_path / "images" / f"{name}.png")
        Pillow.fromarray(mask).save(tmp_path / "labels" / f"{name}.png")
    with pytest.raises(LabelError, match="look like images, or were smoothed"):
        find(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "cell": 255}}')
    wrong = [(fault.case, fault.code) for fault in faults_of(tmp_path) if fault.severity == "error"]
    assert wrong == [("b", "labels"), ("c", "labels"), ("d", "labels")]


def test_a_label_of_aliases_of_background_alone_is_empty(write: Write, declare: Declare) -> None:
    for name in "abc":
        write(name)
    label = np.zeros((12, 14, 16), np.uint8)
    label[3:5] = 7
    write("d", label=label)
    found = checking.check(find(declare(), map_labels={7: 0}), workers=0)
    assert [(fault.case, fault.code) for fault in found if fault.severity == "warning"] == [("d", "empty-label")]


def test_the_way_out_is_as_a_shell_takes_it(write: Write, declare: Declare) -> None:
    for name in "abc":
        write(name)
    write("patient 1 (copy)", image=np.full((12, 14, 16), np.nan, np.float32))
    (fault,) = faults_of(declare())
    assert fault.remedy is not None and fault.remedy.endswith("--exclude 'patient 1 (copy)'")


def test_every_fault_of_a_case_that_cannot_be_read_names_the_way_to_leave_it_out(write: Write, declare: Declare, tmp_path: Path) -> None:
    for name in "abcd":
        write(name)
    (tmp_path / "imagesTr" / "a_0000.nii.gz").write_bytes(b"")
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c_0000.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c_0000.nii.gz").symlink_to(tmp_path / "gone" / "scan.nii.gz")
    found = faults_of(declare())
    assert [fault.case for fault in found] == ["a", "b", "c"] and all(fault.file for fault in found)
    assert all(fault.remedy and f"--exclude {fault.case}" in fault.remedy for fault in found)
    assert f"a link to {tmp_path / 'gone' / 'scan.nii.gz'}" in str(found[2].found)


@pytest.mark.parametrize(("factor", "told"), [(1000.0, True), (0.001, True), (1.0, False)])
def test_a_ct_in_other_units_than_the_others_is_told(write: Write, declare: Declare, factor: float, told: bool) -> None:
    for seed, name in enumerate("abcde"):
        image, label = organ(seed)
        image = np.maximum(image - 100, -150)
        image[:2] = -1000
        write(name, image=(image * (factor if name == "c" else 1)).astype(np.float32), label=label)
    found = [(fault.case, fault.code) for fault in faults_of(declare(channel="CT", head=1, tail=2)) if fault.code == "modality"]
    assert found == ([("c", "modality")] if told else [])


def test_a_copy_with_other_noise_or_on_another_grid_is_a_near_duplicate(
    write: Write, declare: Declare, smooth: Callable[[int], Any]
) -> None:
    for seed in range(4):
        write(f"p{seed}", image=smooth(seed), seed=seed)
    rng = np.random.default_rng(0)
    image = smooth(0)
    write("anna", image=(image + rng.normal(0, image.std() / 20, image.shape)).astype(np.float32), seed=7)
    write("bert", image=np.kron(smooth(1), np.ones((2, 2, 2), np.float32)), seed=8)
    found = [fault.found for fault in faults_of(declare()) if fault.code == "near-duplicate"]
    assert len(found) == 2 and "anna and p0" in str(found[0]) and "bert and p1" in str(found[1])


@pytest.mark.parametrize(
    ("spacing", "slices", "reported"), [([0.1, 0.1, 0.3], 4, True), ([0.3, 0.1, 0.1], 4, False), ([0.2, 0.1, 0.3], 4, False)]
)
def test_a_spacing_next_to_a_tiff_in_the_order_x_y_z_is_noticed(tmp_path: Path, spacing: list[float], slices: int, reported: bool) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for case in range(3):
            rng = np.random.default_rng(case)
            stack = rng.integers(0, 2 if folder == "labels" else 200, (slices, 9, 8), dtype=np.uint8)
            tifffile.imwrite(tmp_path / folder / f"c{case}.tif", stack, photometric="minisblack")
            (tmp_path / folder / f"c{case}.json").write_text(json.dumps({"spacing": spacing}))
    found = [fault for fault in checking.check(find(tmp_path), workers=0) if "order x, y, z" in fault.summary]
    assert len(found) == reported, "one for all cases"
    if reported:
        assert "c0, c1, c2" in (found[0].found or "") and '"spacing": [0.3, 0.1, 0.1]' in (found[0].remedy or "")
