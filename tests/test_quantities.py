"""Durations as people write them."""

import pytest

from autoseg.errors import UsageError
from autoseg.quantities import format_duration, seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("45", 45), (20, 20)]
)
def test_durations_are_read(text, expected):
    assert seconds(text) == expected


def test_no_duration_stays_none():
    assert seconds(None) is None


@pytest.mark.parametrize("text", ["", "10 parsecs", "m", "-5m", "0", "10m!", "1h-3m"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="not a duration") as caught:
        seconds(text)
    assert "10m" in str(caught.value)


def test_long_and_short_times_are_told_in_their_own_units():
    assert [format_duration(s) for s in (5, 125, 3725)] == ["5 s", "2 min 05 s", "1 h 02 min"]
