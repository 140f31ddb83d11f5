"""Models in nnU-Net's own files, made here by hand: imported and predicted with, or refused by name; nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from autoseg import images, networks, prediction
from autoseg.errors import AutosegError, ModelError, SettingsError, UsageError
from autoseg.networks.torch_archive import read_archive
from autoseg.pipeline import importing, loading, predicting
from autoseg.pipeline.records import read_rules
from autoseg.planning.configuration import Plan
from autoseg.workspace import Workspace
from tests.pipeline.heard import Heard

NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [2, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
TABLE = {
    "spacing": [2.0, 1.0, 1.5],
    "patch_size": [16, 16, 16],
    "median_image_size_in_voxels": [16.0, 20.0, 18.0],
    "batch_size": 2,
    "batch_dice": False,
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "architecture": NETWORK,
}
FIGURES = {"mean": 1.0, "median": 1.0, "std": 2.0, "min": -3.0, "max": 9.0, "percentile_00_5": -2.0, "percentile_99_5": 8.0}
LABELS = {"background": 0, "shell": 1, "core": 2}


def write_model(
    root: Path, *, name: str = "3d_fullres", labels: dict[str, Any] | None = None, reader: str = "SimpleITKIO", mirrored: Any = (0, 2),
    folds: tuple[int, ...] = (0,), change: Callable[[dict[str, Any]], None] = lambda table: None, order: list[int] | None = None,
) -> Path:  # fmt: skip
    """Write TRAINER__PLANS__CONFIGURATION as nnU-Net does; the numbers come from our own network, under its names."""
    table = json.loads(json.dumps(TABLE))
    change(table)
    tables = {"3d_fullres": table}
    if name == "3d_cascade_fullres":
        tables |= {"3d_lowres": {**table, "spacing": [4.0, 2.0, 3.0]}, name: {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}}
    plans = {
        "plans_name": "nnUNetPlans", "dataset_name": "Dataset001_Made", "transpose_forward": [1, 0, 2], "image_reader_writer": reader,
        "foreground_intensity_properties_per_channel": {"0": FIGURES}, "configurations": tables,
    }  # fmt: skip
    dataset = {"channel_names": {"0": "MRI"}, "labels": labels or LABELS, "file_ending": ".nii.gz", "numTraining": 5}
    if order is not None:
        dataset["regions_class_order"] = order
    for each in ("3d_lowres", name) if name == "3d_cascade_fullres" else (name,):
        folder = root / f"nnUNetTrainer__nnUNetPlans__{each}"
        folder.mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset))
        heads = len({*(labels or LABELS)} - {"ignore"}) - (order is not None)
        for fold in folds:
            (folder / f"fold_{fold}").mkdir()
            torch.save(checkpoint_of(each, mirrored=mirrored, heads=heads), folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def checkpoint_of(name: str = "3d_fullres", *, mirrored: Any = (0, 2), heads: int = 3) -> dict[str, Any]:
    """What nnU-Net saves: each weight also under its aliases, and values of numpy in the log."""
    body = networks.architectures.load("unet")(
        3, channels=3 if name == "3d_cascade_fullres" else 1, heads=heads, features=(4, 8, 8), kernels=[[3] * 3] * 3,
        strides=[[1] * 3, [2] * 3, [2] * 3], blocks=(1, 1, 1), decoder_blocks=(1, 2), norm="instance")  # fmt: skip
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    for ours, tensor in body.state_dict().items():
        for theirs in their_names(ours):
            weights[theirs] = tensor
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(5)}}},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1.0)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 7,
        "init_args": {"configuration": name, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirrored,
    }


def their_names(ours: str) -> list[str]:
    """nnU-Net's names of one of our weights, the aliases included."""
    kinds = {"convolution": ("conv", 0), "norm": ("norm", 1)}
    match ours.split("."):
        case ["stages", s, c, layer, leaf]:
            found = [f"encoder.stages.{s}.0.convs.{c}.{kind}.{leaf}" for kind in (kinds[layer][0], f"all_modules.{kinds[layer][1]}")]
            return found + [f"decoder.{name}" for name in found]
        case ["decoder", "steps", d, "up", leaf]:
            return [f"decoder.transpconvs.{d}.{leaf}"]
        case ["decoder", "steps", d, "blocks", c, layer, leaf]:
            return [f"decoder.stages.{d}.convs.{c}.{kind}.{leaf}" for kind in (kinds[layer][0], f"all_modules.{kinds[layer][1]}")]
        case ["decoder", "heads", d, leaf]:
            return [f"decoder.seg_layers.{d}.{leaf}"]
    raise AssertionError(ours)


def write_scan(path: Path, order: str = "RAS") -> Path:
    image = np.random.default_rng(0).normal(2, 1, (18, 20, 16)).astype(np.float32)
    made = nibabel.Nifti1Image(image, np.diag([1.5, 1.0, 2.0, 1.0]))
    nibabel.save(made.as_reoriented(nibabel.orientations.axcodes2ornt(order)), path)
    return path


