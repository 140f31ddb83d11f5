"""FreeSurfer's .mgz, and pairs of .hdr and .img: NIfTI and Analyze."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autoseg import images
from autoseg.cases import find, find_inputs
from autoseg.errors import AutosegError, MissingPath, UnreadableFile

AFFINE = np.array([[0.0, 0, -2, 30], [-1.5, 0, 0, 20], [0, 1, 0, -10], [0, 0, 0, 1]])


def made(dtype: Any = np.float32, *, volumes: int = 1) -> np.ndarray:
    array = np.arange(4 * 5 * 6 * volumes).reshape(4, 5, 6, volumes).astype(dtype)
    return array[..., 0] if volumes == 1 else array


@pytest.mark.parametrize("name", ["s.mgz", "s.mgh", "s.hdr", "S.HDR"])
@pytest.mark.parametrize("volumes", [1, 2])
def test_the_same_voxels_in_the_same_places_as_in_nifti(tmp_path: Path, name: str, volumes: int) -> None:
    kind: Any = nib.MGHImage if "mg" in name else nib.Nifti1Pair
    nib.save(kind(made(volumes=volumes), AFFINE), tmp_path / name.lower())
    for path in tmp_path.iterdir():
        path.rename(tmp_path / (path.name.upper() if name.isupper() else path.name))
    nib.save(nib.Nifti1Image(made(volumes=volumes), AFFINE), tmp_path / "n.nii.gz")
    found, expected = images.read(tmp_path / name), images.read(tmp_path / "n.nii.gz")
    assert np.array_equal(found.array, expected.array) and found.array.dtype == expected.array.dtype
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    header = images.read_header(tmp_path / name)
    assert header.shape == found.shape and header.channels == volumes and header.dtype == found.array.dtype


@pytest.mark.parametrize("name", ["s.mgz", "s.hdr"])
def test_a_label_is_written_as_nifti_on_their_grid(tmp_path: Path, name: str) -> None:
    nib.save((nib.MGHImage if "mg" in name else nib.Nifti1Pair)(made(np.int16), AFFINE), tmp_path / name)
    image = images.read(tmp_path / name)
    assert images.label_suffix(name) == ".nii.gz" and images.stem_of(name) == "s"
    images.write_label(tmp_path / "l.nii.gz", image.array[0] % 3, like=image)
    label: Any = nib.load(tmp_path / "l.nii.gz")
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-5)
    assert np.array_equal(np.asarray(label.dataobj), made(np.int16) % 3)
    with pytest.raises(UnreadableFile):
        images.write_label(tmp_path / f"x{name[1:]}", image.array[0] % 3, like=image)


def test_analyze_is_placed_as_nibabel_places_it(tmp_path: Path) -> None:
    image = nib.Spm99AnalyzeImage(made(np.int16), np.diag([-1.5, 2, 3, 1]))
    image.header.set_slope_inter(0.5)
    nib.save(image, tmp_path / "a.hdr")
    (tmp_path / "a.mat").unlink(missing_ok=True)
    theirs: Any = nib.load(tmp_path / "a.hdr")
    assert isinstance(theirs, nib.AnalyzeImage)
    nib.save(nib.Nifti1Image(theirs.get_fdata().astype(np.float32), theirs.affine), tmp_path / "n.nii.gz")
    found, expected = images.read(tmp_path / "a.hdr"), images.read(tmp_path / "n.nii.gz")
    np.testing.assert_allclose(found.array, expected.array)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert any("Analyze" in note for note in found.notes)


def test_the_img_of_a_pair_stands_for_it_and_its_voxels_count(tmp_path: Path, volume: Callable[..., Path] | None = None) -> None:
    nib.save(nib.Nifti1Pair(made(np.uint8), AFFINE), tmp_path / "s.hdr")
    assert [case.images for case in find_inputs([tmp_path / "s.img"], channels=["MR"]).cases] == [(tmp_path / "s.hdr",)]
    assert [case.name for case in find_inputs([tmp_path / "s.img", tmp_path / "s.hdr"], channels=["MR"]).cases] == ["s"]
    before = images.hash_image(tmp_path / "s.hdr")
    whole = (tmp_path / "s.img").read_bytes()
    (tmp_path / "s.img").write_bytes(bytes(len(whole)))
    assert images.hash_image(tmp_path / "s.hdr") != before
    (tmp_path / "s.img").write_bytes(whole[:-7])
    with pytest.raises(UnreadableFile, match="bytes"):
        images.read(tmp_path / "s.hdr")
    (tmp_path / "s.img").unlink()
    with pytest.raises(MissingPath, match="voxels is missing"):
        images.read(tmp_path / "s.hdr")


def test_damaged_files_are_named_errors(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(made(), AFFINE), tmp_path / "s.mgh")
    nib.save(nib.MGHImage(made(), AFFINE), tmp_path / "s.mgz")
    nib.save(nib.Spm99AnalyzeImage(made(np.int16), np.eye(4)), tmp_path / "a.hdr")
    rng = np.random.default_rng(0)
    for name, header in (("s.mgh", 284), ("s.mgz", 300), ("a.hdr", 348)):
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            broken = bytearray(whole)
            for place in rng.integers(0, min(header, len(whole)), size=3):
                broken[place] = rng.integers(256)
            (tmp_path / name).write_bytes(broken[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else broken)
            try:
                images.read(tmp_path / name)
            except AutosegError:
                pass


def test_data_sets_of_both_kinds_are_found(tmp_path: Path) -> None:
    for kind, name in ((nib.MGHImage, "mgz"), (nib.Nifti1Pair, "hdr")):
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
            for case in "ab":
                nib.save(kind((made() > 7).astype(np.uint8), AFFINE), tmp_path / name / folder / f"{case}.{name}")
        dataset = find(tmp_path / name)
        assert [case.name for case in dataset.cases] == ["a", "b"] and [label.value for label in dataset.labels.foreground] == [1]
