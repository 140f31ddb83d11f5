"""All four configurations of one plan, the cascade last: it learns from predictions its first stage made out of fold."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg import cli, demo, files, images
from autoseg.checksums import with_checksum, without_checksum
from autoseg.preprocessing import store

SHORT = ["--set", "steps_per_epoch=2", "--epochs", "1", "--device", "cpu", "--workers", "0"]


def run(*arguments: object, code: int = 0) -> None:
    assert cli.main([str(word) for word in arguments]) == code


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """Four phantoms in two folds, and a plan to which a low resolution and a cascade were added by hand."""
    root = tmp_path_factory.mktemp("cascade")
    demo.write_phantoms(root / "data", root / "new", training_cases=4, new_cases=1, seed=5)
    names = [f"phantom_{i:03d}" for i in range(4)]
    folds = [{"train": names[2:], "validation": names[:2]}, {"train": names[:2], "validation": names[2:]}]
    (root / "splits.json").write_text(json.dumps(folds))
    run("plan", root / "data", "-o", root / "workspace", "--splits", root / "splits.json", "--device", "cpu")
    file = root / "workspace/plan.json"
    plan = json.loads(file.read_text())
    full = plan["configurations"]["3d_fullres"]
    small = {"patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8]}
    small |= {"blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2}
    full |= small
    plan["configurations"]["2d"] |= small | {"patch_size": [1, 32, 32], "strides": [[1, 1, 1], [1, 2, 2]], "kernel_sizes": [[1, 3, 3]] * 2}
    plan["configurations"]["3d_lowres"] = full | {"spacing": [2 * s for s in full["spacing"]]}
    plan["configurations"]["3d_cascade"] = full | {"previous_stage": "3d_lowres"}
    plan["mirror_axes"] = []  # a single pass per place in validation
    file.write_text(json.dumps(plan))
    run("train", root / "workspace", "--configuration", "all", *SHORT)
    return root


def test_every_configuration_is_trained_validated_and_predicts(road):
    for name in ("2d", "3d_lowres", "3d_fullres", "3d_cascade"):
        for fold in range(2):
            folder = road / "workspace/runs" / name / f"fold_{fold}"
            assert (folder / "model.safetensors").exists() and (folder / "validation/summary.json").exists()
        output = road / f"prediction_{name}"
        run("predict", road / "workspace", road / "new/images", "-o", output, "-c", name, "--no-tta", "--device", "cpu")
        (scan,) = (road / "new/images").iterdir()
        result = nibabel.load(output / scan.name)
        assert result.shape == nibabel.load(scan).shape and np.array_equal(result.affine, nibabel.load(scan).affine)


def test_the_cascade_has_input_channels_for_the_labels_of_the_first_stage(road):
    from safetensors.numpy import load_file

    plain = load_file(road / "workspace/runs/3d_fullres/fold_0/model.safetensors")
    cascade = load_file(road / "workspace/runs/3d_cascade/fold_0/model.safetensors")
    wider = {name: (plain[name].shape, cascade[name].shape) for name in plain if plain[name].shape != cascade[name].shape}
    assert list(wider.values()) == [((4, 1, 3, 3, 3), (4, 1 + 3, 3, 3, 3))]


def test_the_selection_compares_all_configurations(road):
    selection = json.loads((road / "workspace/selection.json").read_text())
    assert set(selection["configurations"]) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade"}
    assert selection["selected"] in selection["configurations"]
    assert all(row["cases"] == 4 for row in selection["configurations"].values())
    assert len(selection["differences"]) == 6 and {pair["cases"] for pair in selection["differences"]} == {4}
    assert selection["selected"] in selection["reasons"][-1]


def test_only_common_cases_are_compared_also_with_another_workspace(road, tmp_path, capsys):
    import shutil

    folds = json.loads((road / "workspace/splits.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(road / "workspace", other)
    for fold in range(1, len(folds)):
        shutil.rmtree(other / f"runs/2d/fold_{fold}")
    shutil.rmtree(other / "runs/3d_fullres/fold_0")
    run("select", other, "--against", road / "workspace")
    text = capsys.readouterr().out
    selection = json.loads((other / "selection.json").read_text())
    common = {frozenset((pair["first"], pair["second"])): pair["cases"] for pair in selection["differences"]}
    assert common[frozenset(("2d", "3d_fullres"))] == 0
    assert common[frozenset(("2d", "workspace/2d"))] == len(folds[0]["validation"])
    assert "2d and 3d_fullres have 0 validated cases in common: too few to compare them" in text
    assert selection["selected"] in selection["configurations"], "predict uses a configuration of this workspace"
    scan = next((road / "new/images").iterdir())
    run("predict", other, scan, "-o", tmp_path / "seg.nii.gz", "--no-tta", "--device", "cpu")


def test_a_missing_fold_of_the_first_stage_is_trained_before_the_cascade(road, capsys):
    import shutil

    for folder in ("runs/3d_lowres/fold_1", "runs/3d_cascade/fold_0"):
        shutil.rmtree(road / "workspace" / folder)
    run("train", road / "workspace", "--configuration", "3d_cascade", "--fold", 0, *SHORT)
    assert "missing: 1" in capsys.readouterr().out
    assert (road / "workspace/runs/3d_lowres/fold_1/validation/summary.json").exists()
    assert (road / "workspace/runs/3d_cascade/fold_0/validation/summary.json").exists()


def test_a_prediction_of_the_first_stage_that_is_gone_is_made_again(road):
    lost = road / "workspace/runs/3d_lowres/fold_0/validation/phantom_001.nii.gz"
    before = lost.read_bytes()
    lost.unlink()
    run("train", road / "workspace", "--configuration", "3d_cascade", "--fold", 0, *SHORT)
    assert lost.read_bytes() == before


def test_a_cascade_does_not_go_on_with_another_first_stage(road, capsys):
    summary = road / "workspace/runs/3d_lowres/fold_1/validation/summary.json"
    before = summary.read_text()
    trained_again = without_checksum(json.loads(before)) | {"weights": "0" * 64}
    summary.write_text(json.dumps(with_checksum(trained_again)))
    run("train", road / "workspace", "--configuration", "3d_cascade", "--fold", 0, *SHORT, code=3)
    assert "other weights in fold_1" in capsys.readouterr().err
    summary.write_text(before)


def test_the_cascade_is_trained_on_out_of_fold_predictions_of_the_first_stage(road, monkeypatch):
    """Planted: other predictions of the first stage must reach the second as its previous map."""
    from autoseg.pipeline import training

    seen = {}
    original = training.loop.train

    def spy(task, **given):
        if task.previous is not None:
            seen.update(task.previous)
        return original(task, **given)

    monkeypatch.setattr(training.loop, "train", spy)
    planted = road / "workspace/runs/3d_lowres/fold_0/validation/phantom_000.nii.gz"
    scan, reference = (images.read(road / f"data/{folder}/phantom_000.nii.gz") for folder in ("imagesTr", "labelsTr"))
    exchanged = np.array([0, 3, 1, 2], dtype=np.uint8)  # the reference's shapes, under other labels
    images.write_label(planted, exchanged[reference.array[0].astype(int)], like=scan)
    summary = planted.with_name("summary.json")
    scored = without_checksum(json.loads(summary.read_text()))
    scored["predictions"]["phantom_000"] = files.hash_file(planted)
    summary.write_text(json.dumps(with_checksum(scored)))
    run("train", road / "workspace", "--configuration", "3d_cascade", "--fold", 0, "--overwrite", *SHORT)
    assert set(seen) == {f"phantom_{i:03d}" for i in range(4)}
    expected = exchanged[store.open_case(road / "workspace/preprocessed/3d_fullres", "phantom_000").label()]
    assert len(set(expected.shape)) == 3 and set(np.unique(expected)) == {0, 1, 2, 3}
    assert np.array_equal(seen["phantom_000"], expected)
