"""What is written about results and failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import MissingChannel, SomeCasesFailed
from autoseg.pipeline.records import report_failures


@pytest.mark.parametrize("offer", [", or leave the case out with --exclude", "; or leave the case out with --exclude 'p 1'"])
def test_failures_offer_no_option_that_predict_lacks(tmp_path: Path, offer: str) -> None:
    error = MissingChannel("a channel is missing", case="p 1", fix=f"complete the row{offer}")
    with pytest.raises(SomeCasesFailed, match="1 of 3"):
        report_failures(tmp_path / "failed.csv", [("p 1", "read", error)], 3)
    text = (tmp_path / "failed.csv").read_text()
    assert "complete the row" in text and "exclude" not in text
