"""One small phantom data set goes from `plan` to `evaluate`, through the commands a user types."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest

import autoseg
from autoseg import cli, demo

SHORT = ["--set", "steps_per_epoch=4"]


def run(*arguments: object, code: int = 0) -> None:
    assert cli.main([str(word) for word in arguments]) == code


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """A data set of six phantoms, two more apart, a plan, and one trained fold."""
    root = tmp_path_factory.mktemp("road")
    demo.write_phantoms(root / "data", root / "new", training_cases=6, new_cases=2, seed=3)
    run("plan", root / "data", "-o", root / "workspace", "--device", "cpu")
    file = root / "workspace/plan.json"
    plan = read(file)
    full = plan["configurations"]["3d_fullres"]
    full |= {"features_per_stage": [max(4, width // 4) for width in full["features_per_stage"]], "predicted": None}  # seconds, not minutes
    file.write_text(json.dumps(plan))
    run("train", root / "workspace", "--fold", 0, "--epochs", 2, *SHORT, "--device", "cpu")
    return root


def test_plan_leaves_the_promised_files(road):
    workspace = road / "workspace"
    for name in ("dataset.json", "fingerprint.json", "plan.json", "splits.json"):
        assert (workspace / name).is_file()
    plan = read(workspace / "plan.json")
    assert {"format", "planner", "device", "channels", "labels", "configurations"} <= set(plan)
    for configuration in plan["configurations"].values():
        promised = "spacing median_shape patch_size batch_size strides kernel_sizes features_per_stage blocks_per_stage"
        promised += " decoder_blocks_per_stage network norm normalization batch_dice previous_stage predicted reasons"
        assert set(promised.split()) <= set(configuration)
        assert all(isinstance(sentence, str) for sentence in configuration["reasons"]) and configuration["reasons"]
    splits = read(workspace / "splits.json")
    assert len(splits) == 5
    assert sorted(name for split in splits for name in split["validation"]) == [f"phantom_{i:03d}" for i in range(6)]


def test_train_leaves_the_promised_files(road):
    folder = road / "workspace/runs/3d_fullres/fold_0"
    for name in ("model.safetensors", "model.json", "history.csv", "history.jsonl", "progress.png", "validation/summary.json"):
        assert (folder / name).is_file(), name
    summary = read(folder / "validation/summary.json")
    assert {"mean", "std", "n"} <= set(summary["labels"]["kidney_left"]["dice"])
    assert {case["case"] for case in summary["cases"]} == set(read(road / "workspace/splits.json")[0]["validation"])
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert not list((road / "workspace").rglob("*.pkl")) and not list((road / "workspace").rglob("*.pth"))


def test_train_again_does_nothing(road):
    weights = road / "workspace/runs/3d_fullres/fold_0/model.safetensors"
    before = weights.stat().st_mtime_ns
    run("train", road / "workspace", "--fold", 0, "--epochs", 2, *SHORT, "--device", "cpu")
    assert weights.stat().st_mtime_ns == before


def test_predict_and_evaluate_give_label_maps_on_the_grids_of_the_scans_and_a_summary(road):
    run("predict", road / "workspace", road / "new/images", "-o", road / "predictions", "--no-tta", "--device", "cpu")
    for scan_file in sorted((road / "new/images").iterdir()):
        scan, result = nibabel.load(scan_file), nibabel.load(road / "predictions" / scan_file.name)
        assert scan.shape == result.shape and np.array_equal(scan.affine, result.affine)
        for code in ("qform_code", "sform_code"):
            assert scan.header[code] == result.header[code]
        assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1, 2, 3}
    run("evaluate", road / "predictions", road / "new/labels", "-o", road / "summary.json")
    summary = read(road / "summary.json")
    assert [case["case"] for case in summary["cases"]] == ["phantom_006", "phantom_007"]
    assert set(summary["labels"]) == {"kidney_left", "kidney_right", "node"}


def test_predict_again_keeps_what_is_there_and_adds_what_is_missing(road):
    output = road / "again"
    run("predict", road / "workspace", road / "new/images", "-o", output, "--no-tta", "--device", "cpu")
    first, second = sorted(output.glob("*.nii.gz"))
    kept = first.stat().st_mtime_ns
    second.unlink()
    run("predict", road / "workspace", road / "new/images", "-o", output, "--no-tta", "--device", "cpu")
    assert first.stat().st_mtime_ns == kept and second.exists()


def test_one_scan_goes_into_one_file(road):
    scan = sorted((road / "new/images").iterdir())[0]
    run("predict", road / "workspace", scan, "-o", road / "one/result.nii.gz", "--no-tta", "--device", "cpu")
    assert nibabel.load(road / "one/result.nii.gz").shape == nibabel.load(scan).shape


def test_a_result_never_replaces_its_own_scan(road, capsys):
    scan = sorted((road / "new/images").iterdir())[0]
    before = scan.read_bytes()
    run("predict", road / "workspace", scan, "-o", scan, "--device", "cpu", code=2)
    run("predict", road / "workspace", scan, "-o", scan.parent, "--device", "cpu", code=2)
    assert scan.read_bytes() == before and "replace" in capsys.readouterr().err


def test_a_prediction_never_replaces_files_that_it_did_not_make(road, capsys):
    references = road / "references"
    references.mkdir()
    for label in (road / "new/labels").iterdir():
        (references / label.name).write_bytes(label.read_bytes())
    before = {path.name: path.read_bytes() for path in references.iterdir()}
    run("predict", road / "workspace", road / "new/images", "-o", references, "--no-tta", "--device", "cpu", code=2)
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in references.iterdir()} == before
    scan = sorted((road / "new/images").iterdir())[0]
    run("predict", road / "workspace", scan, "-o", references / scan.name, "--no-tta", "--device", "cpu", code=2)
    assert {path.name: path.read_bytes() for path in references.iterdir()} == before


def test_other_rules_make_earlier_results_stale(road):
    scan = sorted((road / "new/images").iterdir())[0]
    output = road / "rules"
    run("predict", road / "workspace", scan.parent, "-o", output, "--no-tta", "--device", "cpu")
    file = road / "workspace/postprocessing.json"
    before = file.read_bytes()
    rule = {"target": None, "keep_largest": False, "drop_below": 1e9, "evidence": None}
    file.write_text(json.dumps({"3d_fullres": {"format": 1, "rules": [rule]}}))
    run("predict", road / "workspace", scan.parent, "-o", output, "--no-tta", "--device", "cpu")
    assert not np.asarray(nibabel.load(output / scan.name).dataobj).any()
    file.write_bytes(before)


def test_uncertainty_and_probabilities_lie_on_the_grid_of_the_scan(road):
    scan = sorted((road / "new/images").iterdir())[0]
    target = road / "doubt/result.nii.gz"
    run(
        "predict",
        road / "workspace",
        scan,
        "-o",
        target,
        "--no-tta",
        "--uncertainty",
        "--probabilities",
        "--no-postprocess",
        "--device",
        "cpu",
    )
    result = np.asarray(nibabel.load(target).dataobj)
    doubt = nibabel.load(target.with_name("result_uncertainty.nii.gz"))
    chances = nibabel.load(target.with_name("result_probabilities.nii.gz"))
    assert doubt.shape == result.shape and np.array_equal(doubt.affine, nibabel.load(scan).affine)
    assert 0 <= np.asarray(doubt.dataobj).min() and np.asarray(doubt.dataobj).max() <= 1
    assert np.array_equal(np.asarray(chances.dataobj).argmax(axis=-1), result)


def test_a_broken_scan_among_good_ones_fails_alone(road):
    folder = road / "cohort"
    folder.mkdir()
    scans = sorted((road / "new/images").iterdir())
    for scan in scans:
        (folder / scan.name).write_bytes(scan.read_bytes())
    (folder / "broken.nii.gz").write_bytes(scans[0].read_bytes()[:3000])
    run("predict", road / "workspace", folder, "-o", road / "cohort-results", "--no-tta", "--device", "cpu", code=4)
    rows = list(csv.DictReader((road / "cohort-results/failed.csv").read_text().splitlines()))
    assert [(row["case"], row["stage"]) for row in rows] == [("broken", "read")] and rows[0]["reason"]
    assert {path.name for path in (road / "cohort-results").glob("phantom*.nii.gz")} == {scan.name for scan in scans}


def test_a_fold_that_is_not_trained_is_refused_with_the_ones_that_are(road, capsys):
    run("predict", road / "workspace", road / "new/images", "-o", road / "x", "--fold", 3, "--device", "cpu", code=3)
    assert "fold" in capsys.readouterr().err


def test_the_python_interface_gives_the_same_segmentation(road):
    scan = sorted((road / "new/images").iterdir())[0]
    run("predict", road / "workspace", scan, "-o", road / "same/result.nii.gz", "--no-tta", "--device", "cpu")
    expected = np.asarray(nibabel.load(road / "same/result.nii.gz").dataobj)
    model = autoseg.load(road / "workspace", device="cpu")
    loaded = nibabel.load(scan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so short a training finds volumes beyond those of the references
        for given in ((scan,), (loaded,), (np.asarray(loaded.dataobj), loaded.affine)):
            assert np.array_equal(model.predict(*given, tta=False), expected)


def test_a_plan_for_other_data_does_not_orphan_the_models(road, capsys):
    demo.write_phantoms(road / "other", road / "other-new", training_cases=3, new_cases=1, seed=9)
    before = (road / "workspace/plan.json").read_bytes()
    plan = read(road / "workspace/plan.json")
    plan["configurations"]["3d_fullres"]["batch_size"] += 1
    (road / "workspace/plan.json").write_text(json.dumps(plan))
    run("plan", road / "data", "-o", road / "workspace", "--device", "cpu", code=3)
    assert "--overwrite" in capsys.readouterr().err
    (road / "workspace/plan.json").write_bytes(before)


def test_other_folds_do_not_replace_those_of_trained_models(road, capsys):
    before = (road / "workspace/splits.json").read_bytes()
    run("plan", road / "data", "-o", road / "workspace", "--seed", 7, "--device", "cpu", code=3)
    assert (road / "workspace/splits.json").read_bytes() == before and "--overwrite" in capsys.readouterr().err


def test_a_plan_made_for_other_labels_is_refused(road, capsys):
    file = road / "workspace/plan.json"
    before = file.read_bytes()
    plan = read(file)
    plan["labels"]["kidney_left"], plan["labels"]["kidney_right"] = plan["labels"]["kidney_right"], plan["labels"]["kidney_left"]
    file.write_text(json.dumps(plan))
    run("train", road / "workspace", "--fold", 0, "--epochs", 2, *SHORT, "--device", "cpu", code=3)
    assert "labels" in capsys.readouterr().err
    file.write_bytes(before)


def test_training_killed_in_the_middle_goes_on_and_ends_with_a_valid_model(road):
    workspace = road / "workspace"
    folder = workspace / "runs/3d_fullres/fold_1"
    command = [sys.executable, "-m", "autoseg.cli", "train", str(workspace), "--fold", "1", "--epochs", "8", *SHORT, "--device", "cpu"]
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "2"})
    deadline = time.monotonic() + 120
    while not (folder / "history.jsonl").exists() or len((folder / "history.jsonl").read_text().splitlines()) < 2:
        assert training.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    training.send_signal(signal.SIGKILL)
    training.wait()
    assert not (folder / "validation/summary.json").exists()
    done = len((folder / "history.jsonl").read_text().splitlines())
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming after step" in again.stdout + again.stderr
    epochs = [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 9)) and done >= 2
    assert (folder / "validation/summary.json").exists()
    run("predict", workspace, road / "new/images", "-o", road / "both", "--no-tta", "--device", "cpu")


def test_training_that_is_told_to_stop_saves_says_so_and_ends_with_its_own_exit_code_within_seconds(road):
    folder = road / "workspace/runs/3d_fullres/fold_2"
    command = [sys.executable, "-m", "autoseg.cli", "train", str(road / "workspace"), "--fold", "2", "--epochs", "1000", *SHORT]
    training = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    deadline = time.monotonic() + 120
    while not (folder / "model.safetensors").exists():
        assert training.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    asked = time.monotonic()
    training.send_signal(signal.SIGTERM)
    _, told = training.communicate(timeout=60)
    assert training.returncode == 130 and time.monotonic() - asked < 20
    assert "stopped by SIGTERM" in told and "saved" in told and "run the same command again" in told and "Traceback" not in told
    assert list((folder / "state").iterdir()) and not (folder / "validation").exists()
    shutil.rmtree(folder)  # other tests go on with the folds that are finished
