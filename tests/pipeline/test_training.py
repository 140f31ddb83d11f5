"""What `train` asks of the loop and does around it: the clock of each fold, its validation, and what is refused before any work."""

import json
from types import SimpleNamespace

import pytest

from autoseg import cli, demo
from autoseg.pipeline import training
from tests.pipeline.heard import Heard

SETTINGS = {"steps_per_epoch": 1, "probe_steps": 0}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Four phantoms in two folds, and a very small network."""
    root = tmp_path_factory.mktemp("training")
    demo.write_phantoms(root / "data", root / "new", training_cases=4, new_cases=0, seed=5)
    names = [f"phantom_{i:03d}" for i in range(4)]
    folds = [{"train": names[2:], "validation": names[:2]}, {"train": names[:2], "validation": names[2:]}]
    (root / "splits.json").write_text(json.dumps(folds))
    words = ["plan", root / "data", "-o", root / "workspace", "--splits", root / "splits.json", "--device", "cpu"]
    assert cli.main([str(word) for word in words]) == 0
    file = root / "workspace/plan.json"
    plan = json.loads(file.read_text())
    plan["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8],
        "blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2,
    }  # fmt: skip
    plan["mirror_axes"] = []
    file.write_text(json.dumps(plan))
    return root / "workspace"


def train(workspace, **options):
    """What was said."""
    heard = Heard()
    common = {"configuration": "3d_fullres", "device": "cpu", "workers": 0, "settings": SETTINGS, "epochs": 1, "listener": heard}
    training.train(workspace, **(common | options))
    return heard


def test_the_clock_of_each_fold_runs_from_the_end_of_the_one_before_and_that_of_the_first_from_the_call(workspace, monkeypatch):
    """On a clock of its own: preprocessing takes 30 s, opening a case 1 s, training and validation 107 s."""
    now, tasks = [1000.0], []

    def lasting(seconds, function):
        def call(*given, **named):
            now[0] += seconds
            return function(*given, **named)

        return call

    def loop_train(task, **given):
        tasks.append((task.started, now[0], task.time_budget))

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(training.loop, "train", loop_train)
    monkeypatch.setattr(training.store, "prepare_dataset", lasting(30.0, training.store.prepare_dataset))
    monkeypatch.setattr(training.store, "open_case", lasting(1.0, training.store.open_case))
    monkeypatch.setattr(training, "_validate_fold", lasting(107.0, lambda *given, **named: {}))
    monkeypatch.setattr(training, "select", lambda *given, **named: None)
    train(workspace, epochs=None, time_budget=60.0)
    assert tasks == [(1000.0, 1034.0, 60.0), (1141.0, 1145.0, 60.0)]
    train(workspace, fold=0, epochs=None, time_budget=60.0, started=900.0)
    assert tasks[-1][0] == 900.0