def test_a_model_is_imported_with_all_its_folds_and_predicts(tmp_path: Path) -> None:
    folder = write_model(tmp_path, folds=(0, 3))
    workspace = importing.import_model(folder, tmp_path / "ws", reporter=Heard())
    model = prediction.open_model(workspace.root, device="cpu")
    assert model.stages[0].folds == (0, 3)
    assert (model.plan.orientation, model.plan.axis_order, model.plan.mirror_axes) == ("stored", (1, 0, 2), (0, 2))
    assert model.plan.configuration("3d_fullres").decoder_blocks_per_stage == (1, 2)
    saved = torch.load(folder / "fold_3" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    found = model.stages[0].networks[1].state_dict()
    assert torch.equal(found["body.stages.1.0.convolution.weight"].contiguous(), saved["encoder.stages.1.0.convs.0.conv.weight"])
    record = predicting.predict(workspace, [write_scan(tmp_path / "scan.nii.gz", "LPS")], tmp_path / "seg.nii.gz", device="cpu", tta=False)
    assert record["labels"] == LABELS


def test_a_network_sees_the_scan_as_it_is_stored_unless_nnunet_turned_it(tmp_path: Path) -> None:
    """The same voxels in memory give the same result, whatever the header says of their directions."""
    image = np.random.default_rng(0).normal(2, 1, (18, 20, 16)).astype(np.float32)
    stored: Any = None
    for reader, equal in (("SimpleITKIO", True), ("NibabelIOWithReorient", False)):
        folder = write_model(tmp_path / reader, reader=reader)
        torch.manual_seed(0)
        model = loading.load(importing.import_model(folder, tmp_path / reader / "ws", reporter=Heard()), device="cpu")
        one, other = (model.predict(image, np.diag([x, y, 2.0, 1.0]), tta=False) for x, y in ((1.5, 1.0), (-1.5, -1.0)))
        assert (np.array_equal(one, other)) == equal
        stored = model.model if equal else stored
    scan = images.from_memory(image, np.diag([-1.5, 1.0, -2.0, 1.0]))
    found = prediction.segment(stored, scan, tta=False, probabilities=True)
    assert found.probabilities is not None and np.array_equal(found.probabilities.argmax(0), found.classes)
    turned = np.moveaxis(image, 0, 2)  # stored in another order: the result is in that order
    affine = np.array([[0, 0, 1.5, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    assert model.predict(turned, affine).shape == turned.shape


def test_a_cascade_brings_its_first_stage(tmp_path: Path) -> None:
    folder = write_model(tmp_path, name="3d_cascade_fullres")
    workspace = importing.import_model(folder, tmp_path / "ws", reporter=Heard())
    model = prediction.open_model(workspace.root, device="cpu")
    assert [stage.configuration.name for stage in model.stages] == ["3d_lowres", "3d_cascade"]
    predicting.predict(workspace, [write_scan(tmp_path / "scan.nii.gz")], tmp_path / "seg.nii.gz", device="cpu", tta=False)


def test_regions_the_ignore_label_and_no_mirroring_are_taken_over(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    folder = write_model(tmp_path, labels=labels, order=[1, 2], mirrored=None)
    plan = prediction.open_model(importing.import_model(folder, tmp_path / "ws", reporter=Heard()).root, device="cpu").plan
    assert [(region.name, region.members, region.writes) for region in plan.labels.regions] == [("whole", (1, 2), 1), ("core", (2,), 2)]
    assert plan.labels.ignore == 3 and plan.mirror_axes == ()


def test_old_plans_are_canonical_and_say_nothing_of_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path, reader="NibabelIOWithReorient")
    plan = prediction.open_model(importing.import_model(folder, tmp_path / "ws", reporter=Heard()).root, device="cpu").plan
    assert "orientation" not in plan.to_json() and Plan.from_json(plan.to_json()).orientation == "canonical"


def test_post_processing_is_taken_over_only_where_asked_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    name = "remove_all_but_largest_component_from_segmentation"
    made = (
        b"\x80\x02]q\x00cnnunetv2.postprocessing\n"
        + name.encode()
        + b"\nq\x01a]q\x02}q\x03X\x11\x00\x00\x00labels_or_regionsq\x04K\x02sa\x86q\x05."
    )
    (folder / "postprocessing.pkl").write_bytes(made)
    assert read_rules(importing.import_model(folder, tmp_path / "off", reporter=Heard())) == {}
    rules = read_rules(importing.import_model(folder, tmp_path / "on", postprocessing=True, reporter=Heard()))
    assert rules["3d_fullres"].sentences() == ("keep only the largest component of 'core'",)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("architecture", "network_class_name"), "some.MedNeXt", "MedNeXt"),
        (("architecture", "arch_kwargs", "norm_op"), "torch.nn.BatchNorm3d", "BatchNorm3d"),
        (("architecture", "arch_kwargs", "dropout_op"), "torch.nn.Dropout3d", "Dropout3d"),
        (("architecture", "arch_kwargs", "conv_bias"), False, "conv_bias"),
        (("architecture", "arch_kwargs", "stem_channels"), 12, "stem_channels"),
        (("architecture", "arch_kwargs", "squeeze_excitation"), True, "squeeze_excitation"),
        (("resampling_fn_data",), "resample_torch_fornnunet", "resample_torch"),
        (("resampling_fn_data_kwargs", "order"), 1, "'order': 1"),
        (("normalization_schemes",), ["MyOwn"], "MyOwn"),
    ],
)
def test_what_would_give_other_results_is_refused_by_name(tmp_path: Path, path: tuple[str, ...], value: Any, said: str) -> None:
    def change(table: dict[str, Any]) -> None:
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value

    with pytest.raises(SettingsError, match=said):
        importing.import_model(write_model(tmp_path, change=change), tmp_path / "ws", reporter=Heard())
    assert not (tmp_path / "ws").exists()


def test_weights_that_do_not_fit_and_aliases_that_differ_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    file, saved = folder / "fold_0" / "checkpoint_final.pth", checkpoint_of()
    for change, number, said in (
        ("decoder.encoder.stages.0.0.convs.0.conv.bias", 7.0, "not the same"),
        ("encoder.stages.9.0.convs.0.conv.bias", 7.0, "do not fit"),
        ("encoder.attention.weight", 7.0, "encoder.attention"),
        ("decoder.seg_layers.0.bias", torch.nan, "not finite"),
    ):
        torch.save({**saved, "network_weights": {**saved["network_weights"], change: torch.full((4,), number)}}, file)
        with pytest.raises(ModelError, match=said):
            importing.import_model(folder, tmp_path / "ws", reporter=Heard())
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "mine").touch()
    with pytest.raises(UsageError, match="there already"):
        importing.import_model(folder, tmp_path / "ws", reporter=Heard())


