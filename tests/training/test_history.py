"""The tables of a run: any damage to them is noticed, whatever it is, so that they are written again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.errors import UnreadableFile
from autoseg.training.history import EpochRow, is_written, read_history, write_history
from autoseg.workspace import Run

ROWS = [
    EpochRow(
        epoch=epoch, step=8 * epoch, elapsed=2.0 * epoch, loss=1.0 / epoch, learning_rate=0.01, seconds_per_step=0.25, data_wait=0.0,
        augmentation=0.0, memory=1000, time_left=9.0, done=epoch, total=3,
    )
    for epoch in (1, 2)
]  # fmt: skip


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


def test_rows_are_read_back_and_those_of_an_earlier_version_too(tmp_path: Path) -> None:
    run = Run(root=tmp_path)
    scored = replace(ROWS[1], validation_dice=0.75, validation_cases=2)
    write_history(run, [ROWS[0], scored])
    assert read_history(run) == [replace(row, done=0, total=0) for row in (ROWS[0], scored)]
    lines = run.history_jsonl.read_text().splitlines()
    assert "validation_cases" not in lines[0] and list(json.loads(lines[1]))[-1] == "validation_cases"
    earlier = {name: value for name, value in ROWS[0].to_json().items() if name != "learning_rate"}
    assert EpochRow.from_json(earlier | {"cause": None}).to_json() == earlier


@pytest.mark.parametrize("line", ["{", '{"epoch": 1}', "[]"])
def test_a_damaged_row_is_refused_with_its_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line)
    with pytest.raises(UnreadableFile) as caught:
        read_history(Run(root=tmp_path))
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    "harm", [(b"0.5", b"0.7"), (b'"memory": 1000', b'"memory": 1001'), (b'"data_wait"', b'"data_wair"'), "last row", "all"]
)
def test_rows_that_are_not_those_of_the_other_table_are_refused(tmp_path: Path, harm: tuple[bytes, bytes] | str) -> None:
    run = Run(root=tmp_path)
    write_history(run, ROWS)
    sound = run.history_jsonl.read_bytes()
    kept = b"" if harm == "all" else sound.splitlines(keepends=True)[0]
    run.history_jsonl.write_bytes(kept if isinstance(harm, str) else sound.replace(*harm))
    with pytest.raises(UnreadableFile):
        read_history(run)


def test_a_table_that_lacks_the_epoch_that_is_just_written_is_no_damage(tmp_path: Path) -> None:
    run = Run(root=tmp_path)
    write_history(run, ROWS[:1])
    before = run.history_csv.read_bytes()
    write_history(run, ROWS)
    run.history_csv.write_bytes(before)
    assert len(read_history(run)) == 2
    run.history_csv.unlink()
    assert len(read_history(run)) == 2
