"""plan.json read back: what is there is what was planned; what is not as it should be is named, all of it at once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from autoseg.errors import SettingsError
from autoseg.planning.configuration import Plan
from autoseg.planning.plan import make_plan
from tests.planning.fingerprints import CPU, make_fingerprint, preset

PLAN = make_plan(make_fingerprint([(36, 50, 35)] * 20, [(1.0, 1.0, 1.0)] * 20), preset=preset(), machine=CPU)
FULL = "configurations.3d_fullres"


def edited(path: str, value: Any) -> dict[str, Any]:
    """plan.json with another value at a dotted path."""
    whole: dict[str, Any] = json.loads(json.dumps(PLAN.to_json()))
    *above, last = path.split(".")
    inner = whole
    for key in above:
        inner = inner[key]
    inner[last] = value
    return whole


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
    bare = replace(PLAN, configurations=tuple(replace(c, predicted=None) for c in PLAN.configurations))
    assert Plan.from_json(json.loads(json.dumps(bare.to_json()))) == bare


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (f"{FULL}.patch_size", None, "patch_size: null instead of [whole number, whole number, whole number]"),
        (f"{FULL}.patch_size", [40.5, 56, 40], "patch_size[0]: 40.5 instead of a whole number"),
        (f"{FULL}.patch_size", [40, 56], "patch_size: [40, 56] instead of"),
        (f"{FULL}.spacing", ["a", 1, 1], 'spacing[0]: "a" instead of a number'),
        (f"{FULL}.kernel_sizes", [3, 3], "kernel_sizes[0]: 3 instead of"),
        (f"{FULL}.median_shape", None, "median_shape: null instead of"),
        (f"{FULL}.batch_size", True, "batch_size: true instead of a whole number"),
        (f"{FULL}.batch_sise", 2, "batch_sise: no such key; did you mean 'batch_size'?"),
        (f"{FULL}.predicted.memory", 1, "predicted.memory: no such key"),
        (FULL, None, "3d_fullres: null instead of {...}"),
        ("configurations", [], "configurations: [] instead of {...}"),
        ("device", None, "device: null instead of {...}"),
        ("swap_axis", "0", 'swap_axis: "0" instead of a whole number or null'),
        ("intensities", [[]], "intensities[0]: [] instead of {...}"),
        ("labels", ["background"], 'labels: ["background"] instead of {...}'),
        ("pairs", [["a"]], 'pairs[0]: ["a"] instead of [text, text]'),
        ("aliases", {"x": 1}, "aliases.x: the key is not a whole number"),
    ],
)
def test_each_place_that_is_not_as_it_should_be_is_named(path: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Plan.from_json(edited(path, value))
    assert caught.value.summary == "the plan cannot be understood"
    assert caught.value.found is not None and said in caught.value.found


def test_missing_keys_are_told_all_at_once() -> None:
    whole = edited("name", "toy")
    del whole["device"], whole["configurations"]["2d"]["norm"]
    with pytest.raises(SettingsError) as caught:
        Plan.from_json(whole)
    assert caught.value.found == "device: is missing\nconfigurations.2d.norm: is missing"


@pytest.mark.parametrize("value", [[], {}, None, "plan", {"format": 99}])
def test_what_is_no_plan_at_all_is_no_traceback(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"cannot be understood|another format"):
        Plan.from_json(value)
