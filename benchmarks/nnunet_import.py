"""Imported models of nnU-Net against nnU-Net itself: logits of every fold, and whole predictions on scans stored in several orders.

    python benchmarks/nnunet_import.py --peer PEER/bin/python [--only plain_3d] [--keep FOLDER]

The peer's environment makes phantom data sets, plans them, cuts the features to 8, 16, 32, ..., and trains each model for a few steps with
its own trainer; then it gives the logits of each network for random input, in float64 and float32, and segments two scans in each of three
orders of axes. Here the models are imported, and both are compared. Ends with one line of JSON; fails beyond 1e-10 (float64), 1e-4
(float32), or below a Dice of 0.995 (float32).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

KINDS = {  # name: (configurations, planner, shape, spacing, regions)
    "plain_3d": (["3d_fullres"], "ExperimentPlanner", (36, 32, 28), (1.0, 1.1, 1.2), False),
    "resenc_3d_regions": (["3d_fullres"], "nnUNetPlannerResEncM", (36, 32, 28), (1.0, 1.1, 1.2), True),
    "anisotropic_2d": (["2d"], "ExperimentPlanner", (40, 36, 12), (0.8, 0.8, 4.0), False),
    "anisotropic_3d": (["3d_fullres"], "nnUNetPlannerResEncM", (40, 36, 12), (0.8, 0.8, 4.0), False),
    "cascade": (["3d_lowres", "3d_cascade_fullres"], "ExperimentPlanner", (36, 32, 28), (1.0, 1.1, 1.2), False),
}
ORDERS = ("RAS", "LPS", "SAL")

PEER = r"""
import json, os, shutil, sys
given = json.loads(sys.argv[1])
import numpy as np, torch
torch.set_num_threads(given["threads"]); torch.manual_seed(0)
from pathlib import Path
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.variants.short import nnUNetTrainerShort as Short
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
name, root, number = given["name"], Path(given["root"]), given["number"]
extract_fingerprints([number], num_processes=1, show_progress_bar=False)
_, plans_name = None, plan_experiments([number], experiment_planner_class_name=given["planner"])
plans_name = plans_name or ("nnUNetPlans" if given["planner"] == "ExperimentPlanner" else "nnUNetResEncUNetMPlans")
folder = root / "preprocessed" / f"Dataset{number}_{name}"
plans = json.loads((folder / f"{plans_name}.json").read_text())
full = plans["configurations"].get("3d_fullres")
if "3d_cascade_fullres" in given["configurations"]:
    low = json.loads(json.dumps(full)); low["spacing"] = [2 * s for s in full["spacing"]]
    low["data_identifier"] = plans_name + "_3d_lowres"
    low["median_image_size_in_voxels"] = [n / 2 for n in full["median_image_size_in_voxels"]]
    low["next_stage"] = "3d_cascade_fullres"; plans["configurations"]["3d_lowres"] = low
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
for c in plans["configurations"].values():
    if "architecture" in c:
        k = c["architecture"]["arch_kwargs"]; k["features_per_stage"] = [min(8 * 2**i, 64) for i in range(len(k["features_per_stage"]))]
    if "batch_size" in c: c["batch_size"] = 2
(folder / f"{plans_name}.json").write_text(json.dumps(plans))
dataset = json.loads((folder / "dataset.json").read_text())
stored = [c for c in given["configurations"] if c != "3d_cascade_fullres"]
preprocess([number], plans_identifier=plans_name, configurations=stored, num_processes=[1] * len(stored), show_progress_bar=False)
os.environ["nnUNet_n_proc_DA"] = "0"
for c in given["configurations"]:
    t = Short({**plans, "continue_training": False}, c, 0, dataset, torch.device("cpu"))
    t.num_epochs, t.num_iterations_per_epoch, t.num_val_iterations_per_epoch = 1, 3, 1
    if c == "3d_cascade_fullres":  # its training needs all folds of the first stage: as it begins
        t.initialize()
        run = Path(t.output_folder); run.mkdir(parents=True, exist_ok=True)
        for file, value in (("plans.json", plans), ("dataset.json", dataset)): (run.parent / file).write_text(json.dumps(value))
        t.inference_allowed_mirroring_axes = (0, 1, 2)
        t.save_checkpoint(str(run / "checkpoint_final.pth"))
    else:
        t.run_training()
