"""Signals that ask a run to stop: noted, acted on between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequested(BaseException):
    """Raised inside work that may be abandoned at any place."""


class Interruption:
    """What was asked for so far."""

    def __init__(self) -> None:
        self.name: str | None = None  # of the signal
        self._abandonable = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second Ctrl-C ends at once."""
        if self.name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._abandonable:
            self._abandonable = False  # a second signal must not cut short what is put right after the first
            raise StopRequested(self.name)

    @contextlib.contextmanager
    def abandonable(self) -> Iterator[None]:
        """Work that is not missed when it is cut short: validation during training."""
        self._abandonable = True
        try:
            yield
        except StopRequested:
            pass  # `name` tells the loop
        finally:
            self._abandonable = False


@contextlib.contextmanager
def listening() -> Iterator[Interruption]:
    """Listen for SIGINT, SIGTERM and SIGUSR1; the handlers of before come back at the end.

    Outside the main thread, where Python allows no handlers, nothing is heard.
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
