"""One fold in several processes, as `torchrun` starts them: who is who, sums over all, and one decision for all.

Every process holds the whole network and sees its own share of each batch. What is summed or averaged over a batch is summed over the
processes, so the loss is that of the whole batch; DistributedDataParallel does the same with the gradients. The main process writes
files and messages, and validates. A single process is a group of one, and nothing here costs it anything.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from autoseg.errors import SettingsError

PATIENCE = datetime.timedelta(hours=24)  # others wait while the main process prepares and validates


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes that train together, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_size: int = 1  # processes on this machine: they share its memory
    device: str | None = None  # of this process; None: as the caller chose
    control: Any = None  # the processes' channel for decisions, on the CPU

    @property
    def is_main(self) -> bool:
        """Whether this process writes, reports and validates."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return the positions in a batch that this process sees: as many as every other.

        Raises
        ------
        SettingsError : they cannot be divided evenly
        """
        if batch % self.size:
            raise SettingsError(
                "the batch cannot be divided evenly among the processes",
                found=f"batch size {batch}, {self.size} processes",
                expected=f"a multiple of {self.size}",
                fix="start fewer processes (torchrun --nproc-per-node), or write another batch_size into plan.json",
            )
        return range(self.rank, batch, self.size)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, with its gradient."""
        return value if self.size == 1 else _Sum.apply(value, self.size)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes, with its gradient: of means over equal shares, that of the whole."""
        return value if self.size == 1 else self.sum(value) / self.size

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with gradients averaged over all processes."""
        if self.size == 1:
            return network
        # Unused: the head of the lowest resolution has no part in the loss.
        numbers = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=numbers, find_unused_parameters=True)

    def agree(self, share: float, stop: str | None) -> tuple[float, str | None]:
        """Return the main process's share of the run that is done, and the name of a signal that any process received."""
        if self.size == 1:
            return share, stop
        number = 0 if stop is None else int(signal.Signals[stop])
        shared = torch.tensor([share if self.is_main else -1.0, float(number)], dtype=torch.float64)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX, group=self.control)
        return float(shared[0]), signal.Signals(int(shared[1])).name if shared[1] else None

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the order of their ranks. They travel as JSON: numbers may be NaN, tuples become lists."""
        text = json.dumps(value)
        if self.size == 1:
            return [json.loads(text)]
        message = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(message)]), group=self.control)
        longest = max(int(length) for length in lengths)
        padded = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        distributed.all_gather(padded, nn.functional.pad(message, (0, longest - len(message)), value=ord(" ")), group=self.control)
        return [json.loads(one.numpy().tobytes()) for one in padded]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier(group=self.control)


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def joined(device: str) -> Iterator[ProcessGroup]:
    """Yield the group that `torchrun` started this process in; `SINGLE_PROCESS` where it did not.

    Parameters
    ----------
    device : of `machine.choose_device`; with "cuda:N" every process takes the card of its own number

    Raises
    ------
    SettingsError : more processes than cards
    """
    if not distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE_PROCESS
        return
    cards = device.startswith("cuda")
    local = int(os.environ["LOCAL_RANK"])
    if cards and local >= torch.cuda.device_count():
        raise SettingsError(
            "more processes than cards",
            found=f"{os.environ['LOCAL_WORLD_SIZE']} processes, {torch.cuda.device_count()} cards",
            expected="one process per card",
            fix="start fewer: torchrun --nproc-per-node",
        )
    if cards:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if cards else "gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(
            rank=distributed.get_rank(),
            size=distributed.get_world_size(),
            local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
            device=f"cuda:{local}" if cards else device,
            control=distributed.new_group(backend="gloo", timeout=PATIENCE),
        )
    finally:
        distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Every process computes the same loss from the sum; the gradient with respect to its own part is given as that of all their losses.

    DistributedDataParallel then takes the mean over the processes, which leaves the gradient of one.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, size: int) -> Tensor:
        """Return the sum over all processes."""
        ctx.size = size
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return undo the mean over processes that follows: every process's loss depends on the sum."""
        return gradient * ctx.size, None
