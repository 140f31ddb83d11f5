"""What a device offers, and amounts of memory as people write them."""

from __future__ import annotations

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
