"""Folds side by side: a process and a device for each, one failure takes no other with it, none outlives who started it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from autoseg import machine
from autoseg.errors import SettingsError, TrainingFailed
from autoseg.pipeline import parallel_folds, training
from tests.pipeline.heard import Heard


def test_all_folds_are_trained_at_once_where_there_are_several_devices(workspace, monkeypatch):
    monkeypatch.setattr(machine, "choose_devices", lambda wanted: ("cpu", "cpu"))
    heard = Heard()
    settings = {"steps_per_epoch": 2, "augmentation.mirror": 0.0, "optimizer.nesterov": False}
    results = training.train(workspace, configuration="3d_fullres", epochs=1, settings=settings, workers=0, seed=3, reporter=heard)
    assert heard.said[:2] == ["fold 0 on cpu", "fold 1 on cpu"]
    assert list(results) == ["3d_fullres/fold_0", "3d_fullres/fold_1"] and all(len(summary["cases"]) == 2 for summary in results.values())
    for fold in range(2):
        model = json.loads((workspace / f"runs/3d_fullres/fold_{fold}/model.json").read_text())
        assert model["finished"] and model["steps"] == 2 and model["seed"] == 3
        assert any(f"3d_fullres fold_{fold}: mean Dice" in line for line in heard.said)
    assert (workspace / "selection.json").exists()
    assert sum("out-of-fold Dice" in line for line in heard.said) == 1  # chosen once, when all were there


def test_a_fold_that_fails_is_named_and_the_others_finish(workspace):
    heard = Heard()
    commands = {0: ["train", "nowhere"], 1: ["train", "--help"], 2: ["train", "--help"]}
    with pytest.raises(TrainingFailed, match="1 of 3 folds") as failed:
        parallel_folds.train_folds(commands, devices=("cpu",), reporter=heard)
    assert "fold 0: exit code 3" in str(failed.value)
    assert "no such file" in failed.value.details["fold 0"] and "nowhere" in str(failed.value)
    assert sum("Usage: autoseg train" in line for line in heard.said) == 2


def test_what_was_prepared_before_counts_for_the_folds_that_begin_first(monkeypatch):
    begun, start = {}, parallel_folds._start

    def spy(arguments, fold, lines, *, shared_by):
        begun[fold] = float(arguments[arguments.index("--time-spent") + 1]) if "--time-spent" in arguments else None
        return start(["--version"], fold, lines, shared_by=shared_by)

    monkeypatch.setattr(parallel_folds, "_start", spy)
    parallel_folds.train_folds({k: ["train"] for k in range(3)}, devices=("cpu", "cpu"), started=time.monotonic() - 40, reporter=Heard())
    assert begun == {0: pytest.approx(40, abs=1), 1: pytest.approx(40, abs=1), 2: None}


def test_a_fold_stops_when_the_process_that_started_it_is_gone():
    program = "from autoseg.pipeline import parallel_folds; import time; parallel_folds.follow(); print('here', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"here\n"
    child.stdin.close()  # as the system does when the starting process dies
    assert child.wait(20) == -signal.SIGTERM
    child.stdout.close()


def test_every_card_takes_part_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(machine, "_cards", lambda: 3)
    assert machine.choose_devices("auto") == machine.choose_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert machine.choose_devices("cuda:1") == ("cuda:1",) and machine.choose_devices("cuda:0") == ("cuda:0",)
    assert machine.choose_devices("cpu") == ("cpu",)
    with pytest.raises(SettingsError):
        machine.choose_devices("cuda:3")
