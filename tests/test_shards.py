"""Parts of a cohort."""

from __future__ import annotations

import pytest

from autoseg.errors import UsageError
from autoseg.shards import Shard, parse_shard

NAMES = [f"case_{index}" for index in range(3000)]


def test_each_case_is_in_exactly_one_part_and_the_parts_are_about_equal() -> None:
    for count in (1, 2, 7):
        parts = [[name for name in NAMES if Shard(number, count).holds(name)] for number in range(1, count + 1)]
        assert sorted(sum(parts, [])) == sorted(NAMES)
        assert all(abs(len(part) - len(NAMES) / count) < 0.15 * len(NAMES) / count for part in parts)


def test_a_name_of_bytes_that_are_no_text_has_a_part() -> None:
    assert sum(Shard(number, 3).holds("a\udcff") for number in (1, 2, 3)) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "1/0", "-1/3", "1.5/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="K from 1 to N"):
        parse_shard(text)
