"""Locks are held by one process at a time, waited for or refused, and end with the process."""

import os
import subprocess
import sys
import threading

import pytest

from autoseg import files, locks
from autoseg.errors import SettingsError


def test_a_folder_is_held_by_one_process_at_a_time_and_free_after_it(tmp_path):
    code = f"""
from pathlib import Path
from autoseg import locks
with locks.exclusive_lock(Path({str(tmp_path)!r}), doing="training fold 0"):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(SettingsError, match="another process is training fold 0"), locks.exclusive_lock(tmp_path, doing="training fold 0"):
        raise AssertionError
    other.kill()
    other.communicate()
    with locks.exclusive_lock(tmp_path, doing="training fold 0"):
        (tmp_path / "x").write_text("x")
        files.empty_folder(tmp_path)
        assert set(os.listdir(tmp_path)) == {".lock", ".lease"}


def holder(tmp_path, lock):
    code = f"""
from pathlib import Path
from autoseg import locks
with locks.{lock}(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def test_who_comes_second_waits_says_so_and_goes_on_when_the_first_is_killed(tmp_path):
    other, order = holder(tmp_path, "in_turn"), []

    def waiting():
        order.append("waiting")
        threading.Timer(0.2, other.kill).start()

    with locks.in_turn(tmp_path, waiting=waiting):
        order.append("turn")
    other.communicate()
    assert order == ["waiting", "turn"] and os.listdir(tmp_path) == []
    with locks.in_turn(tmp_path, waiting=lambda: order.append("again")):
        pass
    assert order == ["waiting", "turn"]


def test_a_folder_is_in_use_while_any_process_reads_it(tmp_path):
    assert not locks.is_in_use(tmp_path)
    first, second = holder(tmp_path, "in_use"), holder(tmp_path, "in_use")
    first.kill()
    first.communicate()
    assert locks.is_in_use(tmp_path)
    second.kill()
    second.communicate()
    assert not locks.is_in_use(tmp_path)


def test_whether_a_folder_is_locked_can_be_asked_without_locking_it(tmp_path):
    assert not locks.is_locked(tmp_path) and not locks.is_locked(tmp_path / "none")
    with locks.exclusive_lock(tmp_path, doing="training"):
        assert locks.is_locked(tmp_path)
    assert not locks.is_locked(tmp_path)