trainer = root / "results" / f"Dataset{number}_{name}"
facts = {}
for c in given["configurations"]:
    run = trainer / f"nnUNetTrainerShort__{plans_name}__{c}"
    p = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, verbose=False, allow_tqdm=False)
    p.initialize_from_trained_model_folder(str(run), (0,), "checkpoint_final.pth")
    net = p.network.eval(); cm = p.configuration_manager
    channels = 1 + (2 if cm.previous_stage_name else 0)
    x = torch.randn((1, channels, *cm.patch_size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        single = net(x).numpy(); exact = net.double()(x.double()).numpy(); net.float()
    np.savez(root / f"{c}.npz", x=x.numpy(), single=single, exact=exact)
last = given["configurations"][-1]
def segment(c, before=None):
    p = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, verbose=False, allow_tqdm=False)
    p.initialize_from_trained_model_folder(str(trainer / f"nnUNetTrainerShort__{plans_name}__{c}"), (0,), "checkpoint_final.pth")
    out = root / f"theirs_{c}"; out.mkdir(exist_ok=True)
    p.predict_from_files_sequential(str(root / "scans"), str(out), overwrite=True, folder_with_segs_from_prev_stage=before)
    return str(out)
before = None
for c in given["configurations"]: before = segment(c, before)
(root / "answer.json").write_text(json.dumps({"models": str(trainer), "theirs": before}))
sys.stdout.flush(); os._exit(0)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"), required="AUTOSEG_PEER_PYTHON" not in os.environ)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    from _report import report

    results = {}
    for number, name in enumerate(KINDS, start=901):
        if name in given.only:
            with tempfile.TemporaryDirectory() as scratch:
                root = (given.keep or Path(scratch)) / name
                results[name] = one(name, number, root, given.peer)
            print(name, results[name], flush=True)
    passed = all(r["float64"] <= 1e-10 and r["float32"] <= 1e-4 and r["worst_dice"] >= 0.995 for r in results.values())
    report("nnunet_import", {**results, "passed": passed})
    return int(not passed)


def one(name: str, number: int, root: Path, peer: str) -> dict[str, float]:
    """Make one model with the peer, import it, and return the largest differences and the smallest Dice."""
    configurations, planner, shape, spacing, regions = KINDS[name]
    answer = root / "answer.json"
    if not answer.exists():
        _write_data(root, f"Dataset{number}_{name}", shape, spacing, regions)
        asked = {"name": name, "root": str(root), "number": number, "planner": planner, "configurations": configurations, "threads": 1}
        places = {f"nnUNet_{part}": str(root / part) for part in ("raw", "preprocessed", "results")}
        environment = {**os.environ, **places, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}
        done = subprocess.run([peer, "-c", PEER, json.dumps(asked)], env=environment, capture_output=True, text=True)
        if not answer.exists():
            raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return _compared(root, json.loads(answer.read_text()), configurations)


def _compared(root: Path, answer: dict[str, Any], configurations: list[str]) -> dict[str, float]:
    import torch

    from autoseg import prediction
    from autoseg.networks import inputs
    from autoseg.pipeline import importing, predicting
    from autoseg.planning.importing import NAMES

    workspace = importing.import_model(answer["models"], root / "workspace", overwrite=True).root
    inputs.choose_precision.__globals__["choose_precision"] = lambda *_: torch.float32
    prediction.logits.choose_precision = lambda *_: torch.float32  # as nnU-Net computes on a processor
    double = single = 0.0
    for name in configurations:
        model = prediction.open_model(workspace, configuration=NAMES[name], device="cpu")
        network, known = model.stages[-1].networks[0], np.load(root / f"{name}.npz")
        x = torch.from_numpy(known["x"])
        x = x if x.dim() == 5 else x.unsqueeze(2)
        with torch.no_grad():
            single = max(single, float(np.abs(network(x).numpy().reshape(known["single"].shape) - known["single"]).max()))
            double = max(double, float(np.abs(network.double()(x.double()).numpy().reshape(known["exact"].shape) - known["exact"]).max()))
    predicting.predict(workspace, [root / "scans"], root / "ours", configuration=NAMES[configurations[-1]], device="cpu", overwrite=True)
    dice, different = [], []
    for path in sorted((root / "ours").glob("*.nii.gz")):
        one, other = (np.asarray(nibabel.load(file).dataobj) for file in (path, Path(answer["theirs"]) / path.name))
        different.append(float((one != other).mean()))
        for value in np.union1d(one, other)[1:]:
            a, b = one == value, other == value
            if a.sum() + b.sum() > 0.001 * a.size:
                dice.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return {
        "float64": double,
        "float32": single,
        "worst_dice": min(dice, default=1.0),
        "most_voxels_different": max(different),
        "maps": len(dice),
    }


def _write_data(root: Path, name: str, shape: tuple[int, ...], spacing: tuple[float, ...], regions: bool) -> None:
    raw, scans = root / "raw" / name, root / "scans"
    for folder in (raw / "imagesTr", raw / "labelsTr", scans, root / "preprocessed", root / "results"):
        folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    affine = np.diag([*spacing, 1.0])
    for index in range(5 + 2 * len(ORDERS)):
        grid = np.stack(np.meshgrid(*((np.arange(n) - n / 2) / n for n in shape), indexing="ij"))
        distance = np.sqrt(((grid - random.uniform(-0.1, 0.1, (3, 1, 1, 1))) ** 2).sum(0))
        label = (distance < 0.35).astype(np.uint8) + (distance < 0.2)
        image = (100 + 60 * label + 40 * grid[0] + random.normal(0, 15, shape)).astype(np.float32)
        scan = nibabel.Nifti1Image(image, affine)
        if index < 5:
            nibabel.save(scan, raw / "imagesTr" / f"case_{index}_0000.nii.gz")
            nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), affine), raw / "labelsTr" / f"case_{index}.nii.gz")
            continue
        order = ORDERS[index % len(ORDERS)]
        turn = nibabel.orientations.axcodes2ornt(order)
        nibabel.save(scan.as_reoriented(turn), scans / f"{order}_{index}_0000.nii.gz")
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2} if regions else {"background": 0, "shell": 1, "core": 2}
    facts: dict[str, Any] = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    if regions:
        facts["regions_class_order"] = [1, 2]
    (raw / "dataset.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    raise SystemExit(main())
