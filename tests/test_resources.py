"""Cores and memory are what this process may use, not what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoseg import resources
from autoseg.resources import available_cores, free_memory


def test_cores_and_memory_are_positive_and_within_the_machine() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert 0 < free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 900\ninactive_file 1600\n"}, 2100),
        ({"memory.max": "max", "memory.current": "2500"}, 10_000),
        ({"memory.limit_in_bytes": "4000", "memory.usage_in_bytes": "1000", "memory.stat": "total_inactive_file 500"}, 3500),
        ({"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "1000"}, 10_000),
        ({"memory.max": "100", "memory.current": "500"}, 0),
    ],
)
def test_free_memory_is_what_machine_and_control_group_leave(
    files: dict[str, str], memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(resources, "_control_groups", lambda controller: [tmp_path])
    monkeypatch.setattr(resources, "_machine_memory", lambda: 10_000)
    assert free_memory() == memory


def test_a_limit_on_address_space_bounds_free_memory() -> None:
    script = """
        import resource
        from autoseg.resources import free_memory
        resource.setrlimit(resource.RLIMIT_AS, (800_000_000, 800_000_000))
        assert 0 < free_memory() < 800_000_000
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_cores_are_what_affinity_and_quota_allow(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(resources, "_control_groups", lambda controller: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert available_cores() == cores


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not count peaks")
def test_the_peak_is_that_of_the_memory_used_since_the_last_reset() -> None:
    script = """
        from autoseg.resources import peak_memory, reset_peak_memory
        before = peak_memory()
        block = bytearray(100_000_000)
        assert peak_memory() > before + 90_000_000
        del block
        reset_peak_memory()
        assert peak_memory() < before + 50_000_000
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parent.parent)


def test_processes_killed_by_the_kernel_are_counted_in_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_control_groups", lambda controller: [tmp_path])
    before = resources.oom_kills()
    (tmp_path / "memory.events").write_text(f"low 0\noom_kill {before + 2}\n")
    assert resources.oom_kills() == before + 2


def test_the_process_of_a_notebook_stays_as_it_is_and_the_command_line_sets_its_own() -> None:
    code = """
        import os
        before = dict(os.environ)
        import autoseg
        from autoseg import cli, networks, resources, images
        import autoseg.pipeline.training, autoseg.pipeline.predicting
        assert dict(os.environ) == before, "importing changes no variable"
        assert resources.keep_freed_memory.cache_info().currsize == 0, "nor the allocator"
        assert cli.main(["train", "no such workspace", "--quiet"]) == 3
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
        assert resources.keep_freed_memory.cache_info().currsize == 1
        os.environ["OMP_WAIT_POLICY"] = "active"
        assert cli.main(["--version"]) == 0 and os.environ["OMP_WAIT_POLICY"] == "active", "the user's own choice stays"
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)


def test_the_waiting_policy_is_set_before_torch_is_imported() -> None:
    code = """
        import os, sys
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    print(os.environ.get("OMP_WAIT_POLICY"))
        sys.meta_path.insert(0, Watch())
        from autoseg import cli
        cli.main(["train", "no such workspace"])
        import torch
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["passive"]


def test_a_job_of_slurm_has_the_cores_and_the_memory_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(resources, "_control_groups", lambda controller: [])
    monkeypatch.setattr(resources, "_machine_memory", lambda: 1 << 40)
    for name, value in {"SLURM_CPUS_ON_NODE": "16", "SLURM_MEM_PER_CPU": "4096"}.items():
        monkeypatch.setenv(name, value)
    assert available_cores() == 16 and free_memory() > 16 * 4096 * 2**20 - resources.resident_memory() - 2**22
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8192")
    assert available_cores() == 4 and abs(free_memory() - (8192 * 2**20 - resources.resident_memory())) < 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # --mem=0: all there is
    monkeypatch.delenv("SLURM_MEM_PER_CPU")
    assert free_memory() == 1 << 40
