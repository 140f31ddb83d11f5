"""What `predict` is given: files or folders, with or without channel suffixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.cases import find_inputs
from autoseg.errors import MissingChannel, MissingPath, SettingsError

Touch = Callable[..., Path]


def names(root: Path, *inputs: str, channels: int = 1) -> dict[str, list[str]]:
    paths = [root / name for name in inputs] or [root]
    return {case.name: [path.name for path in case.images] for case in find_inputs(paths, channels=channels)}


def test_plain_names_in_a_folder(touch: Touch) -> None:
    root = touch("b.nii.gz", "a.v2.nii.gz", ".hidden.nii.gz", "notes.txt", "dataset.json")
    assert names(root) == {"a.v2": ["a.v2.nii.gz"], "b": ["b.nii.gz"]}


def test_channel_suffixes_are_left_out_of_the_name(touch: Touch) -> None:
    root = touch("x_0000.nii.gz", "y_1_0000.nii.gz")
    assert names(root) == {"x": ["x_0000.nii.gz"], "y_1": ["y_1_0000.nii.gz"]}


def test_several_channels_are_joined_in_their_order(touch: Touch) -> None:
    root = touch("x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    assert names(root, channels=2) == {"x": ["x_0000.nii.gz", "x_0001.nii.gz"], "y": ["y_0000.nii.gz", "y_0001.nii.gz"]}
    assert names(root, "x_0001.nii.gz", "x_0000.nii.gz", channels=2) == {"x": ["x_0000.nii.gz", "x_0001.nii.gz"]}


def test_numbered_cases_are_no_channels(touch: Touch) -> None:
    root = touch("amos_0000.nii.gz", "amos_0001.nii.gz", "amos_0507.nii.gz")
    assert list(names(root)) == ["amos_0000", "amos_0001", "amos_0507"]
    assert list(names(root, "amos_0507.nii.gz")) == ["amos_0507"]


def test_a_case_that_lacks_a_channel_does_not_stop_the_others(touch: Touch, volume: Callable[..., Path]) -> None:
    root = touch("x_0000.nii.gz", "x_0001.nii.gz")
    volume(root / "y_0000.nii.gz")
    found = names(root, channels=2)
    assert found == {"x": ["x_0000.nii.gz", "x_0001.nii.gz"], "y": ["y_0000.nii.gz", "y_0001.nii.gz"]}
    (root / "x_0001.nii.gz").unlink()
    volume(root / "x_0000.nii.gz")
    with pytest.raises(MissingChannel, match="no case has all channels") as caught:
        names(root, channels=2)
    assert "x_0000.nii.gz" in str(caught.value), "the nearest names are told"


def test_two_files_without_suffix_are_the_channels_of_one_case(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name in ("t1", "ct"):
        volume(tmp_path / f"{name}.nii.gz", np.arange(5))
    assert names(tmp_path, "t1.nii.gz", "ct.nii.gz", channels=2) == {"t1": ["t1.nii.gz", "ct.nii.gz"]}
    assert list(names(tmp_path, "t1.nii.gz", "ct.nii.gz")) == ["ct", "t1"], "two cases for a model with one channel"


def test_dicom_series_are_their_folders(touch: Touch) -> None:
    root = touch("p1/i1.dcm", "p1/i2.dcm", "p2/i1.dcm")
    assert names(root) == {"p1": ["p1"], "p2": ["p2"]}
    assert names(root, "p1") == {"p1": ["p1"]}
    (root / "p3").mkdir()
    (root / "p3" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert list(names(root)) == ["p1", "p2", "p3"]


def test_a_list_of_cases(touch: Touch) -> None:
    root = touch("a1.nii.gz", "a2.nii.gz", "dataset.json")
    (root / "dataset.json").write_text('{"labels": {"background": 0, "x": 1}, "channel_names": {"0": "T1", "1": "T2"}}')
    (root / "new.csv").write_text("case,T1,T2\npatient 7,a1.nii.gz,a2.nii.gz\n")
    assert names(root, "new.csv", channels=2) == {"patient 7": ["a1.nii.gz", "a2.nii.gz"]}


def test_what_is_not_there_gets_the_nearest_names(touch: Touch) -> None:
    root = touch("liver_01.nii.gz", "empty/readme.txt")
    with pytest.raises(MissingPath, match=r"did you mean liver_01\.nii\.gz"):
        names(root, "liver_1.nii.gz")
    with pytest.raises(MissingPath, match="no image in this folder"):
        names(root, "empty")


def test_two_inputs_of_one_name_are_refused(touch: Touch) -> None:
    root = touch("one/a.nii.gz", "two/a.nii.gz")
    with pytest.raises(SettingsError, match="same name"):
        names(root, "one/a.nii.gz", "two/a.nii.gz")


def test_what_cannot_be_read_is_an_input_that_fails_alone(tmp_path: Path, volume: Callable[..., Path]) -> None:
    volume(tmp_path / "good_0000.nii.gz")
    volume(tmp_path / "good_0001.nii.gz")
    (tmp_path / "bad_0000.nii.gz").write_bytes(b"nothing")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone" / "scan.nii.gz")
    assert [case.name for case in find_inputs([tmp_path], channels=2)] == ["bad", "folder.nii.gz", "good", "link"]
