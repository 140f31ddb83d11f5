"""One label withheld from half the cases: declared as not annotated, treated as background, and not withheld at all.

    python benchmarks/partial_labels.py [--minutes 5] [--epochs N --steps M] [--label Posterior] [--data DIR] [--work DIR]

The hippocampus set as a list of cases.
In every second training case the label is taken out of the label map: its voxels become background.
*full*: nothing withheld. *annotated*: the list says which labels those cases have. *background*: it does not say so. The same fold is
trained each time, and scored on the full labels of its validation cases; annotated and background are also compared case by case,
in Dice and in volume, for the label withheld. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from _report import report

AUTOSEG = [sys.executable, "-m", "autoseg.cli"]
LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
CONDITIONS = ("full", "annotated", "background")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("autoseg-partial"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--epochs", type=int, help="in place of minutes: each of --steps")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--label", default="Posterior", choices=list(LABELS)[1:])
    parser.add_argument("--only", nargs="*", choices=CONDITIONS, default=CONDITIONS)
    given = parser.parse_args()
    source, work = (given.data / "msd-hippocampus").resolve(), given.work.resolve()
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("[!.]*.nii.gz"))
    validation, training = names[::5], [name for i, name in enumerate(names) if i % 5]
    withheld = set(training[::2])
    erased = work / "erased"
    erased.mkdir(parents=True, exist_ok=True)
    for name in withheld:
        erase(source / "labelsTr" / f"{name}.nii.gz", erased / f"{name}.nii.gz", LABELS[given.label])
    length = (
        ["--epochs", given.epochs, "--set", f"steps_per_epoch={given.steps}"] if given.epochs else ["--time-budget", f"{given.minutes:g}m"]
    )
    figures: dict[str, Any] = {"withheld_label": given.label, "withheld_from": len(withheld), "training_cases": len(training)}
    figures |= {"length": " ".join(map(str, length))}
    (work / "splits.json").write_text(json.dumps([{"train": training, "validation": validation}]))
    summaries: dict[str, Any] = {}
    for condition in given.only:
        rows: list[dict[str, Any]] = []
        for name in names:
            gone = condition != "full" and name in withheld
            label = (erased if gone else source / "labelsTr") / f"{name}.nii.gz"
            row = {"case": name, "channels": str(source / "imagesTr" / f"{name}.nii.gz"), "label": str(label)}
            if gone and condition == "annotated":
                row["annotated"] = [key for key in LABELS if key not in ("background", given.label)]
            rows.append(row)
        table = work / f"{condition}.json"
        table.write_text(json.dumps({"channels": {"0": "MRI"}, "labels": LABELS, "cases": rows}))
        workspace = work / condition
        run("plan", table, "-o", workspace, "--splits", work / "splits.json", "--overwrite", "--device", "cpu", "--quiet")
        run("train", workspace, "-c", "3d_fullres", "--fold", 0, *length, "--overwrite", "--device", "cpu", "--quiet")
        summary = json.loads((workspace / "runs/3d_fullres/fold_0/validation/summary.json").read_text())
        found = {name: round(scores["dice"]["mean"], 4) for name, scores in summary["labels"].items()}
        print(condition, found, flush=True)
        plan = json.loads((workspace / "plan.json").read_text())["configurations"]["3d_fullres"]
        network = {key: plan[key] for key in ("patch_size", "batch_size", "features_per_stage")}  # should be the same for all
        figures[condition] = {"cases": len(summary["cases"]), "dice_per_label": found, "network": network}
        figures[condition]["volume_error"] = round(summary["labels"][given.label]["volume_error"]["mean"], 4)
        summaries[condition] = summary
    if "annotated" in summaries and "background" in summaries:
        figures["annotated_against_background"] = paired(summaries["annotated"], summaries["background"], given.label)
    report("partial_labels", figures)


def paired(one: dict[str, Any], other: dict[str, Any], label: str) -> dict[str, Any]:
    """Case by case: gain in Dice and fall of the absolute volume error, each with its 95 % interval, the cases that gained, and p."""
    import numpy as np
    from scipy import stats

    scores = [[case["labels"][label] for case in sorted(summary["cases"], key=lambda case: case["case"])] for summary in (one, other)]
    dice = np.array([[score["dice"] for score in each] for each in scores])
    volume = np.abs([[score["volume_error"] for score in each] for each in scores])
    found: dict[str, Any] = {}
    for name, gains in (("dice_gain", dice[0] - dice[1]), ("volume_error_fall", volume[1] - volume[0])):
        interval = stats.bootstrap((gains,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
        found[name] = {
            "mean": round(float(gains.mean()), 4),
            "ci95": [round(float(interval.low), 4), round(float(interval.high), 4)],
            "cases_better": int((gains > 0).sum()),
            "p_wilcoxon": float(f"{stats.wilcoxon(gains).pvalue:.2g}"),
        }
    return found


def erase(source: Path, target: Path, value: int) -> None:
    import nibabel
    import numpy as np

    image = nibabel.load(source)
    array = np.asarray(image.dataobj).round().astype(np.uint8)
    array[array == value] = 0
    nibabel.save(nibabel.Nifti1Image(array, image.affine), target)


def run(*words: object) -> None:
    subprocess.run([*AUTOSEG, *map(str, words)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
