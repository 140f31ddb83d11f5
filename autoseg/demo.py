"""Every step on a small phantom data set: written to disk, then checked, planned, trained, predicted and evaluated.

Each step runs the command that a user would type, and prints it first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autoseg import files, images, phantoms, pictures
from autoseg.errors import SettingsError
from autoseg.labels import Labels
from autoseg.pipeline.evaluating import dice_text
from autoseg.pipeline.reporter import Reporter

TRAINING_CASES = 24
NEW_CASES = 8
MARKER = ".autoseg-demo"


def run(
    output: Path,
    *,
    time_budget: str,
    device: str,
    command: Callable[[Sequence[str]], int],
    reporter: Reporter,
    training_cases: int = TRAINING_CASES,
    new_cases: int = NEW_CASES,
    seed: int = 0,
) -> dict[str, object]:
    """Make the data, run the commands, and print the results.

    Parameters
    ----------
    output : folder for everything; an earlier demo there is replaced, anything else is left alone
    command : runs one command line, without the program's name
    training_cases, new_cases : how many phantoms to learn from, and how many to be tested on, which training never sees

    Returns
    -------
    the summary of the scores on the new cases

    Raises
    ------
    SettingsError : `output` contains something else
    """
    started = time.monotonic()
    _make_room(output)
    data, workspace, new, predictions = output / "phantoms", output / "workspace", output / "new-scans", output / "predictions"
    write_phantoms(data, new, training_cases=training_cases, new_cases=new_cases, seed=seed)
    reporter.say(f"{training_cases} phantoms with reference in {data}, {new_cases} more to be tested on in {new}")
    steps = (
        ["check", data],
        ["plan", data, "-o", workspace, "--time-budget", time_budget, "--device", device],
        ["train", workspace, "--fold", "0", "--time-budget", time_budget, "--device", device],
        ["predict", workspace, new / "images", "-o", predictions, "--device", device],
        ["evaluate", predictions, new / "labels", "-o", output / "summary.json"],
    )
    for step in steps:
        arguments = [str(word) for word in step]
        reporter.say(f"\n$ autoseg {' '.join(arguments)}")
        command(arguments)
    summary: dict[str, object] = files.read_json(output / "summary.json")
    picture = draw_overlays(output / "overlays.png", new / "images", predictions, new / "labels", summary)
    reporter.say(
        f"\nmean Dice on {new_cases} phantoms the model has not seen: {dice_text(summary)}"
        f"\n  pictures     {picture}"
        f"\n  predictions  {predictions}"
        f"\n  scores       {output / 'summary.json'}"
        f"\n  model, plan  {workspace}"
        f"\n  curves       {workspace / 'runs'}"
        f"\neverything together took {time.monotonic() - started:.0f} s"
    )
    return summary


def write_phantoms(data: Path, new: Path, *, training_cases: int, new_cases: int, seed: int) -> None:
    """A data set in the layout of the Medical Segmentation Decathlon, and a folder of scans apart with their references."""
    listed = []
    made = phantoms.make_phantoms(training_cases + new_cases, seed=seed, orientations=("RAS", "LPS", "LAS"))
    for index, (case, phantom) in enumerate(made):
        name = f"{case}.nii.gz"
        if index < training_cases:
            image_file, label_file = data / "imagesTr" / name, data / "labelsTr" / name
            listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        else:
            image_file, label_file = new / "images" / name, new / "labels" / name
        images.write_image(image_file, phantom.image, affine=phantom.affine)
        images.write_image(label_file, phantom.label[None], affine=phantom.affine)
    files.write_json(
        data / "dataset.json",
        {
            "name": "phantoms",
            "description": "synthetic scans made by autoseg demo",
            "tensorImageSize": "3D",
            "modality": {"0": "MRI"},
            "labels": {str(value): name for name, value in zip(phantoms.LABELS.names, phantoms.LABELS.values, strict=True)},
            "numTraining": training_cases,
            "training": listed,
        },
    )


def draw_overlays(path: Path, scans: Path, predictions: Path, references: Path, summary: object) -> Path:
    """A PNG of some of the new cases: prediction filled, reference as a line."""
    labels = Labels.from_json(files.read_json(predictions / "prediction.json"))
    rows = []
    for file in sorted(scans.iterdir())[:4]:
        image = images.read(file)
        predicted, reference = (
            labels.encode(images.read_label(folder / file.name, like=image).array[0]) for folder in (predictions, references)
        )
        rows.append(
            pictures.Overlay(
                title=file.name.removesuffix(".nii.gz"),
                image=image.array[0],
                prediction=predicted,
                reference=reference,
                spacing=image.spacing,
            )
        )
    files.write_bytes(path, pictures.overlays(rows, labels))
    return path


def _make_room(output: Path) -> None:
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise SettingsError(
                "the folder for the demo contains something else",
                file=output,
                expected="an empty folder, or an earlier demo",
                fix="choose another one with -o",
            )
        files.remove_tree(output)
    files.write_text(output / MARKER, "made by 'autoseg demo'; the next demo replaces it\n")
