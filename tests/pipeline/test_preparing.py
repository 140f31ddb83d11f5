"""What `plan` measures once, and what a plan must fit into before `train` begins."""

import contextlib
import json

import nibabel
import numpy as np
import pytest

from autoseg.cases import find
from autoseg.errors import NotEnough, SettingsError
from autoseg.pipeline import preparing, training
from autoseg.training.process_group import ProcessGroup
from tests.pipeline.heard import Heard


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image, label = rng.normal(100, 20, (12, 16, 14)).astype(np.float32), rng.integers(0, 2, (12, 16, 14)).astype(np.uint8)
        for path, array in ((f"imagesTr/{name}_0000.nii.gz", image), (f"labelsTr/{name}.nii.gz", label)):
            (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "data" / path)
    facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "thing": 1}, "numTraining": 3, "file_ending": ".nii.gz"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(facts))
    return tmp_path / "data"


def plan(data, **options):
    heard = Heard()
    workspace = preparing.plan(data, output=data.parent / "workspace", device="cpu", workers=0, reporter=heard, **options)
    return workspace, [*heard.about("fingerprint"), *heard.about("warning: fingerprint")]


def test_what_was_measured_is_used_again_until_a_file_changes(data):
    workspace, told = plan(data)
    first = workspace.fingerprint.read_bytes()
    assert told == []
    _, told = plan(data)
    assert len(told) == 1 and "used again" in told[0] and workspace.fingerprint.read_bytes() == first
    image = nibabel.load(data / "imagesTr/b_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32) + 50, image.affine), data / "imagesTr/b_0000.nii.gz")
    _, told = plan(data)
    assert told == ["fingerprint: measured again, since the files of case 'b' have changed"]
    changed = json.loads(workspace.fingerprint.read_text())
    assert changed["intensities"][0]["mean"] > json.loads(first)["intensities"][0]["mean"] + 10


def test_a_fingerprint_that_was_tampered_with_or_is_of_another_version_is_measured_anew(data):
    workspace, _ = plan(data)
    first = json.loads(workspace.fingerprint.read_text())
    for harm in ({"version": "0.0.1"}, {"format": 999}, {"intensities": [{**first["intensities"][0], "mean": 7.0}]}):
        workspace.fingerprint.write_text(json.dumps({**first, **harm}))
        _, told = plan(data)
        assert len(told) == 1 and "measured again" in told[0] and json.loads(workspace.fingerprint.read_text()) == first
    del first["checksum"]
    workspace.fingerprint.write_text(json.dumps(first))  # of an earlier version
    _, told = plan(data)
    assert len(told) == 1 and "used again" in told[0]
    _, told = plan(data, overwrite=True)
    assert told == []


def test_a_plan_edited_beyond_the_memory_is_refused_with_figures_before_training_begins(data):
    workspace, _ = plan(data)
    value = json.loads(workspace.plan.read_text())
    value["configurations"]["3d_fullres"]["batch_size"] = 10**8
    workspace.plan.write_text(json.dumps(value))
    with pytest.raises(NotEnough, match="more memory than there is") as refused:
        training.train(workspace, fold=0, epochs=1, device="cpu", workers=0)
    assert "batch 100000000" in str(refused.value) and "GB" in str(refused.value)
    assert not workspace.preprocessed("3d_fullres").exists()


def test_a_batch_that_the_processes_of_a_team_cannot_share_is_refused_before_anything_is_made(data, monkeypatch):
    workspace, _ = plan(data)
    three = contextlib.nullcontext(ProcessGroup(rank=0, size=3, device="cpu"))
    monkeypatch.setattr(training, "joined", lambda device: three)
    with pytest.raises(SettingsError, match="evenly"):
        training.train(workspace, fold=0, epochs=1, device="cpu", workers=0)
    assert not workspace.preprocessed("3d_fullres").exists()


def test_folds_that_cannot_be_trained_on_are_told_with_their_file(data, tmp_path):
    wrong = [{"train": ["a", "nobody"], "validation": ["b"]}]
    own = tmp_path / "mine.json"
    own.write_text(json.dumps(wrong))
    with pytest.raises(SettingsError, match="names a case that is not there") as caught:
        plan(data, splits=own)
    assert caught.value.file == str(own)
    workspace, _ = plan(data)
    workspace.splits.write_text(json.dumps(wrong))
    with pytest.raises(SettingsError, match="names a case that is not there") as caught:
        preparing.read_splits(workspace, preparing.read_dataset(workspace))
    assert caught.value.file == str(workspace.splits)


def test_the_memory_of_a_plan_counts_the_loss_it_will_train_with(data, tmp_path):
    """The Lovász loss sorts every voxel of every class, which the usual loss does not."""
    own = tmp_path / "own.toml"
    own.write_text('extends = "nnunet"\n[training.loss]\noverlap = { value = "lovasz", source = "test" }\n')
    taken = []
    for planner in ("nnunet", own):
        workspace, _ = plan(data, planner=planner)
        taken.append(preparing.read_plan(workspace).configuration("3d_fullres"))
    assert taken[0].patch_size == taken[1].patch_size
    assert taken[1].predicted.training_memory_bytes > taken[0].predicted.training_memory_bytes


def test_cases_in_no_fold_of_the_users_own_split_are_warned_of(data, tmp_path):
    first, second, *rest = [case.name for case in find(data).cases]
    (tmp_path / "mine.json").write_text(json.dumps([{"train": [first], "validation": [second]}]))
    heard = Heard()
    preparing.plan(data, output=tmp_path / "ws", device="cpu", workers=0, reporter=heard, splits=tmp_path / "mine.json")
    (warning,) = [line for line in heard.about("warning") if "in no fold" in line]
    assert f"{len(rest)} cases" in warning and rest[0] in warning
