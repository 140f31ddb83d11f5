"""What `train` asks of the loop and does around it: the clock of each fold, its validation, and what is refused before any work."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from autoseg.checksums import with_checksum, without_checksum
from autoseg.errors import MissingPath, SettingsError
from autoseg.networks import checkpoint
from autoseg.pipeline import training, validating
from autoseg.training.length import RunLength
from autoseg.workers import python_command
from tests.pipeline.heard import Heard

SETTINGS = {"steps_per_epoch": 1, "probe_steps": 0}


def train(workspace, **options):
    """What was said."""
    heard = Heard()
    common = {"configuration": "3d_fullres", "device": "cpu", "workers": 0, "settings": SETTINGS, "epochs": 1, "reporter": heard}
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
        tasks.append((task.length.started, now[0], task.length.time_budget))

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(training.loop, "train", loop_train)
    monkeypatch.setattr(training.store, "preprocess_dataset", lasting(30.0, training.store.preprocess_dataset))
    monkeypatch.setattr(training.store, "open_case", lasting(1.0, training.store.open_case))
    monkeypatch.setattr(
        training,
        "validate_fold",
        lasting(107.0, lambda *given, **named: {"mean": {"dice": {"mean": 0.9, "std": None, "n": 1, "ci95": None}}}),
    )
    monkeypatch.setattr(training, "select", lambda *given, **named: None)
    train(workspace, epochs=None, time_budget=60.0)
    assert tasks == [(1000.0, 1034.0, 60.0), (1141.0, 1145.0, 60.0)]
    train(workspace, fold=0, epochs=None, time_budget=60.0, started=900.0)
    assert tasks[-1][0] == 900.0


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it and tidy up."""


@pytest.fixture
def final(monkeypatch):
    """Names of the cases that the final validation predicts; with `final.killed_at` so many it ends before that one is done."""
    whole, names = validating.prediction.segment_preprocessed, SimpleNamespace(seen=[], killed_at=None)

    def segment(network, case, *, tta, **named):
        names.seen += [case.name] if tta else []
        if tta and len(names.seen) == names.killed_at:
            raise Killed
        return whole(network, case, tta=tta, **named)

    monkeypatch.setattr(validating.prediction, "segment_preprocessed", segment)
    return names


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_final_validation_that_was_killed_goes_on_with_the_next_case_and_ends_as_if_undisturbed(workspace, final):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0)
    undisturbed = contents(run.validation)
    of_cases = {f"phantom_00{i}.{suffix}" for i in range(2) for suffix in ("nii.gz", "confidence.json")}
    assert set(undisturbed) == of_cases | {"summary.json", "summary.csv", "predicted_with.json"}
    training.files.remove_tree(run.validation)
    final.seen, final.killed_at = [], 2
    with pytest.raises(Killed):
        train(workspace, fold=0)
    assert set(contents(run.validation)) == {"phantom_000.nii.gz", "phantom_000.confidence.json", "predicted_with.json"}
    (run.validation / ".writing-17-phantom_001.nii.gz").write_bytes(b"half")
    final.seen, final.killed_at = [], None
    said = train(workspace, fold=0).said
    assert final.seen == ["phantom_001"] and "validate 3d_fullres fold_0: continuing after 1 of 2 cases" in said
    assert contents(run.validation) == undisturbed
    (run.validation / "phantom_000.nii.gz").unlink()  # lost: this one alone is made again
    final.seen = []
    train(workspace, fold=0)
    assert final.seen == ["phantom_000"] and contents(run.validation) == undisturbed
    final.seen = []
    train(workspace, fold=0)
    assert final.seen == []


def test_predictions_of_other_weights_or_by_other_means_are_all_made_anew(workspace, final):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0)
    for harm in ("device", "damaged", "weights"):
        if harm == "device":
            record = json.loads(run.predicted_with.read_text())
            run.predicted_with.write_text(json.dumps(record | {"device": "cuda"}))
        elif harm == "damaged":
            run.predicted_with.write_text("{")
        run.summary.unlink()
        final.seen = []
        train(workspace, fold=0, epochs=2 if harm == "weights" else 1)  # a longer run ends with other weights
        assert final.seen == ["phantom_000", "phantom_001"]
        weights = training.files.hash_file(run.weights)
        assert weights == json.loads(run.summary.read_text())["weights"] == json.loads(run.predicted_with.read_text())["weights"]


