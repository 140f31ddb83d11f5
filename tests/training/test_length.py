import pytest

from autoseg import presets
from autoseg.training.length import RunLength
from autoseg.training.settings import read_settings

SETTINGS = read_settings(presets.planner("default").values["training"], {"epochs": 7, "steps_per_epoch": 10})


def test_a_run_of_epochs_is_over_after_its_steps_however_long_they_take():
    length = RunLength(epochs=20).of(SETTINGS)
    assert [length.progress(step=s, elapsed=1e9) for s in (0, 50, 200, 300)] == [0, 0.25, 1, 1]
    assert length.time_left(step=150, elapsed=3.0, seconds_per_step=2.0) == 100


def test_a_time_budget_keeps_the_reserve_for_the_final_validation():
    length = RunLength(time_budget=100, reserve=20).of(SETTINGS)
    assert [length.progress(step=7, elapsed=t) for t in (0, 40, 80, 90)] == [0, 0.5, 1, 1]
    assert length.time_left(step=7, elapsed=50, seconds_per_step=2.0) == 30


def test_epochs_come_before_a_time_budget_and_that_before_the_epochs_of_the_settings():
    assert RunLength().of(SETTINGS).steps == 70 and RunLength().of(SETTINGS).seconds is None
    assert RunLength(epochs=3, time_budget=60.0).of(SETTINGS).steps == 30
    timed = RunLength(time_budget=60.0).of(SETTINGS)
    assert timed.steps is None and timed.seconds == 60.0


@pytest.mark.parametrize("waited", [0.0, 100.0, 400.0, 4000.0])
@pytest.mark.parametrize("reserve", [1.0, 200.0, 4000.0])
def test_a_quarter_of_a_time_budget_goes_into_steps_whatever_else_takes_long(waited, reserve):
    length = RunLength(time_budget=600.0, started=1000.0, reserve=reserve).of(SETTINGS)
    for _ in range(3):  # prepared, stopped and prepared again
        length = length.with_preparation(1000.0 + waited)
    assert length.elapsed == length.prepared == min(3 * waited, 300)
    assert length.progress(step=0, elapsed=length.elapsed + 149) < 1
    assert length.progress(step=0, elapsed=max(length.elapsed + 301 - length.prepared / 2, 601 - reserve)) >= 1


@pytest.mark.parametrize("length", [RunLength(epochs=3, started=0.0), RunLength(time_budget=600.0), RunLength(started=0.0)])
def test_preparation_counts_only_for_a_time_budget_whose_clock_is_running(length):
    assert length.of(SETTINGS).with_preparation(100.0) == length.of(SETTINGS)
