"""`evaluate`: which metrics are computed, with which tolerance, and how wrong names are answered."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg import cli
from autoseg.errors import UsageError
from autoseg.metrics import ALL, QUICK
from autoseg.pipeline.evaluating import parse_tolerance


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
    assert set(summary["mean"]) == set(ALL)
    with (pair[0].parent / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["label 1"] and set(ALL) <= set(rows[0])
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


def test_groups_of_cases_have_a_summary_of_their_own(pair, capsys):
    for folder in pair:
        for name in ("siteA_1", "siteA_2", "siteB_1"):
            (folder / f"{name}.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    nothing = np.zeros((12, 13, 14), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(nothing, np.eye(4)), pair[0] / "siteB_1.nii.gz")
    summary = summary_of(pair, "--by", "^(site[A-Z])", "--metrics", "dice")
    assert {name: part["cases"] for name, part in summary["groups"].items()} == {"siteA": ["siteA_1", "siteA_2"], "siteB": ["siteB_1"]}
    assert summary["groups"]["siteA"]["mean"]["dice"]["mean"] == pytest.approx(5 / 6)
    assert summary["groups"]["siteB"]["mean"]["dice"]["mean"] == 0 and summary["groups"]["siteB"]["labels"]["label 1"]["missed"] == 1
    assert "mean of siteB" in capsys.readouterr().out
    with (pair[0].parent / "summary.csv").open() as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["", "siteA", "siteA", "siteB"]


@pytest.mark.parametrize("words", [["1,5"], ["2", "3"], ["a=1,2"], ["2 parsecs"]])
def test_a_tolerance_that_could_be_read_in_two_ways_is_refused(words):
    with pytest.raises(UsageError, match="toleranc"):
        parse_tolerance(words)
    assert parse_tolerance(["liver=2mm", "cyst=0.1cm"]) == {"liver": 2.0, "cyst": 1.0}


def test_groups_of_a_data_set_are_those_it_declares(pair, capsys):
    cases = pair[0].parent / "cases.csv"
    cases.write_text("case,channels,label,group\na,predictions/a.nii.gz,references/a.nii.gz,scanner 7\n")
    assert list(summary_of(pair, "--by", "group", "--labels", str(cases))["groups"]) == ["scanner 7"]


@pytest.mark.parametrize(("expression", "answer"), [("(", "regular expression"), ("^(site)", "matches no case")])
def test_a_wrong_expression_for_groups_is_reported_before_anything_is_scored(pair, capsys, expression, answer):
    assert cli.main(["evaluate", *map(str, pair), "--workers", "0", "--by", expression]) == 3
    err = capsys.readouterr().err
    assert "--by" in err and answer in err and "evaluate 1/1" not in err


def test_another_grid_is_refused_or_taken_over_by_position(pair, capsys):
    fine = np.zeros((24, 26, 28), dtype=np.uint8)
    fine[8:20, 6:18, 6:18] = 1  # the very cube of the reference, at half the spacing
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -0.25
    nibabel.save(nibabel.Nifti1Image(fine, affine), pair[0] / "a.nii.gz")
    assert cli.main(["evaluate", *map(str, pair), "--workers", "0"]) != 0
    assert "--resample" in capsys.readouterr().err
    assert summary_of(pair, "--resample")["mean"]["dice"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--metrics", "dcie"], "dice"),
        (["--metrics", ","], "no metric is named"),
        (["--tolerance", "wide"], "LABEL=MM"),
        (["--tolerance", "-1"], "0 or more"),
        (["--tolerance", "nan"], "0 or more"),
        (["--tolerance", "lable 1=2"], "label 1"),
        (["--tolerance", "2,label 1=2"], "LABEL=MM"),
        (["--by", "group"], "--labels"),
    ],
)
def test_a_wrong_metric_or_tolerance_is_wrong_usage_and_names_what_is_right(pair, capsys, options, answer):
    assert cli.main(["evaluate", *map(str, pair), "--workers", "0", *options]) == 2
    assert answer in capsys.readouterr().err


def test_two_references_of_one_name_are_refused(pair, capsys):
    (pair[1] / "a.nii").write_bytes(b"an older drawing")
    assert cli.main(["evaluate", *map(str, pair)]) == 2
    assert "two files have one name" in capsys.readouterr().err


@pytest.mark.parametrize("side", [0, 1])
def test_scans_in_place_of_label_maps_are_refused_by_name_at_once(pair, capsys, side):
    scan = (100 * np.random.default_rng(0).standard_normal((12, 13, 14))).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), pair[side] / "a.nii.gz")
    assert cli.main(["evaluate", *map(str, pair), "--workers", "0"]) == 3
    error = capsys.readouterr().err
    assert "looks like an image" in error and str(pair[side] / "a.nii.gz") in error