def test_scores_that_were_changed_are_reported_and_made_again(workspace, final):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0)
    before = run.summary.read_bytes()
    for harm in (before.replace(b'"dice": ', b'"dice": 0.', 1), b"{", b"\xff\xfe"):
        run.summary.write_bytes(harm)
        final.seen = []
        assert len(train(workspace, fold=0).about(f"warning: {run.summary} is made again")) == 1
        assert run.summary.read_bytes() == before and final.seen == []


def test_a_prediction_that_was_damaged_after_it_was_scored_is_made_again(workspace, final):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0)
    target = run.validation / "phantom_001.nii.gz"
    before = target.read_bytes()
    target.write_bytes(before[:-20])
    final.seen = []
    said = train(workspace, fold=0).said
    assert final.seen == ["phantom_001"] and target.read_bytes() == before
    assert not [line for line in said if "nothing selected" in line]


def test_a_kept_prediction_keeps_the_spacing_that_lies_beside_it(tmp_path):
    run = validating.Run(root=tmp_path)
    run.validation.mkdir()
    how = {"weights": "these"}
    training.files.write_json(run.predicted_with, how)
    for name in ("a.tif", "a.json", "c.json", ".writing-1-b.tif"):
        (run.validation / name).write_bytes(b"-")
    targets = {name: run.validation / f"{name}.tif" for name in "abc"}
    assert validating._kept_predictions(run, how, targets) == {targets["a"]}
    assert {path.name for path in run.validation.iterdir()} == {"a.tif", "a.json", run.predicted_with.name}


@pytest.mark.parametrize(("seconds", "late"), [(8.0, False), (40.0, True)])
def test_a_final_validation_longer_than_what_is_left_of_the_time_budget_is_told_once_with_figures(workspace, monkeypatch, seconds, late):
    """On a clock of its own: the training took 45 s of 60, every case takes as long as given."""
    run, now = training.Workspace(root=workspace).run("3d_fullres", 0), [0.0]
    train(workspace, fold=0)
    description = without_checksum(json.loads(run.description.read_text()))
    whole = validating.prediction.segment_preprocessed

    def segment(*given, **named):
        now[0] += seconds
        return whole(*given, **named)

    def finished(task, **given):
        run.description.write_text(json.dumps(with_checksum(without_checksum(description) | {"seconds": 45.0})))
        return trained(replace(task, length=RunLength(epochs=1)), **given)

    trained = training.loop.train
    monkeypatch.setattr(training.loop, "train", finished)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(validating, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(validating.prediction, "segment_preprocessed", segment)
    monkeypatch.setattr(training, "require_learned", lambda *given: None)  # one step teaches nothing
    run.predicted_with.unlink()
    run.summary.unlink()
    told = train(workspace, fold=0, epochs=None, time_budget=60.0).about("warning: validate 3d_fullres fold_0 takes about")
    assert len(told) == late
    if late:
        folder = training.Workspace(root=workspace).preprocessed("3d_fullres")
        first, second = (math.prod(training.store.open_case(folder, f"phantom_00{i}").shape) for i in range(2))
        assert validating.format_duration(40.0 * (first + second) / first) in told[0]
        assert "15 s are left of the time budget of 1 min" in told[0] and "--time-budget" in told[0]


def test_validation_cases_in_which_no_label_occurs_have_no_mean_dice(workspace, monkeypatch):
    found = []
    monkeypatch.setattr(training.loop, "train", lambda task, *, validate, **given: found.append(validate(None, task.validation_cases)))
    monkeypatch.setattr(training, "validate_fold", lambda *given, **named: {})
    monkeypatch.setattr(training, "select", lambda *given, **named: None)
    monkeypatch.setattr(
        validating.prediction, "segment_preprocessed", lambda network, case, **named: np.zeros(case.geometry.canonical_shape, int)
    )
    monkeypatch.setattr(validating.cases, "load_classes", lambda case, labels: np.zeros(training.images.read(case.images[0]).shape, int))
    train(workspace, fold=0)
    assert found == [None]


@pytest.fixture
def no_work(monkeypatch):
    """Whatever begins to work fails."""
    monkeypatch.delattr(training.store, "preprocess_dataset")


def test_deterministic_numbers_need_epochs_and_the_plan_is_named_where_it_is_the_one_with_a_time_budget(workspace, no_work):
    with pytest.raises(SettingsError, match="a time budget ends") as refused:
        train(workspace, epochs=None, deterministic=True)
    assert "plan that gives each fold 10 min" in refused.value.found and "--epochs N" in refused.value.fix
    with pytest.raises(SettingsError, match="a time budget ends") as refused:
        train(workspace, epochs=None, time_budget=60.0, deterministic=True)
    assert refused.value.found == "--deterministic with --time-budget"


def test_batchgenerators_is_asked_for_before_any_work(workspace, no_work, monkeypatch):
    monkeypatch.setitem(sys.modules, "batchgenerators.transforms.color_transforms", None)  # as where it is not installed
    with pytest.raises(SettingsError, match="batchgenerators is not installed"):
        train(workspace, settings=SETTINGS | {"augmentation.backend": "batchgenerators"})


@pytest.mark.parametrize("name", ["epochs", "training.epochs"])
def test_epochs_as_a_setting_are_those_of_the_option(workspace, monkeypatch, name):
    tasks = []
    monkeypatch.setattr(training, "_train_configuration", lambda work, *given, **named: tasks.append(work) or {})
    monkeypatch.setattr(training, "select", lambda *given, **named: None)
    said = train(workspace, epochs=None, settings=SETTINGS | {name: "7"}, deterministic=True).said
    assert tasks[0].length.epochs == 7 and tasks[0].length.time_budget is None and said == []
    train(workspace, epochs=7, settings=SETTINGS | {name: 7})
    for other in ({"epochs": 8}, {"epochs": None, "time_budget": 60.0}):
        with pytest.raises(SettingsError, match="several lengths") as refused:
            train(workspace, settings=SETTINGS | {name: 7}, **other)
        assert f"--set {name}" in refused.value.found
    with pytest.raises(SettingsError, match="several lengths"):
        train(workspace, epochs=7, time_budget=60.0)
    assert len(tasks) == 2


def test_a_finished_model_without_its_state_is_validated_but_not_trained_over(workspace, final, monkeypatch):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0, overwrite=True)
    weights, scored = run.weights.read_bytes(), run.summary.read_bytes()
    training.files.remove_tree(run.state)
    run.summary.unlink()
    monkeypatch.setattr(training.loop, "train", None)
    said = train(workspace, fold=0).said
    assert [line for line in said if "its training state is gone" in line]
    assert run.weights.read_bytes() == weights and run.summary.read_bytes() == scored
    with pytest.raises(SettingsError, match="cannot be trained longer without its training state"):
        train(workspace, fold=0, epochs=3)
    assert run.weights.read_bytes() == weights
    monkeypatch.undo()
    train(workspace, fold=0, epochs=2, overwrite=True)
    assert run.weights.read_bytes() != weights


