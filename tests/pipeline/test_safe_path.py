"""No code from the folder where the user stands is run: not by a command, and not by a process that it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import autoseg
from autoseg import workers

PLANTED = ("json", "re", "enum", "types", "contextlib", "torch", "numpy", "scipy", "nibabel", "autoseg", "sitecustomize")
MAIN = "from autoseg import cli; sys.exit(cli.main(sys.argv[1:]))"


@pytest.fixture
def planted(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set, entered, with modules in it that note when they run."""
    folder = workspace.parent / "standing here"
    folder.mkdir(exist_ok=True)
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(folder)
    return folder


def test_the_planted_modules_run_where_nothing_is_done_about_them(planted: Path) -> None:
    subprocess.run([sys.executable, "-c", "import json"], capture_output=True, check=False)
    assert "json" in (planted / "ran").read_text()
    (planted / "ran").unlink()


def test_no_command_runs_code_of_the_current_folder(planted: Path, workspace: Path, planned: Path) -> None:
    data = planned.parent / "data"
    own = str(Path(autoseg.__file__).parents[1])
    settings = ["--set", "steps_per_epoch=1", "--epochs", "1", "--device", "cpu", "--workers", "2"]
    for words in (
        ["check", data, "--workers", "2"],
        ["plan", data, "-o", workspace.parent / "second", "--device", "cpu", "--workers", "2"],
        ["train", workspace, "--configuration", "3d_fullres", "--fold", "0", *settings],
        ["predict", workspace, data / "imagesTr", "-o", workspace.parent / "out", "--device", "cpu"],
        ["evaluate", workspace.parent / "out", data / "labelsTr", "--workers", "2"],
    ):
        program = f"import sys; sys.path[:] = ['', {str(planted)!r}, *sys.path, {own!r}][2:] + ['']; {MAIN}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *map(str, words)], capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert not (planted / "ran").exists(), (words, (planted / "ran").read_text())


def test_an_interpreter_that_is_started_has_the_current_folder_last(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    command = workers.python_command("import re; print(sys.path[-1] == '', sys.argv[1:])", "a word")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "['a", "word']"] and not (planted / "ran").exists()
