from dataclasses import replace

import pytest

from autoseg.planning.configuration import Predicted
from autoseg.training.length import RunLength
from autoseg.training.settings import read_settings
from autoseg.training.task import Progress, TrainingTask, draws, mirrors, plan_of
from autoseg.workspace import Run
from tests.training.made import make_case, make_plan


def make_task(root):
    plan, configuration = make_plan()
    return TrainingTask(
        plan=plan,
        configuration=configuration,
        fold=0,
        train_cases=(),
        validation_cases=(),
        run=Run(root=root),
    )


def test_images_are_mirrored_where_each_case_is_drawn_often_enough(tmp_path):
    cases = [make_case(f"c{i}", (6, 8, 8)) for i in range(10)]
    task = replace(make_task(tmp_path), train_cases=cases)
    settings = read_settings(task.plan.settings, {"steps_per_epoch": 25, "augmentation.mirror_from": 75})
    for epochs, expected in ((14, False), (15, True)):  # batch 2: 5 draws of each case per epoch
        longer = replace(task, length=RunLength(epochs=epochs))
        assert draws(longer, settings) == 5 * epochs and mirrors(longer, settings) is expected
    brief = replace(task, length=RunLength(epochs=1))
    assert mirrors(brief, read_settings(task.plan.settings, {"augmentation.mirror_axes": "left-right"}))
    assert not mirrors(
        replace(task, length=RunLength(epochs=1000)), read_settings(task.plan.settings, {"augmentation.mirror_axes": "none"})
    )
    planar = replace(brief, configuration=make_plan(name="2d", patch=(1, 8, 8))[1])
    assert draws(planar, settings) == 50 / 60
    predicted = Predicted(parameters=1, training_memory_bytes=1, seconds_per_epoch=500.0, forward_flops=1.0)  # of 250 steps
    timed = replace(task, length=RunLength(time_budget=60.0), configuration=replace(task.configuration, predicted=predicted))
    assert draws(timed, settings) == pytest.approx(60 / 2 * 2 / 10)
    edited = replace(  # the prediction is of 250 still
        task.plan,
        settings={**(task.plan.settings or {}), "steps_per_epoch": 25},
        planner_values={"training": {"steps_per_epoch": {"value": 250}}},
    )
    assert draws(replace(timed, plan=edited), settings) == draws(timed, settings)
    assert mirrors(replace(task, length=RunLength(time_budget=60.0)), settings), "how fast it is, is not known: the run may be long"


def test_a_run_without_mirror_images_has_a_plan_without_them(tmp_path):
    task = make_task(tmp_path)
    task = replace(task, plan=replace(task.plan, mirror_axes=(0, 2), swap_axis=2))
    assert plan_of(task, Progress(mirrors=True)) == task.plan
    without = plan_of(task, Progress(mirrors=False))
    assert without == replace(task.plan, mirror_axes=(), swap_axis=None)
