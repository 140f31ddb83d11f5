"""Are the preprocessed arrays those of nnU-Net? The same scans through both, array by array.

    python benchmarks/preprocessing_numbers.py --peer PYTHON [--data DIR] [--cases N] [SET ...]

The peer plans each set by itself; its spacing, axes, normalisation and intensities are given to ours, and both preprocess the same
arrays (canonical, so that neither's reader matters). Told are the largest difference of an image over its range, label voxels that differ,
and whether the voxels chosen for foreground patches are the same. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("msd-hippocampus", "sts-pet", "sts-mrct", "sc-gm", "brats-2ch")
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"), required="AUTOSEG_PEER_PYTHON" not in os.environ)
    parser.add_argument("--cases", type=int, default=6)
    given = parser.parse_args()
    from _report import report

    figures = {}
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            figures[name] = one_set(given.data / name, Path(scratch), given.peer, given.cases)
            print(name, figures[name], flush=True)
    report("preprocessing_numbers", figures)


def one_set(source: Path, scratch: Path, peer: str, count: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg import cases

    dataset = cases.find(source)
    chosen = dataset.cases[:count]
    arrays = export(dataset, chosen, scratch)
    environment = {f"nnUNet_{kind}": str(scratch / kind) for kind in ("raw", "preprocessed", "results")}
    subprocess.run([peer, __file__, "--job", str(scratch)], env={**os.environ, **environment}, check=True, capture_output=True)
    plans = json.loads((scratch / "preprocessed" / "Dataset001_Same" / "nnUNetPlans.json").read_text())
    return {name: compare(dataset, arrays, plans, name, scratch) for name in ("2d", "3d_fullres") if name in plans["configurations"]}


def export(dataset: Any, chosen: Any, scratch: Path) -> dict[str, Any]:
    """The cases as arrays for both, and as files for the peer's planner. Labels become consecutive, as the peer wants them."""
    import nibabel

    from autoseg.cases import load_classes, load_image

    raw = scratch / "raw" / "Dataset001_Same"
    for folder in (raw / "imagesTr", raw / "labelsTr", scratch / "arrays"):
        folder.mkdir(parents=True)
    arrays = {}
    for case in chosen:
        image = load_image(case, channels=len(dataset.channels))
        classes = load_classes(case, dataset.labels, like=image)
        arrays[case.name] = (image, classes)
        np.savez(
            scratch / "arrays" / f"{case.name}.npz", image=image.array, label=classes.astype(np.int16), spacing=np.array(image.spacing)
        )
        for channel, path in enumerate(case.images):
            (raw / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz").symlink_to(path.resolve())
        stored, head = nibabel.load(case.label), nibabel.load(case.images[0])
        consecutive = dataset.labels.encode(np.rint(np.asarray(stored.dataobj)).astype(np.int32))
        nibabel.save(nibabel.Nifti1Image(consecutive.astype(np.uint8), head.affine), raw / "labelsTr" / f"{case.name}.nii.gz")
    facts = {
        "channel_names": {str(i): "CT" if c.modality == "CT" else c.name for i, c in enumerate(dataset.channels)},
        "labels": {name: index for index, name in enumerate(dataset.labels.names)},
        "numTraining": len(chosen),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(facts))
    return arrays


def compare(dataset: Any, arrays: dict[str, Any], plans: dict[str, Any], name: str, scratch: Path) -> dict[str, Any]:
    from dataclasses import replace

    from autoseg.labels import make_labels
    from autoseg.preprocessing.case import preprocess_case
    from autoseg.preprocessing.locations import find_locations, wanted_keys

    labels = make_labels({label: index for index, label in enumerate(dataset.labels.names)})  # regions are another set of keys
    plan, configuration = as_planned(replace(dataset, labels=labels), plans, name)
    worst, differ, voxels, same = 0.0, 0, 0, True
    for case, (image, classes) in arrays.items():
        theirs = np.load(scratch / "arrays" / f"{case}__{name}.npz")
        ours = preprocess_case(image, classes, plan=plan, configuration=configuration)
        worst = max([worst, *(float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(ours.image, theirs["data"], strict=True))])
        label = ours.label.astype(int)
        label[ours.outside] = -1
        differ, voxels = differ + int((label != theirs["seg"][0]).sum()), voxels + label.size
        found = find_locations(ours.label, wanted_keys(labels), outside=ours.outside)
        for key, chosen in found.items():
            same &= np.array_equal(chosen, theirs[f"locations_{key}"].reshape(-1, 4)[:, 1:])
    spacing = [round(s, 3) for s in configuration.spacing]
    return {"spacing": spacing, "axes": list(plan.axis_order), "image_difference_of_range": worst, "label_voxels_differ": differ,
            "label_voxels": voxels, "same_locations": bool(same)}  # fmt: skip


def as_planned(dataset: Any, plans: dict[str, Any], name: str) -> tuple[Any, Any]:
    """The peer's plan as one of ours, as far as preprocessing reads it."""
    from autoseg.fingerprint import ChannelIntensities
    from autoseg.planning.configuration import Configuration, Plan

    found = plans["configurations"][name]
    masks = found["use_mask_for_norm"]
    schemes = tuple(SCHEMES[s] + ("_mask" if m else "") for s, m in zip(found["normalization_schemes"], masks, strict=True))
    properties = plans["foreground_intensity_properties_per_channel"]
    configuration = Configuration(
        name=name, spacing=tuple(found["spacing"] if len(found["spacing"]) == 3 else [1.0, *found["spacing"]]), normalization=schemes,
        median_shape=(1, 1, 1), patch_size=(1, 1, 1), batch_size=1, strides=((1, 1, 1),), kernel_sizes=((3, 3, 3),),
        features_per_stage=(1,), blocks_per_stage=(1,), decoder_blocks_per_stage=(), network="unet", norm="group", batch_dice=False,
    )  # fmt: skip
    plan = Plan(
        planner="peer", planner_values={}, device={}, name=dataset.name, channels=dataset.channels, labels=dataset.labels,
        intensities=tuple(ChannelIntensities(**properties[str(i)]) for i in range(len(dataset.channels))),
        axis_order=tuple(plans["transpose_forward"]), configurations=(configuration,),
    )  # fmt: skip
    return plan, configuration


def peer(scratch: Path) -> None:
    """In the peer's interpreter."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    plan_experiments([1])
    manager = PlansManager(str(scratch / "preprocessed" / "Dataset001_Same" / "nnUNetPlans.json"))
    facts = json.loads((scratch / "raw" / "Dataset001_Same" / "dataset.json").read_text())
    for name in set(manager.available_configurations) & {"2d", "3d_fullres"}:
        for path in sorted((scratch / "arrays").glob("*.npz")):
            if "__" in path.name:
                continue
            given = np.load(path)
            data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
                given["image"].astype(np.float32),
                given["label"][None],
                {"spacing": given["spacing"].tolist()},
                manager,
                manager.get_configuration(name),
                facts,
            )
            chosen = {f"locations_{key}": np.array(voxels) for key, voxels in properties["class_locations"].items()}
            np.savez(path.with_name(f"{path.stem}__{name}.npz"), data=data, seg=seg, **chosen)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        peer(Path(sys.argv[2]))
    else:
        main()
