"""Describes the device: its kind, its free memory, its cores, the rate of its convolutions. torch is imported inside functions only."""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg import measurements
from autoseg.errors import SettingsError
from autoseg.measurements import Measurements
from autoseg.quantities import format_bytes
from autoseg.resources import available_cores, free_memory

PROBE_SECONDS = 0.5  # of measuring; short enough for every `plan`
_PROBES = 5  # passes; the fastest counts
_GROWTH = 1.5  # of the free memory, from which more is planned for than was free at first
_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device that a plan is made for."""

    device: str  # "cpu", "cuda:0", "mps"
    name: str  # what people call it
    memory_bytes: int  # that training may use: what is free, or what the user allows
    cores: int  # of the processor
    bf16: bool  # whether bfloat16 is computed in hardware, so that training uses it
    conv_flops: float | None  # FLOP/s of 3 x 3 x 3 convolutions in the precision used, measured; None: not measured

    @property
    def cpu(self) -> bool:
        """Whether the CPU does the work."""
        return self.device == "cpu"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for plan.json."""
        return dict(vars(self))


def choose_device(wanted: str = "auto") -> str:
    """Return the device to work on.

    Parameters
    ----------
    wanted : "auto" (a CUDA device, else Apple's, else the processor), "cpu", "cuda", "cuda:N" or "mps"

    Raises
    ------
    SettingsError : no such device here, or not a device at all
    """
    if wanted == "cpu":
        return "cpu"
    if not re.fullmatch(r"auto|cuda(:\d+)?|mps", wanted):
        raise SettingsError("unknown device", found=wanted, expected="auto, cpu, cuda, cuda:N or mps", fix="--device auto")
    import torch

    cards = _cards()
    apple = torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda:0" if cards else "mps" if apple else "cpu"
    if wanted == "mps" and apple:
        return "mps"
    number = int(wanted.partition(":")[2] or 0)
    if wanted.startswith("cuda") and number < cards:
        return f"cuda:{number}"
    there = [f"cuda:{index}" for index in range(cards)] + ["mps"] * apple + ["cpu"]
    fix = "--device auto; to plan for a card elsewhere, say how much memory it has, such as --memory 24G"
    raise SettingsError(f"there is no device '{wanted}' here", found=", ".join(there), expected=wanted, fix=fix)


def choose_devices(wanted: str = "auto") -> tuple[str, ...]:
    """Return the devices on which folds may be trained side by side: every CUDA device there is where none is named, else the one chosen.

    Parameters
    ----------
    wanted : as for `choose_device`

    Raises
    ------
    SettingsError : no such device here, or not a device at all
    """
    chosen = choose_device(wanted)
    return tuple(f"cuda:{index}" for index in range(_cards())) if chosen == "cuda:0" and wanted != chosen else (chosen,)


def release() -> None:
    """Release the GPU memory that PyTorch reserves for this process without using it."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def describe(device: str, *, memory: int | None = None, probe: bool = True) -> Machine:
    """Describe a device of `choose_device` as it is now.

    Parameters
    ----------
    memory : bytes that training may use; None: all that is free on the device, its control group considered
    probe : measure the rate of convolutions (about a second, once per process and device)
    """
    rate = conv_flops(device) if probe else None
    return Machine(
        device=device,
        name=_name(device),
        memory_bytes=int(free_on(device) if memory is None else memory),
        cores=available_cores(),
        bf16=has_bf16(device),
        conv_flops=rate,
    )


def to_plan_for(
    wanted: str = "auto", *, memory: int | None = None, probe: bool = False, say: Callable[[str], None] = lambda text: None
) -> Machine:
    """Return the machine that a plan is made for: the device here, or a graphics card that is not here, known by its memory alone.

    The rate of the device and its free memory are those of the first time (`autoseg.measurements`), so that the same command gives
    the same plan also while something else runs. `free_now` returns what is free at the moment.

    So a laptop or a login node can plan for a card: with an amount of memory and no card to be found, a card of that memory is
    meant; the memory of the processor is meant where the device is "cpu".

    Parameters
    ----------
    memory : bytes that training may use; None: what is free
    probe : measure again
    say : gets a line about what was measured, and when

    Raises
    ------
    SettingsError : as `choose_device`; a card that is not here needs an amount of memory
    """
    if memory is not None and (wanted == "auto" or wanted.startswith("cuda")) and not _cards():
        return Machine(
            device="cuda",
            name=f"a {format_bytes(memory)} graphics card that is not here",
            memory_bytes=memory,
            cores=available_cores(),
            bf16=True,
            conv_flops=None,
        )
    device = choose_device(wanted)
    known = _measured(device, probe=probe, say=say)
    now = describe(device, memory=known.memory_bytes if memory is None else memory, probe=False)
    return replace(now, conv_flops=known.conv_flops)


def free_now(machine: Machine) -> Machine:
    """Return the machine with the memory that is free at this moment, rounded down to two digits."""
    return replace(machine, memory_bytes=_two_digits(free_on(machine.device)))


def _measured(device: str, *, probe: bool, say: Callable[[str], None]) -> Measurements:
    """Return what was measured of a device at the first time, or now; more memory where much more is free than then."""
    import torch

    name, free = _name(device), _two_digits(free_on(device))
    known = None if probe else measurements.read(name, device)
    if known is not None and known.torch == torch.__version__:
        say(f"{name}: {known.conv_flops / 1e9:,.0f} GFLOP/s, measured on {known.date}; --probe measures again")
        if free < _GROWTH * known.memory_bytes:
            return known
        known = replace(known, memory_bytes=free)
    else:
        conv_flops.cache_clear()
        today = datetime.date.today().isoformat()
        known = Measurements(
            name=name, device=device, torch=torch.__version__, conv_flops=conv_flops(device), memory_bytes=free, date=today
        )
        say(f"{name}: {known.conv_flops / 1e9:,.0f} GFLOP/s, measured now")
    measurements.keep(known)
    return known


def _two_digits(amount: int) -> int:
    """Return an amount rounded down to two digits.

    >>> _two_digits(23_377_661_952)
    23000000000
    """
    unit = int(10 ** max(0, len(str(amount)) - 2))
    return amount // unit * unit


def parse_memory(text: str) -> int:
    """Return the bytes of an amount such as "8G", "8 GB", "512M", "7.5GiB"; a bare number counts bytes, G is 10**9.

    Raises
    ------
    SettingsError : not an amount of memory, or nothing

    >>> parse_memory("8G"), parse_memory("1.5 GiB")
    (8000000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(text).upper().replace(",", "."))
    if match is None or float(match[1]) <= 0 or match[2] not in _UNITS:
        raise SettingsError("not an amount of memory", found=str(text), expected="such as 8G, 7.5GiB or 900M", fix="--memory 8G")
    return int(float(match[1]) * _UNITS[match[2]])


