"""The tables of a run: any damage to them is noticed, whatever it is, so that they are written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.training.history import is_written, write_history
from autoseg.workspace import Run

ROWS = [{"epoch": epoch, "loss": 1.0 / epoch, "validation_dice": None, "done": epoch} for epoch in (1, 2)]


@pytest.mark.parametrize("file", ["history.csv", "history.jsonl"])
@pytest.mark.parametrize("harm", [b"\xff\xfe", b"", None, "changed"])
def test_a_damaged_table_is_noticed(tmp_path: Path, file: str, harm: bytes | str | None) -> None:
    run = Run(root=tmp_path)
    assert not is_written(run, ROWS)
    write_history(run, ROWS)
    assert is_written(run, ROWS)
    path = tmp_path / file
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm if isinstance(harm, bytes) else path.read_bytes().replace(b"0.5", b"0.7"))
    assert not is_written(run, ROWS)
    write_history(run, ROWS)
    assert is_written(run, ROWS) and "done" not in path.read_text()
