"""Preprocessing killed at random moments, with all its workers, and given again: is the store in the end as if nothing had happened?

    python benchmarks/preprocessing_kills.py [hippocampus] [large] [--data DIR] [--kills N] [--seed N]

A run of `store.preprocess_dataset` in two workers is timed once, undisturbed. Then the same is started over and over and killed (SIGKILL to
the whole process group) after a random share of that time, until N kills have been; when a run ends by itself, its store is held
against the undisturbed one, byte for byte, and a new store is begun. After every kill the cases that were whole must be the very
files (inode and time) that they were before. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from preprocessing import FOLDERS, link


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="hippocampus|large")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from _report import report

    figures: dict[str, Any] = {}
    for name in given.sets or FOLDERS:
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw" / FOLDERS[name]
            link(given.data, raw, name)
            figures[name] = disturbed(raw, Path(scratch), kills=given.kills, rng=np.random.default_rng(given.seed))
            print(name, figures[name], flush=True)
    report("preprocessing_kills", figures)


def disturbed(raw: Path, scratch: Path, *, kills: int, rng: np.random.Generator) -> dict[str, Any]:
    started = time.perf_counter()
    assert start(raw, scratch / "undisturbed").wait() == 0
    usual = time.perf_counter() - started
    expected, folder = contents(scratch / "undisturbed"), scratch / "store"
    counts = {"kills": 0, "in_preprocessing": 0, "half_written_left_by_kills": 0, "redone_cases": 0, "stores_finished": 0,
              "stores_different": 0, "leftovers": 0}  # fmt: skip
    whole: dict[str, tuple[int, int]] = {}
    while counts["kills"] < kills or whole:
        run = start(raw, folder)
        if counts["kills"] < kills:
            try:
                run.wait(timeout=float(rng.uniform(0.0, usual)))
            except subprocess.TimeoutExpired:
                counts["in_preprocessing"] += folder.is_dir()
                os.killpg(run.pid, signal.SIGKILL)
        ended = run.wait() == 0  # it may have ended in the moment before it was killed
        assert run.returncode in (0, -signal.SIGKILL), f"a run ended with exit code {run.returncode}"
        now = made(folder)
        counts["redone_cases"] += sum(now.get(case) != facts for case, facts in whole.items())
        whole = now
        if not ended:
            counts["kills"] += 1
            counts["half_written_left_by_kills"] += len(list(folder.glob(".*")))
            continue
        counts["stores_finished"] += 1
        counts["stores_different"] += contents(folder) != expected
        counts["leftovers"] += len(list(folder.glob(".*")))
        shutil.rmtree(folder)
        whole = {}
    return {"undisturbed_seconds": usual, "cases": len(made(scratch / "undisturbed")), **counts}


def start(raw: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    return subprocess.Popen([sys.executable, __file__, "--child", str(raw), str(folder)], start_new_session=True)


def made(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the record of each whole case."""
    found = {place.parent.name: place.stat() for place in folder.glob("[!.]*/case.json")}
    return {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in found.items()}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def child(raw: Path, folder: Path) -> None:
    """What `autoseg train` does before it trains; the plan is made once and kept with the data."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg import cases, files, fingerprint, machine, presets
    from autoseg.planning.configuration import Plan
    from autoseg.planning.plan import make_plan
    from autoseg.preprocessing import store

    dataset, kept = cases.find(raw), raw.parent / "plan.json"
    if not kept.exists():
        plan = make_plan(fingerprint.extract(dataset), preset=presets.planner("nnunet"), machine=machine.describe("cpu", probe=False))
        files.write_json(kept, plan.to_json())
    plan = Plan.from_json(files.read_json(kept))
    store.preprocess_dataset(dataset, plan, plan.configuration("3d_fullres"), folder, workers=2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
