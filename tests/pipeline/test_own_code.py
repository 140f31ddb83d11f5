"""A network and a loss from a module of the user's own: trained and predicted with by the commands, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg import cli, extensions
from autoseg.errors import ModelError

MODULE = """
from torch import nn

NAME = "no callable"


class Gated(nn.Module):
    def __init__(self, asked):
        super().__init__()
        convolution = nn.Conv2d if asked.dimensions == 2 else nn.Conv3d
        width = asked.features_per_stage[0]
        self.first = convolution(asked.channels, width, 3, padding=1)
        self.gate, self.last = nn.Linear(width, width), convolution(width, asked.heads, 1)

    def forward(self, x):
        x = self.first(x).relu()
        weight = self.gate(x.flatten(2).mean(2)).sigmoid()
        return self.last(x * weight.reshape(*weight.shape, *[1] * (x.dim() - 2)))


def broken(asked):
    raise ValueError(f"no patch of {asked.patch_size} suits me")


def misshapen(asked):
    return nn.Conv3d(asked.channels, asked.heads + 1, 1) if asked.dimensions == 3 else nn.Conv2d(asked.channels, asked.heads + 1, 1)


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


def plan(planned: Path, workspace: Path, network: str) -> list[str]:
    return ["plan", str(planned.parent / "data"), "-o", str(workspace), "--network", network, "--device", "cpu", "--memory", "2G"]


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
    planned_there = json.loads((workspace / "plan.json").read_text())
    for configuration in planned_there["configurations"].values():
        configuration |= {"network": "my_nets:Gated", "architecture": {"entry": "my_nets:Gated"}}
    (workspace / "plan.json").write_text(json.dumps(planned_there))
    trained = elsewhere(train(workspace, "loss.overlap=my_nets:jaccard", "loss.pixel=my_nets:squared"), path=folder)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "loss: my_nets:squared + my_nets:jaccard" in trained.stdout
    description = json.loads((workspace / "runs/3d_fullres/fold_0/model.json").read_text())
    assert description["plan"]["configurations"]["3d_fullres"]["network"] == "my_nets:Gated"
    assert description["settings"]["loss.overlap"] == "my_nets:jaccard"

    scan = next((planned.parent / "data/imagesTr").iterdir())
    words = ["predict", str(workspace), str(scan), "-o", str(tmp_path / "other.nii.gz"), "--device", "cpu"]
    assert cli.main(words) == 3 and "--allow-network my_nets:Gated" in capsys.readouterr().err
    missing = elsewhere([*words, "--allow-network", "my_nets:Gated"], here=folder)
    assert missing.returncode == 3 and not (tmp_path / "other.nii.gz").exists()
    for text in ("'my_nets:Gated' cannot be imported", "No module named 'my_nets'", "PYTHONPATH", "current folder is not searched"):
        assert text in missing.stderr

    monkeypatch.syspath_prepend(folder)
    words[4] = str(tmp_path / "out.nii.gz")
    assert cli.main([*words, "--allow-network", "my_nets:Gated"]) == 0
    assert (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("setting", "text"),
    [
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


def test_a_model_whose_network_is_a_trap_is_refused_and_nothing_is_imported(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="--allow-network trap:run"):
        extensions.require_allowed("trap:run", file=workspace)
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("my_nets:Nothing", "has no attribute 'Nothing'"),
        ("my_nets:NAME", "cannot be called"),
        ("my_nets:broken", "suits me"),
        ("my_nets:misshapen", "expected  logits"),
        ("resnet", "did you mean 'res-unet'"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_as_it_is_planned(
    planned: Path,
    folder: Path,
    network: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(folder)
    assert cli.main(plan(planned, tmp_path / "w", network)) == 3
    assert text in capsys.readouterr().err and not (tmp_path / "w/plan.json").exists()


def test_a_planner_can_name_own_code(planned: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    kind = '[network]\nkind = "my_nets:Gated"\n[training.loss]\noverlap = "my_nets:jaccard"\n'
    (tmp_path / "mine.toml").write_text(f'extends = "nnunet"\n{kind}')
    words = ["plan", "--fingerprint", planned / "fingerprint.json", "-o", tmp_path / "w", "--planner", tmp_path / "mine.toml"]
    assert cli.main([*map(str, words), "--device", "cpu"]) == 0
    plan = json.loads((tmp_path / "w/plan.json").read_text())
    assert {c["network"] for c in plan["configurations"].values()} == {"my_nets:Gated"}
