"""Cross-validation of two configurations, `select`, and `predict` on scans kept apart: what is chosen, and whether that was right.

    python benchmarks/choosing.py [--minutes M] [--cases N] [--held-out K] [--work DIR] [--workers N]

Five folds of M minutes in 2d and in 3d_fullres on N hippocampus scans, all by the commands that a user types. `select` then compares
the two and their pair out of fold. K scans that took no part are segmented by each and by what was chosen. The post-processing rules are
applied to the out-of-fold predictions they were learnt from, and compared with none: no mean may fall, of no label.
A work folder is used again, so a stopped run goes on. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _report import report

from autoseg import cases, evaluation, images, postprocessing
from autoseg.pipeline.planned import read_dataset, read_plan
from autoseg.pipeline.records import read_rules
from autoseg.pipeline.validating import out_of_fold
from autoseg.workspace import Workspace

AUTOSEG = [sys.executable, "-m", "autoseg.cli"]
CONFIGURATIONS = ("2d", "3d_fullres")
PAIR = "+".join(CONFIGURATIONS)
DATA = Path(os.environ.get("AUTOSEG_TEST_DATA", Path(__file__).resolve().parents[2] / "shared/data")) / "msd-hippocampus"


def main() -> None:
    """Train, select, predict, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="of each fold")
    parser.add_argument("--cases", type=int, default=100, help="scans that are trained on")
    parser.add_argument("--held-out", type=int, default=20, help="scans that take no part in it")
    parser.add_argument("--work", type=Path, help="folder for everything; default: a temporary one")
    parser.add_argument("--workers", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given, given.work or Path(temporary))


def measure(given: argparse.Namespace, work: Path) -> None:
    """Run everything in a folder."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (DATA / "imagesTr").glob("hippocampus_*.nii.gz"))
    random.Random(0).shuffle(names)
    training, held_out = names[given.held_out : given.held_out + given.cases], names[: given.held_out]
    root = work / "workspace"
    if not root.exists():
        link(work / "data", training)
        link(work / "new", held_out)
        run("plan", work / "data", "-o", root, "--time-budget", f"{given.minutes}m", "--device", "cpu", "-q")
    for name in CONFIGURATIONS:
        run(
            "train", root, "-c", name, "--device", "cpu", "--workers", given.workers, "-q", fine=(0, 4)
        )  # 4: trained too briefly to be of use, and said so
    begun = time.perf_counter()
    run("select", root, "--device", "cpu", "--workers", given.workers)
    select_seconds = time.perf_counter() - begun
    choice = json.loads((root / "selection.json").read_text())
    held = {name: dice_of(root, work, name, "-c", name) for name in (*CONFIGURATIONS, PAIR)}
    held["selected"] = dice_of(root, work, "selected")
    held["selected, without rules"] = dice_of(root, work, "bare", "--no-postprocess")
    cleaned = {name: with_rules(Workspace(root=root), name) for name in read_rules(Workspace(root=root))}
    show(choice, held, cleaned)
    figures = {
        "minutes_per_fold": given.minutes, "cases": len(training), "held_out": len(held_out), "selected": choice["selected"],
        "out_of_fold_dice": {name: row["dice"] for name, row in choice["configurations"].items()},
        "differences": choice["differences"], "held_out_dice": held, "rules": cleaned, "select_seconds": select_seconds,
        "rules_never_below_none": all(row["after"] >= row["before"] and row["worst_label_gain"] >= 0 for row in cleaned.values()),
    }  # fmt: skip
    report("choosing", figures)


def link(folder: Path, names: Sequence[str]) -> None:
    """Make a data set in the layout of the Decathlon of some scans."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            target = folder / part / f"{name}.nii.gz"
            if not target.exists():
                target.symlink_to(DATA / part / target.name)
    known = json.loads((DATA / "dataset.json").read_text())
    known |= {"training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names], "test": []}
    (folder / "dataset.json").write_text(json.dumps(known))


def run(*words: object, fine: tuple[int, ...] = (0,)) -> None:
    """Run one command of autoseg."""
    ended = subprocess.run([*AUTOSEG, *map(str, words)], check=False)
    if ended.returncode not in fine:
        sys.exit(f"autoseg {words[0]} ended with {ended.returncode}")


def dice_of(root: Path, work: Path, name: str, *words: str) -> float:
    """Return the mean Dice of the scans kept apart."""
    output, summary = work / f"predicted/{name}", work / f"predicted/{name}.json"
    run("predict", root, work / "new/imagesTr", "-o", output, "--device", "cpu", "-q", "--overwrite", *words)
    run("evaluate", output, work / "new/labelsTr", "-o", summary, "--metrics", "dice", "--workers", "0", "-q")
    return float(json.loads(summary.read_text())["mean"]["dice"]["mean"])


def with_rules(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the out-of-fold Dice of a configuration or a pair without and with its post-processing rules."""
    plan, known = read_plan(workspace), {case.name: case for case in read_dataset(workspace).cases}
    rules = read_rules(workspace)[name]
    place = workspace.configuration(name)
    folds = [place] if "+" in name else sorted(path for path in place.glob("fold_*") if (path / "validation/summary.json").exists())
    scores: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    for case, file in out_of_fold(folds).items():
        predicted = images.read_label(file)
        reference = cases.load_classes(known[case], plan.labels, like=predicted)
        classes = plan.labels.encode(predicted.array[0])
        after = postprocessing.apply(classes, rules, plan.labels, predicted.spacing)
        for key, found in (("before", classes), ("after", after)):
            scores[key][case] = evaluation.score_case(found, reference, plan.labels, spacing=predicted.spacing)
    before, after = (evaluation.summarise(scores[key], plan.labels) for key in ("before", "after"))
    gains = [after["labels"][label]["dice"]["mean"] - before["labels"][label]["dice"]["mean"] for label in before["labels"]]
    return {"rules": list(rules.sentences()), "before": before["mean"]["dice"]["mean"], "after": after["mean"]["dice"]["mean"],
            "worst_label_gain": float(np.min(gains))}  # fmt: skip


def show(choice: dict[str, Any], held: dict[str, float], cleaned: dict[str, Any]) -> None:
    """Print the choice and what it is worth."""
    print(f"\nchosen: {choice['selected']}")
    for reason in choice["reasons"]:
        print(f"  {reason}")
    for name, row in choice["configurations"].items():
        print(f"{name:24} out of fold {row['dice']:.4f} ({row['cases']} cases)   kept apart {held[name]:.4f}   work {row['work']:.3g}")
    for name in ("selected", "selected, without rules"):
        print(f"{name:24} kept apart {held[name]:.4f}")
    for name, row in cleaned.items():
        print(f"{name:24} rules: {'; '.join(row['rules']) or 'none'}; Dice {row['before']:.4f} -> {row['after']:.4f}, "
              f"least gain of a label {row['worst_label_gain']:+.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
