"""The language of recipes: patterns with named parts, templates, and refusals that name the nearest known word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoseg import presets
from autoseg.cases.names import modality_of
from autoseg.cases.recipes import MODALITIES, fill, make_pattern, parse_recipe, read_recipe
from autoseg.errors import MissingPath, SettingsError

SOUND: dict[str, Any] = {"case": {"images": "images/{case}{ext}", "label": "labels/{case}{ext}"}}


@pytest.mark.parametrize(("pattern", "path", "parts"), [
    ("imagesTr/{case}{ext}", "imagesTr/a.b.nii.gz", {"case": "a.b", "ext": ".nii.gz"}),
    ("imagesTr/{case}{ext}", "imagesTr/deep/a.nii.gz", None),
    ("imagesTr/{case}_{channel:####}{ext}", "imagesTr/a_1_0001.nii.gz", {"case": "a_1", "channel": "0001", "ext": ".nii.gz"}),
    ("imagesTr/{case}_{channel:####}{ext}", "imagesTr/a_001.nii.gz", None),
    ("**/{case}/{case}_t1{ext}", "HGG/x/x_t1.nii", {"case": "x", "ext": ".nii"}),
    ("**/{case}/{case}_t1{ext}", "x/x_t1.nii", {"case": "x", "ext": ".nii"}),
    ("**/{case}/{case}_t1{ext}", "x/y_t1.nii", None),
    ("{dir:images|imgs}/{case}{ext}", "imgs/1.PNG", {"dir": "imgs", "case": "1", "ext": ".PNG"}),
    ("{case:p*}/scan?.nii", "p12/scan1.nii", {"case": "p12"}),
    ("{case:p*}/scan?.nii", "q12/scan1.nii", None),
    ("{case:[ab]#}/[!x].nii", "b7/y.nii", {"case": "b7"}),
    ("{case:[ab]#}/[!x].nii", "b7/x.nii", None),
    ("{case:[a-c]}(1)+.nii", "c(1)+.nii", {"case": "c"}),
    ("{case}/DICOM_anon", "7/DICOM_anon", {"case": "7"}),
])  # fmt: skip
def test_patterns_capture_what_they_say(pattern: str, path: str, parts: dict[str, str] | None) -> None:
    assert make_pattern(pattern).match(path) == parts


def test_the_first_template_whose_parts_are_there_is_filled() -> None:
    templates = ["{site}_{case}", "{case}"]
    assert fill(templates, {"site": "U", "case": "3"}) == "U_3"
    assert fill(templates, {"case": "3"}) == "3"
    assert fill(templates, {"site": "U"}) is None


@pytest.mark.parametrize(("change", "hint"), [
    ({"labls": {"a": 1}}, "did you mean 'labels'"),
    ({"case": {**SOUND["case"], "image": "x"}}, "case.image: no such key; did you mean 'images'"),
    ({"channels": [{"name": "T1", "modality": "MRI"}]}, "did you mean 'MR'"),
    ({"channels": [{"nam": "T1"}]}, "did you mean 'name'"),
    ({"channels": [{"modality": "MR"}]}, "channels[0].name: is missing"),
    ({"case": {**SOUND["case"], "unlabelled": "warn"}}, "one of error, note"),
    ({"case": {"images": "images/{case", "label": "labels/{case}"}}, "cannot be read"),
    ({"case": {"images": "images/{number}{ext}", "label": "labels/{case}{ext}"}}, "which case a file belongs to"),
    ({"case": {"label": "labels/{case}{ext}"}}, "no images"),
    ({"case": {"label": "labels/{case}{ext}"}, "channels": [{"name": "T1"}]}, "which files are images"),
    ({"names": {"labels": "labels"}}, "names.file: is missing"),
    ({"names": {"file": "d.json", "label": "labels"}}, "did you mean 'labels'"),
    ({"regions": [{"name": "all", "of": ["a"]}]}, "regions[0].writes: is missing"),
    ({"labels": {"a": "one"}}, "instead of a whole number"),
    ({"ignore": "x"}, "instead of a whole number or null"),
    ({"case": "images"}, "instead of {...}"),
    ({"channels": "T1"}, "instead of [{...}, ...]"),
    ({"case": {"images": 3, "label": "labels/{case}{ext}"}}, "case.images: 3 instead of [text, ...]"),
])  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused_with_a_hint(change: dict[str, Any], hint: str) -> None:
    parse_recipe(SOUND, name="sound")
    with pytest.raises(SettingsError) as caught:
        parse_recipe({**SOUND, **change}, name="own", file=Path("own.toml"))
    assert hint in str(caught.value) and "own.toml" in str(caught.value)


def test_an_unknown_recipe_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'brats'"):
        read_recipe("brats2")
    with pytest.raises(MissingPath):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(("name", "modality"), [
    ("CT", "CT"), ("ct", "CT"), ("Contrast CT", "CT"), ("T1", "MR"), ("t1ce", "MR"), ("T2-FLAIR", "MR"), ("MRI", "MR"), ("ADC", "MR"),
    ("PET", "PET"), ("FDG-PET SUV", "PET"), ("R", "RGB"), ("green", "RGB"), ("noNorm", "unchanged"), ("rescale_to_0_1", "rescaled"),
    ("rgb_to_0_1", "rescaled"), ("ultrasound", "ultrasound"), ("PET/CT", None), ("channel 0", None), ("image", None), ("zscore", None),
    ("lesion b", None),
])  # fmt: skip
def test_names_of_channels_suggest_modalities(name: str, modality: str | None) -> None:
    assert modality_of(name) == modality
    assert modality is None or modality in MODALITIES


def test_every_modality_has_a_normalisation_in_the_default_planner() -> None:
    schemes = presets.planner()["normalization"]
    special = {name for name in schemes if name not in ("mask_below", "other")}
    assert special <= {*MODALITIES}, "the planner speaks of modalities that no recipe can state"
