"""What goes between processes comes out as it went in, and nothing else comes out."""

from __future__ import annotations

import enum
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg import errors, messages
from autoseg.geometry import Box
from autoseg.messages import from_bytes, to_bytes


class Colour(enum.Enum):
    RED = "r"


@dataclass(frozen=True, kw_only=True)
class Pair:
    left: Any
    right: Any
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.told.append("made")


PLAIN = [None, True, 0, -(10**30), 0.1, -math.inf, "", "Größe\n\ud800", b"\x00\xff", [], [1, [2]], (1, ("a",)), {1, 2}, frozenset({"x"}),
         {"a": 1, 2: (3,), (4, 5): None}, slice(1, None, -2), Path("a/b"), np.dtype("<u2"), Colour.RED,
         Box(start=(0, 0, 0), stop=(1, 2, 3)), len,
         partial(sorted, [2, 1], reverse=True), errors.MissingLabel, np.float32(0.1), np.bytes_(b'x')]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_value_comes_back_equal_and_of_its_own_type(value: Any) -> None:
    again = from_bytes(to_bytes(value))
    assert type(again) is type(value)
    if isinstance(value, partial):
        assert again() == value()
    else:
        assert again == value


def test_a_number_that_is_none_comes_back_as_such() -> None:
    assert math.isnan(from_bytes(to_bytes(math.nan)))


@pytest.mark.parametrize("dtype", ["u1", "?", "<i2", ">f4", "<f8", "<c8", "<U3"])
@pytest.mark.parametrize("make", [lambda a: a, lambda a: a[::2, ::-1], lambda a: a.T, lambda a: a[:0], lambda a: a[0, 0]])
def test_an_array_comes_back_with_its_values_and_can_be_written_to(dtype: str, make: Callable[[Any], Any]) -> None:
    array = np.asarray(make(np.arange(12).reshape(4, 3).astype(dtype)))
    again = from_bytes(to_bytes({"a": [array]}))["a"][0]
    assert again.dtype == array.dtype and again.shape == array.shape and again.flags.writeable
    np.testing.assert_array_equal(again, array)


def test_a_record_comes_back_whole_and_is_not_made_anew() -> None:
    pair = Pair(left=np.arange(3), right=Pair(left=None, right=(Path("x"),)))
    again = from_bytes(to_bytes(pair))
    assert isinstance(again, Pair) and again.right == pair.right and again.told == ["made"]
    np.testing.assert_array_equal(again.left, pair.left)


@pytest.mark.parametrize(
    "error",
    [
        errors.MissingLabel("no label", file="a", found="x", fix="y", case="c", details={"k": "v"}),
        errors.FaultyCases([errors.GridMismatch("grids", case="a"), errors.LabelError("label")], fix="mend"),
    ],
)
def test_an_error_comes_back_with_all_it_says(error: errors.AutosegError) -> None:
    again = from_bytes(to_bytes(error))
    assert type(again) is type(error) and str(again) == str(error) and again.args == error.args


@pytest.mark.parametrize(
    "value",
    [
        re.I | re.M,
        [10**5000],
        bytearray(b"x"),
        lambda: 1,
        object(),
        np.array([object()]),
        ValueError("x"),
        (i for i in [1]),
        {"deep": [Pair(left=1, right=io.BytesIO())]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_refused_before_a_byte_is_sent(value: Any) -> None:
    with pytest.raises(TypeError):
        messages.packed(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    inner: list[Any] = []
    inner.append(inner)
    with pytest.raises(TypeError):
        messages.packed(inner)


@pytest.mark.parametrize("text", [b"2026-11-20 a site's profile was loaded\n", b"Hello from a library\n", b"\n\n\n\n\n\n\n\n\n"])
def test_printed_text_is_no_message(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        from_bytes(text)


def test_messages_follow_one_another_and_a_cut_one_is_an_end() -> None:
    stream = io.BytesIO(to_bytes("one") + to_bytes(np.ones(5)) + to_bytes("three")[:-1])
    assert messages.receive(stream) == "one"
    np.testing.assert_array_equal(messages.receive(stream), np.ones(5))
    with pytest.raises(EOFError):
        messages.receive(stream)
    with pytest.raises(EOFError):
        messages.receive(stream)


@pytest.mark.parametrize("kind", ["record", "error", "enum"])
def test_a_message_cannot_have_anything_made_but_records_errors_and_enumerations_of_their_kind(kind: str) -> None:
    forged = to_bytes([kind, "place"]).replace(b'["list", "record", "place"]', b'["record", "subprocess:Popen", {}]')
    forged = forged.replace(b'["list", "error", "place"]', b'["error", "builtins:OSError", {}]')
    forged = forged.replace(b'["list", "enum", "place"]', b'["enum", "os:environ", "PATH"]')
    head = forged[8:]
    with pytest.raises(ValueError, match="is not"):
        from_bytes(len(head).to_bytes(8, "big") + head)
