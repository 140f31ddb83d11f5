"""The whole of preprocessing, from the files to the store, against nnU-Net: time, peak memory of all processes, disk, patch reads.

    python benchmarks/preprocessing.py [hippocampus] [large] [--data DIR] [--peer PYTHON] [--workers N] [--limit BYTES]

hippocampus: 200 small cases. large: an abdominal CT (512 x 512 x 78) and a head MR (384 x 384 x 274), with `--limit` under a limit of
memory for each process (RLIMIT_AS). Timed is the one call that preprocesses 3d_fullres, the imports of the calling process apart;
the start of workers is in it, and so is theirs. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PATCH = 64
FOLDERS = {"hippocampus": "Dataset004_Hippocampus", "large": "Dataset005_Large"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="hippocampus|large")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=int, default=None, help="bytes of address space for each process of ours")
    given = parser.parse_args()
    from _report import report

    figures: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.sets or FOLDERS:
            raw = Path(scratch) / "raw" / FOLDERS[name]
            link(given.data, raw, name)
            job = {"who": "ours", "raw": str(raw), "work": f"{scratch}/ours_{name}", "workers": given.workers, "limit": given.limit}
            figures[name] = measured(sys.executable, job, {})
            print(f"{name:12} ours {show(figures[name])}", flush=True)
            if given.peer:
                folders = {f"nnUNet_{kind}": f"{scratch}/{kind}" for kind in ("raw", "preprocessed", "results")}
                job = {"who": "peer", "raw": str(raw), "work": f"{scratch}/preprocessed", "workers": given.workers}
                peers[name] = measured(given.peer, job, folders)
                ratios[name] = peers[name]["seconds"] / figures[name]["seconds"]
                print(f"{'':12} peer {show(peers[name])}   {ratios[name]:.1f} x", flush=True)
    report("preprocessing", figures, peer=peers or None, ratio=ratios or None)


def show(found: dict[str, Any]) -> str:
    return (
        f"{found['seconds']:.2f} s   peak {found['peak_bytes'] / 1e6:.0f} MB   store {found['store_bytes'] / 1e6:.0f} MB"
        f" ({found['store_over_source']:.2f} of the files)   {PATCH}^3 patch {1e3 * found['patch_seconds']:.2f} ms"
    )


def link(data: Path, raw: Path, name: str) -> None:
    """The data set as the peer wants it: links, but for labels that do not exist."""
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    names = []
    if name == "hippocampus":
        for label in sorted((data / "msd-hippocampus" / "labelsTr").glob("[!.]*.nii.gz")):
            names.append(label.name.removesuffix(".nii.gz"))
            (raw / "labelsTr" / label.name).symlink_to(label.resolve())
            (raw / "imagesTr" / f"{names[-1]}_0000.nii.gz").symlink_to((data / "msd-hippocampus" / "imagesTr" / label.name).resolve())
        channel, labels = "MRI", {"background": 0, "Anterior": 1, "Posterior": 2}
    else:
        import nibabel

        for case in ("chaos_ct3", "studyforrest_t1"):
            names.append(case)
            (raw / "imagesTr" / f"{case}_0000.nii.gz").symlink_to((data / "big-volumes" / f"{case}_0000.nii.gz").resolve())
        (raw / "labelsTr" / "chaos_ct3.nii.gz").symlink_to((data / "big-volumes" / "chaos_ct3.nii.gz").resolve())
        head = nibabel.load(raw / "imagesTr" / "studyforrest_t1_0000.nii.gz")
        bright = np.asarray(head.dataobj) > np.percentile(np.asarray(head.dataobj)[::4, ::4, ::4], 90)
        nibabel.save(nibabel.Nifti1Image(bright.astype(np.uint8), head.affine), raw / "labelsTr" / "studyforrest_t1.nii.gz")
        channel, labels = "CT", {"background": 0, "something": 1}
    facts = {"channel_names": {"0": channel}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(facts))


def measured(python: str, job: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run this file as a child of the given interpreter and watch the memory of all its processes."""
    child = subprocess.Popen(
        [python, __file__, "--job", json.dumps(job)], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    peak, answer = 0, []
    reader = threading.Thread(target=lambda: answer.extend(child.stdout or ()))
    reader.start()
    while child.poll() is None:
        peak = max(peak, tree_bytes(child.pid))
        time.sleep(0.02)
    reader.join()
    found = json.loads(answer[-1])
    source = sum(p.resolve().stat().st_size for p in Path(job["raw"]).rglob("*.nii.gz"))
    return {**found, "peak_bytes": peak, "store_over_source": found["store_bytes"] / source}


def tree_bytes(root: int) -> int:
    """Resident memory of a process and all below it."""
    parents, resident = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            text = (place / "status").read_text()
        except OSError:
            continue
        parents[int(place.name)] = int(re.search(r"PPid:\s+(\d+)", text)[1])  # type: ignore[index]
        found = re.search(r"VmRSS:\s+(\d+)", text)
        resident[int(place.name)] = 1024 * int(found[1]) if found else 0
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(resident.get(pid, 0) for pid in family)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg import cases, fingerprint, machine, presets
    from autoseg.planning.plan import make_plan
    from autoseg.preprocessing import store

    if job["limit"]:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (job["limit"], job["limit"]))
    dataset = cases.find(Path(job["raw"]))
    plan = make_plan(fingerprint.extract(dataset), preset=presets.planner("nnunet"), machine=machine.describe("cpu", probe=False))
    configuration, folder = plan.configuration("3d_fullres"), Path(job["work"])
    started = time.perf_counter()
    store.preprocess_dataset(dataset, plan, configuration, folder, workers=None if job["limit"] else job["workers"])
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    store.preprocess_dataset(dataset, plan, configuration, folder)
    again = time.perf_counter() - started
    stored = [store.open_case(folder, case.name) for case in dataset.cases]
    reads = [patch_seconds(case.shape, lambda box, case=case: (case.image(box), case.label(box))) for case in stored]
    return {
        "seconds": seconds,
        "nothing_to_do_seconds": again,
        "spacing": configuration.spacing,
        "store_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "patch_seconds": float(np.median(np.concatenate(reads))),
    }


