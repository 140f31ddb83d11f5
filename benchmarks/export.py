"""Class scores back to the scan's grid: time and memory against resampling every score, as the number of classes grows.

    python benchmarks/export.py [--classes 10 100] [--shape 160 341 341] [--target 200 512 512] [--dense]

Scores are smooth random volumes handed over in slabs, made on the fly so that they do not count; `--dense` also resamples all of them
(heads x voxels x 4 bytes) and compares the label maps. Each measurement runs in a process of its own. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 341, 341])
    parser.add_argument("--target", type=int, nargs=3, default=[200, 512, 512])
    parser.add_argument("--slab", type=int, default=16, help="slices handed over together")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given)))
        return
    from _report import report

    figures = {}
    for classes in given.classes:
        command = [sys.executable, __file__, "--one", str(classes), "--slab", str(given.slab), "--threads", str(given.threads)]
        command += ["--shape", *map(str, given.shape), "--target", *map(str, given.target), *["--dense"] * given.dense]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(classes, found, flush=True)
        figures |= {f"{name}_{classes}_classes": value for name, value in found.items()}
    report("export", figures)


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Seconds, peak memory beyond what was held before, and with `--dense` the same of resampling everything."""
    import numpy as np
    import torch
    from scipy import ndimage

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg.labels import make_labels
    from autoseg.prediction.scores import classes_of, classes_on_grid
    from autoseg.preprocessing.resampling import resample_scores

    torch.set_num_threads(given.threads)
    rng = np.random.default_rng(0)
    coarse = [max(4, n // 10) for n in given.shape]
    seeds = np.stack([ndimage.gaussian_filter(rng.standard_normal(coarse), 1.5) for _ in range(given.one)]).astype(np.float32)
    scores = torch.from_numpy(seeds)[None]
    labels = make_labels({f"label {value}": value for value in range(given.one)})
    spent = 0.0

    def slabs():  # type: ignore[no-untyped-def]
        nonlocal spent
        for start in range(0, given.shape[0], given.slab):
            begun = time.perf_counter()
            stop = min(start + given.slab, given.shape[0])
            depth = torch.linspace(-1, 1, given.shape[0])[start:stop]
            grid = torch.stack(torch.meshgrid(depth, *(torch.linspace(-1, 1, n) for n in given.shape[1:]), indexing="ij")[::-1], dim=-1)
            slab = torch.nn.functional.grid_sample(scores, grid[None], mode="bilinear", align_corners=True)[0]
            slab = slab.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)  # as `tiling` hands them on: the scores of a voxel together
            spent += time.perf_counter() - begun
            yield start, slab

    source, target = tuple(given.shape), tuple(given.target)
    for _ in slabs():  # what the slabs take by themselves does not count
        pass
    before, spent = peak(), 0.0
    begun = time.perf_counter()
    classes = classes_on_grid(slabs(), source=source, target=target, anisotropic_axis=None, labels=labels)
    found = {"seconds": time.perf_counter() - begun - spent, "peak_mb": (peak() - before) / 1e6}
    if given.dense:
        whole = torch.cat([slab for _, slab in slabs()], dim=1).numpy()
        begun = time.perf_counter()
        dense = classes_of(resample_scores(whole, target, anisotropic_axis=None), labels)
        found |= {"dense_seconds": time.perf_counter() - begun, "dense_mb": (peak() - before) / 1e6}
        found["voxels_that_differ"] = float((dense != classes).sum())
    return {name: round(value, 3) for name, value in found.items()}


def peak() -> int:
    """Bytes, the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
