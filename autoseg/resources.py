"""What this process may use of the machine: cores, memory, and what the kernel counts of both.

Affinity, control groups (versions 1 and 2) and resource limits are considered, because in a container or a job of a scheduler
the machine's own figures are too large.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt(3)
_KEPT_BLOCKS = 1 << 30  # bytes; larger blocks still go back to the kernel as soon as they are freed
_KEPT_IN_ALL = (1 << 31) - 1  # bytes


def available_cores() -> int:
    """Return the number of cores this process may use, by its affinity, the CPU quota of its control groups and its job of SLURM."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            cores = min(cores, -(-int(quota) // int(period)))
        with contextlib.suppress(OSError, ValueError):
            micros = int((folder / "cpu.cfs_quota_us").read_text())
            if micros > 0:
                cores = min(cores, -(-micros // int((folder / "cpu.cfs_period_us").read_text())))
    cores = min(cores, _of_slurm("CPUS_PER_TASK") or _of_slurm("CPUS_ON_NODE") or cores)
    return max(1, cores)


def free_memory() -> int:
    """Return the bytes of memory still free to this process: the least of machine, control groups, job of SLURM and resource limit."""
    bounds = [_machine_memory()]
    for folder in _control_groups("memory"):
        for limit_name, usage_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / limit_name).read_text())
                used = int((folder / usage_name).read_text())
                bounds.append(limit - used + _table(folder / "memory.stat").get(cache_name, 0))
    per_core = _of_slurm("MEM_PER_CPU")
    asked = _of_slurm("MEM_PER_NODE") or (per_core and per_core * (_of_slurm("CPUS_ON_NODE") or available_cores()))
    if asked:
        bounds.append(asked * 2**20 - resident_memory())
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            bounds.append(limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(0, min(bounds))


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks of up to 1 GB for the next allocation; True where that worked. Elsewhere nothing happens.

    A step on a processor frees and allocates each activation once more, and every page of 4 kB that comes from the kernel costs a
    fault: 10 000 to 40 000 faults per step of the hippocampus plan (batch 2, 16 or 32 features), 4 to 8 % of its time. The peak
    memory of the process stays what it was.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, such as musl: it has no such option
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT_BLOCKS)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT_IN_ALL))


def give_back_freed_memory() -> None:
    """Have glibc give the pages of freed blocks back to the kernel; elsewhere nothing happens."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def _of_slurm(name: str) -> int | None:
    """Return what a job of SLURM asked for (cores; memory in MiB): without control groups, nothing else keeps a job within it."""
    text = os.environ.get(f"SLURM_{name}", "")
    return int(text) or None if text.isdecimal() else None  # --mem=0 is all there is


def _control_groups(controller: str) -> list[Path]:
    """Return the folders of the control groups (version 2 and 1) of this process, from the innermost out."""
    folders: list[Path] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = Path("/sys/fs/cgroup") / controllers if controllers else Path("/sys/fs/cgroup")
            inner = mount / path.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder == mount or mount in folder.parents]
    return folders


def _table(path: Path) -> dict[str, int]:
    """Read a kernel file of `name value` lines; empty where it cannot be read."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdigit()}


def _machine_memory() -> int:
    available = _table(Path("/proc/meminfo")).get("MemAvailable")
    if available is not None:
        return available * 1024
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: length and load in the first, then total and available bytes
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[2])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS: no file has it; half of all


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory so far, as far as this process may know."""
    counts = [_table(folder / "memory.events").get("oom_kill", 0) for folder in _control_groups("memory")]
    return max([_table(Path("/proc/vmstat")).get("oom_kill", 0), *counts])


def reset_peak_memory() -> None:
    """Have the kernel measure the peak of `peak_memory` from now on; nothing where it cannot (all but Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_memory() -> int:
    """Return the bytes of memory that this process holds; 0 where it is not known."""
    return _table(Path("/proc/self/status")).get("VmRSS", 0) * 1024


def peak_memory() -> int | None:
    """Return the largest resident size of this process since `reset_peak_memory`, in bytes; None where it is not known."""
    kilobytes = _table(Path("/proc/self/status")).get("VmHWM")
    return None if kilobytes is None else kilobytes * 1024
