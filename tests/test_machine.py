"""What a device offers, and amounts of memory as people write them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from autoseg import machine
from autoseg.errors import SettingsError
from autoseg.machine import choose_device, describe, parse_memory, to_plan_for

NO_CARD = not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8G", 8e9), ("8GB", 8e9), (" 7.5 gib ", 7.5 * 2**30), ("900M", 9e8), ("1500", 1500), ("0.5T", 5e11), ("64k", 64e3), ("1Ki", 1024)],
)
def test_amounts_of_memory(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["", "much", "-4G", "0G", "8 G G", "G8", "1e9"])
def test_what_is_no_amount_of_memory_is_refused_with_an_example(text):
    with pytest.raises(SettingsError, match="not an amount") as error:
        parse_memory(text)
    assert "8G" in str(error.value)


def test_the_processor_is_always_there():
    assert choose_device("cpu") == "cpu"
    found = describe("cpu", probe=False)
    assert found.cpu and found.cores >= 1 and found.memory_bytes > 0 and found.conv_flops is None


def test_memory_may_be_limited_by_the_user():
    assert describe("cpu", memory=123, probe=False).memory_bytes == 123


def test_an_unknown_kind_of_device_is_refused():
    with pytest.raises(SettingsError, match="unknown device"):
        choose_device("gpu")


@pytest.mark.skipif(not NO_CARD, reason="there is a CUDA device")
def test_a_missing_card_is_refused_unless_its_memory_is_told():
    with pytest.raises(SettingsError, match="there is no device 'cuda:3' here") as error:
        choose_device("cuda:3")
    assert "--memory" in str(error.value)
    planned = to_plan_for("auto", memory=24 * 10**9)
    assert planned.device == "cuda" and planned.memory_bytes == 24 * 10**9 and "24 GB" in planned.name
    assert to_plan_for("cpu", memory=24 * 10**9).cpu


def test_the_rate_is_measured_once_and_is_the_same_in_coarse_steps(monkeypatch):
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.05)
    threads = torch.get_num_threads()
    machine.conv_flops.cache_clear()
    rate = machine.conv_flops("cpu")
    assert 1e9 < rate < 1e15
    assert machine.conv_flops("cpu") is rate
    assert torch.get_num_threads() == threads


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of this test's own, a short probe, and 10 GB of free memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(machine, "free_memory", lambda: 10_400_000_000)
    return tmp_path / "cache"


def pretend_rate(monkeypatch, rate):
    """Have the next measurement find this rate."""
    monkeypatch.setattr(machine, "conv_flops", functools.cache(lambda device: rate))


def test_rate_and_memory_are_those_of_the_first_time_until_a_probe_is_asked_for(own_cache, monkeypatch):
    pretend_rate(monkeypatch, 100e9)
    lines = []
    first = to_plan_for("cpu", say=lines.append)
    assert (first.conv_flops, first.memory_bytes) == (100e9, 10_000_000_000) and "measured now" in lines[-1]
    pretend_rate(monkeypatch, 200e9)
    monkeypatch.setattr(machine, "free_memory", lambda: 7_000_000_000)
    assert to_plan_for("cpu", say=lines.append) == first and "--probe measures again" in lines[-1]
    assert machine.free_now(first).memory_bytes == 7_000_000_000
    assert to_plan_for("cpu", memory=123).memory_bytes == 123
    assert to_plan_for("cpu", probe=True).conv_flops == 200e9 == to_plan_for("cpu").conv_flops


def test_much_more_free_memory_than_at_the_first_time_is_planned_for(own_cache, monkeypatch):
    pretend_rate(monkeypatch, 100e9)
    to_plan_for("cpu")
    for free, planned in ((14_900_000_000, 10_000_000_000), (15_500_000_000, 15_000_000_000), (12_000_000_000, 15_000_000_000)):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        assert to_plan_for("cpu").memory_bytes == planned


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', '{"format": 2}', b"\xff\x00", None])
def test_a_damaged_file_of_measurements_is_replaced(own_cache, monkeypatch, damage):
    pretend_rate(monkeypatch, 100e9)
    to_plan_for("cpu")
    (file,) = own_cache.rglob("*.json")
    pretend_rate(monkeypatch, 200e9)
    if damage is None:  # of another version of torch
        file.write_text(file.read_text().replace(torch.__version__, "1.0"))
    else:
        file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert to_plan_for("cpu").conv_flops == 200e9
    assert json.loads(file.read_text())["conv_flops"] == 200e9


def test_without_a_cache_folder_that_can_be_written_everything_is_measured_again(own_cache, monkeypatch):
    own_cache.write_text("a file, not a folder")
    for rate in (100e9, 200e9):
        pretend_rate(monkeypatch, rate)
        assert to_plan_for("cpu").conv_flops == rate
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    assert to_plan_for("cpu").conv_flops == 200e9
