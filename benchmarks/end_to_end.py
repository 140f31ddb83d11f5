"""End to end on real scans, through the commands a user types: plan, train, predict, evaluate.

    python benchmarks/end_to_end.py EXPERIMENT [--data DIR] [--work DIR] [--minutes M]

EXPERIMENT is one of
    hippocampus   plan, train 3d_fullres fold 0 for 10 minutes: full-image Dice of the fold's validation cases
    ensemble      20 cases kept apart, five folds of 3 minutes each: the ensemble against the single folds on those 20
    cells         EM slices as PNG, 2D, 4 slices kept apart, 5 minutes
    sarcoma       T1 + CT, thick slices, 5 minutes on fold 0: the validation cases
    cascade       phantoms large enough for a cascade: all configurations, two folds, a few epochs; predicts with each
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _report import report

AUTOSEG = [sys.executable, "-m", "autoseg.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["hippocampus", "ensemble", "cells", "sarcoma", "cascade"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("autoseg-benchmark"))
    parser.add_argument("--minutes", type=float, default=None)
    given = parser.parse_args()
    work = given.work / given.experiment
    work.mkdir(parents=True, exist_ok=True)
    run = {"hippocampus": hippocampus, "ensemble": ensemble, "cells": cells, "sarcoma": sarcoma, "cascade": cascade}[given.experiment]
    report("end_to_end", {"experiment": given.experiment, **run(given.data, work, given.minutes)})


def hippocampus(data: Path, work: Path, minutes: float | None) -> dict[str, object]:
    minutes = minutes or 10
    run("plan", data / "msd-hippocampus", "-o", work / "workspace", "--overwrite")
    seconds = run("train", work / "workspace", "-c", "3d_fullres", "--fold", 0, "--time-budget", f"{minutes}m", "--overwrite")
    summary = read(work / "workspace/runs/3d_fullres/fold_0/validation/summary.json")
    return {"minutes": minutes, "train_seconds": seconds, "cases": len(summary["cases"]), **dice(summary)}


def ensemble(data: Path, work: Path, minutes: float | None) -> dict[str, object]:
    minutes = minutes or 3
    source = data / "msd-hippocampus"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))
    apart = names[5::10][:20]
    table = work / "cases.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "channels", "label"])
        for name in names:
            if name not in apart:
                writer.writerow([name, (source / f"imagesTr/{name}.nii.gz").resolve(), (source / f"labelsTr/{name}.nii.gz").resolve()])
    run("plan", table, "-o", work / "workspace", "--overwrite")
    for fold in range(5):
        run("train", work / "workspace", "-c", "3d_fullres", "--fold", fold, "--time-budget", f"{minutes}m", "--overwrite")
    scans = [source / f"imagesTr/{name}.nii.gz" for name in apart]
    figures: dict[str, object] = {"minutes": minutes, "cases": len(apart)}
    for fold in [*range(5), "all"]:
        output = work / f"predictions_{fold}"
        seconds = run("predict", work / "workspace", *scans, "-o", output, "--fold", fold, "--overwrite")
        run("evaluate", output, source / "labelsTr", "-o", work / f"summary_{fold}.json")
        figures[f"fold_{fold}"] = dice(read(work / f"summary_{fold}.json"))["dice"]
        figures[f"predict_seconds_{fold}"] = seconds
    singles = [figures[f"fold_{fold}"] for fold in range(5)]
    figures["mean_of_single_folds"] = sum(singles) / len(singles)
    return figures


def cells(data: Path, work: Path, minutes: float | None) -> dict[str, object]:
    minutes = minutes or 5
    source = (data / "isbi-em").resolve()
    names = sorted(path.stem for path in (source / "images").glob("*.png"))
    apart = names[3::6][:4]
    table = work / "cases.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "channels", "label"])
        for name in names:
            if name not in apart:
                writer.writerow([name, source / f"images/{name}.png", find_label(source, name)])
    run("plan", table, "-o", work / "workspace", "--overwrite")
    seconds = run("train", work / "workspace", "--fold", 0, "--time-budget", f"{minutes}m", "--overwrite")
    references = work / "references"
    references.mkdir(exist_ok=True)
    for name in apart:
        (references / f"{name}.png").write_bytes(find_label(source, name).read_bytes())
    run("predict", work / "workspace", *[source / f"images/{name}.png" for name in apart], "-o", work / "predictions", "--overwrite")
    run("evaluate", work / "predictions", references, "-o", work / "summary.json")
    return {"minutes": minutes, "train_seconds": seconds, "cases": len(apart), **dice(read(work / "summary.json"))}


def sarcoma(data: Path, work: Path, minutes: float | None) -> dict[str, object]:
    minutes = minutes or 5
    source = data / "sts-mrct"
    run("plan", source, "-o", work / "workspace", "--overwrite")
    seconds = run("train", work / "workspace", "-c", "3d_fullres", "--fold", 0, "--time-budget", f"{minutes}m", "--overwrite")
    summary = read(work / "workspace/runs/3d_fullres/fold_0/validation/summary.json")
    name = summary["cases"][0]["case"]
    run("predict", work / "workspace", *sorted((source / "imagesTr").glob(f"{name}_*.nii.gz")), "-o", work / "predictions", "--overwrite")
    run("evaluate", work / "predictions", source / "labelsTr", "-o", work / "summary.json")
    return {"minutes": minutes, "train_seconds": seconds, "cases": len(summary["cases"]), **dice(summary)}


def cascade(data: Path, work: Path, minutes: float | None) -> dict[str, object]:
    import numpy as np

    from autoseg import files, images, phantoms

    folder = work / "data"
    if not (folder / "splits.json").exists():
        names = []
        for name, phantom in phantoms.make_phantoms(7, large=True):
            part = "Tr" if len(names) < 6 else "Ts"
            names.append(name)
            images.write_image(folder / f"images{part}/{name}.nii.gz", phantom.image, affine=phantom.affine)
            images.write_image(folder / f"labels{part}/{name}.nii.gz", phantom.label[None].astype(np.uint8), affine=phantom.affine)
        labels = {str(label.value): label.name for label in phantoms.LABELS.labels}
        listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:6]]
        described = {"name": "large", "modality": {"0": "MRI"}, "labels": labels, "numTraining": 6, "training": listed}
        files.write_json(folder / "dataset.json", described)
        halves = [names[:3], names[3:6]]
        files.write_json(folder / "splits.json", [{"train": halves[1 - k], "validation": halves[k]} for k in range(2)])
    run("plan", folder, "-o", work / "workspace", "--splits", folder / "splits.json", "--overwrite")
    length = ["--time-budget", f"{minutes or 1}m"]
    seconds = run("train", work / "workspace", "--configuration", "all", *length, "--overwrite")
    figures: dict[str, object] = {"minutes_per_fold": minutes or 1, "train_seconds": seconds}
    for name in ["2d", "3d_lowres", "3d_fullres", "3d_cascade"]:
        output = work / f"predictions_{name}"
        figures[f"{name}_predict_seconds"] = run(
            "predict", work / "workspace", folder / "imagesTs", "-o", output, "-c", name, "--overwrite", "--no-tta"
        )
        run("evaluate", output, folder / "labelsTs", "-o", work / f"summary_{name}.json")
        figures[name] = dice(read(work / f"summary_{name}.json"))
    return figures


def find_label(source: Path, name: str) -> Path:
    for folder in ("labels", "masks"):
        if (source / folder / f"{name}.png").exists():
            return source / folder / f"{name}.png"
    raise SystemExit(f"no label of {name} under {source}")


def run(*words: object) -> float:
    """One command, its output passed on; the seconds it took."""
    arguments = [str(word) for word in words]
    print("$ autoseg", " ".join(arguments), flush=True)
    started = time.perf_counter()
    code = subprocess.run([*AUTOSEG, *arguments]).returncode
    if code:
        raise SystemExit(f"autoseg {arguments[0]} ended with {code}")
    return round(time.perf_counter() - started, 1)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def dice(summary: dict) -> dict[str, object]:
    per_label = {name: round(row["dice"]["mean"], 4) for name, row in summary["labels"].items() if row["dice"]["mean"] is not None}
    return {"dice": round(summary["mean"]["dice"]["mean"], 4), "dice_per_label": per_label}


if __name__ == "__main__":
    main()
