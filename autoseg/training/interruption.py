"""Signals that ask a run to stop: noted, acted on between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequested(BaseException):
    """Raised inside work that may be abandoned at any place."""


class Interruption:
    """The signals received so far."""

    def __init__(self) -> None:
        self.name: str | None = None  # of the signal
        self._abandonable = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C ends at once."""
        if self.name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._abandonable:
            self._abandonable = False  # a second signal must not cut short the clean-up after the first
            raise StopRequested(self.name)

    def abandonable(self, work: Callable[[], T]) -> T | None:
        """Return the result of work that a signal may cut short, such as validation during training.

        Returns `None` after a signal, wherever in the work it comes; its `name` is for the loop. A signal received earlier, when
        something else could not be cut short, counts as well, and then the work is not begun.
        """
        try:
            self._abandonable = True
            return work() if self.name is None else None
        except StopRequested:
            return None
        finally:
            self._abandonable = False


@contextlib.contextmanager
def listening() -> Iterator[Interruption]:
    """Listen for SIGINT, SIGTERM and SIGUSR1; the previous handlers are restored at the end.

    Outside the main thread, where Python allows no handlers, signals are not received.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
