"""The number of threads that torch computes with next to other work."""

from __future__ import annotations

import pytest
import torch

from autoseg import threads
from autoseg.threads import ThreadChooser, choosing


class Machine:
    """Pretended time: a step takes as many seconds as `seconds` says for the number of threads that torch has."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.waiting = seconds, 0.0, 0.0
        self.used: list[int] = []
        self.heard: list[str] = []

    def run(self, chooser: ThreadChooser, seconds: float) -> list[int]:
        """Work for a while; return the numbers of threads used, a step each."""
        end, before = self.now + seconds, len(self.used)
        while self.now < end:
            with chooser.work():
                number = torch.get_num_threads()
                self.now += self.seconds[number]
                self.waited += self.seconds[number] * self.waiting
            self.used.append(number)
        return self.used[before:]

    waited = 0.0


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads, and a pretended machine on which they are faster, with no other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    machine = Machine({1: 0.4, 2: 0.2})
    monkeypatch.setattr(threads.time, "perf_counter", lambda: machine.now)
    monkeypatch.setattr(threads, "_waited", lambda: {"main": machine.waited})
    rules = threads._Rules(say=machine.heard.append, keep=False)
    token = threads._RULES.set(rules)
    yield machine
    threads._RULES.reset(token)
    torch.set_num_threads(before)


def test_without_other_work_nothing_is_tried(two_threads):
    assert set(two_threads.run(ThreadChooser("training"), 120)) == {2} and not two_threads.heard


def test_next_to_other_work_the_faster_number_is_kept_and_all_are_used_again_afterwards(two_threads):
    chooser = ThreadChooser("training")
    two_threads.run(chooser, 60)
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 0.6}, 0.5
    two_threads.run(chooser, 10)
    assert torch.get_num_threads() == 2, "outside the work torch is as it was"
    busy = two_threads.run(chooser, 120)
    assert busy.count(1) > 0.9 * len(busy)
    assert len(two_threads.heard) == 1 and "1 of 2 threads, 1.5 times as fast" in two_threads.heard[0]
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 0.2}, 0.0
    two_threads.run(chooser, 40)
    assert set(two_threads.run(chooser, 60)) == {2} and len(two_threads.heard) == 1


def test_trials_that_show_nothing_take_little_time(two_threads):
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 0.39}, 0.5
    used = two_threads.run(ThreadChooser("training"), 300)
    assert used.count(1) < 0.06 * len(used)


def test_a_slow_trial_is_made_less_often(two_threads):
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 8.0}, 0.5
    chooser = ThreadChooser("training")
    two_threads.run(chooser, 30)
    used = two_threads.run(chooser, 1000)
    assert used.count(2) * 8.0 < 0.06 * 1000


def test_what_must_not_change_in_the_last_digit_keeps_its_threads(two_threads):
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 0.8}, 0.5
    with choosing(two_threads.heard.append, keep=True), choosing(two_threads.heard.append):
        assert set(two_threads.run(ThreadChooser("training"), 100)) == {2}
    assert set(two_threads.run(ThreadChooser("training", "meta"), 100)) == {2}, "nor is anything chosen for a card"


def test_an_error_in_the_work_leaves_torch_as_it_was(two_threads):
    two_threads.seconds, two_threads.waiting = {1: 0.4, 2: 0.8}, 0.5
    chooser = ThreadChooser("training")
    two_threads.run(chooser, 20)
    with pytest.raises(ValueError, match="broken"), chooser.work():
        assert torch.get_num_threads() == 1
        raise ValueError("broken")
    assert torch.get_num_threads() == 2


def test_the_numbers_to_try():
    assert [threads._numbers(most) for most in (2, 3, 4, 16)] == [[2, 1], [3, 2, 1], [4, 3, 2, 1], [16, 15, 8, 1]]


def test_the_system_says_how_long_threads_wait():
    found = threads._waited()
    assert all(seconds >= 0 for seconds in found.values())