@functools.cache
def has_bf16(device: str) -> bool:
    """Return whether the device computes in bfloat16 faster than in float32: tensor cores, AVX-512 BF16, AMX, or Arm's BF16."""
    if device == "cpu":
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & _processor_flags())
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


@functools.cache
def conv_flops(device: str) -> float:
    """Measure the FLOP/s of a 3 x 3 x 3 convolution of 32 channels on 32 x 64 x 64 voxels, in the precision that training uses there.

    On a processor one core is measured, by its own time and not by the clock on the wall, and multiplied by the number of cores:
    what else runs meanwhile must not make the plan smaller. Of several measurements the best counts, and it is rounded to steps
    of 19 %, so that the same machine gives the same plan.
    """
    import time

    import torch

    kind = torch.bfloat16 if has_bf16(device) else torch.float16 if device.startswith("cuda") else torch.float32
    voxels = 32 * 64 * 64
    image = torch.ones((1, 32, 32, 64, 64), device=device, dtype=kind).to(memory_format=torch.channels_last_3d)
    layer: Any = torch.nn.Conv3d(32, 32, 3, padding=1, bias=False)  # torch's types do not know `memory_format` of a module
    layer = layer.to(device=device, dtype=kind, memory_format=torch.channels_last_3d)
    each = 2.0 * 32 * 32 * 27 * voxels

    def run(times: int) -> float:
        """Return the seconds for N passes: of processor time per core on a CPU, of the clock elsewhere."""
        start, busy = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            for _ in range(times):
                result = layer(image)
        if device == "cpu":
            return (time.process_time() - busy) / available_cores()
        result.sum().item()  # waits for the device
        return time.perf_counter() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else threads)
    try:
        run(2)  # compiles kernels, wakes the clock
        once = run(1)
        times = max(2, min(200, int(PROBE_SECONDS / _PROBES / max(once, 1e-5))))
        rate = each * times / min(run(times) for _ in range(_PROBES))
    finally:
        torch.set_num_threads(threads)
    return float(2 ** (round(4 * math.log2(rate)) / 4))


def _cards() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def free_on(device: str) -> int:
    """Return the bytes of memory that are free on a device."""
    if device.startswith("cuda"):
        import torch

        # PyTorch keeps what an earlier training in this process gave back
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return free_memory()


def _name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    model = _processor_fields().get("model name") or _processor_fields().get("hardware") or "processor"
    cores = available_cores()
    return f"{model}, {cores} core{'s' * (cores > 1)}"


@functools.cache
def _processor_fields() -> Mapping[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: the name and the flags stay unknown
        return {}
    rows = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip().casefold(): value.strip() for key, _, value in rows}


def _processor_flags() -> frozenset[str]:
    fields = _processor_fields()
    return frozenset(f"{fields.get('flags', '')} {fields.get('features', '')}".casefold().split())
