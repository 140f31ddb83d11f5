"""Suffixes and companions of image files."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg import images
from autoseg.errors import UnreadableFile
from autoseg.geometry import affine_from_spacing


def test_what_is_next_to_a_header_is_part_of_its_hash(tmp_path: Path) -> None:
    (tmp_path / "scan.mhd").write_text("NDims = 3\nElementDataFile = scan.raw\n")
    (tmp_path / "scan.nhdr").write_text("NRRD0004\ndata file: voxels.raw\n")
    (tmp_path / "scan_0000.tif").write_bytes(b"pixels")
    for header, companion in (("scan.mhd", "scan.raw"), ("scan.nhdr", "voxels.raw"), ("scan_0000.tif", "scan.json")):
        hashes = [images.hash_image(tmp_path / header)]
        for content in (b"one", b"two", b"one"):
            (tmp_path / companion).write_bytes(content)
            hashes.append(images.hash_image(tmp_path / header))
        assert len(set(hashes[:3])) == 3 and hashes[3] == hashes[1], header


@pytest.mark.parametrize(
    "name, stem, suffix",
    [
        ("Liver.NII.GZ", "Liver", ".nii.gz"),
        ("a.b.nii", "a.b", ".nii"),
        ("liver.Seg.NRRD", "liver", ".seg.nrrd"),
        ("cells.ome.TIF", "cells", ".ome.tif"),
        ("readme.txt", "readme.txt", ""),
    ],
)
def test_a_suffix_of_several_parts_is_one_in_upper_and_lower_case(name: str, stem: str, suffix: str) -> None:
    assert (images.stem_of(f"folder.nii/{name}"), images.suffix_of(f"folder.nii/{name}")) == (stem, suffix)


def test_label_maps_are_written_only_where_their_values_are_kept() -> None:
    written = {images.label_suffix(f"a{suffix}") for suffix in images.SUFFIXES}
    assert not written & {".jpg", ".jpeg", ".dcm", ".mhd", ".nhdr"} and written < set(images.SUFFIXES)
    assert [images.is_label_picture(Path(name)) for name in ("a.PNG", "a.jpg", "a.tiff", "a.nii")] == [True, False, True, False]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".dcm"])
@pytest.mark.parametrize("damaged", [False, True])
def test_reading_leaves_the_settings_of_other_libraries_as_they_are(tmp_path: Path, suffix: str, damaged: bool) -> None:
    sitk, pillow = pytest.importorskip("SimpleITK"), pytest.importorskip("PIL.Image")
    path = tmp_path / f"a{suffix}"
    array: NDArray[np.uint8] = np.arange(30, dtype=np.uint8).reshape(1, 1, 5, 6)
    if suffix == ".dcm":
        sitk.WriteImage(sitk.GetImageFromArray(array[0]), path)
    else:
        images.write_image(path, array, affine=affine_from_spacing((1, 1, 1)))
    if damaged:
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    log = logging.getLogger("tifffile")

    def settings() -> tuple[object, ...]:
        display = sitk.ProcessObject.GetGlobalWarningDisplay()
        return display, log.level, log.disabled, tuple(log.filters), pillow.MAX_IMAGE_PIXELS, tuple(warnings.filters)

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        for display, level in ((True, logging.NOTSET), (False, logging.INFO)):
            sitk.ProcessObject.SetGlobalWarningDisplay(display)
            log.setLevel(level)
            before = settings()
            if damaged:
                with pytest.raises(UnreadableFile):
                    images.read(path)
            else:
                images.read(path)
            assert settings() == before
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        log.setLevel(logging.NOTSET)
