"""How faults are told."""

from __future__ import annotations

from autoseg.checking import faults
from autoseg.checking.faults import Fault


def test_of_many_errors_of_one_kind_the_first_have_their_blocks_and_the_others_are_named() -> None:
    many = [Fault(case=f"c{i}", file=f"/x/{i}", severity="error", code="missing-file", summary="not there", remedy=f"put {i}")
            for i in range(40)]  # fmt: skip
    notes = [Fault(case=f"n{i}", file=None, severity="note", code="missing-file", summary="not there") for i in range(40)]
    text = str(faults.table([*many, *notes]))
    assert text.count("put ") == 3 and "37 more: not there" in text and all(f"c{i}" in text for i in range(40))
    assert str(faults.table([*many[:5], *notes])).count("error ") == 5