class _Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.file}",))


def _hostile(good: Path, trap: Path) -> dict[str, dict[str, bytes]]:
    """Members of archives that must be refused."""
    with zipfile.ZipFile(good) as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    root = next(iter(parts)).split("/")[0]
    data, storage = f"{root}/data.pkl", f"{root}/data/0"

    def described(value: bytes) -> dict[str, bytes]:
        return {**parts, data: value}

    return {
        "a call as the whole": described(pickle.dumps(_Trap(trap), protocol=2)),
        "a call as the table": described(pickle.dumps({"network_weights": _Trap(trap)}, protocol=2)),
        "a call as a weight": described(pickle.dumps({"network_weights": {"a": _Trap(trap)}}, protocol=2)),
        "a newer protocol": described(pickle.dumps({"network_weights": {"a": _Trap(trap)}}, protocol=4)),
        "a call of a call": described(b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX\x01\x00\x00\x00a\x86R)R."),
        "an instance": described(b"\x80\x02(iposix\nsystem\n."),
        "an object": described(b"\x80\x02(cposix\nsystem\nX\x04\x00\x00\x00trueo."),
        "an extension": described(b"\x80\x02\x82\x01."),
        "an unknown instruction": described(b"\x80\x02\xff."),
        "a missing mark": described(b"\x80\x02u."),
        "an empty stack": described(b"\x80\x02."),
        "a memory that is not there": described(b"\x80\x02h\x05."),
        "a table in itself": described(b"\x80\x02}q\x00X\x0f\x00\x00\x00network_weightsh\x00s."),
        "no tensors": described(pickle.dumps({"network_weights": {}}, protocol=2)),
        "a cut description": described(parts[data][:-500]),
        "a cut storage": {**parts, storage: parts[storage][:4]},
        "a missing storage": {name: content for name, content in parts.items() if name != storage},
        "no description": {name: content for name, content in parts.items() if name != data},
        "two descriptions": {**parts, "other/data.pkl": parts[data]},
        "big-endian": {**parts, f"{root}/byteorder": b"big"},
    }


def test_booby_trapped_checkpoints_are_refused_and_nothing_in_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, trap = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "sprung"
    torch.save(checkpoint_of(), good)
    for door in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, door, lambda *_, **__: pytest.fail("unpickled"))
    assert len(read_archive(good, "network_weights")[0]) > 30
    for what, members in _hostile(good, trap).items():
        with zipfile.ZipFile(bad, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(AutosegError) as error:
            read_archive(bad, "network_weights")
        assert isinstance(error.value, ModelError), what
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as other:
        for member in archive.infolist():
            other.writestr(member.filename, archive.read(member))
    with pytest.raises(ModelError, match="compressed"):
        read_archive(bad, "network_weights")
    for content in (b"", b"PK\x03\x04", pickle.dumps(_Trap(trap)), good.read_bytes()[:3000]):
        bad.write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read safely"):
            read_archive(bad, "network_weights")
    assert not trap.exists()


def test_a_workspace_of_an_imported_model_is_like_any_other(tmp_path: Path) -> None:
    workspace = importing.import_model(write_model(tmp_path), tmp_path / "ws", reporter=Heard())
    assert isinstance(workspace, Workspace) and workspace.plan.exists()
    described = json.loads(workspace.run("3d_fullres", 0).description.read_text())
    assert described["imported"] == "nnU-Net: nnUNetTrainer, checkpoint_final.pth" and described["epochs"] == 7
