"""Durations and amounts of memory as people write and read them."""

import pytest

from autoseg.errors import UsageError
from autoseg.quantities import format_bytes, format_duration, parse_duration, parse_length, parse_spacing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90),
        ("10m", 600),
        ("10min", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("45", 45),
        (20, 20),
        ("1h30", 5400),
        ("1 h 30", 5400),
        ("2m30", 150),
        ("1d12", 129_600),
        ("90 minutes", 5400),
        ("2 hrs", 7200),
        ("1H30M", 5400),
        ("1,5 h", 5400),
        ("1 hour, 5 sec", 3605),
    ],
)
def test_durations_are_read(text, expected):
    assert parse_duration(text) == expected


def test_no_duration_stays_none():
    assert parse_duration(None) is None


@pytest.mark.parametrize("text", ["", "10 parsecs", "m", "-5m", "0", "10m!", "1h-3m", "30m1h", "1h1h", "30s5", "30 1h", "1:30", "1m30m"])
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


@pytest.mark.parametrize(
    ("text", "mm"), [("2", 2), ("2mm", 2), (" 2 mm ", 2), ("0.5 cm", 5), ("500um", 0.5), ("500 µm", 0.5), ("1e-3 m", 1), ("40nm", 4e-5)]
)
def test_a_length_has_a_unit_or_counts_mm(text, mm):
    assert parse_length(text) == pytest.approx(mm)


@pytest.mark.parametrize("text", ["", "mm", "2 parsecs", "2 2", "two"])
def test_what_is_no_length_is_refused(text):
    with pytest.raises(ValueError):
        parse_length(text)


@pytest.mark.parametrize(
    "value",
    [[3, 0.5, 0.25], ["3", "0.5", "0.25"], "3 x 0.5 x 0.25", "3x0.5x0.25 mm", "3, 0.5, 0.25", "3,0.5,0.25", "(3 0.5 0.25)",
     "[3.0, 0.5, 0.25]", "300 x 50 x 25 um", {"x": 0.25, "y": 0.5, "z": 3}],
)  # fmt: skip
def test_a_spacing_is_read_as_people_write_it(value):
    factor = 0.1 if "um" in value else 1
    assert parse_spacing(value) == pytest.approx((3 * factor, 0.5 * factor, 0.25 * factor))


@pytest.mark.parametrize(
    "value",
    [None, 3, [], [1, 2], [1, 2, 0], [1, 2, -1], [1, 2, float("inf")], [1, 2, True], "1 x 2", "1 x 2 x", "3 x 1 x 1 pixels", {"x": 1}],
)
def test_what_is_no_spacing_is_none(value):
    assert parse_spacing(value) is None
