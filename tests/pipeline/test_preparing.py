"""What `plan` measures once, and what a plan must fit into before `train` begins."""

import contextlib
import functools
import json
import shutil

import nibabel
import numpy as np
import pytest

from autoseg import locks, machine
from autoseg.cases import find
from autoseg.checksums import without_checksum
from autoseg.errors import MissingPath, NotEnough, SettingsError, UsageError
from autoseg.pipeline import planned, preparing, training
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
    usual = {"output": data.parent / "workspace", "device": "cpu", "workers": 0, "reporter": heard}
    workspace = preparing.plan(data, **(usual | options))
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
    value["configurations"]["3d_fullres"]["batch_size"] = 10**6
    workspace.plan.write_text(json.dumps(value))
    with pytest.raises(NotEnough, match="more memory than there is") as refused:
        training.train(workspace, fold=0, epochs=1, device="cpu", workers=0)
    assert "batch 1000000" in str(refused.value) and "GB" in str(refused.value)
    assert not workspace.preprocessed("3d_fullres").exists()


def test_a_network_next_to_a_plans_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a plans file says which network"):
        preparing.plan(tmp_path, planner=tmp_path / "nnUNetPlans.json", network="v-net")


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
        planned.read_splits(workspace, planned.read_dataset(workspace))
    assert caught.value.file == str(workspace.splits)


def test_the_memory_of_a_plan_counts_the_loss_it_will_train_with(data, tmp_path):
    """The Lovász loss sorts every voxel of every class, which the usual loss does not."""
    own = tmp_path / "own.toml"
    own.write_text('extends = "nnunet"\n[training.loss]\noverlap = { value = "lovasz", source = "test" }\n')
    taken = []
    for planner in ("nnunet", own):
        workspace, _ = plan(data, planner=planner)
        taken.append(planned.read_plan(workspace).configuration("3d_fullres"))
    assert taken[0].patch_size == taken[1].patch_size
    assert taken[1].predicted.training_memory_bytes > taken[0].predicted.training_memory_bytes


def test_cases_in_no_fold_of_the_users_own_split_are_warned_of(data, tmp_path):
    first, second, *rest = [case.name for case in find(data).cases]
    (tmp_path / "mine.json").write_text(json.dumps([{"train": [first], "validation": [second]}]))
    heard = Heard()
    preparing.plan(data, output=tmp_path / "ws", device="cpu", workers=0, reporter=heard, splits=tmp_path / "mine.json")
    (warning,) = [line for line in heard.about("warning") if "in no fold" in line]
    assert f"{len(rest)} cases" in warning and rest[0] in warning


def test_the_workspace_of_another_data_set_is_not_replaced_without_being_asked(data, tmp_path):
    workspace, _ = plan(data)
    before = workspace.plan.read_bytes()
    moved = shutil.copytree(data, tmp_path / "moved")
    other = shutil.copytree(data, tmp_path / "other")
    for path in [*other.glob("imagesTr/*"), *other.glob("labelsTr/*")]:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), path)
    with pytest.raises(SettingsError, match="that of another data set") as caught:
        plan(other, output=workspace.root)
    assert str(data) in str(caught.value) and "--overwrite" in str(caught.value) and workspace.plan.read_bytes() == before
    plan(moved, output=workspace.root)  # the same files in another place
    plan(other, output=workspace.root, overwrite=True)
    assert json.loads(workspace.dataset.read_text())["root"] == str(other)


def test_a_plan_edited_by_hand_is_not_replaced_without_being_asked(data):
    workspace, _ = plan(data)
    written = workspace.plan.read_text()
    value = json.loads(written)
    value["configurations"]["2d"]["batch_size"] += 1
    for edited in (json.dumps(value), json.dumps({name: item for name, item in value.items() if name != "checksum"}), "{"):
        workspace.plan.write_text(edited)
        with pytest.raises(SettingsError, match="edited by hand"):
            plan(data)
        assert workspace.plan.read_text() == edited
    plan(data, overwrite=True)
    assert json.loads(workspace.plan.read_text())["configurations"]["2d"]["batch_size"] == value["configurations"]["2d"]["batch_size"] - 1
    plan(data, seed=3)  # ours, and nothing is trained with it: other folds are welcome


def test_other_forecasts_and_explanations_are_the_same_plan(data):
    workspace, _ = plan(data)
    value = without_checksum(json.loads(workspace.plan.read_text()))
    value["configurations"]["2d"] |= {"reasons": ["another sentence"], "predicted": None}
    workspace.plan.write_text(json.dumps(value))
    plan(data)


def test_the_same_command_gives_the_same_plan_while_something_else_takes_memory_and_time(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plans = []
    for free, rate, options in ((8_000_000_000, 200e9, {}), (5_000_000_000, 50e9, {}), (5_000_000_000, 50e9, {"probe": True})):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        monkeypatch.setattr(machine, "conv_flops", functools.cache(lambda device, rate=rate: rate))
        workspace, _ = plan(data, **options)
        plans.append(workspace.plan.read_bytes())
    assert plans[0] == plans[1] and plans[2] != plans[0]


def test_a_plan_never_takes_more_memory_than_is_free_now(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace, _ = plan(data, planner="nnunet")
    needed = max(c.predicted.training_memory_bytes for c in planned.read_plan(workspace).configurations)
    for free, kept in ((needed + 10**8, True), (needed - 10**8, False)):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        memory = planned.read_plan(plan(data, planner="nnunet")[0]).device["memory_bytes"]
        assert (memory > free) == kept


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_replaced_under_a_running_training(data, overwrite):
    workspace, _ = plan(data)
    with locks.exclusive_lock(workspace.run("2d", 0).root, doing="training 2d fold 0"):
        plan(data)  # the same again, with other forecasts
        before = {path.name: path.read_bytes() for path in workspace.root.glob("*.json")}
        with pytest.raises(SettingsError, match="a training is running"):
            plan(data, seed=3, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in workspace.root.glob("*.json")} == before
    plan(data, seed=3, overwrite=True)


def test_a_place_that_cannot_be_written_is_refused_before_the_first_scan_is_read(data, monkeypatch):
    def refuse(folder):
        raise MissingPath("nothing can be written there", file=folder)

    monkeypatch.setattr(preparing.files, "require_writable", refuse)
    monkeypatch.setattr(preparing, "check", None)
    with pytest.raises(MissingPath, match="nothing can be written there"):
        plan(data)
