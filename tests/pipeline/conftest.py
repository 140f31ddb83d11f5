"""One planned workspace for the tests of this room; each module trains in a copy."""

import json
import shutil
from pathlib import Path

import pytest

from autoseg import cli, demo


def pytest_collection_modifyitems(items):
    """Mark every test of this folder as slow: all of them train or start processes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    """The workspace of four phantoms in two folds, with a very small network and a single pass per place in validation."""
    root = tmp_path_factory.mktemp("planned")
    demo.write_phantoms(root / "data", root / "new", training_cases=4, new_cases=0, seed=5)
    names = [f"phantom_{i:03d}" for i in range(4)]
    folds = [{"train": names[2:], "validation": names[:2]}, {"train": names[:2], "validation": names[2:]}]
    (root / "splits.json").write_text(json.dumps(folds))
    words = ["plan", root / "data", "-o", root / "workspace", "--splits", root / "splits.json", "--device", "cpu"]
    assert cli.main([str(word) for word in words]) == 0
    file = root / "workspace/plan.json"
    plan = json.loads(file.read_text())
    plan["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8],
        "blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2,
    }  # fmt: skip
    plan["mirror_axes"] = []
    file.write_text(json.dumps(plan))
    return root / "workspace"


@pytest.fixture(scope="module")
def workspace(planned, tmp_path_factory):
    """A copy of it, for one module."""
    return shutil.copytree(planned, tmp_path_factory.mktemp("module") / "workspace")
