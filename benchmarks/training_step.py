"""One training iteration of the same plan, data loading and augmentation included: ours against nnU-Net's; or ours on a card.

    python benchmarks/training_step.py [--planner nnunet] [--patch 40 56 40] [--batch 7] [--steps 10] [--device cpu] [--peer PYTHON]

The hippocampus set, planned by the reference's rules (3d_fullres: patch 40x56x40, batch 7, 32 to 256 features, instance norm); patch and
batch can be replaced, for instance by --patch 128 128 128 --batch 2 for the step of a large plan (the cases are then padded). Ours runs
its whole step: pick, read, warp, augment, forward, loss, backward, clip, update. The peer runs its own trainer's `train_step` on batches of
its own loader, in its default precision; its loader gets one worker process. On a card the rate of a large bf16 matrix product is measured
beside it. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

PEER = """
import contextlib, json, os, sys, time, torch
given = json.loads(sys.argv[1])
with contextlib.redirect_stdout(sys.stderr):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.run.run_training import get_trainer_from_args
    extract_fingerprints([4], num_processes=given["threads"], show_progress_bar=False)
    plan_experiments([4])
    preprocess([4], configurations=("3d_fullres",), num_processes=(given["threads"],), show_progress_bar=False)
    torch.set_num_threads(given["threads"])
    trainer = get_trainer_from_args("Dataset004_Hippocampus", "3d_fullres", 0, device=torch.device(given["device"].partition(":")[0]))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    times = []
    for _ in range(given["steps"] + 2):
        begun = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.perf_counter() - begun)
    plan = trainer.configuration_manager
with open(given["answer"], "w") as answer:  # not by a pipe: its own loader's processes, which end later or never, hold that open
    json.dump({"seconds": times[2:], "patch": list(plan.patch_size), "batch": int(plan.batch_size)}, answer)
os.killpg(0, 9)  # with them
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--planner", default="nnunet")
    parser.add_argument("--patch", type=int, nargs=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a training setting, as of `autoseg train`")
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does
    from _report import report

    figures = ours(given)
    print({key: value for key, value in figures.items() if key != "seconds"})
    peer = theirs(given) if given.peer else None
    if peer is not None:
        print({"peer": peer["median_seconds"], "patch": peer["patch"], "batch": peer["batch"]})
    report("training_step", figures, peer=peer, ratio=peer and peer["median_seconds"] / figures["median_seconds"])


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Our steps, one after the other, as `loop` makes them."""
    import torch

    from autoseg import cases, fingerprint, machine, presets, resources
    from autoseg.planning.plan import make_plan
    from autoseg.preprocessing import store
    from autoseg.training import loop
    from autoseg.training.batches import BatchLoader
    from autoseg.training.trainer import Trainer

    resources.keep_freed_memory()
    torch.set_num_threads(given.threads)
    dataset = cases.find(given.data / "msd-hippocampus")
    plan = make_plan(fingerprint.extract(dataset), preset=presets.planner(given.planner), machine=machine.describe(given.device))
    configuration = plan.configuration("3d_fullres")
    settings = loop.check_settings(plan, dict(pair.split("=", 1) for pair in given.set))
    with tempfile.TemporaryDirectory() as scratch:
        store.preprocess_dataset(dataset, plan, configuration, Path(scratch))
        stored = [store.open_case(Path(scratch), case.name) for case in dataset.cases]
        configuration = replace(
            configuration,
            patch_size=tuple(given.patch or configuration.patch_size),
            batch_size=given.batch or configuration.batch_size,
        )
        device = torch.device(given.device)
        trainer = Trainer(plan=plan, configuration=configuration, settings=settings, device=device, seed=0)
        batches = BatchLoader(stored, plan=plan, configuration=configuration, settings=settings, seed=0, device=device, memory=1e10)
        times = []
        for step in range(given.steps + 2):
            if step == 2:
                batches.waited = batches.augmented = 0.0
            begun = time.perf_counter()
            trainer.step(batches.batch(step), learning_rate=0.01)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        batches.close()
    times = times[2:]
    median = sorted(times)[len(times) // 2]
    figures = {
        "median_seconds": median,
        "seconds": times,
        "waiting_share": batches.waited / sum(times),
        "augmentation_share": batches.augmented / sum(times),
        "patch": configuration.patch_size,
        "batch": configuration.batch_size,
        "features": configuration.features_per_stage,
        "norm": configuration.norm,
        "precision": str(trainer.precision),
    }
    flops = configuration.predicted.forward_flops if configuration.predicted else None
    if flops and given.patch is None and given.batch is None:
        figures["tflops"] = 3 * flops / median / 1e12
    if device.type == "cuda":
        figures["matrix_tflops"] = matrix_rate(device) / 1e12
        figures["memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return figures


def matrix_rate(device: Any) -> float:
    """FLOP/s of a large bf16 matrix product."""
    import torch

    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * n**3 / (time.perf_counter() - begun)


def theirs(given: argparse.Namespace) -> dict[str, Any]:
    """The peer's own trainer, on its own plan for the same data."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw" / "Dataset004_Hippocampus"
        source = given.data / "msd-hippocampus"
        names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("[!.]*.nii.gz"))
        for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (raw / kind).mkdir(parents=True)
            for name in names:
                (raw / kind / f"{name}{ending}").symlink_to((source / kind / f"{name}.nii.gz").resolve())
        labels = {"background": 0, "Anterior": 1, "Posterior": 2}
        facts = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps(facts))
        folders = {f"nnUNet_{kind}": f"{scratch}/{kind}" for kind in ("raw", "preprocessed", "results")}
        environment = {**os.environ, **folders, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
        answer = Path(scratch) / "answer.json"
        job = json.dumps({"device": given.device, "threads": given.threads, "steps": given.steps, "answer": str(answer)})
        subprocess.run([given.peer, "-c", PEER, job], env=environment, check=False, start_new_session=True)
        found: dict[str, Any] = json.loads(answer.read_text())
    return {**found, "median_seconds": sorted(found["seconds"])[len(found["seconds"]) // 2]}


if __name__ == "__main__":
    main()
