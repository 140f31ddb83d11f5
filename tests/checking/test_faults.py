"""How faults are told."""

from __future__ import annotations

from autoseg.checking import faults
from autoseg.checking.faults import Fault


def test_an_error_of_many_cases_is_one_block_that_names_the_first_files() -> None:
    many = [Fault(case=f"c{i}", file=f"/x/{i}", severity="error", code="missing-file", summary="not there", remedy="put it there")
            for i in range(40)]  # fmt: skip
    text = faults.table(many)
    assert text.count("not there") == 1 and "(40 cases)" in text and "/x/0" in text and "/x/39" not in text
    assert faults.table(many[:5]).count("not there") == 5
