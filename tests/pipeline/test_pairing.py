"""Pairs of configurations: predicted out of fold where that is missing, compared, chosen, and used by `predict` and `report`."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg import cli, files, images, networks, prediction
from autoseg.checksums import with_checksum, without_checksum
from autoseg.metrics import QUICK
from autoseg.networks import checkpoint
from autoseg.pipeline import pairing, selecting
from autoseg.pipeline.evaluating import score, write_summary
from autoseg.pipeline.planned import read_dataset, read_together
from autoseg.pipeline.reporter import NullReporter
from autoseg.workspace import Workspace

NAME = "2d+3d_fullres"
CASES = [f"phantom_{i:03d}" for i in range(4)]


def run(*arguments: object, code: int = 0) -> None:
    assert cli.main([str(word) for word in arguments]) == code


@pytest.fixture(scope="module", autouse=True)
def quick_metrics():
    """Surfaces of what random networks draw take long to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing.evaluation, "affordable_metrics", lambda *given: QUICK)
        yield


@pytest.fixture(scope="module")
def trained(workspace) -> Path:
    """Two folds of two configurations."""
    file = workspace / "plan.json"
    plan = json.loads(file.read_text())
    small = {
        name: plan["configurations"]["3d_fullres"][name] for name in ("features_per_stage", "blocks_per_stage", "decoder_blocks_per_stage")
    }
    plan["configurations"]["2d"] |= small | {"patch_size": [1, 32, 32], "strides": [[1, 1, 1], [1, 2, 2]], "kernel_sizes": [[1, 3, 3]] * 2,
                                             "predicted": None, "batch_size": 2}  # fmt: skip
    file.write_text(json.dumps(plan))
    for seed, name in enumerate(("2d", "3d_fullres")):
        for fold in range(2):
            finish(Workspace(root=workspace), name, fold, seed=10 * seed + fold)
    return workspace


def finish(workspace: Workspace, name: str, fold: int, *, seed: int) -> None:
    """Write what training and validating a fold leave behind; the network has random weights."""
    plan, dataset, splits = read_together(workspace)
    configuration, run = plan.configuration(name), workspace.run(name, fold)
    network = networks.build(configuration, channels=1, heads=plan.labels.output_channels, generator=torch.Generator().manual_seed(seed))
    checkpoint.save_model(run, network.state_dict(), {"plan": plan.to_json(), "configuration": name, "fold": fold})
    model = prediction.open_model(workspace.root, configuration=name, folds=(fold,), device="cpu")
    held_out = [case for case in dataset.cases if case.name in splits[fold]["validation"]]
    targets = {case.name: run.validation / f"{case.name}.nii.gz" for case in held_out}
    for case in held_out:
        image = images.read(case.images[0])
        images.write_label(targets[case.name], plan.labels.decode(prediction.segment(model, image).classes), like=image)
    summary = score(targets, held_out, plan.labels, parallel=0, reporter=NullReporter())
    write_summary(run.summary, summary | {"weights": files.hash_file(run.weights)})


@pytest.fixture(scope="module")
def selected(trained) -> Path:
    """The same, its pair compared."""
    select(trained)
    return trained


@pytest.fixture
def copied(selected, tmp_path) -> Path:
    """A copy for one test."""
    return shutil.copytree(selected, tmp_path / "workspace")


def select(folder: Path, *words: object) -> None:
    run("select", folder, "--device", "cpu", "--workers", 0, *words)


def selection(folder: Path) -> dict:
    return json.loads((folder / "selection.json").read_text())


def with_choice(folder: Path, name: str) -> None:
    """Have a selection name another choice, as better networks would have led to."""
    file = folder / "selection.json"
    file.write_text(json.dumps(with_checksum(without_checksum(json.loads(file.read_text())) | {"selected": name})))


def test_a_pair_is_compared_on_predictions_of_networks_that_have_not_seen_the_case(selected):
    row = selection(selected)["configurations"][NAME]
    assert row["cases"] == 4 and row["folds"] == ["2d/fold_0", "2d/fold_1", "3d_fullres/fold_0", "3d_fullres/fold_1"]
    works = {name: selection(selected)["configurations"][name]["work"] for name in ("2d", "3d_fullres", NAME)}
    assert works[NAME] == works["2d"] + works["3d_fullres"]
    assert {(d["first"], d["second"]) for d in selection(selected)["differences"]} == {
        ("2d", "3d_fullres"),
        ("2d", NAME),
        ("3d_fullres", NAME),
    }
    dataset = {case.name: case for case in read_dataset(Workspace(root=selected)).cases}
    for fold, name in ((0, CASES[0]), (1, CASES[3])):
        model = prediction.open_model(selected, configuration=NAME, folds=(fold,), device="cpu")
        expected = prediction.segment(model, images.read(dataset[name].images[0])).classes
        found = images.read_label(selected / f"runs/{NAME}/validation/{name}.nii.gz").array[0]
        assert np.array_equal(found, model.plan.labels.decode(expected)), "the fold in whose validation the case is"


