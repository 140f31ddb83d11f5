"""Dice of one fold after some minutes of training, for one or more seeds, and of the peer after as many minutes on the same fold.

    python benchmarks/training_accuracy.py [SET] [--minutes M] [--seeds 0 1 2] [--peer PYTHON] [--work DIR] [--set KEY=VALUE]

SET: msd-hippocampus (without one), sts-mrct, fetal-brain-atlas or isbi-em. Ours is what a user types: `autoseg plan` and `autoseg train
--fold 0 --time-budget`; the whole command is timed, final validation of full images included. The peer gets
our split, its own plan, its own trainer's steps and loader for the same minutes (its learning rate falls to zero at their end), and
then its own validation of full images, whose time is not counted. Both are scored by `autoseg evaluate`. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _report import report

AUTOSEG = [sys.executable, "-m", "autoseg.cli"]
CONFIGURATIONS = {"isbi-em": "2d"}  # of the others: 3d_fullres

PEER = """
import json, os, sys, time, torch
from pathlib import Path

def main():
    given = json.loads(sys.argv[1])
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.run.run_training import get_trainer_from_args
    extract_fingerprints([4], num_processes=2, show_progress_bar=False)
    plan_experiments([4])
    preprocess([4], configurations=(given["configuration"],), num_processes=(2,), show_progress_bar=False)
    Path(os.environ["nnUNet_preprocessed"], given["name"], "splits_final.json").write_text(json.dumps(given["splits"]))
    torch.set_num_threads(given["threads"])
    trainer = get_trainer_from_args(given["name"], given["configuration"], 0, device=torch.device(given["device"]))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    begun, steps, rate = time.perf_counter(), 0, trainer.initial_lr
    while (share := (time.perf_counter() - begun) / given["seconds"]) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate * (1 - share) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    trained = time.perf_counter()
    trainer.perform_actual_validation(False)
    plan = trainer.configuration_manager
    found = {"steps": steps, "train_seconds": trained - begun, "validation_seconds": time.perf_counter() - trained,
             "patch": list(plan.patch_size), "batch": int(plan.batch_size), "folder": trainer.output_folder + "/validation"}
    Path(given["answer"]).write_text(json.dumps(found))
    os.killpg(0, 9)  # its loader's processes with it

if __name__ == "__main__":
    main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="msd-hippocampus")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("autoseg-accuracy"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as of `autoseg train`")
    parser.add_argument("--plan-for", metavar="10m", help="the time budget given to `autoseg plan`; without it the default plan")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"))
    parser.add_argument("--no-peer", action="store_true")
    given = parser.parse_args()
    source = (given.data / given.set).resolve()
    work = given.work.resolve() / given.set
    work.mkdir(parents=True, exist_ok=True)
    configuration = CONFIGURATIONS.get(given.set, "3d_fullres")
    budget = f"{given.minutes:g}m"
    planned = ["--time-budget", given.plan_for] if given.plan_for else []
    run("plan", source, "-o", work / "workspace", "--overwrite", "--device", given.device, *planned)
    runs = [ours(given, work, configuration, budget, seed) for seed in given.seeds]
    figures: dict[str, Any] = {"set": given.set, "minutes": given.minutes, "runs": runs}
    if runs:
        figures["dice_mean"] = statistics.fmean(each["dice"] for each in runs)
    peer = theirs(given, source, work, configuration) if given.peer and not given.no_peer else None
    report("training_accuracy", figures, peer=peer)


def ours(given: argparse.Namespace, work: Path, configuration: str, budget: str, seed: int) -> dict[str, Any]:
    words: list[object] = ["-c", configuration, "--fold", 0, "--time-budget", budget, "--seed", seed, "--device", given.device]
    for pair in given.settings:
        words += ["--set", pair]
    seconds = run("train", work / "workspace", *words, "--overwrite")
    fold = work / "workspace" / "runs" / configuration / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    steps = json.loads((fold / "model.json").read_text())["steps"]
    found = {"seed": seed, "command_seconds": round(seconds, 1), "steps": steps, "cases": len(summary["cases"]), **dice(summary)}
    print(found, flush=True)
    return found


def theirs(given: argparse.Namespace, source: Path, work: Path, configuration: str) -> dict[str, Any]:
    """The peer's plan, steps and validation on our split of the same cases."""
    dataset = json.loads((work / "workspace" / "dataset.json").read_text())
    splits = json.loads((work / "workspace" / "splits.json").read_text())
    name, folder = "Dataset004_Peer", work / "peer"
    ending = link(dataset, folder / "raw" / name)
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    script = folder / "peer_training.py"
    script.write_text(PEER)
    job = {
        "name": name,
        "configuration": configuration,
        "splits": [{"train": split["train"], "val": split["validation"]} for split in splits],
        "threads": len(os.sched_getaffinity(0)),
        "device": given.device,
        "seconds": 60 * given.minutes,
        "answer": str(answer),
    }
    folders = {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **folders, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "2"}
    subprocess.run([given.peer, script, json.dumps(job)], env=environment, check=False, start_new_session=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(answer.read_text())
    references = folder / "references"
    references.mkdir(exist_ok=True)
    for case in splits[0]["validation"]:
        reference = folder / "raw" / name / "labelsTr" / f"{case}{ending}"
        (references / reference.name).unlink(missing_ok=True)
        (references / reference.name).symlink_to(reference.resolve())
    run("evaluate", found.pop("folder"), references, "-o", folder / "summary.json")
    return {**found, **dice(json.loads((folder / "summary.json").read_text()))}


def link(dataset: dict[str, Any], raw: Path) -> str:
    """The cases of a workspace as the peer wants them: names with channel numbers, consecutive label values."""
    import numpy as np
    from skimage import io

    root, labels = Path(dataset["root"]), dataset["labels"]
    order = sorted(labels.values())
    first = dataset["cases"][0]["images"][0]
    ending = ".nii.gz" if first.endswith(".nii.gz") else Path(first).suffix
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for case in dataset["cases"]:
        for channel, image in enumerate(case["images"]):
            place = raw / "imagesTr" / f"{case['case']}_{channel:04d}{ending}"
            place.unlink(missing_ok=True)
            place.symlink_to(root / image)
        place = raw / "labelsTr" / f"{case['case']}{ending}"
        place.unlink(missing_ok=True)
        if order == list(range(len(order))):
            place.symlink_to(root / case["label"])
        else:
            io.imsave(place, np.searchsorted(order, io.imread(root / case["label"])).astype(np.uint8), check_contrast=False)
    facts = {
        "channel_names": {str(index): channel["name"] for index, channel in enumerate(dataset["channels"])},
        "labels": {label: order.index(value) for label, value in labels.items()},
        "numTraining": len(dataset["cases"]),
        "file_ending": ending,
    }
    (raw / "dataset.json").write_text(json.dumps(facts))
    return ending


def run(*words: object) -> float:
    """Seconds of one command; it must succeed."""
    begun = time.perf_counter()
    subprocess.run([*AUTOSEG, *map(str, words)], check=True, stdout=sys.stderr)
    return time.perf_counter() - begun


def dice(summary: dict[str, Any]) -> dict[str, Any]:
    """The mean over labels, and each label's."""
    each = {name: scores["dice"]["mean"] for name, scores in summary["labels"].items()}
    return {"dice": summary["mean"]["dice"]["mean"], "dice_per_label": each}


if __name__ == "__main__":
    main()
