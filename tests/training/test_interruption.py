import os
import signal

import pytest

from autoseg.training.interruption import StopRequested, listening


def test_work_that_may_be_abandoned_is_cut_short_by_a_signal_and_not_begun_after_one():
    begun = []

    def work(number):
        begun.append("first half")
        if number is not None:
            os.kill(os.getpid(), number)
        begun.append("second half")
        return 7

    with listening() as interruption:
        assert interruption.abandonable(lambda: work(None)) == 7 and begun == ["first half", "second half"]
        assert interruption.abandonable(lambda: work(signal.SIGTERM)) is None and begun[2:] == ["first half"]
        assert interruption.abandonable(lambda: work(None)) is None and len(begun) == 3
        assert interruption.name == "SIGTERM"


def test_a_signal_outside_such_work_is_noted_and_raises_nothing():
    before = signal.getsignal(signal.SIGUSR1)
    with listening() as interruption:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.name == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_errors_of_the_work_are_not_hidden_and_a_second_interrupt_ends_at_once():
    def broken():
        raise ValueError

    with listening() as interruption:
        with pytest.raises(ValueError):
            interruption.abandonable(broken)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert not issubclass(StopRequested, Exception)  # nothing that catches errors swallows it
