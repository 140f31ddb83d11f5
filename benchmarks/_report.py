"""What every benchmark ends with: one line of JSON with its figures, the ratio to the peer, the machine and the versions."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "nibabel", "SimpleITK", "batchgenerators", "blosc2", "isal")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, graphics card."""
    gpu = None
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _processor(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python, autoseg and what it computes with."""
    found = {"python": platform.python_version()}
    for package in ("autoseg", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def seconds(work: Callable[[], object], *, repeats: int = 3, warm_up: int = 1) -> float:
    """Median wall time of `work`, s, after some calls that do not count."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_memory() -> int:
    """Most memory this process has held so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(
    name: str, figures: Mapping[str, Any], *, peer: Mapping[str, Any] | None = None, ratio: Mapping[str, float] | float | None = None
) -> None:
    """Print the last line of a benchmark.

    Parameters
    ----------
    name : of the benchmark
    figures : ours, each with its unit in its name: "read_seconds", "dice_mean"
    peer : the same figures of the reference implementation, measured in the same run; None where it was not at hand
    ratio : how many times better ours are; above 1 is better
    """
    line = {
        "benchmark": name,
        "figures": dict(figures),
        "peer": None if peer is None else dict(peer),
        "ratio": dict(ratio) if isinstance(ratio, Mapping) else ratio,
        "machine": machine(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(line, default=float), flush=True)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
