"""`report` of a workspace in every state, and of a data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoseg import cli


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Path:
    """The workspace with one validated fold of two."""
    words = ["train", workspace, "--fold", 0, "--epochs", 1, "--set", "steps_per_epoch=2", "--device", "cpu", "--workers", 0]
    assert cli.main([str(word) for word in words]) == 0
    return workspace


def page_of(source: Path, folder: Path, *options: str) -> str:
    assert cli.main(["report", str(source), "-o", str(folder / "page.html"), "--workers", "0", *options]) == 0
    return (folder / "page.html").read_text()


def test_a_trained_workspace_has_every_section_and_fits_its_limit(trained, tmp_path):
    page = page_of(trained, tmp_path)
    for title in ("Scores by label", "Worst, median and best cases", "Configurations compared", "Training", "Data", "Plan", "Methods"):
        assert f">{title}" in page
    assert page.count("data:image/webp;base64,") == 8, "two cases, four pictures each"
    assert "on 2 of 4 cases" in page and "cross-validation of 2 folds" in page
    assert len(page) < 5_000_000


def test_a_planned_workspace_says_that_nothing_is_validated_yet(planned, tmp_path):
    page = page_of(planned, tmp_path)
    assert "no fold has been validated yet" in page and "Scores by label" not in page and ">Plan<" in page


def test_a_fold_that_is_still_training_has_its_curves(trained, tmp_path):
    half = shutil.copytree(trained, tmp_path / "half")
    shutil.rmtree(half / "runs/3d_fullres/fold_0/validation")
    page = page_of(half, tmp_path)
    assert "Training loss" in page and "no fold has been validated yet" in page


def test_a_case_whose_files_are_gone_is_named_and_the_others_are_shown(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    summary = json.loads((moved / "runs/3d_fullres/fold_0/validation/summary.json").read_text())
    gone = summary["cases"][0]["case"]
    (moved / f"runs/3d_fullres/fold_0/validation/{gone}.nii.gz").unlink()
    page = page_of(moved, tmp_path)
    assert f"{gone} (" in page and "cannot be shown" in page and page.count("data:image/webp") == 4


def test_a_data_set_is_checked_and_shown(planned, tmp_path):
    page = page_of(planned.parent / "data", tmp_path)
    assert "4 cases were read and checked" in page and "kidney_left=1" in page


def test_wrong_outputs_and_configurations_are_refused(trained, tmp_path, capsys):
    assert cli.main(["report", str(trained), "-o", str(tmp_path / "page.pdf")]) == 2
    assert "report.html" in capsys.readouterr().err
    assert cli.main(["report", str(trained), "-c", "2d"]) == 2
    assert "3d_fullres" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("check.json", "null"),
        ("check.json", '{"faults": 1, "notes": []}'),
        ("check.json", '{"faults": []}'),
        ("selection.json", "[]"),
        ("selection.json", '{"selected": "3d_fullres", "reasons": 1}'),
        ("postprocessing.json", "[]"),
        ("postprocessing.json", '{"3d_fullres": [1]}'),
        ("splits.json", '[{"train": 1}]'),
        ("splits.json", "1"),
    ],
)
def test_a_damaged_file_of_the_workspace_is_named(trained, tmp_path, capsys, file, text):
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    (damaged / file).write_text(text)
    assert cli.main(["report", str(damaged), "-o", str(tmp_path / "page.html")]) in (2, 3)
    assert file in (said := capsys.readouterr().err) and "Traceback" not in said


def test_a_check_that_was_changed_since_is_not_shown(trained, tmp_path, capsys):
    changed = shutil.copytree(trained, tmp_path / "changed")
    value = json.loads((changed / "check.json").read_text())
    (changed / "check.json").write_text(json.dumps({**value, "faults": [], "notes": ["all is well"]}))
    assert cli.main(["report", str(changed), "-o", str(tmp_path / "page.html")]) == 3
    assert "changed since it was written" in capsys.readouterr().err
