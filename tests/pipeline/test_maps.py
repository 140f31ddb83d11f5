"""Uncertainty and probabilities arrive in pieces, are never held for all classes at once, and read back as shares of one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg import images
from autoseg.labels import make_labels
from autoseg.pipeline.maps import Maps, entropy, probabilities_file, uncertainty_file

LABELS = make_labels({"background": 0, "a": 1, "b": 2})
REGIONS = make_labels({"background": 0, "a": 1, "b": 2}, regions={"whole": ((1, 2), 1), "core": ((2,), 2)})


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("order", ["slices", "rows", "columns"])
def test_pieces_in_any_order_read_back_as_the_whole_with_background_beyond_them(tmp_path: Path, labels, order: str) -> None:
    affine = np.array([[0, 2.0, 0, 1], [-1.5, 0, 0, 2], [0, 0, 3.0, 3], [0, 0, 0, 1]])
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 6, 5), dtype=np.float32), affine), scan)
    image = images.read_channels([scan], channels=1)
    heads, (depth, height, width) = labels.output_channels, image.shape
    shares = np.random.default_rng(0).random((heads, *image.shape)).astype(np.float32)
    shares /= 1 if labels.regions else shares.sum(0)
    shares[:, 0] = np.eye(heads)[0][:, None, None] * (not labels.regions)  # beyond the crop
    (tmp_path / "scratch").mkdir()
    maps = Maps(image, labels, scratch=tmp_path / "scratch", uncertainty=True)
    whole = (slice(1, depth), slice(0, height), slice(0, width))
    axis = ["slices", "rows", "columns"].index(order)
    for index in range(whole[axis].start, whole[axis].stop):
        where = (*whole[:axis], slice(index, index + 1), *whole[axis + 1 :])
        maps.receive(where, shares[(slice(None), *where)])
    maps.write(tmp_path / "found.nii.gz")
    chances, doubt = (images.read_channels([file(tmp_path / "found.nii.gz")], channels=n) for file, n in (
        (probabilities_file, heads), (uncertainty_file, 1)))  # fmt: skip
    assert np.array_equal(chances.array, shares)
    assert np.allclose(doubt.array[0], entropy(shares, regions=bool(labels.regions)), atol=0.51 / 255)
    read = nibabel.load(uncertainty_file(tmp_path / "found.nii.gz"))
    assert np.array_equal(read.affine, affine) and read.get_data_dtype() == np.uint8 and 0.9 < read.get_fdata().max() <= 1


def test_what_is_not_wanted_is_not_written(tmp_path: Path) -> None:
    image = images.from_memory(np.zeros((3, 4, 5), dtype=np.float32), np.eye(4), channels=1)
    Maps(image, LABELS, scratch=None, uncertainty=False).write(tmp_path / "found.nii.gz")
    assert not list(tmp_path.iterdir())
