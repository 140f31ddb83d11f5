"""What `select` reads of the summaries of the folds."""

import json
from pathlib import Path

import pytest

from autoseg.pipeline.selecting import _typical_volumes


def summary(folder: Path, **volumes: list[float | None]) -> Path:
    """A fold whose cases have these volumes in ml of each label."""
    count = len(next(iter(volumes.values())))
    cases = [
        {"case": f"case_{i}", "labels": {name: {"reference_ml": found[i]} for name, found in volumes.items()}, "mean": {}}
        for i in range(count)
    ]
    (folder / "validation").mkdir(parents=True)
    (folder / "validation/summary.json").write_text(json.dumps({"labels": {}, "mean": {}, "cases": cases, "notes": "not read"}))
    return folder


def test_the_typical_volume_is_the_median_where_a_label_occurs(tmp_path: Path) -> None:
    folds = [summary(tmp_path / "0", liver=[1.0, None, 3.0]), summary(tmp_path / "1", liver=[0.0, 5.0])]
    assert _typical_volumes(folds) == {"liver": pytest.approx(3000.0)}


def test_there_is_none_where_a_label_never_occurs(tmp_path: Path) -> None:
    assert _typical_volumes([summary(tmp_path / "0", liver=[1.0], tumour=[0.0])]) is None
