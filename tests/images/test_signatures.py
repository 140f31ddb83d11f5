"""Files that bear the name of an image and are none are told for what they are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from autoseg import images
from autoseg.errors import UnreadableFile
from autoseg.geometry import affine_from_spacing

PAGE = b"<!DOCTYPE html><html><body>404 not found, please log in</body></html>" * 8
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PAGE, "a web page"),
        (LFS, "git lfs pull"),
        (b"../.git/annex/objects/Xz/9k/SHA256E-s123--abc.nii.gz\n", "git annex get"),
        (b"\0\5\x16\7" + bytes(100), "AppleDouble"),
        (gzip.compress(gzip.compress(bytes(2000), mtime=0), mtime=0), "compressed twice"),
        (b"case,label\n" * 60, "a text file"),
        (b"", "0 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "scan.png"])
def test_what_a_file_really_is_is_told_with_the_way_to_the_image(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableFile) as caught:
        images.read(path)
    assert told in str(caught.value) and name in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(("name", "said"), [("scan.mhd", False), ("scan.mha", False), ("scan.nhdr", False), ("scan.nii", True)])
def test_a_damaged_header_in_words_is_no_text_file(tmp_path: Path, name: str, said: bool) -> None:
    path = tmp_path / name
    path.write_text("Comment = made by hand\nObjectType = Image\nNDims = three\n")
    with pytest.raises(UnreadableFile) as caught:
        images.read(path)
    assert ("a text file" in str(caught.value)) is said


def test_a_damaged_image_is_no_pretender(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    images.write_image(path, np.zeros((1, 3, 4, 5), np.int16), affine=affine_from_spacing((1, 1, 1)))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UnreadableFile, match="shorter than its header declares"):
        images.read(path)


def test_a_folder_named_like_a_file_and_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").mkdir()
    with pytest.raises(UnreadableFile, match="a folder that is named like an image file"):
        images.read(tmp_path / "scan.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for read in (images.read, images.read_header, images.read_label):
        with pytest.raises(UnreadableFile, match="neither a file nor a folder"):
            read(tmp_path / "pipe.nii.gz")
