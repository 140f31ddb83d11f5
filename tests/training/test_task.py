import time
from dataclasses import replace

import pytest

from autoseg.training.settings import read_settings
from autoseg.training.task import Progress, TrainingTask, budget_of, preparation
from autoseg.workspace import Run
from tests.training.made import make_plan


def make_task(root, *, waited=0.0):
    plan, configuration = make_plan()
    started = time.monotonic() - waited
    return TrainingTask(
        plan=plan,
        configuration=configuration,
        fold=0,
        train_cases=(),
        validation_cases=(),
        run=Run(root=root),
        time_budget=600.0,
        started=started,
    )


@pytest.mark.parametrize("waited", [0.0, 100.0, 400.0, 4000.0])
@pytest.mark.parametrize("reserve", [1.0, 200.0, 4000.0])
def test_a_quarter_of_a_time_budget_goes_into_steps_whatever_else_takes_long(tmp_path, waited, reserve):
    task, progress = make_task(tmp_path, waited=waited), Progress(reserve=reserve)
    settings = read_settings(task.plan.settings)
    for _ in range(3):  # prepared, stopped and prepared again
        prepared = preparation(task, progress)
        progress.prepared += prepared
        progress.elapsed += prepared
    assert progress.elapsed == pytest.approx(min(3 * waited, 300), abs=1)
    budget = budget_of(task, settings, progress)
    assert budget.progress(step=0, elapsed=progress.elapsed + 149) < 1
    assert budget.progress(step=0, elapsed=max(progress.elapsed + 301 - progress.prepared / 2, 601 - reserve)) >= 1


def test_epochs_are_no_matter_of_preparation(tmp_path):
    task = replace(make_task(tmp_path, waited=100.0), epochs=3)
    settings = read_settings(task.plan.settings)
    assert preparation(task, Progress()) == 0
    assert budget_of(task, settings, Progress()).steps == 3 * settings.steps_per_epoch
