"""A model file gives the label maps of its workspace, bit for bit, wherever it is."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pytest

import autoseg
from autoseg import cli, files, sharing
from autoseg.checksums import with_checksum
from autoseg.errors import MissingPath, ModelError, UsageError
from autoseg.pipeline import exporting, predicting
from autoseg.postprocessing import POSTPROCESSING_FORMAT
from tests.pipeline.heard import Heard
from tests.prediction.conftest import make_plan, make_workspace  # noqa: F401


@pytest.fixture
def place(tmp_path, make_plan, make_workspace):  # noqa: F811
    """A workspace with two folds of every configuration, and one scan with two channels."""
    make_workspace(make_plan(), folds=2, root=tmp_path / "workspace")
    rng = np.random.default_rng(3)
    (tmp_path / "scans").mkdir()
    for channel in range(2):
        scan = nibabel.Nifti1Image(rng.normal(0, 1, (14, 13, 12)).astype(np.float32), np.diag([1.1, 1, 3, 1]))
        nibabel.save(scan, tmp_path / f"scans/a_000{channel}.nii.gz")
    return tmp_path


def predicted(model: Path, place: Path, name: str, **options) -> tuple[bytes, dict]:
    made = predicting.predict(model, [place / "scans"], place / name, device="cpu", reporter=Heard(), **options)
    return (place / name / "a.nii.gz").read_bytes(), made


@pytest.mark.parametrize(
    ("configuration", "fold", "runs"),
    [
        ("3d_fullres", 1, ["3d_fullres/fold_1"]),
        ("2d", None, ["2d/fold_0", "2d/fold_1"]),
        ("3d_cascade", 0, ["3d_cascade/fold_0", "3d_lowres/fold_0", "3d_lowres/fold_1"]),
        (None, None, ["2d/fold_0", "2d/fold_1", "3d_fullres/fold_0", "3d_fullres/fold_1"]),  # what was selected
    ],
)
def test_label_maps_are_those_of_the_workspace_without_it(place, configuration, fold, runs):
    workspace = place / "workspace"
    files.write_json(workspace / "selection.json", with_checksum({"selected": "2d+3d_fullres"}))
    expected, _ = predicted(workspace, place, "expected", configuration=configuration, fold=fold)
    digest = exporting.export(workspace, place / "m.autoseg", configuration=configuration, fold=fold, reporter=Heard())
    weights = sum(path.stat().st_size for path in workspace.glob("runs/*/*/*.safetensors") if any(run in str(path) for run in runs))
    shutil.rmtree(workspace)
    (place / "elsewhere").mkdir()
    model = (place / "m.autoseg").rename(place / "elsewhere/other.autoseg")
    found, record = predicted(model, place, "found")
    assert found == expected and record["model_digest"] == digest == record["cases"]["a"]["model_digest"]
    names = [entry.name for entry in sharing.open_model_file(model).manifest.files if entry.name.startswith("runs/")]
    assert names == [f"runs/{run}/model.safetensors" for run in runs]
    assert model.stat().st_size < weights + 12_000  # manifest, card and plan; of a usual model less than 1 %


def test_the_same_workspace_gives_the_same_bytes_and_the_card_is_asked_for_once(place):
    workspace, heard = place / "workspace", Heard()
    one = exporting.export(workspace, place / "a.autoseg", configuration="2d", reporter=heard)
    assert any("the questions of the model card" in text for text in heard.said)
    assert exporting.export(workspace, place / "b.autoseg", configuration="2d", reporter=Heard()) == one
    assert (place / "a.autoseg").read_bytes() == (place / "b.autoseg").read_bytes()
    text = (workspace / "card.toml").read_text().replace('licence = ""', 'licence = "CC-BY-4.0"', 1)
    (workspace / "card.toml").write_text(text)
    assert tomllib.loads(text)["licence"] == "CC-BY-4.0"
    heard = Heard()
    assert exporting.export(workspace, place / "b.autoseg", configuration="2d", overwrite=True, reporter=heard) != one
    (note,) = [text for text in heard.said if "does not state" in text]
    assert " licence" not in note and "annotation" in note


def test_rules_and_labels_are_taken_from_the_model_file(place):
    workspace = place / "workspace"
    rule = {"target": "left", "keep_largest": True}
    files.write_json(workspace / "postprocessing.json", {"3d_fullres": {"format": POSTPROCESSING_FORMAT, "rules": [rule]}})
    expected, record = predicted(workspace, place, "expected", configuration="3d_fullres")
    exporting.export(workspace, place / "m.autoseg", configuration="3d_fullres", reporter=Heard())
    found, of_file = predicted(place / "m.autoseg", place, "found")
    assert found == expected and of_file["postprocessing"] == record["postprocessing"] is not None
    words = ["evaluate", place / "found/a.nii.gz", place / "expected/a.nii.gz", "--labels", place / "m.autoseg", "--json", place / "s.json"]
    assert cli.main([str(word) for word in words]) == 0
    assert list(json.loads((place / "s.json").read_text())["labels"]) == ["right", "left", "node"]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(place):
    workspace = place / "workspace"
    for output, options, error in (
        ("model.zip", {}, UsageError),
        ("m.autoseg", {"key": place / "nokey"}, MissingPath),
        ("m.autoseg", {"card": place / "nocard.toml"}, MissingPath),
        ("m.autoseg", {"fold": 7}, ModelError),
    ):
        with pytest.raises(error):
            exporting.export(workspace, place / output, reporter=Heard(), **options)
        assert not (place / output).exists()
    (place / "m.autoseg").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        exporting.export(workspace, place / "m.autoseg", reporter=Heard())
    assert (place / "m.autoseg").read_bytes() == b"mine"


def test_the_package_and_the_command_do_the_same(place, capsys):
    digest = autoseg.export(place / "workspace", place / "a.autoseg", configuration="2d", fold=0)
    words = ["export", place / "workspace", "-o", place / "b.autoseg", "-c", "2d", "-f", "0"]
    assert cli.main([str(word) for word in words]) == 0 and digest in capsys.readouterr().out
    model = autoseg.load(place / "a.autoseg", device="cpu")
    scan = [nibabel.load(place / f"scans/a_000{channel}.nii.gz") for channel in range(2)]
    array = np.stack([np.asarray(image.dataobj) for image in scan], axis=-1)
    assert model.predict(array, scan[0].affine).shape == (14, 13, 12) and model.model.digest == digest