def peer(job: dict[str, Any]) -> dict[str, Any]:
    import contextlib

    with contextlib.redirect_stdout(sys.stderr):
        from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

        number = int(Path(job["raw"]).name[7:10])
        extract_fingerprints([number], num_processes=job["workers"], show_progress_bar=False)
        plan_experiments([number])
        started = time.perf_counter()
        preprocess([number], configurations=("3d_fullres",), num_processes=(job["workers"],), show_progress_bar=False)
        seconds = time.perf_counter() - started
    folder = Path(job["work"]) / Path(job["raw"]).name
    plans = json.loads((folder / "nnUNetPlans.json").read_text())["configurations"]["3d_fullres"]
    store = folder / plans["data_identifier"]
    dataset = nnUNetDatasetBlosc2(str(store))
    reads = []
    for name in dataset.identifiers:
        image, seg, *_ = dataset.load_case(name)
        reads.append(patch_seconds(image.shape[1:], lambda box, i=image, s=seg: (i[(slice(None), *box)], s[(slice(None), *box)])))
    return {
        "seconds": seconds,
        "spacing": plans["spacing"],
        "store_bytes": sum(p.stat().st_size for p in store.rglob("*") if p.is_file()),
        "patch_seconds": float(np.median(np.concatenate(reads))),
    }


def patch_seconds(shape: tuple[int, ...], read: Any) -> np.ndarray:
    """Times of reading image and label of random patches."""
    rng = np.random.default_rng(0)
    times = []
    for _ in range(100):
        start = [int(rng.integers(0, max(1, n - PATCH + 1))) for n in shape]
        box = tuple(slice(a, min(n, a + PATCH)) for a, n in zip(start, shape, strict=True))
        begun = time.perf_counter()
        read(box)
        times.append(time.perf_counter() - begun)
    return np.array(times)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        given = json.loads(sys.argv[2])
        print(json.dumps((ours if given["who"] == "ours" else peer)(given)), flush=True)
    else:
        main()
