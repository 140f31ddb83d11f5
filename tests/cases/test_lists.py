"""Lists of cases as CSV and JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.cases import Case, find
from autoseg.cases.lists import read_list
from autoseg.checking import check
from autoseg.errors import AutosegError, FaultyCases, MissingChannel, MissingLabel, MissingPath, SettingsError, UnreadableFile

Touch = Callable[..., Path]
FILES = ("a_t1.nii.gz", "a_ct.nii.gz", "a_seg.nii.gz", "sub dir/b_t1.nii.gz", "sub dir/b_ct.nii.gz", "sub dir/b_seg.nii.gz")
DECLARED = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "lesion": 4}}


@pytest.fixture
def root(touch: Touch) -> Path:
    folder = touch(*FILES)
    (folder / "dataset.json").write_text(json.dumps(DECLARED))
    return folder


def expected(root: Path) -> tuple[Case, ...]:
    return (
        Case(name="a", images=(root / "a_t1.nii.gz", root / "a_ct.nii.gz"), label=root / "a_seg.nii.gz", group="p1"),
        Case(
            name="b", images=(root / "sub dir/b_t1.nii.gz", root / "sub dir/b_ct.nii.gz"), label=root / "sub dir/b_seg.nii.gz", group="p2"
        ),
    )


A, B = ("a_t1.nii.gz", "a_ct.nii.gz", "a_seg.nii.gz"), ("sub dir/b_t1.nii.gz", "sub dir/b_ct.nii.gz", "sub dir/b_seg.nii.gz")
COMMAS = f"case,T1,CT,label,group\nb,{','.join(B)},p2\na,{','.join(A)},p1\n"
SEMICOLONS = f"\ufeffcase;T1;CT;label;group\r\na;{';'.join(A)};p1\r\n\r\nb;{';'.join(B)};p2"
TABS = "case\tT1\tCT\tlabel\tgroup\na\t" + "\t".join(A) + '\tp1\nb\t"' + '"\t"'.join(B) + '"\tp2\n'
ONE_COLUMN = f"Case,Label,Channels,Group\na,{A[2]},{A[0]};{A[1]},p1\nb,{B[2]},{B[0]} ; {B[1]},p2\n"


@pytest.mark.parametrize("text", [COMMAS, SEMICOLONS, TABS, ONE_COLUMN])
def test_csv_in_its_usual_dialects(root: Path, text: str) -> None:
    (root / "cases.csv").write_text(text, encoding="utf-8")
    dataset = find(root / "cases.csv")
    assert dataset.cases == expected(root)
    assert [(c.name, c.modality) for c in dataset.channels] == [("T1", "MR"), ("CT", "CT")]
    assert dataset.labels.values == (0, 4) and (dataset.name, dataset.recipe) == ("cases", "list")


@pytest.mark.parametrize("channels", [
    lambda files: files,
    lambda files: dict(zip(("T1", "CT"), files, strict=True)),
    lambda files: ";".join(files),
])  # fmt: skip
@pytest.mark.parametrize("wrapped", [True, False])
def test_json_in_its_usual_forms(root: Path, channels: Callable[[list[str]], Any], wrapped: bool) -> None:
    rows = [
        {"case": "a", "channels": channels(list(FILES[:2])), "label": FILES[2], "group": "p1"},
        {"case": "b", "channels": channels(list(FILES[3:5])), "label": FILES[5], "group": "p2"},
    ]
    (root / "dataset.json").unlink()
    stated = {"channels": [{"name": "T1", "modality": "MR"}, {"name": "CT", "modality": "other"}], "labels": {"background": 0, "lesion": 4}}
    (root / "list.json").write_text(json.dumps({**stated, "cases": rows} if wrapped else rows))
    if wrapped:
        dataset = find(root / "list.json")
        assert dataset.cases == expected(root)
        assert dataset.channels[1].modality == "other", "a modality that is stated is taken"
    else:
        with pytest.raises(AutosegError):  # nobody declared the labels, and the files are empty
            find(root / "list.json")


def test_labels_nobody_declared_are_found_by_reading(tmp_path: Path, volume: Callable[..., Path]) -> None:
    volume(tmp_path / "x.nii.gz", np.arange(9), dtype=np.float32)
    volume(tmp_path / "y.nii.gz", [0, 2, 2])
    (tmp_path / "cases.csv").write_text("case,channels,label\none,x.nii.gz,y.nii.gz\n")
    dataset = find(tmp_path / "cases.csv")
    assert dataset.labels.values == (0, 2) and [c.name for c in dataset.channels] == ["image"]


def test_declarations_are_found_where_the_files_lie(root: Path, tmp_path: Path) -> None:
    text = f"case,T1,CT,label\na,{root}/a_t1.nii.gz,{root}/a_ct.nii.gz,{root}/a_seg.nii.gz\n"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "kept.csv").write_text(text)
    dataset = find(tmp_path / "lists" / "kept.csv")
    assert dataset.labels.names == ("background", "lesion") and any("dataset.json" in note for note in dataset.notes)


def test_cases_that_are_not_whole_do_not_hide_the_others(root: Path) -> None:
    rows = ["case,T1,CT,label", "a,a_t1.nii.gz,a_ct.nii.gz,a_seg.nii.gz", "b,a_t1.nii.gz,,a_seg.nii.gz", "c,a_t1.nii.gz,a_ct.nii.gz,",
            "d,a_t1.nii.gz,a_tc.nii.gz,a_seg.nii.gz"]  # fmt: skip
    (root / "cases.csv").write_text("\n".join(rows))
    dataset = find(root / "cases.csv")
    assert [case.name for case in dataset.cases] == ["a"]
    assert [(p.case, type(p)) for p in dataset.problems] == [("b", MissingChannel), ("c", MissingLabel), ("d", MissingPath)]
    assert "a_ct.nii.gz" in str(dataset.problems[2]), "the nearest names are in the message"


def test_labels_annotated_in_some_cases_only(root: Path) -> None:
    (root / "cases.csv").write_text(
        "case,T1,CT,label,annotated\na,a_t1.nii.gz,a_ct.nii.gz,a_seg.nii.gz,lesion;rim\nb,a_t1.nii.gz,a_ct.nii.gz,a_seg.nii.gz,\n"
    )
    (root / "dataset.json").write_text(json.dumps({**DECLARED, "labels": {"background": 0, "lesion": 4, "rim": 5}}))
    assert [case.annotated for case in find(root / "cases.csv").cases] == [("lesion", "rim"), None]
    (root / "dataset.json").write_text(json.dumps(DECLARED))
    with pytest.raises(SettingsError, match="'rim'"):
        find(root / "cases.csv")


def test_a_name_that_no_file_could_have_concerns_its_case_alone(root: Path, tmp_path: Path) -> None:
    sound = {"channels": [str(root / "a_t1.nii.gz"), str(root / "a_ct.nii.gz")], "label": str(root / "a_seg.nii.gz")}
    file = tmp_path / "named.json"
    file.write_text(json.dumps({"labels": {"background": 0, "x": 1}, "cases": [sound | {"case": n} for n in ("a\u202fb", "c\td", "e/f")]}))
    dataset = find(file)
    assert [case.name for case in dataset.cases] == ["a\u202fb"]
    assert {problem.case for problem in dataset.problems} == {"c\\td", "e/f"}


@pytest.mark.parametrize(("text", "message"), [
    ("", "holds no case"),
    ("case,label,group\na,x,y\n", "no column with images"),
    ("case,T1,CT\na,x,y\n", "no column with labels"),
    ("case,T1,CT,label\na,x,y,z\na,x,y,z\n", "listed twice"),
    ("case,channels,label\na,x,y,z,w\n", "more fields than the head"),
])  # fmt: skip
def test_a_list_that_cannot_be_understood_is_refused(root: Path, text: str, message: str) -> None:
    (root / "cases.csv").write_text(text)
    with pytest.raises(SettingsError, match=message):
        find(root / "cases.csv")


@pytest.mark.parametrize("value", [{"cases": [1, 2]}, [1], {"cases": []}, [{"case": "a"}], [{"case": "a", "channels": 3, "label": None}]])
def test_json_that_is_no_list_is_refused_by_name(root: Path, value: Any) -> None:
    (root / "cases.json").write_text(json.dumps(value))
    try:
        assert find(root / "cases.json").problems
    except AutosegError as error:
        assert "cases.json" in str(error)


def test_a_list_in_another_encoding_is_refused(root: Path) -> None:
    (root / "cases.csv").write_bytes("case,T1,label\nä,x,y".encode("latin-1"))
    with pytest.raises(UnreadableFile, match="UTF-8"):
        find(root / "cases.csv")


@pytest.mark.parametrize("modality", ["ct", "MRI", 7, ["CT"]])
def test_a_modality_outside_the_closed_list_is_refused_with_the_nearest(root: Path, modality: Any) -> None:
    rows = [{"case": "a", "channels": [*FILES[:2]], "label": FILES[2]}]
    channels = [{"name": "a", "modality": modality}, {"name": "b", "modality": "MR"}]
    (root / "list.json").write_text(json.dumps({"channels": channels, "labels": DECLARED["labels"], "cases": rows}))
    with pytest.raises(SettingsError, match="unknown modality") as caught:
        find(root / "list.json")
    if modality == "ct":
        assert "did you mean 'CT'" in str(caught.value)


@pytest.mark.parametrize("name", ["../../x", "/abs/x", "", "..", "a/b"])
def test_names_in_a_data_set_of_our_own_are_checked_like_those_of_a_list(root: Path, name: str) -> None:
    (root / "cases.csv").write_text(COMMAS)
    value = find(root / "cases.csv").to_json()
    value["cases"][0]["case"] = name
    (root / "ours.json").write_text(json.dumps(value))
    dataset = find(root / "ours.json")
    assert [case.name for case in dataset.cases] == ["b"] and [problem.case for problem in dataset.problems] == [name]
    value["cases"][0]["case"] = "b"
    (root / "ours.json").write_text(json.dumps(value))
    with pytest.raises(SettingsError, match="listed twice"):
        find(root / "ours.json")


@pytest.mark.parametrize(("name", "message"), [
    ("ж" * 101, "too long"),
    ("x" * 201, "too long"),
    ("x" * 4000, "too long"),
    ("s\ud800", "no file could have"),
    ("../../x", "no file could have"),
    ("/abs/x", "no file could have"),
])  # fmt: skip
@pytest.mark.parametrize("labelled", [True, False])
def test_a_case_whose_files_could_not_be_named_is_refused_before_any_work(root: Path, name: str, message: str, labelled: bool) -> None:
    row = {"channels": [*FILES[:2]], "label": FILES[2]}
    (root / "list.json").write_text(json.dumps([row | {"case": name}, row | {"case": "ж" * 100}]))
    dataset = read_list(root / "list.json", labelled=labelled)
    assert [case.name for case in dataset.cases] == ["ж" * 100], "200 bytes are few enough"
    assert message in str(dataset.problems[0])


@pytest.mark.parametrize("path", ["x" * 5000, "s\ud800.nii.gz", "s\0.nii.gz", "~nobody-of-that-name/x.nii.gz"])
def test_a_path_that_no_file_could_have_concerns_its_case_alone(root: Path, path: str) -> None:
    rows = [{"case": n, "channels": [FILES[0], image], "label": FILES[2]} for n, image in (("a", FILES[1]), ("b", path))]
    (root / "list.json").write_text(json.dumps(rows))
    dataset = find(root / "list.json")
    assert [case.name for case in dataset.cases] == ["a"]
    assert [type(problem) for problem in dataset.problems] == [MissingPath]
    str(dataset.problems[0]).encode()


@pytest.mark.parametrize("odd", [
    {"case": ["a"]}, {"case": float("nan")}, {"label": ["x"]}, {"label": {"lesion": "x"}}, {"group": ["p1"]}, {"channels": [["x"]]},
    {"channels": {"T1": {"file": "x"}}}, {"annotated": {"lesion": 1}},
])  # fmt: skip
def test_a_row_of_json_that_holds_no_text_is_refused_with_its_place(root: Path, odd: dict[str, Any]) -> None:
    row = {"case": "a", "channels": [*FILES[:2]], "label": FILES[2]}
    (root / "list.json").write_text(json.dumps([row, row | {"case": "b"} | odd]))
    with pytest.raises(SettingsError, match=rf"(?s)list\.json.*'{next(iter(odd))}' in row 2"):
        find(root / "list.json")


def test_channels_of_a_row_are_taken_by_their_names(root: Path) -> None:
    rows = [{"case": "a", "channels": {"T1": FILES[0], "CT": FILES[1]}, "label": FILES[2]},
            {"case": "b", "channels": {"CT": FILES[4], "T1": FILES[3]}, "label": FILES[5]}]  # fmt: skip
    (root / "list.json").write_text(json.dumps(rows))
    assert [case.images for case in find(root / "list.json").cases] == [case.images for case in expected(root)]
    rows[1]["channels"] = {"T1": FILES[3], "CTA": FILES[4]}
    (root / "list.json").write_text(json.dumps(rows))
    with pytest.raises(SettingsError, match="unknown channel 'CTA'"):
        find(root / "list.json")


def test_names_that_differ_in_their_unicode_form_only_are_one_name(root: Path) -> None:
    (root / "cases.csv").write_text(f"case,T1,CT,label\n\u00fc,{','.join(A)}\nu\u0308,{','.join(B)}\n")
    with pytest.raises(SettingsError, match="listed twice"):
        find(root / "cases.csv")


def test_a_list_from_windows_finds_its_files(root: Path) -> None:
    (root / "cases.csv").write_text(COMMAS.replace("sub dir/", "sub dir\\"))
    assert find(root / "cases.csv").cases == expected(root)


@pytest.mark.parametrize("columns", [("fold", "Patient ID"), ("age", "sex")])
def test_columns_that_are_not_used_are_named(root: Path, columns: tuple[str, str]) -> None:
    (root / "cases.csv").write_text(f"case,{','.join(columns)},T1,CT,label,comment\na,40,m,{','.join(A)},fine\n")
    dataset = find(root / "cases.csv")
    assert [channel.name for channel in dataset.channels] == ["T1", "CT"], "a column without paths is no channel"
    assert [(fault.severity, fault.found) for fault in check(dataset) if fault.code == "unused"] == [("warning", ", ".join(columns))]


def test_missing_files_are_reported_before_missing_labels(root: Path) -> None:
    (root / "dataset.json").unlink()
    (root / "cases.csv").write_text("case,T1,label\na,a_t1.nii.gz,a_sgm.nii.gz\nb,a_ct.nii.gz,b_sgm.nii.gz\n")
    with pytest.raises(FaultyCases) as caught:
        find(root / "cases.csv")
    assert [type(error) for error in caught.value.errors] == [MissingPath, MissingPath]
    assert "a_sgm.nii.gz" in str(caught.value) and "a_seg.nii.gz" in str(caught.value), "the file, and the nearest one there"


def test_hints_for_thousands_of_missing_files_take_no_time(tmp_path: Path) -> None:
    count = 5000
    for number in range(count):
        (tmp_path / f"case_{number}.nii.gz").touch()
    rows = [f"{number},case_{number}.nii.gz,case_{number}.nii" for number in range(count)]
    (tmp_path / "cases.csv").write_text("\n".join(["case,T1,label", *rows]))
    (tmp_path / "dataset.json").write_text(json.dumps(DECLARED))
    begin = time.process_time()
    problems = find(tmp_path / "cases.csv").problems
    assert time.process_time() - begin < 10, "comparing each with all took five minutes"
    assert len(problems) == count and "nearest there: case_0.nii.gz" in str(problems[0])


@pytest.mark.parametrize("length", [9, 200_000])
def test_a_quote_that_never_ends_is_a_named_error(root: Path, length: int) -> None:
    (root / "cases.csv").write_text('case,T1,CT,label\na,"' + "x" * length)
    with pytest.raises(UnreadableFile, match="not valid CSV"):
        find(root / "cases.csv")


@pytest.mark.parametrize("head", ["case,T1,T1,label", "case,T1,CT,label,label", "Case,T1,case,label"])
def test_two_columns_of_one_name_are_refused(root: Path, head: str) -> None:
    (root / "cases.csv").write_text(f"{head}\na,{','.join(A)},x\n")
    with pytest.raises(SettingsError, match="two columns have one name"):
        find(root / "cases.csv")


@pytest.mark.parametrize("place", ["set", "deeper"])
def test_a_list_in_another_folder_than_its_paths_mean_gets_one_answer(root: Path, tmp_path: Path, place: str) -> None:
    file = tmp_path / "cases.csv" if place == "set" else root / "lists" / "cases.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text(COMMAS)
    with pytest.raises(MissingPath, match="none of the listed files is there") as caught:
        find(file)
    assert f"put the list into {root}:" in str(caught.value) and "b_t1.nii.gz" in str(caught.value.file)
