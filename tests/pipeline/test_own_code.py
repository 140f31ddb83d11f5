"""A network and a loss from a module of the user's own: trained and predicted with by the commands, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoseg import cli
from autoseg.pipeline import training
from autoseg.training.length import RunLength
from autoseg.workspace import Workspace

MODULE = """
from torch import nn

from autoseg.architectures import Architecture, Convolution
from autoseg.networks.blocks import ConvolutionBlock
from autoseg.networks.unet import UNet


NAME = "no callable"


class Gated(ConvolutionBlock):
    def __init__(self, dimensions, channels_in, channels_out, **planned):
        super().__init__(dimensions, channels_in, channels_out, **planned)
        self.gate = nn.Linear(channels_out, channels_out)

    def forward(self, x):
        x = super().forward(x)
        weight = self.gate(x.flatten(2).mean(2)).sigmoid()
        return x * weight.reshape(*weight.shape, *[1] * (x.dim() - 2))


def count(at):
    yield Convolution(inputs=at.inputs, outputs=at.outputs, kernel=at.kernel, voxels=at.voxels)
    yield Convolution(inputs=at.outputs, outputs=at.outputs, kernel=1, voxels=1, normed=False)


class GatedUNet(UNet):
    architecture = Architecture(module="my_nets:GatedUNet", words="gated convolutions", short="gated", block=count)

    def __init__(self, dimensions, **planned):
        super().__init__(dimensions, block=Gated, **planned)


class Uncounted(UNet):
    def __init__(self, dimensions, **planned):
        super().__init__(dimensions, block=Gated, **planned)


def jaccard(overlap, predicted, truth, settings):
    return (overlap + settings.smooth) / (predicted + truth - overlap + settings.smooth)


def squared(entropy, settings):
    return entropy**2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the user's module."""
    made = tmp_path_factory.mktemp("code")
    (made / "my_nets.py").write_text(MODULE)
    return made


def train(workspace: Path, *settings: str) -> list[str]:
    chosen = [word for setting in ("steps_per_epoch=3", "probe_steps=5", *settings) for word in ("--set", setting)]
    return ["train", str(workspace), "-c", "3d_fullres", "--fold", "0", "--epochs", "2", "--device", "cpu", *chosen]


def elsewhere(words: list[str], *, path: Path | None = None, here: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with a folder on PYTHONPATH, or standing in one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path and str(path), os.environ.get("PYTHONPATH"))))}
    program = [sys.executable, "-P", "-c", "import sys; from autoseg.cli import main; sys.exit(main())", *words]
    return subprocess.run(program, env=environment, cwd=here, capture_output=True, text=True, check=False, timeout=250)


def test_own_code_trains_and_predicts_and_its_absence_is_explained(
    workspace: Path, folder: Path, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("architecture=my_nets:GatedUNet", "loss.overlap=my_nets:jaccard", "loss.pixel=my_nets:squared")
    trained = elsewhere(train(workspace, *own), path=folder)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "loss: my_nets:squared + my_nets:jaccard" in trained.stdout
    description = json.loads((workspace / "runs/3d_fullres/fold_0/model.json").read_text())
    assert description["plan"]["configurations"]["3d_fullres"]["network"] == "my_nets:GatedUNet"
    assert description["settings"]["loss.overlap"] == "my_nets:jaccard"

    scan = next((planned.parent / "data/imagesTr").iterdir())
    missing = elsewhere(["predict", str(workspace), str(scan), "-o", str(tmp_path / "other.nii.gz"), "--device", "cpu"], here=folder)
    assert missing.returncode == 3 and not (tmp_path / "other.nii.gz").exists()
    for text in ("'my_nets:GatedUNet' cannot be imported", "No module named 'my_nets'", "PYTHONPATH", "current folder is not searched"):
        assert text in missing.stderr

    monkeypatch.syspath_prepend(folder)
    assert cli.main(["predict", str(workspace), str(scan), "-o", str(tmp_path / "out.nii.gz"), "--device", "cpu"]) == 0
    assert (tmp_path / "out.nii.gz").exists()
    assert cli.main(train(workspace)) == 3
    assert "'network' differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("architecture=my_nets:Nothing", "has no attribute 'Nothing'"),
        ("architecture=my_nets:NAME", "cannot be called"),
        ("architecture=my_nets:Uncounted", "has other weights than its record counts"),
        ("architecture=resnet", "network 'resnet' is unknown"),
        ("loss.pixel=your_nets:squared", "No module named 'your_nets'"),
        ("loss.pixel=cross_entropi", "instead of one of cross_entropy"),
    ],
)
def test_own_code_that_cannot_be_used_is_refused(
    workspace: Path, folder: Path, setting: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(folder)
    assert cli.main([*train(workspace, setting), "--overwrite"]) == 3
    assert text in capsys.readouterr().err


def test_a_planner_can_name_own_code(planned: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    kind = '[network]\nkind = "my_nets:GatedUNet"\n[training.loss]\noverlap = "my_nets:jaccard"\n'
    (tmp_path / "mine.toml").write_text(f'extends = "nnunet"\n{kind}')
    words = ["plan", "--fingerprint", planned / "fingerprint.json", "-o", tmp_path / "w", "--planner", tmp_path / "mine.toml"]
    assert cli.main([*map(str, words), "--device", "cpu"]) == 0
    plan = json.loads((tmp_path / "w/plan.json").read_text())
    assert {c["network"] for c in plan["configurations"].values()} == {"my_nets:GatedUNet"}


def test_each_of_several_folds_is_given_the_architecture(planned: Path) -> None:
    work = SimpleNamespace(
        workspace=Workspace(root=planned), seed=0, length=RunLength(epochs=2), workers=None, deterministic=False, overwrite=False,
        tensorboard=False, settings={}, architecture="my_nets:GatedUNet")  # fmt: skip
    words = training._command(work, "3d_fullres", 1)  # type: ignore[arg-type]
    assert words[-2:] == ["--set", "architecture=my_nets:GatedUNet"]
