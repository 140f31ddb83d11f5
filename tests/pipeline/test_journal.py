"""Files of lines: what each process notes while it predicts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from autoseg import files
from autoseg.pipeline import journal
from autoseg.pipeline.journal import Journal
from autoseg.shards import Shard

HEAD = {"version": "1", "settings": {"model": "m"}}


def test_what_was_noted_is_read_and_a_cut_last_line_is_skipped(tmp_path: Path) -> None:
    lines = Journal(tmp_path, shard=None, head=HEAD)
    lines.note(results=["a.nii.gz", "b.nii.gz"], flush=True)
    lines.note(case="a", facts={"file": "a.nii.gz"})
    lines.note(case="b", failed={"stage": "read", "reason": "cut"})
    with open(lines.path, "ab") as file:
        file.write(b'{"case": "b", "facts": {"file": "b.n')
    found = journal.read(tmp_path)
    assert found.cases == {"a": {"file": "a.nii.gz", "settings": {"model": "m"}}} and set(found.failed) == {"b"}
    assert found.results == {"a.nii.gz": "m", "b.nii.gz": "m"} and found.over == []


def test_lines_are_over_when_their_process_says_so_or_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, killed = (Journal(tmp_path, shard=None, head=HEAD) for _ in range(2))
    for lines in (ended, killed):
        lines.note(results=[])
    ended.close()
    assert journal.read(tmp_path).over == [ended.path]
    monkeypatch.setattr(files, "_alive", lambda pid: False)
    over = journal.read(tmp_path).over
    assert set(over) == {ended.path, killed.path}
    journal.remove(over)
    assert not tmp_path.exists()


def test_a_part_reads_its_own_lines_and_those_of_another_number_of_parts(tmp_path: Path) -> None:
    for name, shard in (("own", Shard(1, 4)), ("sibling", Shard(2, 4)), ("halves", Shard(2, 2)), ("whole", None)):
        Journal(tmp_path, shard=shard, head=HEAD).note(case=name, facts={})
    assert set(journal.read(tmp_path, shard=Shard(1, 4)).cases) == {"own", "halves", "whole"}
    assert set(journal.read(tmp_path).cases) == {"own", "sibling", "halves", "whole"}


def test_a_line_costs_the_same_at_the_end_as_at_the_start(tmp_path: Path) -> None:
    lines, seconds = Journal(tmp_path, shard=None, head=HEAD), []
    for _ in range(20):
        begin = time.perf_counter()
        for index in range(200):
            lines.note(case=f"case_{index}", facts={"file": "out/case.nii.gz", "seconds": {"read": 0.1}})
        seconds.append(time.perf_counter() - begin)
    assert min(seconds[10:]) < 5 * min(seconds[:10])
