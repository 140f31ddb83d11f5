"""Scans unlike the training: are they all warned of, by name, and how often is one of the same kind warned of?

    python benchmarks/unlike_training.py DATASET --ct CT.nii.gz [--scans 200] [--folds 5]

The data set (of one channel, MR) is measured once. Each fold's scans are then held against the fingerprint of the others: as they are
(every warning is a false alarm), inverted, replaced by noise of their own mean and deviation, with two axes exchanged, in a field of view
three times as large, replaced by their label map, and replaced by as large a piece of a CT. Volumes: the reference's, and those of another
scale. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _report import report
from numpy.typing import NDArray

from autoseg import cases, images
from autoseg.fingerprint import read_fingerprint
from autoseg.pipeline import preparing
from autoseg.pipeline.planned import read_dataset, read_plan
from autoseg.prediction.checks import unusual, unusual_volumes

WORDS = {"inverted": "inverted", "noise": "noise", "axes": "exchanged", "view": "field of view", "labels": "label map", "ct": "as CT has"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    rng, ct = np.random.default_rng(0), images.read(given.ct).array
    with tempfile.TemporaryDirectory() as scratch:
        workspace = preparing.plan(given.dataset, output=Path(scratch) / "workspace", device="cpu", workers=0)
        facts, plan, dataset = read_fingerprint(workspace.fingerprint), read_plan(workspace), read_dataset(workspace)
    chosen = rng.permutation(len(dataset.cases))[: given.scans]
    warned: dict[str, int] = collections.Counter()
    named: dict[str, int] = collections.Counter()
    missed: dict[str, list[str]] = collections.defaultdict(list)
    for fold in range(given.folds):
        left_out = {dataset.cases[index].name for index in chosen[fold :: given.folds]}
        known = replace(facts, cases=tuple(case for case in facts.cases if case.name not in left_out))
        for case in dataset.cases:
            if case.name not in left_out:
                continue
            image = cases.load_image(case, channels=1)
            classes = cases.load_classes(case, plan.labels, like=image)
            voxels = {label.name: int((classes == index + 1).sum()) for index, label in enumerate(plan.labels.foreground)}
            configuration = plan.configurations[-1]
            as_it_is = [*unusual(image, plan, configuration, known), *unusual_volumes(voxels, image.spacing, known)]
            warned["familiar"] += bool(as_it_is)
            missed["familiar"] += as_it_is[:1]
            warned["volumes"] += bool(unusual_volumes({name: 30 * count for name, count in voxels.items()}, image.spacing, known))
            for kind, array in strange(image.array[0], classes, ct[0], rng).items():
                affine = image.affine[:, [1, 0, 2, 3]] if kind == "axes" else image.affine
                sentences = unusual(replace(image, array=array[None], affine=affine), plan, configuration, known)
                warned[kind] += bool(sentences)
                named[kind] += any(WORDS[kind] in text for text in sentences)
                missed[kind] += [] if any(WORDS[kind] in text for text in sentences) else ["; ".join(sentences) or "nothing"]
    for kind, texts in missed.items():
        print(kind, texts[:3])
    total = len(chosen)
    shares: dict[str, Any] = {f"{kind}_warned": round(count / total, 4) for kind, count in warned.items()}
    report("unlike_training", {"scans": total, **shares, **{f"{kind}_named": round(count / total, 4) for kind, count in named.items()}})


def strange(array: NDArray[Any], classes: NDArray[Any], ct: NDArray[Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return a scan as six kinds that no model of such scans was trained on."""
    begin = [int(rng.integers(0, max(1, have - want))) for have, want in zip(ct.shape, array.shape, strict=True)]
    piece = ct[tuple(slice(at, at + size) for at, size in zip(begin, array.shape, strict=True))]
    return {
        "inverted": array.max() - array.astype(np.float32),
        "noise": rng.normal(array.mean(), array.std(), array.shape).astype(np.float32),
        "axes": np.ascontiguousarray(array.transpose(1, 0, 2)),
        "view": np.pad(array, [(size, size) for size in array.shape]),
        "labels": classes.astype(np.uint8),
        "ct": piece,
    }


if __name__ == "__main__":
    main()
