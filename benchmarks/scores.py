"""Seconds that `evaluate` takes per label on a CT-sized volume, and that a run of `learn` takes per case; ends with one line of JSON.

    python benchmarks/scores.py [--shape 300 512 512]

The volume is a large phantom, enlarged; the prediction is the reference moved by two voxels, with specks. For comparison the usual
way to the same distances: Euclidean distance transforms of both surfaces over the region around the label.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import numpy as np
import scipy
from scipy import ndimage

from autoseg import evaluation, metrics, phantoms, postprocessing
from autoseg.geometry import bounding_box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    shape = tuple(parser.parse_args().shape)
    label = phantoms.make_phantom(np.random.default_rng(0), large=True).label
    index = [np.arange(n) * old // n for n, old in zip(shape, label.shape, strict=True)]
    reference = label[np.ix_(*index)]
    prediction = np.roll(reference, (1, 2, 2), (0, 1, 2))
    prediction[::17, ::37, ::41] = 3
    spacing = (1.0, 0.75, 0.75)
    figures: dict[str, float] = {}
    for name, wanted in (
        ("counts", metrics.QUICK),
        ("surfaces", ("nsd", "hd95", "assd")),
        ("all", metrics.ALL),
        ("boundary_iou", ("boundary_iou",)),
    ):
        begin = time.process_time()
        scores = evaluation.score_case(prediction, reference, phantoms.LABELS, spacing=spacing, metrics=wanted)
        figures[f"{name}_seconds_per_label"] = round((time.process_time() - begin) / len(scores), 3)
    begin = time.process_time()
    postprocessing.measure_case(prediction, reference, phantoms.LABELS, spacing)
    figures["rules_seconds_per_case"] = round(time.process_time() - begin, 2)
    begin = time.process_time()
    for value in phantoms.LABELS.values[1:]:
        masks = prediction == value, reference == value
        box = bounding_box(masks[0] | masks[1]).slices
        for mask in masks:
            inside = np.pad(mask[box], 1)
            ndimage.distance_transform_edt(~(inside & ~ndimage.binary_erosion(inside)), sampling=spacing)
    figures["transforms_seconds_per_label"] = round((time.process_time() - begin) / 3, 3)
    begin = time.process_time()
    kidney = bounding_box((prediction == 1) | (reference == 1)).slices
    metrics.surface_distances(prediction[kidney] == 1, reference[kidney] == 1, spacing)
    figures["kidney_surface_seconds"] = round(time.process_time() - begin, 3)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    print(json.dumps({"shape": shape, **figures, "machine": platform.processor() or platform.machine(), **versions}))


if __name__ == "__main__":
    main()
