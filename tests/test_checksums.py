"""A checksum covers everything an object says, whatever the order of its keys."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg import checksums
from autoseg.errors import UnreadableFile

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_was_written_is_unchanged_after_a_round_trip_in_any_order(value: dict[str, Any]) -> None:
    value.pop(checksums.KEY, None)
    back = json.loads(json.dumps(checksums.with_checksum(value)))
    shuffled = dict(reversed(list(back.items())))
    assert checksums.is_unchanged(shuffled) is True
    assert checksums.without_checksum(shuffled) == value


@pytest.mark.parametrize("harm", [{"a": 2}, {"a": 1.0000001}, {"b": [1, 3]}, {"c": None}])
def test_any_change_is_noticed_and_the_file_named(harm: dict[str, Any]) -> None:
    written = {**checksums.with_checksum({"a": 1, "b": [1, 2]}), **harm}
    assert checksums.is_unchanged(written) is False
    with pytest.raises(UnreadableFile, match="the plan was changed") as caught:
        checksums.checked(written, file=Path("plan.json"), what="the plan", fix="plan again")
    assert "plan.json" in str(caught.value) and "plan again" in str(caught.value)


def test_what_has_no_checksum_is_taken_as_it_is() -> None:
    old: dict[str, Any] = {"a": 1}
    assert checksums.is_unchanged(copy.deepcopy(old)) is None and checksums.is_unchanged([1]) is None
    assert checksums.checked(old, file=Path("x"), what="it", fix="no") == old


def test_values_of_numpy_and_paths_count_as_what_the_file_will_say() -> None:
    value = {"array": np.array([1, 2]), "number": np.float32(0.5), "path": Path("a/b"), "tuple": (1, 2), "keys": {10: 1, 9: 2}}
    assert checksums.checksum(value) == checksums.checksum(
        {"array": [1, 2], "number": 0.5, "path": "a/b", "tuple": [1, 2], "keys": {"9": 2, "10": 1}}
    )
