"""Planner presets: what a file may say, and the error for everything else. The presets that come with autoseg: tests/test_house.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg import presets
from autoseg.errors import MissingPath, SettingsError

ROOT = """
description = "the root"

[memory_3d]
budget = { value = 100, unit = "values", source = "a paper" }
target = { value = "auto", unit = "GB", source = "a paper", choices = ["auto"] }

[network]
norm = { value = "group", choices = ["group", "instance"] }
residual = false
features = { value = [32, 64], unit = "channels", source = "a paper" }

[training.optimizer]
momentum = { value = 0.99, unit = "1", source = "a paper" }
name = "sgd"
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes presets into a folder that stands for `planners/`; the root is there already."""
    monkeypatch.setattr(presets, "folder", lambda kind: tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    write("default", ROOT)
    return write


def test_a_preset_that_states_one_difference_has_all_other_values_of_what_it_extends(shelf: Any) -> None:
    shelf("middle", 'extends = "default"\n[memory_3d]\nbudget = { value = 200, unit = "values", source = "code" }')
    shelf("leaf", 'extends = "middle"\ndescription = "a leaf"\n[network]\nresidual = true')
    preset = presets.planner("leaf")
    assert preset.values == {
        "memory_3d": {"budget": 200, "target": "auto"},
        "network": {"norm": "group", "residual": True, "features": [32, 64]},
        "training": {"optimizer": {"momentum": 0.99, "name": "sgd"}},
    }
    assert preset["memory_3d"]["budget"] == 200
    assert (preset.name, preset.description, preset.extends) == ("leaf", "a leaf", ("middle", "default"))


def test_documented_values_carry_the_unit_and_the_source_of_the_preset_that_set_them(shelf: Any) -> None:
    shelf("leaf", 'extends = "default"\n[memory_3d]\nbudget = { value = 200, unit = "values", source = "code" }')
    documented = presets.planner("leaf").documented
    assert documented["memory_3d"]["budget"] == {"value": 200, "unit": "values", "source": "code"}
    assert documented["training"]["optimizer"]["momentum"] == {"value": 0.99, "unit": "1", "source": "a paper"}
    assert presets.plain(documented) == presets.planner("leaf").values
    assert presets.plain(json.loads(json.dumps(documented))) == presets.planner("leaf").values


def test_the_root_may_be_another_preset_than_the_default(shelf: Any) -> None:
    shelf("root", ROOT)
    shelf("default", 'extends = "root"\n[network]\nnorm = "instance"')
    assert presets.planner().extends == ("root",)
    assert presets.planner("default")["network"]["norm"] == "instance"
    assert presets.planner("root")["network"]["norm"] == "group"


def test_a_file_of_the_users_own_extends_a_shipped_preset_or_a_file_beside_it(shelf: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    base = tmp_path / "mine" / "base.toml"
    base.write_text('extends = "default"\n[network]\nresidual = true')
    (tmp_path / "mine" / "own.toml").write_text('extends = "base.toml"\n[network]\nnorm = "instance"')
    preset = presets.planner(str(tmp_path / "mine" / "own.toml"))
    assert preset["network"] == {"norm": "instance", "residual": True, "features": [32, 64]}
    assert preset.extends == ("base", "default")


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ('[memory_3d]\nbudgt = { value = 1, unit = "values", source = "s" }', "memory_3d.budget"),
        ('[memory3d]\nbudget = { value = 1, unit = "values", source = "s" }', "memory_3d.budget"),
        ('[network]\nmomentum = { value = 1, unit = "1", source = "s" }', "training.optimizer.momentum"),
        ('momentum = { value = 1, unit = "1", source = "s" }', "training.optimizer.momentum"),
        ('[memory_3d]\nbudget = { value = 1, units = "values", source = "s" }', "unit"),
        ('[network]\nnorm = "groups"', "group"),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_known_one_offered(shelf: Any, text: str, offered: str) -> None:
    path = shelf("leaf", f'extends = "default"\n{text}')
    with pytest.raises(SettingsError) as caught:
        presets.planner("leaf")
    assert f"'{offered}'" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[memory_3d]\nbudget = 200", "memory_3d.budget.unit: is missing"),
        ('[memory_3d]\nbudget = { value = 200, unit = "values" }', "memory_3d.budget.source: is missing"),
        ('[memory_3d]\nbudget = { value = 200, unit = "values", source = " " }', "memory_3d.budget.source: is missing"),
        ("[network]\nfeatures = [16, 32]", "network.features.unit: is missing"),
        ('[memory_3d]\nbudget = { unit = "values", source = "s" }', "memory_3d.budget.value: is missing"),
        ('[memory_3d]\nbudget = { value = 2, unit = "GB", source = "s" }', "memory_3d.budget.unit: 'GB' instead of 'values'"),
        ('[memory_3d]\nbudget = { value = "many", unit = "values", source = "s" }', 'memory_3d.budget.value: "many" instead of a number'),
        ('[memory_3d]\nbudget = { value = nan, unit = "values", source = "s" }', "memory_3d.budget.value: nan instead of a finite number"),
        ("[network]\nresidual = 'yes'", 'network.residual.value: "yes" instead of true or false'),
        ('[network]\nresidual = { value = 1, unit = "1", source = "s" }', "network.residual.value: 1 instead of true or false"),
        ("[network]\nnorm = true", "network.norm.value: true instead of one of group, instance"),
        ('[network]\nnorm = { value = "batch", choices = ["batch"] }', 'network.norm.value: "batch" instead of one of group, instance'),
        ('[network]\nnorm = { value = "group", choices = ["group", "batch"] }', "network.norm.choices: no such key"),
        ("network = true", "network: no such key; did you mean 'network.norm'?"),
        (
            '[training.optimizer.momentum]\nfirst = { value = 1, unit = "1", source = "s" }',
            "training.optimizer.momentum.first: no such key",
        ),
        ("[network", "not a TOML file"),
    ],
)
def test_what_a_preset_may_not_say_is_refused_with_the_name_of_the_file(shelf: Any, text: str, message: str) -> None:
    path = shelf("leaf", f'extends = "default"\n{text}')
    with pytest.raises(SettingsError) as caught:
        presets.planner("leaf")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_that_is_wrong_in_a_preset_is_named_at_once(shelf: Any) -> None:
    shelf(
        "leaf",
        'extends = "default"\nmemry = 1\n[network]\nnorm = "groups"\nresidual = "no"\nfeatures = [1, "x"]\n[memory_3d]\ntarget = true',
    )
    with pytest.raises(SettingsError) as caught:
        presets.planner("leaf")
    assert [line.strip() for line in caught.value.found.splitlines()] == [
        "memry: no such key",
        "network.norm.value: \"groups\" instead of one of group, instance; did you mean 'group'?",
        'network.residual.value: "no" instead of true or false',
        'network.features.value[1]: "x" instead of a number',
        "network.features.unit: is missing",
        "network.features.source: is missing",
        'memory_3d.target.value: true instead of a number or "auto"',
    ]


def test_the_root_itself_must_document_its_numbers(shelf: Any) -> None:
    shelf("default", "[memory_3d]\nbudget = 100")
    with pytest.raises(SettingsError, match=r"memory_3d.budget.unit: is missing"):
        presets.planner("default")


def test_a_number_may_stand_where_the_root_says_auto_but_only_in_the_unit_of_the_root(shelf: Any) -> None:
    shelf("numbers", 'extends = "default"\n[memory_3d]\ntarget = { value = 24, unit = "GB", source = "s" }')
    assert presets.planner("numbers")["memory_3d"]["target"] == 24
    shelf("megabytes", 'extends = "default"\n[memory_3d]\ntarget = { value = 24000, unit = "MB", source = "s" }')
    with pytest.raises(SettingsError, match="memory_3d.target.unit: 'MB' instead of 'GB'"):
        presets.planner("megabytes")
    shelf("back", 'extends = "numbers"\n[memory_3d]\ntarget = "auto"')
    assert presets.planner("back").documented["memory_3d"]["target"]["value"] == "auto"


def test_presets_that_extend_each_other_in_a_circle_are_refused(shelf: Any) -> None:
    shelf("a", 'extends = "b"')
    shelf("b", 'extends = "a"')
    with pytest.raises(SettingsError, match="circle") as caught:
        presets.planner("a")
    assert "a -> b -> a" in str(caught.value)


def test_a_preset_that_extends_nothing_is_refused_unless_it_is_the_root(shelf: Any) -> None:
    shelf("alone", "[network]\nresidual = true")
    with pytest.raises(SettingsError, match="has no `extends`") as caught:
        presets.planner("alone")
    assert 'extends = "default"' in str(caught.value)


def test_an_unknown_planner_is_refused_and_the_nearest_offered(shelf: Any, tmp_path: Path) -> None:
    shelf("resenc-l", 'extends = "default"')
    with pytest.raises(SettingsError, match="unknown planner 'resencl'") as caught:
        presets.planner("resencl")
    assert "'resenc-l'" in str(caught.value)
    with pytest.raises(MissingPath):
        presets.planner(tmp_path / "nowhere.toml")


def test_names_are_listed_with_the_default_first(shelf: Any) -> None:
    shelf("another", 'extends = "default"')
    assert presets.planner_names() == ("default", "another")


def test_recipes_are_read_as_they_stand(shelf: Any) -> None:
    shelf("msd", 'names = { file = "dataset.json" }')
    assert presets.recipe("msd") == {"names": {"file": "dataset.json"}}
    with pytest.raises(SettingsError, match="unknown recipe 'mds'"):
        presets.recipe("mds")


def test_presets_are_found_in_the_checkout_or_in_the_package() -> None:
    for kind in presets.KINDS:
        assert list(presets.folder(kind).glob("*.toml")), kind
