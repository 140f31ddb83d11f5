"""Durations and amounts of memory as people write and read them."""

import pytest

from autoseg.errors import UsageError
from autoseg.quantities import format_bytes, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("45", 45), (20, 20)]
)
def test_durations_are_read(text, expected):
    assert parse_duration(text) == expected


def test_no_duration_stays_none():
    assert parse_duration(None) is None


@pytest.mark.parametrize("text", ["", "10 parsecs", "m", "-5m", "0", "10m!", "1h-3m"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="not a duration") as caught:
        parse_duration(text)
    assert "10m" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (5, "5 s"), (59.6, "1 min"), (125, "2 min 05 s"), (600, "10 min"), (3725, "1 h 02 min"), (86_399, "23 h 59 min"),
     (90_000, "1 d 01 h"), (-3, "0 s")],
)  # fmt: skip
def test_a_duration_is_written_in_its_two_largest_units_and_read_back(seconds, text):
    assert format_duration(seconds) == text
    if seconds > 1:
        assert parse_duration(text) == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (999_700, "1 MB"), (150e6, "150 MB"), (7.936e9, "7.94 GB"), (2.5e12, "2.5 TB"),
     (5e15, "5e+03 TB")],
)  # fmt: skip
def test_an_amount_of_memory_is_written_with_three_digits(amount, text):
    assert format_bytes(amount) == text
