"""A data set as JSON: written and read back, and what is not as it should be is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.cases import Case, Channel, Dataset
from autoseg.errors import SettingsError
from autoseg.labels import make_labels

ROOT = Path("scans").absolute()
DATASET = Dataset(
    name="scans",
    root=ROOT,
    recipe="list",
    channels=(Channel(name="t1", modality="MR"),),
    labels=make_labels(
        {"background": 0, "a": 1, "b": 2, "c": 3},
        regions={"whole": ((1, 2, 3), 1), "b": ((2,), 2), "c": ((3,), 3)},
        ignore=255,
        pairs=(("a", "b"),),
        aliases={9: 255},
    ),  # fmt: skip
    cases=(
        Case(name="one", images=(ROOT / "one.nii.gz",), label=ROOT / "one-seg.nii.gz", group="p1", annotated=("a",)),
        Case(name="two", images=(ROOT.parent / "elsewhere" / "two.nii.gz",), label=(("a", ROOT / "a.nii.gz"),), grid_fix="copy-image"),
        Case(name="three", images=(ROOT / "three.nii.gz",)),
    ),
    notes=("a note",),
)


def as_json() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(DATASET.to_json()))
    return value


def test_a_data_set_survives_json() -> None:
    assert Dataset.from_json(as_json()) == DATASET


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": None}, "root: null instead of text"),
        ({"cases": {}}, r"cases: \{\} instead of \[\{...\}, ...\]"),
        ({"cases": [{"case": "one"}]}, r"cases\[0\].images: is missing"),
        ({"channels": ["t1"]}, r'channels\[0\]: "t1" instead of'),
        ({"labels": {"background": "0"}}, 'labels.background: "0" instead of a whole number'),
        ({"lables": {}}, "lables: no such key; did you mean 'labels'"),
    ],
)
def test_each_place_that_is_not_as_it_should_be_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Dataset.from_json({**as_json(), **changes})


@pytest.mark.parametrize("value", [[], {}, None, 3])
def test_what_is_no_data_set_at_all_is_no_traceback(value: Any) -> None:
    with pytest.raises(SettingsError, match="cannot be understood"):
        Dataset.from_json(value)
