"""`evaluate`: which metrics are computed, with which tolerance, and how wrong names are answered."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg import cli
from autoseg.metrics import METRICS, QUICK


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two cubes one voxel apart, at 1 mm, as two folders with one label map each."""
    for folder, shift in (("predictions", 0), ("references", 1)):
        array = np.zeros((12, 13, 14), dtype=np.uint8)
        array[3 + shift : 9 + shift, 3:9, 3:9] = 1
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / folder / "a.nii.gz")
    return tmp_path / "predictions", tmp_path / "references"


def summary_of(pair: tuple[Path, Path], *options: str) -> dict:
    file = pair[0].parent / "summary.json"
    assert cli.main(["evaluate", *map(str, pair), "-o", str(file), "--workers", "0", *options]) == 0
    return json.loads(file.read_text())


def test_small_cases_get_every_metric_and_the_table_one_row_per_case_and_label(pair, capsys):
    summary = summary_of(pair)
    assert set(summary["mean"]) == set(METRICS)
    with (pair[0].parent / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["label 1"] and set(METRICS) <= set(rows[0])
    head = capsys.readouterr().out.splitlines()[0]
    assert all(title in head for title in ("Dice", "NSD", "HD95", "ASSD", "lesion F1"))


def test_only_the_metrics_that_are_named_are_computed(pair):
    assert tuple(summary_of(pair, "--metrics", "quick")["mean"]) == QUICK
    assert tuple(summary_of(pair, "--metrics", "hd95,dice")["mean"]) == ("dice", "hd95")
    assert set(summary_of(pair, "--metrics", "quick,nsd")["mean"]) == {*QUICK, "nsd"}


def test_the_tolerance_is_one_for_all_labels_or_one_per_label(pair):
    assert summary_of(pair, "--tolerance", "1")["mean"]["nsd"]["mean"] == 1.0
    strict = summary_of(pair, "--tolerance", "0.5")
    assert strict["mean"]["nsd"]["mean"] < 1.0 and strict["settings"]["nsd_tolerance_mm"] == 0.5
    assert summary_of(pair, "--tolerance", "label 1=0.5")["labels"]["label 1"]["nsd"] == strict["labels"]["label 1"]["nsd"]


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--metrics", "dcie"], "dice"),
        (["--tolerance", "wide"], "LABEL=MM"),
        (["--tolerance", "-1"], "0 or more"),
        (["--tolerance", "nan"], "0 or more"),
        (["--tolerance", "lable 1=2"], "label 1"),
        (["--tolerance", "2,label 1=2"], "LABEL=MM"),
    ],
)
def test_a_wrong_metric_or_tolerance_is_wrong_usage_and_names_what_is_right(pair, capsys, options, answer):
    assert cli.main(["evaluate", *map(str, pair), "--workers", "0", *options]) == 2
    assert answer in capsys.readouterr().err