def test_an_unfinished_model_without_its_state_begins_again_and_says_so(workspace, monkeypatch):
    run = training.Workspace(root=workspace).run("3d_fullres", 0)
    train(workspace, fold=0, overwrite=True)
    weights, description = checkpoint.load_model(run)
    checkpoint.save_model(run, weights, description | {"finished": False})
    training.files.remove_tree(run.state)
    assert train(workspace, fold=0).about("warning: the training state of 3d_fullres fold 0 is gone")


def test_nothing_is_read_where_nothing_could_be_written(workspace, monkeypatch):
    def refuse(folder):
        raise MissingPath("nothing can be written there", file=folder)

    monkeypatch.setattr(training.files, "require_writable", refuse)
    monkeypatch.setattr(training, "read_together", None)
    with pytest.raises(MissingPath, match="nothing can be written"):
        train(workspace, fold=0)


def test_two_folds_started_at_once_on_a_fresh_workspace_both_finish_and_prepare_the_cases_once(planned, tmp_path):
    root = shutil.copytree(planned, tmp_path / "fresh")
    words = [
        "train",
        str(root),
        "--epochs",
        "1",
        "--set",
        "steps_per_epoch=1",
        "--set",
        "probe_steps=0",
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    both = [
        subprocess.Popen(python_command("from autoseg.cli import main; sys.exit(main())", *words, "--fold", str(fold)),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for fold in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = [path.stat().st_mtime for path in root.glob("preprocessed/3d_fullres/*/image.b2nd")]
    assert len(made) == 4 and sum("waiting for it" in text for text in said) <= 1
    assert all((root / f"runs/3d_fullres/fold_{fold}/validation/summary.json").exists() for fold in range(2))
