"""A run that learned nothing ends with a warning that says why, and with exit code 4."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autoseg import cli
from autoseg.errors import NothingLearned
from autoseg.pipeline import validating
from autoseg.pipeline.planned import read_plan
from autoseg.pipeline.validating import require_learned
from autoseg.planning.configuration import Predicted
from autoseg.training.settings import read_settings
from autoseg.workspace import Workspace


def test_a_fold_below_the_limit_is_named_when_everything_is_written(workspace, capsys, monkeypatch):
    monkeypatch.setattr(validating, "NOTHING", 1.1)  # two seconds may be enough for a little, on a fast machine
    words = ["train", workspace, "--fold", 0, "--time-budget", "2s", "--device", "cpu", "--workers", 0]
    assert cli.main([str(word) for word in words]) == 4
    err = capsys.readouterr().err
    assert "learned next to nothing" in err and "--overwrite" in err and "3d_fullres/fold_0: mean Dice 0." in err
    assert (workspace / "runs/3d_fullres/fold_0/validation/summary.json").exists() and (workspace / "selection.json").exists()


def test_the_steps_done_and_planned_are_given(planned, tmp_path):
    row = {
        "epoch": 1,
        "step": 9,
        "elapsed": 600.0,
        "loss": 1.2,
        "seconds_per_step": 66.0,
        "data_wait": 0.1,
        "augmentation": 0.0,
        "memory": 1,
        "time_left": 0.0,
    }
    (tmp_path / "history.jsonl").write_text(json.dumps(row) + "\n")
    plan = read_plan(Workspace(root=planned))
    settings = read_settings(plan.settings)
    predicted = Predicted(parameters=1, seconds_per_epoch=0.35 * settings.steps_per_epoch)
    plan = replace(plan, configurations=tuple(replace(c, predicted=predicted) for c in plan.configurations))

    def ended(dice: float | None) -> None:
        summary = {"mean": {"dice": {"mean": dice, "std": None, "n": 1, "ci95": None}}}
        require_learned({"3d_fullres/fold_0": tmp_path}, {"3d_fullres/fold_0": summary}, plan, settings, 600.0)

    with pytest.raises(NothingLearned, match="learned next to nothing") as told:
        ended(0.0)
    assert told.value.found == "3d_fullres/fold_0: mean Dice 0.0000 out of fold after 9 steps, where about 1714 were planned for 10 min"
    ended(0.2)
    ended(None)  # no label occurs in the held-out cases: nothing is known
