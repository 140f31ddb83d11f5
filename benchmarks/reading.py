"""Decoding `.nii.gz`: autoseg's readers against `nibabel.load` and `get_fdata`, on one core, on the real CT, MR and label maps.

    python benchmarks/reading.py [--data DIR] [--repeats N]

Each reader runs in a process of its own, so that neither profits from memory the other has touched. `autoseg` also checks the gzip
checksum and turns the volume to the canonical orientation; the values are compared after nibabel's own turn.
Ends with one line of JSON: seconds, ratios per kind, peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from _report import peak_memory, report, seconds

IMAGES = ("big-volumes/chaos_ct3_0000.nii.gz", "big-volumes/studyforrest_t1_0000.nii.gz")
LABELS = (
    "big-volumes/chaos_ct3.nii.gz",
    "big-volumes/kits19_labels/case_00137.nii.gz",
    "big-volumes/kits19_labels/case_00165.nii.gz",
    "big-volumes/kits19_labels/case_00151.nii.gz",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, given.repeats)))
        return
    rows = []
    for kind, names in (("image", IMAGES), ("label", LABELS)):
        for name in names:
            path = given.data / name
            ours = alone("autoseg" if kind == "image" else "autoseg-label", path, given.repeats)
            theirs = alone("nibabel", path, given.repeats)
            rows.append({
                "file": path.name, "kind": kind, "megavoxels": round(ours["voxels"] / 1e6, 1), "autoseg_s": ours["seconds"],
                "nibabel_s": theirs["seconds"], "ratio": round(theirs["seconds"] / ours["seconds"], 2), "autoseg_peak_mb": ours["peak_mb"],
                "nibabel_peak_mb": theirs["peak_mb"], "identical": identical(path, kind),
            })  # fmt: skip
            print(
                "{file:28} {kind:6} {megavoxels:7} Mvox  autoseg {autoseg_s:.3f} s  nibabel {nibabel_s:.3f} s  x{ratio}".format(**rows[-1])
            )
    lowest = {kind: min(row["ratio"] for row in rows if row["kind"] == kind) for kind in ("image", "label")}
    same = all(row["identical"] for row in rows)
    marks = {"image_1.5": lowest["image"] >= 1.5, "label_2": lowest["label"] >= 2, "identical": same}
    report("reading", {"files": rows, "lowest_ratio": lowest, "identical": same, "marks": marks})


def alone(reader: str, path: Path, repeats: int) -> dict[str, float]:
    """Run one reader in a process of its own, on one core."""
    command = [sys.executable, __file__, "--one", reader, str(path), "--repeats", str(repeats)]
    pin = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})} if hasattr(os, "sched_setaffinity") else {}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pin)
    return json.loads(done.stdout.splitlines()[-1])


def measure(reader: str, file: str, repeats: int) -> dict[str, float]:
    """Seconds and peak memory of one reader on one file."""
    import nibabel
    import numpy as np

    from autoseg import images

    path = Path(file)
    read = {
        "autoseg": lambda: images.read(path).array,
        "autoseg-label": lambda: images.read_label(path).array,
        "nibabel": lambda: nibabel.load(path).get_fdata(),
    }[reader]
    before = peak_memory()
    time = seconds(read, repeats=repeats)
    return {
        "seconds": round(time, 4),
        "peak_mb": round((peak_memory() - before) / 1e6, 1),
        "voxels": int(np.prod(nibabel.load(path).shape)),
    }


def identical(path: Path, kind: str) -> bool:
    """The same values at the same places, and the same affine."""
    import nibabel
    import numpy as np

    from autoseg import images

    ours = (images.read if kind == "image" else images.read_label)(path)
    theirs = nibabel.as_closest_canonical(nibabel.load(path))
    same = np.array_equal(ours.array[0], np.asarray(theirs.dataobj).T)
    return bool(same and np.allclose(ours.affine[:, [2, 1, 0, 3]], theirs.affine, atol=1e-4))


if __name__ == "__main__":
    main()
