"""Resampling against nnU-Net: time, memory and difference on real volumes, images by cubic splines and label maps.

    python benchmarks/resampling.py [--data DIR] [--peer PYTHON] [--only NAME ...] [--part SHARE] [--threads N]

Each measurement runs in a process of its own, ours and the peer's in turn on the same array. `peak_bytes` is the most memory held
during the call beyond what was held before it, plus the input. `--part 0.2` takes a fifth of the slices of the maps with many labels:
the peer interpolates one volume per label and needs minutes for all. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = {"chaos_ct3": "big-volumes/chaos_ct3_0000.nii.gz", "studyforrest_t1": "big-volumes/studyforrest_t1_0000.nii.gz"}
LABELS = {
    "liver_2": "big-volumes/chaos_ct3.nii.gz",
    "brain_54": "brain-labelmaps/labels/training_seg_01.nii.gz",
    "allen_138": "many-class/allen/allen_atlas_labels.nii.gz",
}
FACTORS = {"down": 0.8, "up": 1.25}  # of the number of voxels along each axis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"))
    parser.add_argument("--only", nargs="*", default=[*IMAGES, *LABELS])
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the peer runs once, or as often with --peer-repeats")
    parser.add_argument("--peer-repeats", type=int, default=1)
    given = parser.parse_args()
    from _report import report

    figures: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            kind = "image" if name in IMAGES else "labels"
            path = load(given.data / {**IMAGES, **LABELS}[name], kind, given.part if name in ("brain_54", "allen_138") else 1.0, folder)
            for direction, factor in FACTORS.items():
                key = f"{name}_{direction}"
                shape = [max(1, round(n * factor)) for n in np.load(path, mmap_mode="r").shape[-3:]]
                ours = measure(sys.executable, path, shape, kind, "ours", given.threads, given.repeats)
                figures[key] = {k: ours[k] for k in ("seconds", "first_seconds", "peak_bytes")}
                line = f"{key:24} {shape}  ours {ours['seconds']:.2f} s, {ours['peak_bytes'] / 1e6:.0f} MB"
                if given.peer:
                    theirs = measure(given.peer, path, shape, kind, "peer", given.threads, given.peer_repeats)
                    peers[key] = {k: theirs[k] for k in ("seconds", "peak_bytes")}
                    figures[key] |= compare(kind, path, ours["result"], theirs["result"])
                    ratios[key] = theirs["seconds"] / ours["seconds"]
                    line += f"   peer {theirs['seconds']:.2f} s, {theirs['peak_bytes'] / 1e6:.0f} MB   {ratios[key]:.0f} x"
                    line += f"   {', '.join(f'{k} {v:.3g}' for k, v in figures[key].items() if 'differ' in k or 'tie' in k)}"
                    Path(theirs["result"]).unlink()
                Path(ours["result"]).unlink()
                print(line, flush=True)
    report("resampling", figures, peer=peers or None, ratio=ratios or None)


def load(path: Path, kind: str, part: float, folder: str) -> Path:
    """The array `(c, z, y, x)` as .npy, labels as consecutive integers; `part` of the slices from the middle."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg import images

    array = images.read(path).array[:1]
    if kind == "labels":
        values, places = np.unique(np.rint(array).astype(np.int32), return_inverse=True)
        array = places.reshape(array.shape).astype(np.int16)
        print(f"{path.name}: {len(values)} label values, shape {array.shape[1:]}")
    else:
        array = array.astype(np.float32)
    count = max(2, round(part * array.shape[1]))
    first = (array.shape[1] - count) // 2
    target = Path(folder) / f"{path.name}.npy"
    np.save(target, np.ascontiguousarray(array[:, first : first + count]))
    return target


def measure(python: str, path: Path, shape: list[int], kind: str, who: str, threads: int, repeats: int) -> dict[str, Any]:
    """Run this file as a child of the given interpreter."""
    job = {"path": str(path), "shape": shape, "kind": kind, "who": who, "repeats": repeats, "result": f"{path}.{who}.npy"}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run([python, __file__, "--job", json.dumps(job)], env=environment, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "result": job["result"]}


def child(job: dict[str, Any]) -> None:
    array = np.load(job["path"])
    shape = tuple(job["shape"])
    if job["who"] == "ours":
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from autoseg.preprocessing.resampling import resample_image, resample_labels

        def work() -> Any:
            if job["kind"] == "image":
                return resample_image(array, shape, anisotropic_axis=None)
            return resample_labels(array[0], shape, anisotropic_axis=None)[None]
    else:
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

        def work() -> Any:
            labels = job["kind"] == "labels"
            return resample_data_or_seg_to_shape(
                array, shape, [1, 1, 1], [1, 1, 1], is_seg=labels, order=1 if labels else 3, order_z=0, force_separate_z=None
            )

    times, result = [], None
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(job["repeats"]):
        result = None
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    peak = status("VmHWM") - before + array.nbytes
    np.save(job["result"], np.asarray(result))
    print(json.dumps({"seconds": statistics.median(times), "first_seconds": times[0], "peak_bytes": peak}))


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


def compare(kind: str, source: Path, ours: str, theirs: str) -> dict[str, float]:
    """Images: largest difference over the input's range. Labels: voxels that differ, and how many of them are exact ties."""
    a, b = np.load(ours, mmap_mode="r"), np.load(theirs, mmap_mode="r")
    if kind == "image":
        spread = float(np.ptp(np.load(source, mmap_mode="r")))
        return {"difference_of_range": max(float(np.abs(x - y).max()) for x, y in zip(a[0], b[0], strict=True)) / spread}
    voxels = np.argwhere(np.asarray(a[0]) != np.asarray(b[0]))
    classes = np.load(source, mmap_mode="r")[0]
    ties = sum(is_tie(classes, a.shape[1:], voxel, int(a[0][tuple(voxel)]), int(b[0][tuple(voxel)])) for voxel in voxels[:100_000])
    return {"voxels_differ": float(len(voxels)), "of_which_ties": float(ties), "voxels": float(a[0].size)}


def is_tie(classes: np.ndarray, shape: tuple[int, ...], voxel: np.ndarray, first: int, second: int) -> bool:
    """Are the interpolated shares of the two labels equal to within rounding?"""
    shares = {first: 0.0, second: 0.0}
    corners = [((), 1.0)]
    for n, m, i in zip(classes.shape, shape, voxel, strict=True):
        centre = min(max((i + 0.5) * n / m - 0.5, 0), n - 1)
        low = int(centre)
        places = [(low, 1 - (centre - low)), (min(low + 1, n - 1), centre - low)]
        corners = [((*at, place), weight * share) for at, weight in corners for place, share in places]
    for at, weight in corners:
        label = int(classes[at])
        if label in shares:
            shares[label] += weight
    return abs(shares[first] - shares[second]) < 1e-9


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        child(json.loads(sys.argv[2]))
    else:
        main()
