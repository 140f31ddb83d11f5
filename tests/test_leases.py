"""A lease holds where the locks of the file system do not reach: between machines, here played by two boot ids."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autoseg import leases, locks
from autoseg.errors import SettingsError


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.1)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")


def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = leases._process()
    monkeypatch.setattr(leases, "_process", lambda: {**here, "boot": "another", "host": "node2"})


def left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    """A lease whose holder was killed."""
    assert leases._taken(folder / leases.NAME, {**leases._process(), "token": "0" * 16, "doing": "training fold 0", **facts})


def test_a_holder_on_another_machine_is_named_with_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = leases._process()["host"]
    with leases.lease(tmp_path, doing="training fold 0"):
        with monkeypatch.context() as there:
            other_machine(there)
            with pytest.raises(SettingsError, match="another process is training fold 0") as caught, leases.lease(tmp_path, doing="x"):
                raise AssertionError
        assert f"process {os.getpid()} on {host}, job 4711" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_dead_holder_of_this_machine_is_followed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 100.0)
    left_behind(tmp_path, monkeypatch, start="1")
    with leases.lease(tmp_path, doing="x"):
        assert os.listdir(tmp_path) == [leases.NAME]


def test_a_silent_holder_of_another_machine_is_followed_after_three_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path, monkeypatch, boot="another")
    begin = time.monotonic()
    with leases.lease(tmp_path, doing="x"):
        assert time.monotonic() - begin >= 3 * leases.BEAT
        leases.require(tmp_path)
    assert os.listdir(tmp_path) == []


def test_of_many_followers_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path, monkeypatch, boot="another")
    got, refused, done = [], [], threading.Event()

    def contend() -> None:
        try:
            with leases.lease(tmp_path, doing="x"):
                got.append(1)
                done.wait(5)
        except SettingsError:
            refused.append(1)
            if len(refused) == 5:
                done.set()

    contenders = [threading.Thread(target=contend) for _ in range(6)]
    for one in contenders:
        one.start()
    for one in contenders:
        one.join(10)
    assert (len(got), len(refused)) == (1, 5) and os.listdir(tmp_path) == []


def test_a_frozen_holder_that_wakes_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leases.lease(tmp_path, doing="x"):
        leases.require(tmp_path)
        (tmp_path / leases.NAME).unlink()
        left_behind(tmp_path, monkeypatch, host="node2")
        with pytest.raises(SettingsError, match="another process has taken over") as caught:
            leases.require(tmp_path)
    assert "on node2" in str(caught.value) and os.listdir(tmp_path) == [leases.NAME]  # the other's stays


def test_a_lock_holds_where_the_file_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
from pathlib import Path
from autoseg import leases, locks
locks.fcntl, leases.BEAT = None, 0.1
with locks.exclusive_lock(Path({str(tmp_path)!r}), doing="training fold 0"):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(SettingsError, match="another process is training fold 0"), locks.exclusive_lock(tmp_path, doing="x"):
        raise AssertionError
    assert locks.is_locked(tmp_path)
    other.kill()
    other.communicate()
    with locks.exclusive_lock(tmp_path, doing="x"):
        pass
    assert not locks.is_locked(tmp_path)
