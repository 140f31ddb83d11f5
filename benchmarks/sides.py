"""Left and right on the demo's phantoms: patches that see both sides against patches that do not.

    python benchmarks/sides.py [--seeds 0 1 2 3 4] [--time-budget 75s | --steps 500] [--cases 24 8]

For each seed the phantoms are made, planned twice (patches that reach from side to side, and the default, where that axis is as any other),
trained and predicted on cases that training never saw. Counts, over these: voxels of a kidney labelled as the other kidney, voxels well
inside a kidney labelled as background, and the mean Dice. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

WAYS = {"both_sides": 3.0, "as_any_axis": 0.0}  # sizing.paired_elongation
DEPTH = 2  # voxels from the surface that count as well inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--time-budget", default="75s", help="planned for, and trained with unless --steps is given")
    parser.add_argument("--steps", type=int, help="train for this many steps instead, where the machine has other work")
    parser.add_argument("--cases", type=int, nargs=2, default=[24, 8], help="for training, and new ones")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does
    from _report import report

    figures: dict[str, list[float]] = {}
    for seed in given.seeds:
        for way, elongation in WAYS.items():
            with tempfile.TemporaryDirectory() as scratch:
                found = measure(Path(scratch), given, seed=seed, elongation=elongation)
            print(seed, way, found, flush=True)
            for name, value in found.items():
                figures.setdefault(f"{way}_{name}", []).append(value)
    report("sides", {**figures, **{f"{name}_mean": statistics.mean(values) for name, values in figures.items() if name.endswith("dice")}})


def measure(scratch: Path, given: argparse.Namespace, *, seed: int, elongation: float) -> dict[str, float]:
    """Voxels on the wrong side, voxels dropped, and the mean Dice, over all new cases."""
    import autoseg
    from autoseg import demo, presets
    from autoseg.pipeline.preparing import plan
    from autoseg.pipeline.reporter import NullReporter
    from autoseg.quantities import parse_duration

    data, new, planner = scratch / "data", scratch / "new", scratch / "planner.toml"
    demo.write_phantoms(data, new, training_cases=given.cases[0], new_cases=given.cases[1], seed=seed)
    unit = presets.planner().documented["sizing"]["paired_elongation"]["unit"]
    value = f'{{ value = {elongation}, unit = "{unit}", source = "benchmarks/sides.py" }}'
    planner.write_text(f'extends = "default"\n[sizing]\npaired_elongation = {value}\n')
    budget = parse_duration(given.time_budget)
    workspace = plan(data, output=scratch / "workspace", planner=planner, device="cpu", time_budget=budget, reporter=NullReporter())
    length = {"time_budget": budget} if given.steps is None else {"epochs": 1, "settings": {"steps_per_epoch": str(given.steps)}}
    autoseg.train(workspace, configuration="3d_fullres", fold=0, device="cpu", seed=seed, **length)
    autoseg.predict(workspace, [new / "images"], scratch / "predictions", device="cpu")
    return compare(scratch / "predictions", new / "labels")


def compare(predictions: Path, references: Path) -> dict[str, float]:
    """The counts of the first paragraph."""
    import nibabel
    import numpy as np
    from scipy import ndimage

    swapped, dropped, scores = 0, 0, []
    for file in sorted(references.glob("*.nii.gz")):
        reference, found = (np.asanyarray(nibabel.load(folder / file.name).dataobj) for folder in (references, predictions))
        swapped += int(((reference == 1) & (found == 2)).sum() + ((reference == 2) & (found == 1)).sum())
        inside = ndimage.binary_erosion((reference == 1) | (reference == 2), iterations=DEPTH)
        dropped += int((inside & (found == 0)).sum())
        for value in (1, 2, 3):
            both, either = ((reference == value) & (found == value)).sum(), (reference == value).sum() + (found == value).sum()
            scores.append(2 * both / either)
    return {"swapped_voxels": swapped, "dropped_voxels": dropped, "dice": float(np.mean(scores))}


if __name__ == "__main__":
    main()