def test_what_is_predicted_is_not_predicted_again(copied, capsys, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in (copied / f"runs/{NAME}/validation").iterdir()}
    monkeypatch.setattr(pairing, "_predict_case", None)
    for again in (lambda: select(copied), lambda: selecting.select(copied, pairs="predicted")):
        first = selection(copied)
        again()
        assert selection(copied) == first
    assert "predicted once more" not in capsys.readouterr().out
    now = {path.name: path.stat().st_mtime_ns for path in (copied / f"runs/{NAME}/validation").iterdir()}
    assert all(now[name] == time for name, time in before.items())


def test_only_what_a_damaged_file_or_another_network_made_wrong_is_predicted_again(copied, capsys, monkeypatch):
    folder = copied / f"runs/{NAME}/validation"
    whole = (folder / f"{CASES[0]}.nii.gz").read_bytes()
    (folder / f"{CASES[0]}.nii.gz").write_bytes(whole[:50])
    fold = Workspace(root=copied).run("2d", 1)
    weights, description = checkpoint.load_model(fold)
    checkpoint.save_model(fold, {name: 1.5 * values for name, values in weights.items()}, description)
    found = selecting.select(copied, pairs="predicted")
    assert NAME not in found["configurations"], "what train selects at its end predicts nothing, and takes no old pair"
    again = []
    original = pairing._predict_case
    monkeypatch.setattr(pairing, "_predict_case", lambda work, name, *rest: (again.append(name), original(work, name, *rest)))
    select(copied)
    assert sorted(again) == [CASES[0], *CASES[2:]] and (folder / f"{CASES[0]}.nii.gz").read_bytes() == whole
    assert "3 cases are predicted once more, 6 passes of a network in all" in capsys.readouterr().out


def test_no_pairs_predicts_nothing(copied, monkeypatch):
    monkeypatch.setattr(pairing, "_predict", None)
    select(copied, "--no-pairs")
    assert set(selection(copied)["configurations"]) == {"2d", "3d_fullres"}


def test_configurations_without_a_common_fold_are_not_compared_and_it_is_said_which_folds_there_are(copied, capsys):
    shutil.rmtree(copied / "runs/2d/fold_1")
    shutil.rmtree(copied / "runs/3d_fullres/fold_0")
    select(copied)
    text = capsys.readouterr().out
    assert f"{NAME} is not tried: its two configurations have 0 validated cases in common" in text
    assert "over 2 cases of fold_0" in text and "over 2 cases of fold_1" in text and "too few to compare" in text
    assert set(selection(copied)["configurations"]) == {"2d", "3d_fullres"}


def test_common_cases_are_named_where_one_configuration_has_more(copied, capsys, monkeypatch):
    monkeypatch.setattr(selecting.selection, "FEWEST", 2)
    monkeypatch.setattr(pairing, "FEWEST", 2)
    shutil.rmtree(copied / "runs/2d/fold_1")
    select(copied)
    differences = selection(copied)["differences"]
    assert {d["cases"] for d in differences} == {2} and differences[0]["named"] == CASES[:2]
    assert f"on 2 common cases ({CASES[0]}, {CASES[1]})" in capsys.readouterr().out
    assert selection(copied)["configurations"][NAME]["folds"] == ["2d/fold_0", "3d_fullres/fold_0"]


def test_a_stopped_select_goes_on_after_the_cases_that_are_predicted(copied, capsys, monkeypatch):
    shutil.rmtree(copied / f"runs/{NAME}")
    original, done = pairing._predict_case, []

    def stopped(*given):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(original(*given))

    monkeypatch.setattr(pairing, "_predict_case", stopped)
    run("select", copied, "--device", "cpu", "--workers", 0, code=130)
    assert len(list((copied / f"runs/{NAME}/validation").glob("*.nii.gz"))) == 3
    monkeypatch.setattr(pairing, "_predict_case", original)
    capsys.readouterr()
    select(copied)
    assert "1 cases are predicted once more, 2 passes" in capsys.readouterr().out and NAME in selection(copied)["configurations"]


def test_predict_and_report_use_a_selected_pair(copied, tmp_path, capsys):
    with_choice(copied, NAME)
    case = read_dataset(Workspace(root=copied)).cases[0]
    run("predict", copied, case.images[0], "-o", tmp_path / "chosen.nii.gz", "--device", "cpu")
    assert "the mean of 2d (the mean of folds 0, 1) and of 3d_fullres (the mean of folds 0, 1)" in capsys.readouterr().out
    run("predict", copied, case.images[0], "-o", tmp_path / "named.nii.gz", "-c", NAME, "--device", "cpu")
    run("predict", copied, case.images[0], "-o", tmp_path / "single.nii.gz", "-c", "2d", "--device", "cpu")
    chosen, named, single = (np.asarray(nibabel.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("chosen", "named", "single"))
    assert np.array_equal(chosen, named) and not np.array_equal(chosen, single)
    run("report", copied, "-o", tmp_path / "report.html", "--workers", 0)
    page = (tmp_path / "report.html").read_text()
    assert f"{NAME} reaches a mean Dice of" in page and "probabilities of these configurations were averaged" in page
    run("predict", copied, case.images[0], "-o", tmp_path / "x.nii.gz", "-c", "2d+4d", code=2)
    assert "found     4d" in capsys.readouterr().err
