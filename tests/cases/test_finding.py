"""What `find` does with declarations of every kind, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from autoseg.cases import Dataset, find
from autoseg.errors import AutosegError, LabelError, MissingPath, SettingsError, UnknownLayout, UnreadableFile

Touch = Callable[..., Path]
CASES = ("imagesTr/p1_t0_0000.nii.gz", "imagesTr/p1_t1_0000.nii.gz", "imagesTr/p2_t0_0000.nii.gz",
         "labelsTr/p1_t0.nii.gz", "labelsTr/p1_t1.nii.gz", "labelsTr/p2_t0.nii.gz")  # fmt: skip


def declare(root: Path, **keys: Any) -> Path:
    value = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney_left": 1, "kidney_right": 2},
        "file_ending": ".nii.gz",
        **keys,
    }
    (root / "dataset.json").write_text(json.dumps({key: item for key, item in value.items() if item is not None}))
    return root


def test_a_data_set_survives_its_json_and_files_stay_where_they_are(touch: Touch) -> None:
    root = declare(touch(*CASES))
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*"))
    dataset = find(root)
    assert Dataset.from_json(json.loads(json.dumps(dataset.to_json()))) == dataset
    assert all(path.is_absolute() for case in dataset.cases for path in case.images)
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*")) == before
    assert dataset.labels.pairs == (("kidney_left", "kidney_right"),), "left/right pairs are known from the names"
    assert find(root / "dataset.json") == dataset, "the file stands for its folder"


def test_groups_by_regular_expression(touch: Touch) -> None:
    root = declare(touch(*CASES))
    assert [case.group for case in find(root, group_regex=r"^(p\d+)_").cases] == ["p1", "p1", "p2"]
    assert [case.group for case in find(root, group_regex=r"^p\d+").cases] == ["p1", "p1", "p2"]
    partly = find(root, group_regex="p1")
    assert [case.group for case in partly.cases] == ["p1", "p1", None] and "p2_t0" in partly.notes[-1]
    for regex in ("(", "zzz"):
        with pytest.raises(SettingsError, match="--group-regex"):
            find(root, group_regex=regex)


def test_a_mapped_value_leaves_the_declaration(touch: Touch) -> None:
    labels = find(declare(touch(*CASES)), map_labels={2: 1, 7: 0}).labels
    assert labels.names == ("background", "kidney_left")
    assert labels.encode(np.array([0, 1, 2, 7], dtype=np.uint8)).tolist() == [0, 1, 1, 0]
    with pytest.raises(LabelError):
        find(declare(touch(*CASES)), map_labels={2: 5})


def test_regions_beside_the_labels_are_trained_where_they_can_be_undone(touch: Touch) -> None:
    nested = {"labels": {"background": 0, "oedema": 1, "core": 2}, "regions": {"all": [1, 2], "core": [2]}}
    assert [(r.name, r.writes) for r in find(declare(touch(*CASES), **nested)).labels.regions] == [("all", 1), ("core", 2)]
    alike = {"labels": {"background": 0, "a": 1, "b": 2}, "regions": {"all": [1, 2]}}
    dataset = find(declare(touch(*CASES), **alike))
    assert not dataset.labels.regions and any("left aside" in note and "--map-labels 2=1" in note for note in dataset.notes)
    assert [r.members for r in find(declare(touch(*CASES), **alike), map_labels={2: 1}).labels.regions] == [(1,)]


@pytest.mark.parametrize("name", ["CT", "ct", "Portal venous CT"])
def test_modalities_are_taken_from_names_and_told(touch: Touch, name: str) -> None:
    dataset = find(declare(touch(*CASES), channel_names={"0": name}))
    assert dataset.channels[0].modality == "CT" and any(f"{name} is CT" in note for note in dataset.notes)


def test_numbers_that_do_not_agree_are_told(touch: Touch) -> None:
    assert any("5 training cases, and 3 were found" in note for note in find(declare(touch(*CASES), numTraining=5)).notes)
    assert not any("training cases" in note for note in find(declare(touch(*CASES), numTraining=3)).notes)


@pytest.mark.parametrize(("keys", "kind", "message"), [
    ({"labels": {"background": 0}}, LabelError, "no foreground"),
    ({"labels": {"a": 1, "b": 1}}, LabelError, "share a value"),
    ({"labels": {"background": 0, "a": "one"}}, LabelError, "'a' is no integer"),
    ({"labels": {"background": 0, "a": ["x"]}}, LabelError, "not a list of label values"),
    ({"labels": []}, LabelError, "not declared as expected"),
    ({"labels": {"background": 0, "r": [1, 2]}, "regions_class_order": [1, 2]}, LabelError, "painting order"),
    ({"channel_names": {"0": "T1", "2": "T2"}}, SettingsError, "channels are not declared"),
    ({"channel_names": "T1"}, SettingsError, "channels are not declared"),
])  # fmt: skip
def test_a_bad_declaration_is_refused_with_its_file(touch: Touch, keys: dict[str, Any], kind: type[AutosegError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        find(declare(touch(*CASES), **keys))
    assert "dataset.json" in str(caught.value)


def test_json_that_is_none_is_named_with_its_line(touch: Touch) -> None:
    root = touch(*CASES)
    (root / "dataset.json").write_text('{"labels": {\n "a": 1,}}')
    with pytest.raises(UnreadableFile, match=r"dataset\.json"):
        find(root)


def test_a_path_that_does_not_exist_gets_the_nearest(touch: Touch) -> None:
    root = touch(*CASES, root="hippocampus")
    with pytest.raises(MissingPath, match="did you mean hippocampus"):
        find(root.parent / "hipocampus")
    with pytest.raises(UnknownLayout):
        find(touch(root="empty") if (root.parent / "empty").mkdir() else root.parent / "empty")
    with pytest.raises(UnknownLayout, match="neither a folder nor a list"):
        find(touch("scan.nii.gz", root="other") / "scan.nii.gz")


def test_links_are_followed_and_a_dangling_one_is_a_missing_file(touch: Touch, tmp_path: Path) -> None:
    store = touch("a.nii.gz", root="store")
    root = declare(touch("labelsTr/x.nii.gz", "labelsTr/y.nii.gz", "imagesTr/z.txt"))
    (root / "imagesTr" / "x_0000.nii.gz").symlink_to(store / "a.nii.gz")
    (root / "imagesTr" / "y_0000.nii.gz").symlink_to(store / "gone.nii.gz")
    (root / "loop").symlink_to(root)
    dataset = find(root)
    assert [case.name for case in dataset.cases] == ["x"]
    assert [(problem.case, type(problem)) for problem in dataset.problems] == [("y", MissingPath)]


def pictures(folder: Path, *masks: Sequence[int], suffix: str = ".png") -> Path:
    """A set of pictures, and of masks that hold the given grey levels."""
    for number, values in enumerate(masks):
        for part, held in (("images", range(40)), ("labels", values)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            array = np.resize(np.array(held, dtype=np.uint8), (80, 60))
            Pillow.fromarray(array).save(folder / part / f"{number:02}{suffix}")
    return folder


def test_stray_grey_levels_of_undeclared_pictures_ask_for_a_declaration(tmp_path: Path) -> None:
    root = pictures(tmp_path, [0, 127, 255], [0, 127, 255], [0, 130, 255, 233])
    with pytest.raises(LabelError, match="declare your labels") as caught:
        find(root)
    assert "130 in 1 file(s), such as 02.png" in str(caught.value)
    options = "--map-labels 130=127 --map-labels 233=255"
    assert options in str(caught.value)
    mapped = find(root, map_labels={130: 127, 233: 255}).labels
    assert mapped.values == (0, 127, 255) and dict(mapped.aliases) == {130: 127, 233: 255}, "the proposed options work"
    (root / "dataset.json").write_text('{"labels": {"background": 0, "myelin": 127, "axon": 255}}')
    assert find(root).labels.names == ("background", "myelin", "axon"), "the proposed declaration works"


@pytest.mark.parametrize(
    ("masks", "values"),
    [
        ([[0, 255]] * 6 + [[0, 128]] * 4, (0, 128, 255)),
        ([[0, 170]] * 6 + [[0, 85]] * 3 + [[0, 255]], (0, 85, 170, 255)),
        ([[0, 255]] * 6 + [[0, 128, 192]] * 2, (0, 128, 192, 255)),
        ([[0, 255]] * 6 + [[0, 200, 255]] * 2, (0, 200, 255)),
        ([[0, 1, 2]] * 6 + [[0, 3, 7]], (0, 1, 2, 3, 7)),
        ([[0, 255]] * 6 + [[0, 1]], None),
        ([[0, 255]] * 6 + [[0, 250]], None),
        ([[0, 1, 2]] * 6 + [[0, 1, 255]] * 6, None),
    ],
    ids=["one class per picture", "three", "two further classes", "a class within another", "class numbers", "a scaled mask",
         "a mask of another white", "perhaps a value to ignore"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_every_value_of_a_picture_is_a_class_where_it_is_a_class_number_or_a_clear_level(
    tmp_path: Path, masks: list[list[int]], values: tuple[int, ...] | None, suffix: str
) -> None:
    root = pictures(tmp_path, *masks, suffix=suffix)
    if values is not None:
        assert find(root).labels.values == values
    else:
        with pytest.raises(LabelError, match="declare your labels"):
            find(root)


@pytest.mark.parametrize("others", [[0, 17, 53, 18, 54], [0, 17, 53, *range(2, 12)], [0, 2]])
def test_every_value_of_a_volume_is_a_structure(tmp_path: Path, volume: Callable[..., Path], others: list[int]) -> None:
    """An atlas numbers the hippocampi 17 and 53, the amygdalae 18 and 54: none of them is a shade of another."""
    for number in range(5):
        volume(tmp_path / "images" / f"{number}.nii.gz")
        volume(tmp_path / "labels" / f"{number}.nii.gz", others if number > 2 else [0, 17, 53])
    labels = find(tmp_path).labels
    assert labels.values == tuple(sorted({0, 17, 53, *others})) and not labels.aliases


def test_a_rare_label_is_no_stray(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name, values in {"a": [0, 1, 2], "b": [0, 1, 2], "c": [0, 1, 2, 3]}.items():
        volume(tmp_path / "images" / f"{name}.nii.gz")
        volume(tmp_path / "labels" / f"{name}.nii.gz", values)
    labels = find(tmp_path).labels
    assert labels.values == (0, 1, 2, 3) and not labels.aliases


def test_labels_that_are_images_are_told(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name in "ab":
        volume(tmp_path / "images" / f"{name}.nii.gz")
        volume(tmp_path / "labels" / f"{name}.nii.gz")
    with pytest.raises(LabelError, match="no labelled voxel"):
        find(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=4) | st.sampled_from(["0", "1", "background", "CT"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "background", "a", "ignore"]), children, max_size=3)
    ),
    max_leaves=6,
)


KEYS = [
    "channel_names",
    "modality",
    "labels",
    "regions",
    "regions_class_order",
    "ignore",
    "file_ending",
    "training",
    "dataset",
    "numTraining",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=2))
def test_whatever_dataset_json_says_the_answer_is_a_data_set_or_a_named_error(touch: Touch, keys: dict[str, Any]) -> None:
    root = touch("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    sound = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}
    (root / "dataset.json").write_text(json.dumps({**sound, **keys}))
    try:
        assert isinstance(find(root), Dataset)
    except AutosegError as error:
        assert str(error)


def test_names_are_compared_in_one_unicode_form(touch: Touch) -> None:
    root = declare(touch("imagesTr/Mu\u0308ller_0000.nii.gz", "labelsTr/M\u00fcller.nii.gz"))
    (case,) = find(root).cases
    assert case.name == "M\u00fcller" and case.images[0].name == "Mu\u0308ller_0000.nii.gz", "the file keeps its own name"


def test_a_link_that_leads_nowhere_and_a_name_that_cannot_be_printed_are_told(touch: Touch) -> None:
    root = declare(touch(*CASES, "imagesTr/bad\nname_0000.nii.gz", "labelsTr/bad\nname.nii.gz"))
    (root / CASES[-1]).unlink()
    (root / CASES[-1]).symlink_to("../.git/annex/objects/x")
    told = {problem.case: str(problem) for problem in find(root).problems}
    assert set(told) == {"bad\\nname", "p2_t0"}
    assert "rename its files" in told["bad\\nname"] and "a link to ../.git/annex/objects/x" in told["p2_t0"]


def test_a_name_that_differs_in_upper_and_lower_case_is_the_nearest(touch: Touch) -> None:
    root = declare(touch("imagesTr/liver_0000.nii.gz", "labelsTr/LIVER.nii.gz", "labelsTr/kidney.nii.gz", "imagesTr/kidney_0000.nii.gz"))
    told = {problem.case: problem.fix for problem in find(root).problems}
    assert "(nearest there: LIVER.nii.gz" in str(told["liver"]) and "(nearest there: liver_0000.nii.gz" in str(told["LIVER"])


def test_a_list_in_dataset_json_is_held_against_the_names(touch: Touch) -> None:
    root = touch(*(f"{part}/p{number}.nii.gz" for part in ("imagesTr", "labelsTr") for number in range(4)))
    pairs = [{"image": f"./imagesTr/p{number}.nii.gz", "label": f"./labelsTr/p{number}.nii.gz"} for number in range(3)]
    pairs[0]["label"] = "./labelsTr/p1.nii.gz"
    declare(root, channel_names=None, modality={"0": "CT"}, training=[*pairs, 7, {"image": 3}])
    dataset = find(root)
    (problem,) = dataset.problems
    assert problem.case == "p0" and "labelsTr/p1.nii.gz" in str(problem)
    assert any("2 entries of the list of cases" in note for note in dataset.notes)
    assert any("1 cases are used that dataset.json does not list (p3)" in note for note in dataset.notes)


def test_a_dataset_json_that_lacks_a_key_is_told_recipe_by_recipe(touch: Touch) -> None:
    with pytest.raises(UnknownLayout) as caught:
        find(declare(touch(*CASES[:1]), labels=None))
    assert "lacks \"labels\" for 'nnunet-v2'" in str(caught.value)
    with pytest.raises(UnknownLayout) as caught:
        find(touch("a/deep/thing.nii.gz", root="other"))
    assert "recipe '" in str(caught.value) and "matches 0" in str(caught.value), "the nearest recipe is proposed where none matches"


def test_one_odd_or_damaged_picture_does_not_decide_the_channels(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate("abcde"):
        shape = (9, 8, 3) if name == "a" else (9, 8)
        Pillow.fromarray(np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Pillow.fromarray(np.eye(9, 8, dtype=np.uint8)).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "images" / "b.png").write_bytes(b"nothing")
    assert [channel.name for channel in find(tmp_path).channels] == ["image"]


def test_integers_written_as_floats_are_values_and_true_is_none(touch: Touch) -> None:
    root = declare(touch(*CASES), labels={"background": 0.0, "kidney": 1.0})
    assert find(root).labels.values == (0, 1)
    with pytest.raises(LabelError, match="the value of the label 'kidney' is no integer"):
        find(declare(root, labels={"background": 0, "kidney": True}))


def test_a_name_said_twice_in_a_json_object_is_refused(touch: Touch) -> None:
    root = declare(touch(*CASES))
    text = (root / "dataset.json").read_text().replace('"kidney_right"', '"kidney_left"')
    (root / "dataset.json").write_text(text)
    with pytest.raises(UnreadableFile, match="kidney_left"):
        find(root)


@pytest.mark.parametrize("name", ["Screenshot 2024-05-01 at 9.41.00\u202fAM", "case\u00a01", "\u75c7\u4f8b\u30001", "zero\u200bwidth"])
def test_spaces_of_all_kinds_may_stand_in_a_name(touch: Touch, name: str) -> None:
    dataset = find(declare(touch(f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")))
    assert [case.name for case in dataset.cases] == [name] and not dataset.problems


def test_a_case_is_listed_and_left_out_by_its_name_in_any_unicode_form(touch: Touch) -> None:
    root = touch("imagesTr/Mu\u0308ller.nii.gz", "labelsTr/Mu\u0308ller.nii.gz", "imagesTr/p.nii.gz", "labelsTr/p.nii.gz")
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in ("Mu\u0308ller", "p")]
    value = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "numTraining": 2, "training": entries}
    (root / "dataset.json").write_text(json.dumps(value))
    dataset = find(root)
    assert not dataset.problems and not [note for note in dataset.notes if "does not list" in note]
    for written in ("Mu\u0308ller", "M\u00fcller"):
        assert [case.name for case in dataset.without([written]).cases] == ["p"]


def test_two_values_of_one_label_name_are_refused(touch: Touch) -> None:
    root = declare(touch(*CASES), labels={"0": "background", "1": "kidney", "2": "kidney"})
    with pytest.raises(LabelError, match="(?s)two values have one label name.*--map-labels 2=1"):
        find(root)


@pytest.mark.parametrize("entry", [{"images": 5}, {"images": [None]}, {"label": "x"}, 7, {"images": ["x"], "label": 7}])
def test_an_entry_of_the_table_of_cases_that_cannot_be_understood_is_named(touch: Touch, entry: Any) -> None:
    with pytest.raises(SettingsError, match=r"(?s)table of cases.*p9"):
        find(declare(touch(*CASES), dataset={"p9": entry}))


@pytest.mark.parametrize("channels", [{"0": {"a": 1}}, {"0": None}, {"0": ["CT"]}])
def test_a_channel_whose_name_is_no_text_is_refused(touch: Touch, channels: Any) -> None:
    with pytest.raises(SettingsError, match="channels are not declared"):
        find(declare(touch(*CASES), channel_names=channels))


def test_a_folder_whose_name_is_no_text_is_refused_before_any_work(tmp_path: Path) -> None:
    root = tmp_path / "set\udcff"
    root.mkdir()
    with pytest.raises(MissingPath, match="not valid UTF-8"):
        find(root)
