"""A workspace made by version 0.1.0 before records were read by pydantic opens as it did; a damaged one is refused by name.

The texts are what that version wrote for ten hippocampus cases, shortened: two cases, one configuration, a few settings.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import files, schema
from autoseg.cases import Dataset
from autoseg.errors import AutosegError
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline import planned
from autoseg.pipeline.records import read_rules, read_summary
from autoseg.planning.configuration import Plan
from autoseg.postprocessing import PostprocessingRules
from autoseg.prediction import read_selection
from autoseg.preprocessing import store
from autoseg.workspace import Workspace

_WRAPPED = {
    "dataset.json": """
{"name": "mini", "root": "/scans/mini", "recipe": "msd", "channels": [{"name": "MRI", "modality": "MR"}], "labels": {"background": 0,
"Anterior": 1, "Posterior": 2}, "regions": {}, "ignore": null, "pairs": [], "cases": [{"case": "hippocampus_001",
"images": ["imagesTr/hippocampus_001.nii.gz"], "label": "labelsTr/hippocampus_001.nii.gz", "group": null, "annotated": null},
{"case": "hippocampus_003", "images": ["imagesTr/hippocampus_003.nii.gz"], "label": "labelsTr/hippocampus_003.nii.gz", "group": null,
"annotated": null}], "notes": ["assumed from the names of the channels: MRI is MR"]}
""",
    "fingerprint.json": """
{"format": 1, "version": "0.1.0", "name": "mini", "channels": [{"name": "MRI", "modality": "MR"}], "labels": {"background": 0,
"Anterior": 1, "Posterior": 2}, "regions": {}, "ignore": null, "pairs": [], "relative_size_after_crop": 1.0,
"label_voxels": {"background": 118054, "Anterior": 2874, "Posterior": 3427}, "intensities": [{"mean": 382.4982585521198,
"median": 377.64306640625, "std": 171.0005007959966, "min": 21.0, "max": 1228.8173828125, "percentile_00_5": 38.0,
"percentile_99_5": 896.947021484375}], "cases": [{"case": "hippocampus_001", "spacing": [1.0, 1.0, 1.0], "shape": [35, 51, 35],
"shape_after_crop": [35, 51, 35], "label_voxels": {"background": 59527, "Anterior": 1324, "Posterior": 1624},
"files": {"imagesTr/hippocampus_001.nii.gz": "0000000000000000000000000000000000000000000000000000000000000000",
"labelsTr/hippocampus_001.nii.gz": "0000000000000000000000000000000000000000000000000000000000000000"}}, {"case": "hippocampus_003",
"spacing": [1.0, 1.0, 1.0], "shape": [35, 52, 34], "shape_after_crop": [35, 52, 34], "label_voxels": {"background": 58527,
"Anterior": 1550, "Posterior": 1803},
"files": {"imagesTr/hippocampus_003.nii.gz": "0000000000000000000000000000000000000000000000000000000000000000",
"labelsTr/hippocampus_003.nii.gz": "0000000000000000000000000000000000000000000000000000000000000000"}}]}
""",
    "plan.json": """
{"format": 1, "version": "0.1.0", "planner": "default", "device": {"device": "cpu", "name": "AMD EPYC, 2 cores",
"memory_bytes": 23377661952, "cores": 2, "bf16": false, "conv_flops": 163443381347.43033, "time_budget": 20.0}, "name": "mini",
"channels": [{"name": "MRI", "modality": "MR"}], "labels": {"background": 0, "Anterior": 1, "Posterior": 2}, "regions": {},
"ignore": null, "pairs": [], "reasons": ["Planned for a CPU."], "axis_order": [0, 1, 2], "mirror_axes": [2], "swap_axis": null,
"configurations": {"3d_fullres": {"spacing": [1.0, 1.0, 1.0], "median_shape": [35.0, 50.5, 35.5], "patch_size": [24, 32, 24],
"batch_size": 2, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
"features_per_stage": [16, 32, 64], "blocks_per_stage": [2, 2, 2], "decoder_blocks_per_stage": [2, 2], "network": "unet",
"norm": "group", "normalization": ["zscore"], "batch_dice": false, "previous_stage": null, "predicted": {"parameters": 340022,
"training_memory_bytes": 43042484, "seconds_per_epoch": 26.71826992894534, "forward_flops": 3469049856.0, "disk_bytes": 818888},
"reasons": ["Two stages."]}}, "intensities": [{"mean": 382.4982585521198, "median": 377.64306640625, "std": 171.0005007959966,
"min": 21.0, "max": 1228.8173828125, "percentile_00_5": 38.0, "percentile_99_5": 896.947021484375}], "settings": {"epochs": 1000,
"optimizer": {"name": "adamw", "learning_rate": 0.003}},
"fingerprint": "6dba470f93b74c7e3921da95c9a705d042d4a27488423a9a7cf35c2c0686a0e7",
"planner_values": {"spacing": {"anisotropy": {"value": 3.0, "unit": "ratio", "source": "nnU-Net v2,
ANISO_THRESHOLD; Isensee et al. 2021"}}}}
""",
    "splits.json": """
[{"train": ["hippocampus_001"], "validation": ["hippocampus_003"]}]
""",
    "selection.json": """
{"version": "0.1.0", "configurations": {"3d_fullres": {"folds": ["fold_0"], "cases": 2, "dice": 0.009639673928835565,
"labels": {"Anterior": {"mean": 0.01927934785767113, "std": 0.0014894060170963803, "n": 2, "median": 0.01927934785767113,
"ci95": [0.017789941840574752, 0.020768753874767513]}, "Posterior": {"mean": 0.0, "std": 0.0, "n": 2, "median": 0.0, "ci95": [0.0,
0.0]}}}}, "selected": "3d_fullres"}
""",
    "postprocessing.json": """
{"3d_fullres": {"format": 1, "rules": [{"says": "keep only the largest component of 'Anterior'", "target": "Anterior",
"keep_largest": true, "drop_below": null, "evidence": {"dice_before": 0.8, "dice_after": 0.81, "gain_low": 0.001, "gain_high": 0.02,
"cases": 10, "cases_changed": 4}}]}}
""",
    "case.json": """
{"geometry": {"axis_order": [0, 1, 2], "canonical_shape": [35, 51, 35], "affine": [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [1.0,
0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]], "box": {"start": [0, 0, 0], "stop": [35, 51, 35]}, "shape": [35, 51, 35], "spacing": [1.0, 1.0,
1.0], "target_spacing": [1.0, 1.0, 1.0]}, "scale": [0.040044076224341474], "offset": [-2.463583469390869], "locations": {"1": [0,
1324], "2": [1324, 2948]}, "files": {"image.b2nd": {"bytes": 64637,
"sha256": "0000000000000000000000000000000000000000000000000000000000000000"}, "label.b2nd": {"bytes": 1820,
"sha256": "0000000000000000000000000000000000000000000000000000000000000000"}, "locations.npy": {"bytes": 17816,
"sha256": "0000000000000000000000000000000000000000000000000000000000000000"}},
"key": "ca0e9c3d8c5fd86dec07439ef74e0d557202a7292caa546c902e049d6c65aea7", "recipe": {"format": 2, "axis_order": [0, 1, 2],
"planar": false, "spacing": [1.0, 1.0, 1.0], "normalization": ["zscore"], "intensities": [null], "labels": {"labels": {"background": 0,
"Anterior": 1, "Posterior": 2}, "regions": {}, "ignore": null}}, "case": {"annotated": null, "grid_fix": null, "channels": [false],
"label": true}, "sources": [{"file": "/scans/mini/imagesTr/hippocampus_001.nii.gz", "bytes": 49874, "mtime_ns": 1795605724013737269,
"ctime_ns": 1795605724013737269}, {"file": "/scans/mini/labelsTr/hippocampus_001.nii.gz", "bytes": 803, "mtime_ns": 1795605724014857290,
"ctime_ns": 1795605724014857290}]}
""",
    "summary.json": """
{"labels": {"Anterior": {"dice": {"mean": 0.01927934785767113, "std": 0.0014894060170963803, "n": 2, "median": 0.01927934785767113,
"ci95": [0.017789941840574752, 0.020768753874767513]}, "iou": {"mean": 0.009734072646641992, "std": 0.0007592711278294265, "n": 2,
"median": 0.009734072646641992, "ci95": [0.008974801518812565, 0.010493343774471418]}, "volume_error": {"mean": 1.7187109532535711,
"std": 0.6966969017313229, "n": 2, "median": 1.7187109532535711, "ci95": [1.0220140515222482, 2.415407854984894]}, "positive": 2,
"missed": 0, "absent": 0, "negative": 0, "false_positive": 0, "specificity": null, "false_positive_ml": null, "not_annotated": 0}},
"mean": {"dice": {"mean": 0.009639673928835565, "std": 0.0007447030085481901, "n": 2, "labels": 2, "ci95": [0.008894970920287376,
0.010384376937383756]}, "iou": {"mean": 0.004867036323320996, "std": 0.00037963556391471323, "n": 2, "labels": 2,
"ci95": [0.0044874007594062825, 0.005246671887235709]}, "volume_error": {"mean": 0.4464155243473142, "std": 0.34903470856385205,
"n": 2, "labels": 2, "ci95": [0.09738081578346214, 0.7954502329111662]}}, "cases": [{"case": "hippocampus_001",
"labels": {"Anterior": {"dice": 0.017789941840574752, "iou": 0.008974801518812565, "volume_error": 2.415407854984894, "tp": 52,
"fp": 4470, "fn": 1272, "reference_ml": 1.324, "predicted_ml": 4.522}, "Posterior": {"dice": 0.0, "iou": 0.0,
"volume_error": -0.8245073891625616, "tp": 0, "fp": 285, "fn": 1624, "reference_ml": 1.624, "predicted_ml": 0.28500000000000003}},
"mean": {"dice": 0.008894970920287376, "iou": 0.0044874007594062825, "volume_error": 0.7954502329111662}}],
"settings": {"nsd_tolerance_mm": 2.0, "lesion_overlap": 0.1}, "rules": [],
"weights": "0000000000000000000000000000000000000000000000000000000000000000"}
""",
}

WRITTEN = {name: text.strip().replace("\n", " ") for name, text in _WRAPPED.items()}


def _splits(folder: Path) -> Any:
    return planned.read_splits(Workspace(root=folder), Dataset.from_json(json.loads(WRITTEN["dataset.json"])))


READERS: dict[str, Callable[[Path], Any]] = {
    "dataset.json": lambda folder: planned.read_dataset(Workspace(root=folder)),
    "fingerprint.json": lambda folder: Fingerprint.from_json(files.read_json(folder / "fingerprint.json")),
    "plan.json": lambda folder: planned.read_plan(Workspace(root=folder)),
    "splits.json": _splits,
    "selection.json": lambda folder: read_selection(Workspace(root=folder)),
    "postprocessing.json": lambda folder: read_rules(Workspace(root=folder)),
    "case.json": store._read_record,
    "summary.json": lambda folder: read_summary(folder / "summary.json"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    for name, text in WRITTEN.items():
        (folder / name).write_text(text)
    weights = folder / "runs" / "3d_fullres" / "fold_0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    return folder


def test_what_was_written_then_is_read_as_it_was_meant(workspace: Path) -> None:
    read = {name: reader(workspace) for name, reader in READERS.items()}
    assert read["dataset.json"].cases[1].images[0] == Path("/scans/mini/imagesTr/hippocampus_003.nii.gz")
    assert read["fingerprint.json"].cases[0].shape == (35, 51, 35)
    assert read["plan.json"].configurations[0].strides[0] == (1, 1, 1)
    assert read["selection.json"].selected == "3d_fullres"
    assert read["postprocessing.json"]["3d_fullres"].sentences() == ("keep only the largest component of 'Anterior'",)
    assert read["case.json"].sources[0].file == "/scans/mini/imagesTr/hippocampus_001.nii.gz"
    assert read["splits.json"] == json.loads(WRITTEN["splits.json"])
    summary = json.loads(WRITTEN["summary.json"])
    assert (read["summary.json"].labels, read["summary.json"].mean) == (summary["labels"], summary["mean"])
    assert [schema.dump(case) for case in read["summary.json"].cases] == summary["cases"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dataset.json", Dataset), ("fingerprint.json", Fingerprint), ("plan.json", Plan), ("postprocessing.json", PostprocessingRules)],
)
def test_it_is_written_again_as_it_was(name: str, kind: Any) -> None:
    value = json.loads(WRITTEN[name])
    value = value["3d_fullres"] if name == "postprocessing.json" else value
    assert json.dumps(kind.from_json(value).to_json()) == json.dumps(value)


DAMAGES = (
    None,
    True,
    -1,
    0,
    2.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "text",
    [],
    {},
    [[]],
    {"a": 1},
    json.loads("[" * 300 + "]" * 300),
)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=200, deadline=None)
@given(choice=st.randoms(use_true_random=False), damage=st.sampled_from(["drop", "add", *DAMAGES]))
def test_a_damaged_file_is_read_or_refused_by_name(workspace: Path, name: str, choice: Any, damage: Any) -> None:
    value = [json.loads(WRITTEN[name])]
    place: Any = value
    key: Any = 0
    while isinstance(place[key], (dict, list)) and place[key] and choice.random() < 0.8:
        place = place[key]
        key = choice.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if damage == "drop":
        del place[key]
    elif damage == "add":
        place[key] = {**place[key], "unknown": 1} if isinstance(place[key], dict) else [place[key]]
    else:
        place[key] = copy.deepcopy(damage)
    (workspace / name).write_text(json.dumps(value[0]) if value else "")
    try:
        READERS[name](workspace)
    except AutosegError as error:
        assert str(error)
    finally:
        (workspace / name).write_text(WRITTEN[name])
