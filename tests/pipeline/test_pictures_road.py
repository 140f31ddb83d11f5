"""Pictures as PNG, given as a list with groups: the planar road."""

import csv
import json

import numpy as np
from skimage import io

from autoseg import cli


def run(*arguments: object, code: int = 0) -> None:
    assert cli.main([str(word) for word in arguments]) == code


def test_pictures_in_a_list_with_groups_go_from_plan_to_evaluate(tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for index in range(6):
        truth = np.zeros((48 + 8 * (index % 2), 64), dtype=np.uint8)
        top, left = generator.integers(4, 20, 2)
        truth[top : top + 20, left : left + 24] = 255
        picture = np.clip(80 + 0.4 * truth + generator.normal(0, 12, truth.shape), 0, 255).astype(np.uint8)
        io.imsave(tmp_path / f"scan {index}.png", picture, check_contrast=False)
        io.imsave(tmp_path / f"truth {index}.png", truth, check_contrast=False)
        rows.append(
            {"case": f"slice{index}", "channels": f"scan {index}.png", "label": f"truth {index}.png", "group": f"animal{index // 2}"}
        )
    with open(tmp_path / "cases.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    workspace = tmp_path / "work space"
    run("plan", tmp_path / "cases.csv", "-o", workspace, "--device", "cpu")
    plan = json.loads((workspace / "plan.json").read_text())
    assert list(plan["configurations"]) == ["2d"]
    for split in json.loads((workspace / "splits.json").read_text()):
        groups = [{int(name[-1]) // 2 for name in split[part]} for part in ("train", "validation")]
        assert not groups[0] & groups[1]
    run("train", workspace, "--fold", 0, "--epochs", 2, "--set", "steps_per_epoch=10", "--device", "cpu")
    run("predict", workspace, tmp_path / "scan 0.png", "-o", tmp_path / "out/truth 0.png", "--device", "cpu")
    result = io.imread(tmp_path / "out/truth 0.png")
    assert result.shape == (48, 64) and set(np.unique(result)) <= {0, 255}
    run("evaluate", tmp_path / "out/truth 0.png", tmp_path / "truth 0.png", "-o", tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text())["labels"]
