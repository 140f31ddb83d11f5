"""What `predict` is given: files or folders, with or without channel suffixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.cases import find_inputs, lists
from autoseg.errors import FaultyCases, MissingChannel, MissingPath, SettingsError
from autoseg.shards import Shard

Touch = Callable[..., Path]


def names(root: Path, *inputs: str, channels: int = 1) -> dict[str, list[str]]:
    paths = [root / name for name in inputs] or [root]
    return named(paths, *(f"channel {index}" for index in range(channels)))


def named(paths: Path | list[Path], *channels: str) -> dict[str, list[str]]:
    found = find_inputs(paths if isinstance(paths, list) else [paths], channels=channels)
    return {case.name: [path.name for path in case.images] for case in found.cases}


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
    assert list(names(tmp_path, channels=2)) == ["bad", "folder.nii.gz", "good", "link"]


def test_columns_are_matched_to_the_channels_by_name(touch: Touch) -> None:
    root = touch("t1/p0.nii.gz", "flair/p0.nii.gz", "a.nii.gz")
    (root / "new.csv").write_text("case,FLAIR,T1\np0,flair/p0.nii.gz,t1/p0.nii.gz\n")
    found = find_inputs([root / "new.csv"], channels=["T1", "FLAIR"])
    assert [path.parent.name for path in found.cases[0].images] == ["t1", "flair"]
    assert found.notes == ("channels of p0: T1 is t1/p0.nii.gz, FLAIR is flair/p0.nii.gz",)
    (root / "json.json").write_text('{"cases": [{"case": "p0", "channels": {"flair": "flair/p0.nii.gz", "T1w": "t1/p0.nii.gz"}}]}')
    assert find_inputs([root / "json.json"], channels=["T1", "FLAIR"]).cases == found.cases
    (root / "one.csv").write_text("case,channels\np0,flair/p0.nii.gz;t1/p0.nii.gz\n")
    assert find_inputs([root / "one.csv"], channels=["T1", "FLAIR"]).cases == found.cases, "the folders have the names"
    (root / "made.csv").write_text("case,channels\np0,flair/p0.nii.gz;t1/p0.nii.gz\n")
    unnamed = find_inputs([root / "made.csv"], channels=["channel 0", "channel 1"])
    assert [path.parent.name for path in unnamed.cases[0].images] == ["flair", "t1"], "no name anywhere: the order counts"


@pytest.mark.parametrize("heads", ["T1,T2", "T1,FLAIR,T2", "T1"])
def test_columns_of_other_channels_are_refused(touch: Touch, heads: str) -> None:
    root = touch("a.nii.gz", "b.nii.gz", "c.nii.gz")
    (root / "new.csv").write_text(f"case,{heads}\np0,{','.join(['a.nii.gz', 'b.nii.gz', 'c.nii.gz'][: heads.count(',') + 1])}\n")
    with pytest.raises(MissingChannel, match="not those of the model") as caught:
        find_inputs([root / "new.csv"], channels=["T1", "FLAIR"])
    assert caught.value.found == heads.replace(",", ", ") and "T1, FLAIR" in str(caught.value.expected)


def test_a_single_channel_may_be_called_otherwise_but_not_as_another_kind(touch: Touch) -> None:
    root = touch("a.nii.gz")
    for head in ("MR", "scan", "T1w"):
        (root / "new.csv").write_text(f"case,{head}\np0,a.nii.gz\n")
        assert named(root / "new.csv", "T1") == {"p0": ["a.nii.gz"]}
    for head in ("CT", "FLAIR"):
        (root / "new.csv").write_text(f"case,{head}\np0,a.nii.gz\n")
        with pytest.raises(MissingChannel, match="not those of the model"):
            named(root / "new.csv", "T1")


def test_columns_that_hold_files_of_other_channels_are_a_contradiction(touch: Touch) -> None:
    root = touch("p0_t1.nii.gz", "p0_flair.nii.gz")
    (root / "new.csv").write_text("case,T1,FLAIR\np0,p0_flair.nii.gz,p0_t1.nii.gz\n")
    with pytest.raises(MissingChannel, match="contradict") as caught:
        named(root / "new.csv", "T1", "FLAIR")
    assert "p0_flair.nii.gz, p0_t1.nii.gz" in str(caught.value) and caught.value.case == "p0"


def test_rows_that_lack_a_file_are_problems_of_their_own(touch: Touch) -> None:
    root = touch("t1/p0.nii.gz", "flair/p0.nii.gz")
    (root / "new.csv").write_text(
        "case,T1,FLAIR,age\np0,t1/p0.nii.gz,flair/p0.nii.gz,40\np1,t1/p0.nii.gz,,41\np2,t1/x.nii.gz,flair/p0.nii.gz,42\n"
    )
    found = find_inputs([root / "new.csv"], channels=["T1", "FLAIR"])
    assert [case.name for case in found.cases] == ["p0"]
    assert [problem.case for problem in found.problems] == ["p1", "p2"]
    assert "columns of the list are not used: age" in found.notes
    (root / "none.csv").write_text("case,T1,FLAIR\np1,t1/p0.nii.gz,\np2,t1/x.nii.gz,flair/p0.nii.gz\n")
    with pytest.raises(FaultyCases, match="2 faults"):
        named(root / "none.csv", "T1", "FLAIR")


BRATS = ("FLAIR", "T1", "T1ce", "T2")


def test_words_in_the_names_of_files_are_channels(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for case in ("A_001", "A_002"):
        for word in ("t1", "t1ce", "t2", "flair"):
            volume(tmp_path / case / f"{case}_{word}.nii.gz")
    whole = {case: [f"{case}_{word}.nii.gz" for word in ("flair", "t1", "t1ce", "t2")] for case in ("A_001", "A_002")}
    assert named(tmp_path, *BRATS) == whole, "as the training patients lie"
    assert named(tmp_path / "A_001", *BRATS) == {"A_001": whole["A_001"]}, "one patient's folder"
    given = [tmp_path / f"A_002/A_002_{word}.nii.gz" for word in ("t2", "t1", "t1ce", "flair")]
    assert named(given, *BRATS) == {"A_002": whole["A_002"]}
    assert named(given, "t1-Gd", "T2w", "t1n", "T2 FLAIR") == {"A_002": [f"A_002_{word}.nii.gz" for word in ("t1ce", "t2", "t1", "flair")]}


def test_explicit_files_are_matched_or_refused(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name in ("flair_to_t1", "t1", "adc", "x", "y"):
        volume(tmp_path / f"{name}.nii.gz", np.arange(5))

    def given(*files: str) -> list[str]:
        return next(iter(named([tmp_path / f"{file}.nii.gz" for file in files], "T1", "FLAIR").values()))

    assert given("flair_to_t1", "t1") == ["t1.nii.gz", "flair_to_t1.nii.gz"], "only one way fits"
    assert given("x", "t1") == ["t1.nii.gz", "x.nii.gz"]
    assert given("y", "x") == ["y.nii.gz", "x.nii.gz"], "no name: the order"
    with pytest.raises(MissingChannel, match="contradict") as caught:
        given("t1", "adc")
    assert "t1.nii.gz, adc.nii.gz" in str(caught.value) and "T1, FLAIR" in str(caught.value)


def test_a_word_that_all_files_have_is_no_channel(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for word in ("one", "two"):
        volume(tmp_path / f"T1_study_{word}.nii.gz", np.arange(5))
    given = [tmp_path / f"T1_study_{word}.nii.gz" for word in ("two", "one")]
    assert list(named(given, "T1", "FLAIR").values()) == [["T1_study_two.nii.gz", "T1_study_one.nii.gz"]]


def test_a_case_without_one_of_the_named_channels_fails_alone(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name in ("a_t1", "a_flair", "b_t1"):
        volume(tmp_path / f"{name}.nii.gz")
    assert named(tmp_path, "T1", "FLAIR") == {"a": ["a_t1.nii.gz", "a_flair.nii.gz"], "b": ["b_t1.nii.gz", "b_FLAIR.nii.gz"]}


def test_the_layouts_of_training_sets_are_found(touch: Touch) -> None:
    root = touch("imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz", "dataset.json")
    (root / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "numTraining": 1, "file_ending": ".nii.gz"}'
    )
    assert named(root, "CT") == {"x": ["x_0000.nii.gz"]}
    kits = touch("case_00001/imaging.nii.gz", "case_00002/imaging.nii.gz", root="kits")
    assert named(kits, "CT") == {"case_00001": ["imaging.nii.gz"], "case_00002": ["imaging.nii.gz"]}
    assert named(kits / "case_00001", "CT") == {"imaging": ["imaging.nii.gz"]}


def test_nested_series_are_found_below(touch: Touch) -> None:
    root = touch("P1/ST1/SE2/i1.dcm", "P2/ST1/SE2/i1.dcm", "DICOMDIR")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert list(names(root)) == ["P1_ST1_SE2", "P2_ST1_SE2"]


def test_what_no_layout_describes_is_shown(touch: Touch) -> None:
    root = touch("p1/deep/odd.nii.gz", "p2/deep/even.nii.gz")
    with pytest.raises(MissingPath, match="no known layout") as caught:
        named(root, "T1", "FLAIR")
    assert "p1/deep/odd.nii.gz" in str(caught.value) and "case, T1, FLAIR" in str(caught.value)


def test_a_shard_of_a_list_looks_for_its_own_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"case_{index},scans/{index}.nii.gz" for index in range(200)]
    (tmp_path / "list.csv").write_text("\n".join(["case,image", *rows]))
    asked = []
    monkeypatch.setattr(lists, "absent_file", lambda name, path, correction: asked.append(name))
    monkeypatch.setattr(lists, "_refuse_elsewhere", lambda *given: None)
    parts = [find_inputs([tmp_path / "list.csv"], channels=["image"], shard=Shard(number, 3)).cases for number in (1, 2, 3)]
    assert [case.name for part in parts for case in part] == [name for part in parts for name in sorted(case.name for case in part)]
    assert sorted(asked) == sorted(f"case_{index}" for index in range(200))
    assert find_inputs([tmp_path / "list.csv"], channels=["image"], shard=Shard(77, 100_000)).cases == ()
