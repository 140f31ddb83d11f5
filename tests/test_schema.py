"""Records from JSON and TOML: what fits comes back typed, and whatever is damaged is named, all of it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import files, schema
from autoseg.errors import AutosegError, ModelError, SettingsError, UnreadableFile


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A record inside another."""

    name: str = schema.key("stage")
    spacing: tuple[float, float, float]
    folder: Path | None = None
    masks: str | Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The outermost record."""

    stages: Mapping[str, Stage]
    kind: Literal["2d", "3d"] = "3d"
    counts: tuple[int, ...] = ()
    aliases: Mapping[int, int] | None = None
    flag: bool = False
    anything: Any = None


GOOD: dict[str, Any] = {
    "stages": {"a": {"stage": "a", "spacing": [1, 0.5, 0.5], "folder": "/data", "masks": {"x": "x.nii"}}},
    "kind": "2d",
    "counts": [1, 2],
    "aliases": {"7": 1},
    "flag": True,
    "anything": {"deep": [1, None]},
}


def parse(value: Any) -> Whole:
    return schema.parse(Whole, value, what="it", fix="correct it")


def faults_of(value: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(value)
    assert "it cannot be understood" in str(caught.value)
    return (caught.value.found or "").splitlines()


def test_what_fits_becomes_typed_values_and_back() -> None:
    record = parse(GOOD)
    assert record == Whole(
        stages={"a": Stage(name="a", spacing=(1.0, 0.5, 0.5), folder=Path("/data"), masks={"x": "x.nii"})},
        kind="2d",
        counts=(1, 2),
        aliases={7: 1},
        flag=True,
        anything={"deep": [1, None]},
    )
    assert schema.dump(record) == GOOD
    assert parse({"stages": {}}) == Whole(stages={})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"stages": None}, "stages: null instead of {...}"),
        ({"stages": {"a": 3}}, "stages.a: 3 instead of {...}"),
        ({"stages": {"a": {"stage": "a"}}}, "stages.a.spacing: is missing"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, 1]}}}, "stages.a.spacing: [1, 1] instead of [number, number, number]"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, 1, 1, 1]}}}, "stages.a.spacing: [1, 1, 1, 1] instead of [number, number, number]"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, True, 1]}}}, "stages.a.spacing[1]: true instead of a number"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, float("nan"), 1]}}}, "stages.a.spacing[1]: nan instead of a finite number"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, 1, 1], "masks": 3}}}, "stages.a.masks: 3 instead of text or {...} or null"),
        ({"stages": {"a": {"stage": "a", "spacing": [1, 1, 1], "masks": {"x": 3}}}}, "stages.a.masks.x: 3 instead of text"),
        ({"kind": "4d"}, 'kind: "4d" instead of one of 2d, 3d'),
        ({"counts": [1, 2.5]}, "counts[1]: 2.5 instead of a whole number"),
        ({"counts": ["1"]}, 'counts[0]: "1" instead of a whole number'),
        ({"counts": 1}, "counts: 1 instead of [whole number, ...]"),
        ({"aliases": {"x": 1}}, "aliases.x: the key is not a whole number"),
        ({"flag": 1}, "flag: 1 instead of true or false"),
        ({"anything": [float("inf")]}, "anything[0]: inf instead of a finite number"),
        ({"anything": "\ud800"}, "the whole: text that is not valid Unicode"),
        ({"count": []}, "count: no such key; did you mean 'counts'?"),
        ({"zzz": []}, "zzz: no such key"),
    ],
)
def test_each_damage_is_named_with_its_place(change: dict[str, Any], fault: str) -> None:
    assert faults_of({**GOOD, **change}) == [fault]


def test_an_unknown_key_is_compared_with_the_names_that_the_file_uses() -> None:
    assert faults_of({"stages": {"a": {"stge": "a", "spacing": [1, 1, 1]}}}) == [
        "stages.a.stage: is missing",
        "stages.a.stge: no such key; did you mean 'stage'?",
    ]


def test_all_damages_are_named_up_to_a_dozen() -> None:
    assert len(faults_of({**GOOD, "kind": 1, "flag": None, "counts": {}})) == 3
    assert faults_of({**GOOD, "counts": ["x"] * 100})[-1] == "and 88 more"


@pytest.mark.parametrize("value", [None, 3, "text", [], True, [GOOD]])
def test_what_is_not_a_table_is_refused(value: Any) -> None:
    assert faults_of(value)[0].startswith("the whole: ")


def test_what_is_nested_too_deeply_is_refused() -> None:
    for depth in (300, 100_000):
        deep: Any = []
        for _ in range(depth):
            deep = [deep]
        assert faults_of({**GOOD, "anything": deep}) == ["the whole: lists or tables nested too deeply"]


def test_an_error_has_the_wanted_class_and_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    files.write_json(file, {**GOOD, "flag": 3})
    with pytest.raises(ModelError, match=r"whole\.json"):
        schema.read(Whole, file, what="it", fix="", error=ModelError)
    files.write_json(file, GOOD)
    assert schema.read(Whole, file, what="it", fix="") == parse(GOOD)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"a": 1, "a": 2}', '"a"'),
        ("{", "line 1, column 2"),
        ("", "line 1, column 1"),
        ("\ufeff\x00", "line 1, column 1"),
    ],
)
def test_a_json_text_that_cannot_be_read_is_a_named_error(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "damaged.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UnreadableFile) as caught:
        files.read_json(file)
    assert found in str(caught.value) and "damaged.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "9" * 5000, "too many digits"),
        ("a = 1\na = 2\n", "line 2"),
        ("a\n", "line 1"),
    ],
)
def test_a_toml_text_that_cannot_be_read_is_a_named_error(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "damaged.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        files.read_toml(file)
    assert found in str(caught.value) and "damaged.toml" in str(caught.value)


def test_bytes_that_are_not_utf8_are_a_named_error(tmp_path: Path) -> None:
    file = tmp_path / "damaged"
    file.write_bytes(b'"\xff"')
    for reader in (files.read_json, files.read_toml):
        with pytest.raises(UnreadableFile, match="UTF-8"):
            reader(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["stages", "stage", "spacing", "x", "7"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from([*GOOD, "other"]), value=JSON)
def test_any_value_in_any_place_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        record = parse({**GOOD, name: value})
    except SettingsError as error:
        assert error.found
    else:
        assert name != "other"
        assert json.loads(json.dumps(schema.dump(record)))[name] == json.loads(json.dumps(value))


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_numbers_come_back_bit_for_bit(number: float, whole: int) -> None:
    record = parse({"stages": {"a": {"stage": "a", "spacing": [number, 1, 1]}}, "counts": [whole]})
    assert record.stages["a"].spacing[0].hex() == number.hex() and record.counts == (whole,)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data)
    for reader in (files.read_json, files.read_toml):
        try:
            reader(file)
        except AutosegError as error:
            assert str(file) in str(error)


def test_pydantic_waits_until_a_record_is_read() -> None:
    code = "import sys, autoseg.cli, autoseg.schema, autoseg.labels; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
