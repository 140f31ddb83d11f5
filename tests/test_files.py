"""Whole files or none, and JSON that people can read."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from autoseg import files
from autoseg.errors import DiskFull, MissingPath, NotEnough, SettingsError, UnreadableFile


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "plan.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), files.atomic_write(target) as temporary:
        temporary.write_text("half of it")
        raise RuntimeError
    assert files.read_json(target) == {"old": 1}
    assert os.listdir(target.parent) == ["plan.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "big.json"
    files.write_json(target, {"old": 1})
    code = f"""
import time
from pathlib import Path
from autoseg import files
with files.atomic_write(Path({str(target)!r})) as temporary:
    temporary.write_text("half of it")
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert files.read_json(target) == {"old": 1}


def test_a_full_disk_becomes_an_error_with_the_remedy(tmp_path):
    with pytest.raises(NotEnough, match="disk is full") as caught, files.atomic_write(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "continues" in str(caught.value)


def test_readable_json_is_json_and_keeps_short_lists_on_one_line():
    value = {"patch_size": [40, 56, 40], "long": [{"name": "x" * 30, "number": i} for i in range(9)], "nothing": None, "empty": []}
    text = files.readable_json(value)
    assert json.loads(text) == value
    assert '  "patch_size": [40, 56, 40],' in text.splitlines()
    assert max(map(len, text.splitlines())) <= 140


def test_nan_has_no_place_in_a_file(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"dice": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_reading_json_names_what_is_wrong(tmp_path):
    with pytest.raises(MissingPath, match="no such file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(UnreadableFile) as caught:
        files.read_json(tmp_path / "bad.json")
    assert "line 2" in str(caught.value)


def test_a_name_said_twice_is_refused_only_where_the_two_differ(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text('{"a": {"name": [1, 2], "name": [1, 2]}, "b": 1}')
    assert files.read_json(path) == {"a": {"name": [1, 2]}, "b": 1}
    path.write_text('{"a": {"name": [1, 2], "name": [2, 1]}, "b": 1}')
    with pytest.raises(UnreadableFile, match="name occurs twice"):
        files.read_json(path)


def test_the_hash_follows_the_bytes(tmp_path):
    first = tmp_path / "a"
    first.write_bytes(b"one")
    before = files.hash_file(first)
    os.utime(first, (time.time(), time.time() + 5))
    assert files.hash_file(first) == before
    first.write_bytes(b"two")
    assert files.hash_file(first) != before


def test_what_a_dead_writer_left_is_swept_and_nothing_else(tmp_path):
    code = f"""
import time
from pathlib import Path
from autoseg import files
with files.atomic_write(Path({str(tmp_path)!r}) / "state.json") as temporary:
    temporary.write_text("half of it")
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    left = os.listdir(tmp_path)
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == left and len(left) == 1  # its writer is alive
    writer.kill()
    writer.communicate()
    kept = [".writing-x", ".writing-notes-by-me", ".lock", "plan.json", f".writing-another.host-{writer.pid}-0a1b2c3d"]
    for name in kept:
        (tmp_path / name).touch()
    old = tmp_path / ".writing-17-phantom_001.nii.gz"  # as versions before named it
    old.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path):
    files.write_text(tmp_path / ("a" * 250 + ".json"), "{}")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_to_have_no_room_is_a_full_disk(tmp_path, code):
    with pytest.raises(DiskFull), files.atomic_write(tmp_path / "x"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "[" * 60_000 + "]" * 60_000])
def test_json_that_python_cannot_hold_is_a_named_error(tmp_path, text):
    (tmp_path / "big.json").write_text(text)
    with pytest.raises(UnreadableFile, match=r"(?s)big\.json.*(nested too deeply|too many digits)"):
        files.read_json(tmp_path / "big.json")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a" + ".a" * 20_000 + " = 1", "a = 1\na = 2"])
def test_toml_that_python_cannot_hold_is_a_named_error_at_once(tmp_path, text):
    (tmp_path / "big.toml").write_text(text)
    begin = time.process_time()
    with pytest.raises(SettingsError, match=r"(?s)not a TOML file.*big\.toml"):
        files.read_toml(tmp_path / "big.toml")
    assert time.process_time() - begin < 2, "tomllib takes 13 s for 20,000 dots"


@pytest.mark.parametrize(("encoding", "found"), [("utf-16", "UTF-16"), ("latin-1", "byte 0xe4 in line 2")])
@pytest.mark.parametrize("read", [files.read_json, files.read_toml, files.read_csv])
def test_another_encoding_is_named_with_the_place(tmp_path, read, encoding, found):
    (tmp_path / "x").write_bytes("a = 1\nb = 'ä'\n".encode(encoding))
    with pytest.raises(UnreadableFile, match=f"(?s)not UTF-8.*{found}"):
        read(tmp_path / "x")


def test_bytes_of_a_file_name_that_are_no_text_are_written_and_read_back(tmp_path):
    files.write_json(tmp_path / "x.json", {"path": "scan\udcff.nii.gz"})
    assert files.read_json(tmp_path / "x.json") == {"path": "scan\udcff.nii.gz"}


def test_a_place_where_nothing_can_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    files.require_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    for code, kind in ((errno.EACCES, MissingPath), (errno.EROFS, MissingPath), (errno.ENOSPC, DiskFull)):

        def refuse(descriptor, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(files.os, "fsync", refuse)
        with pytest.raises(kind) as caught:
            files.require_writable(tmp_path / "a" / "b")
        assert caught.value.exit_code == 3 and os.listdir(tmp_path) == []
