"""How many threads torch computes with on a processor that has other work to do, chosen by trying.

Threads wait for each other many times per network pass. Where another program keeps one of two cores busy, two threads take turns
on the other core, and one thread alone is faster: 1.3 times with one busy program, 1.6 with two, 9 where waiting threads spin.
So every piece of work is done inside `ThreadChooser.work`. While no thread of this process waits for a core, that measures and nothing
more. Once one does, about a second of the work is done with each of some numbers of threads, and the fastest number is kept for half
a minute. Shorter trials choose wrongly, because the scheduler takes some 100 ms to move the others away.

The number belongs to the piece of work: outside of it torch has the threads that it had before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

TRIAL_SECONDS = 1.2  # of work with one number of threads
PERIOD = 30.0  # s from one choice to the next
LOST_SHARE = 0.04  # of the time may be lost by trying slower numbers
WAITING = 0.1  # share of the time that some thread waits for a core, from which other numbers are tried
GAIN = 1.05  # times as fast another number must be
HOPELESS = 0.8  # times as fast as the best so far: with fewer threads still it gets slower


@dataclass(frozen=True, kw_only=True)
class _Rules:
    say: Callable[[str], None]
    keep: bool


_USUAL = _Rules(say=logging.getLogger(__name__).info, keep=False)
_RULES: ContextVar[_Rules] = ContextVar("rules", default=_USUAL)


@contextlib.contextmanager
def choosing(say: Callable[[str], None], *, keep: bool = False) -> Iterator[None]:
    """Report in this block what was chosen; keep the number of threads as it is where results must not change in the last digit."""
    token = _RULES.set(_Rules(say=say, keep=keep or _RULES.get().keep))
    try:
        yield
    finally:
        _RULES.reset(token)


class ThreadChooser:
    """Chooses the number of threads for one type of work.

    Parameters
    ----------
    name : of the work, for the message
    device : where it is done; on a graphics card nothing is chosen
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        self._name = name
        self._on_processor = torch.device(device).type == "cpu"
        self._most = 0  # that torch would use by itself
        self._chosen = 0
        self._begin(0)

    @contextlib.contextmanager
    def work(self, units: float = 1.0) -> Iterator[None]:
        """Do a piece of work with the chosen number of threads.

        Parameters
        ----------
        units : how much work it is: steps, voxels
        """
        before = torch.get_num_threads()
        if before == 1 or _RULES.get().keep or not self._on_processor or threading.current_thread() is not threading.main_thread():
            yield
            return
        if before != self._most:
            self._begin(before)
        if self._trial.threads != before:
            torch.set_num_threads(self._trial.threads)
        begun = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            if self._trial.threads != before:
                torch.set_num_threads(before)
            self._trial.add(units, now - begun)
            if self._trial.seconds >= TRIAL_SECONDS:
                self._ended(now)

    def watched(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a network that computes with the chosen number of threads."""

        def forward(x: Tensor) -> Tensor:
            """Return what the network gives."""
            with self.work(x.numel()):
                return network(x)

        return forward

    def _begin(self, most: int) -> None:
        self._most = self._chosen = most
        self._trial = _Trial(most, warm=False)
        self._rates: dict[int, float] = {}  # units per second of the numbers tried so far
        self._untried: list[int] = []
        self._trying = False
        self._next = 0.0  # when other numbers may be tried
        self._spent: dict[int, float] = {}  # seconds on them
        self._said = False

    def _ended(self, now: float) -> None:
        """Go on after a trial, or after a while with the chosen number."""
        trial = self._trial
        if not self._trying:
            wanted = now >= self._next and (self._chosen < self._most or trial.waiting() > WAITING)
            if wanted:
                self._trying, self._rates, self._untried = True, {}, _numbers(self._most)
        else:
            self._rates[trial.threads] = trial.rate
            self._spent[trial.threads] = now - trial.begun
            if trial.rate < HOPELESS * max(self._rates.values()):
                self._untried = [number for number in self._untried if number == self._chosen]
        if self._trying and not self._untried:
            self._choose(now)
        following = self._untried.pop(0) if self._trying else self._chosen
        self._trial = _Trial(following, warm=following == trial.threads)

    def _choose(self, now: float) -> None:
        best = max(self._rates, key=lambda number: self._rates[number])
        kept = self._rates[self._chosen]
        if self._rates[best] > GAIN * kept:
            if not self._said:
                gain = f"{self._rates[best] / kept:.1f} times as fast as on {self._chosen}"
                _RULES.get().say(
                    f"other work keeps processors busy: {self._name} runs on {best} of {self._most} threads, {gain}; the number is chosen "
                    "again every half minute"
                )
            self._chosen, self._said = best, True
        self._trying = False
        lost = sum(self._spent[number] * (1 - rate / self._rates[best]) for number, rate in self._rates.items())
        self._next = now + max(PERIOD, lost / LOST_SHARE)


@dataclass
class _Trial:
    """Some work with one number of threads."""

    threads: int
    warm: bool  # whether this number of threads was used just before: else the first piece of work also prepares kernels
    units: float = 0.0
    seconds: float = 0.0
    begun: float = field(default_factory=lambda: time.perf_counter())
    waited: dict[str, float] = field(default_factory=lambda: _waited())

    def add(self, units: float, seconds: float) -> None:
        """Count a piece of work."""
        if self.warm or seconds >= TRIAL_SECONDS:
            self.units += units
            self.seconds += seconds
        self.warm = True

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds

    def waiting(self) -> float:
        """Return the share of the time that the thread with the least luck waited for a core; 1 where the system does not say."""
        wall, now = time.perf_counter() - self.begun, _waited()
        return max((now[name] - self.waited.get(name, 0.0) for name in now), default=wall) / wall


@functools.cache
def chooser(name: str, device: str) -> ThreadChooser:
    """Return the chooser of this process for one type of work: what it found out is worth something for the next scan, too."""
    return ThreadChooser(name, device)


def _numbers(most: int) -> list[int]:
    """Return the numbers of threads to try, from many to few: all, all but one, half, one."""
    return sorted({most, most - 1, max(1, most // 2), 1} - {0}, reverse=True)


def _waited() -> dict[str, float]:
    """Return per thread of this process the seconds that it was ready to run but had no core; empty where the system does not say."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return found
