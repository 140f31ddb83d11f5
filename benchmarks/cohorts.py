"""What one scan of a cohort costs besides the work on it: the record of 10^5 made-up cases, and thousands of tiny scans through `predict`.

    python benchmarks/cohorts.py [--cases 100000] [--scans 2000]

The record: seconds per case in the first and in the last tenth, to write `prediction.json` at the end, to read it again, and its bytes per
case. The scans: 2D pictures of 16 x 16 through a small random network, seconds per scan in the first and the last tenth, and for the same
command again, which has nothing to do. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--scans", type=int, default=2000)
    given = parser.parse_args()
    from _report import report

    figures = dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        if given.cases:
            figures["record"] = record_of(given.cases, Path(scratch) / "record")
        if given.scans:
            figures["scans"] = tiny_scans(given.scans, Path(scratch))
    report("cohorts", figures)


def record_of(count: int, folder: Path) -> dict[str, Any]:
    from autoseg.labels import make_labels
    from autoseg.pipeline.records import Record

    def new() -> Record:
        labels = make_labels({"background": 0, "liver": 1, "tumour": 2})
        return Record(output=folder, single=False, settings={"model": "0" * 16, "tta": True, "postprocessing": None}, labels=labels)

    state = ["cohort/scan.nii.gz 123456 1700000000000000000 " + "a" * 64]
    record, at = new(), []
    folder.mkdir()
    started = time.perf_counter()
    record.begin(folder / f"case_{index:06d}.nii.gz" for index in range(count))
    begun = time.perf_counter() - started
    for index in range(count):
        at.append(time.perf_counter())
        facts = {
            "file": f"out/case_{index:06d}.nii.gz", "input": state, "result": state,
            "seconds": dict.fromkeys(("read", "normalise", "network", "export", "write"), 0.125), "warnings": [],
            "voxels": {"liver": 1000, "tumour": 10},
        }  # fmt: skip
        record.keep(f"case_{index:06d}", facts)
    at.append(time.perf_counter())
    tenth = count // 10
    size = record.journal.path.stat().st_size
    started = time.perf_counter()
    record.write()
    written = time.perf_counter() - started
    started = time.perf_counter()
    again = new().read()
    return {
        "cases": count, "begin_seconds": round(begun, 2), "first_tenth_us": round(1e6 * (at[tenth] - at[0]) / tenth, 1),
        "last_tenth_us": round(1e6 * (at[-1] - at[-1 - tenth]) / tenth, 1), "line_bytes": round(size / count),
        "write_seconds": round(written, 1), "read_seconds": round(time.perf_counter() - started, 1), "read_cases": len(again),
        "left_over": sorted(path.name for path in folder.iterdir() if path.name != "prediction.json"),
    }  # fmt: skip


def tiny_scans(count: int, scratch: Path) -> dict[str, Any]:
    import json

    from PIL import Image

    from autoseg import demo
    from autoseg.cli import main as autoseg
    from autoseg.pipeline import predicting
    from autoseg.pipeline.reporter import LoggingReporter

    demo.write_phantoms(scratch / "data", scratch / "new", training_cases=4, new_cases=1, seed=5)
    assert autoseg(["plan", str(scratch / "data"), "-o", str(scratch / "workspace"), "--device", "cpu", "--workers", "1", "-q"]) == 0
    file = scratch / "workspace/plan.json"
    plan = json.loads(file.read_text())
    plan["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8],
        "blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2,
    }  # fmt: skip
    file.write_text(json.dumps({name: value for name, value in plan.items() if name != "checksum"}))
    words = ["train", scratch / "workspace", "--fold", 0, "--epochs", 1, "--device", "cpu", "--workers", 1, "-q"]
    assert autoseg([*map(str, words), "--set", "steps_per_epoch=1", "--set", "probe_steps=0"]) == 0
    (scratch / "scans").mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(scratch / f"scans/scan_{index:05d}.png")

    class Clock(LoggingReporter):
        at: list[float] = []

        def say(self, text: object) -> None:
            pass

        def progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
            if stage == "predict" and done > len(self.at):
                self.at.append(time.perf_counter())

    opened = predicting.load(scratch / "workspace", fold=0, device="cpu").model
    options: dict[str, Any] = {"tta": False, "reporter": Clock()}
    predicting.predict(opened, [scratch / "scans"], scratch / "out", **options)
    at, tenth = Clock.at, count // 10
    size = (scratch / "out/prediction.json").stat().st_size
    started = time.perf_counter()
    again = predicting.predict(opened, [scratch / "scans"], scratch / "out", **options)
    return {
        "scans": count, "first_tenth_ms": round(1e3 * (at[tenth] - at[0]) / tenth, 2),
        "last_tenth_ms": round(1e3 * (at[-1] - at[-1 - tenth]) / tenth, 2), "record_bytes": size,
        "again_ms": round(1e3 * (time.perf_counter() - started) / count, 3), "again_cases": len(again["cases"]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
