"""Values and classes, regions that can be undone, left/right pairs, values that stand for others."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import LabelError
from autoseg.labels import Labels, left_right_pairs, make_labels, regions_that_write


@given(st.sets(st.integers(-300, 70_000), min_size=2, max_size=40), st.integers(0, 10_000))
def test_values_come_back_exactly(values: set[int], seed: int) -> None:
    named = {f"l{value}": value for value in values - {0}}
    labels = make_labels({"background": 0, **named}) if named else None
    assert labels is not None
    array = np.random.default_rng(seed).choice(list(labels.values), size=(3, 4, 5))
    classes = labels.encode(array)
    assert classes.max() < len(labels.values) and classes.dtype in (np.uint8, np.int16)
    assert [labels.values[c] for c in classes.flat] == array.ravel().tolist()
    decoded = labels.decode(classes)
    np.testing.assert_array_equal(decoded, array)


def test_values_such_as_these_round_trip_in_the_smallest_type() -> None:
    labels = make_labels({"background": 0, "a": 7, "b": 100, "c": 4000})
    array = np.array([[0, 7, 100, 4000]])
    assert labels.encode(array).tolist() == [[0, 1, 2, 3]]
    assert labels.decode(labels.encode(array)).dtype == np.int16
    assert make_labels({"background": 0, "cell": 255}).decode(np.array([0, 1], dtype=np.uint8)).tolist() == [0, 255]


def test_the_ignore_value_is_the_class_after_the_last() -> None:
    labels = make_labels({"background": 0, "a": 1}, ignore=255)
    assert labels.ignore_class == 2
    classes = labels.encode(np.array([0, 255, 1]))
    assert classes.tolist() == [0, 2, 1] and labels.decode(classes).tolist() == [0, 255, 1]
    assert make_labels({"background": 0, "a": 1}).ignore_class is None


def test_undeclared_values_are_refused_with_their_counts() -> None:
    labels = make_labels({"background": 0, "a": 1})
    for array in (np.array([0, 1, 7, 7], dtype=np.uint8), np.array([0, 1, 7, 7, -3], dtype=np.int32)):
        with pytest.raises(LabelError, match="not declared") as caught:
            labels.encode(array)
        assert "7 (2 voxels)" in str(caught.value)


def test_an_alias_is_read_as_what_it_stands_for_and_never_written() -> None:
    labels = make_labels({"background": 0, "myelin": 127, "axon": 255}, aliases={128: 127, 3: 0, -1: 255, 70_000: 127})
    classes = labels.encode(np.array([0, 127, 128, 255, 3, -1, 70_000]))
    assert classes.tolist() == [0, 1, 1, 2, 0, 2, 1]
    assert labels.decode(classes).tolist() == [0, 127, 127, 255, 0, 255, 127]
    assert Labels.from_json(labels.to_json()) == labels
    ignoring = make_labels({"background": 0, "a": 1}, ignore=9, aliases={5: 9})
    assert ignoring.encode(np.array([5, 9, 1], dtype=np.uint8)).tolist() == [2, 2, 1]


@pytest.mark.parametrize("aliases", [{1: 2}, {5: 4}])
def test_an_alias_that_is_declared_or_stands_for_nothing_is_refused(aliases: dict[int, int]) -> None:
    with pytest.raises(LabelError, match="cannot mean"):
        make_labels({"background": 0, "a": 1, "b": 2}, aliases=aliases)


@pytest.mark.parametrize(("declared", "keys", "message"), [
    ({}, {}, "no labels"),
    ({"background": 0}, {}, "no foreground"),
    ({"background": 0, "a": 1, "b": 1}, {}, "share a value"),
    ({"background": 0, "a": 1}, {"ignore": 1}, "ignore value is also a label"),
    ({"background": 0, "a": 1}, {"regions": {"r": ((2,), 1)}}, "region 'r' cannot be used"),
    ({"background": 0, "a": 1}, {"regions": {"r": ((1,), 0)}}, "region 'r' cannot be used"),
    ({"background": 0, "a": 1}, {"pairs": (("a", "b"),)}, "unknown label"),
])  # fmt: skip
def test_a_scheme_that_cannot_work_is_refused(declared: dict[str, int], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        make_labels(declared, **keys)


def test_the_background_is_the_one_called_so_or_the_value_zero() -> None:
    assert make_labels({"x": 1, "Background": 5}).values == (5, 1)
    assert make_labels({"x": 1, "air": 0}).names == ("air", "x")
    assert make_labels({"x": 1, "y": 2}).all[0].value == 0


@given(st.lists(st.sets(st.integers(1, 4), min_size=1), min_size=1, max_size=4), st.data())
def test_regions_are_accepted_exactly_when_painting_gives_every_label_back(members: list[set[int]], data: st.DataObject) -> None:
    values = [1, 2, 3, 4]
    regions = {f"r{i}": (tuple(sorted(group)), data.draw(st.sampled_from(values))) for i, group in enumerate(members)}

    def painted(value: int) -> int:  # the slow, obvious way
        result = 0
        for group, writes in regions.values():
            if value in group:
                result = writes
        return result

    invertible = all(painted(value) == value for value in values)
    scheme = {"background": 0, **{str(v): v for v in values}}
    if invertible:
        assert len(make_labels(scheme, regions=regions).regions) == len(regions)
    else:
        with pytest.raises(LabelError):
            make_labels(scheme, regions=regions)


def test_regions_that_do_not_say_what_they_write() -> None:
    assert regions_that_write({"cord": (1, 2), "grey": (2,)}, [1, 2]) == {"cord": ((1, 2), 1), "grey": ((2,), 2)}
    assert regions_that_write({"grey": (2,), "cord": (1, 2)}, [1, 2]) == {"cord": ((1, 2), 1), "grey": ((2,), 2)}, (
        "larger ones are painted first"
    )
    assert regions_that_write({"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)}, [1, 2, 3, 4]) is None, "1 and 3 are alike"
    assert regions_that_write({"core": (1,)}, [1, 2]) is None, "2 would be lost"


@given(st.permutations([("w", (1, 2, 3)), ("c", (2, 3)), ("e", (3,))]))
def test_nested_regions_are_understood_in_any_order(listed: list[tuple[str, tuple[int, ...]]]) -> None:
    found = regions_that_write(dict(listed), [1, 2, 3])
    assert found is not None and {name: writes for name, (_, writes) in found.items()} == {"w": 1, "c": 2, "e": 3}
    make_labels({"background": 0, "a": 1, "b": 2, "c": 3}, regions=found)


def test_paint_and_targets_agree() -> None:
    labels = make_labels({"background": 0, "a": 1, "b": 4}, regions={"all": ((1, 4), 1), "core": ((4,), 4)})
    assert labels.output_channels == 2 and labels.scored == (("all", (1, 2)), ("core", (2,)))
    for combination in itertools.product([False, True], repeat=2):
        active = np.array(combination).reshape(2, 1)
        assert labels.paint(active)[0] == (2 if combination[1] else 1 if combination[0] else 0)


@pytest.mark.parametrize(("names", "pairs"), [
    (["kidney_left", "kidney_right", "liver"], [("kidney_left", "kidney_right")]),
    (["Left Kidney", "Right Kidney"], [("Left Kidney", "Right Kidney")]),
    (["rightHippocampus", "leftHippocampus"], [("leftHippocampus", "rightHippocampus")]),
    (["lung_upper_lobe_left", "lung_upper_lobe_right", "lung_lower_lobe_left"], [("lung_upper_lobe_left", "lung_upper_lobe_right")]),
    (["ctx-lh-insula", "ctx-rh-insula"], [("ctx-lh-insula", "ctx-rh-insula")]),
    (["L_thalamus", "R_thalamus", "brainstem"], [("L_thalamus", "R_thalamus")]),
    (["left_atrium", "left_ventricle"], []),
    (["left_ventricle", "right_ventricle", "heart_atrium_left", "heart_atrium_right", "liver left lobe", "liver right lobe"], []),
    (["Left-Lateral-Ventricle", "Right-Lateral-Ventricle"], [("Left-Lateral-Ventricle", "Right-Lateral-Ventricle")]),
    (["liver", "bright", "cleft"], []),
])  # fmt: skip
def test_pairs_are_recognised_by_name(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert list(left_right_pairs(names)) == pairs


def test_json_holds_the_whole_scheme() -> None:
    labels = make_labels(
        {"background": 0, "l": 1, "r": 2},
        regions={"both": ((1, 2), 1), "r": ((2,), 2)},
        ignore=9,
        pairs=(("l", "r"),),
    )
    assert Labels.from_json(labels.to_json()) == labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_undeclared_values_are_counted_and_their_voxels_become_background(dtype: type) -> None:
    labels = make_labels({"background": 3, "a": 0, "b": 5}, ignore=9, aliases={7: 5})
    classes, undeclared = labels.classify(np.array([[3, 5, 7], [9, 1, 1], [0, 2, 3]], dtype=dtype))
    assert classes.tolist() == [[0, 2, 2], [3, 0, 0], [1, 0, 0]]
    assert undeclared == {1: 2, 2: 1}
