"""`plan`, `train` and `predict` killed at random moments and started again, and on full disks: does the same command end right?

    python benchmarks/kills.py [plan] [train] [predict] [--kills N] [--between N] [--disks N] [--seed N]

Each command runs once undisturbed on small phantoms. Then it is begun in a new place and killed (SIGKILL to its whole process group) up
to three times, each time after a random share of its usual time (`--kills`) or just after one of its files got its name (`--between`:
so also between a label map and the record of it); then the same command must end with exit code 0, with the results of the undisturbed
run bit for bit, and with no temporary file left. `--disks` does the same on file systems of so many sizes that are too small, where
the command must end with exit code 3, and then with room; that needs the right to mount a tmpfs. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMMANDS = ("plan", "train", "predict")
MOST_KILLS = 3  # before the command is left alone
_DIES_AFTER_RENAMING = """
import os, signal, sys
rename, left = os.replace, [int(sys.argv.pop(1))]
def dies(*given, **named):
    rename(*given, **named)
    left[0] -= 1
    if left[0] == 0:
        os.killpg(os.getpgid(0), signal.SIGKILL)
os.replace = dies
from autoseg.cli import main
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="|".join(COMMANDS))
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--between", type=int, default=2)
    parser.add_argument("--disks", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.commands) - set(COMMANDS):
        parser.error(f"no such command: {', '.join(sorted(unknown))}")
    from _report import report

    rng, figures = np.random.default_rng(given.seed), dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(Path(scratch))
        for command in given.commands or COMMANDS:
            figures[command] = disturbed(trial, command, kills=given.kills, between=given.between, disks=given.disks, rng=rng)
            print(command, figures[command], flush=True)
    report("kills", figures)


class Trial:
    """The data, a planned workspace and a trained one, and each command on a place of its own."""

    def __init__(self, scratch: Path) -> None:
        from autoseg import demo

        self.scratch = scratch
        demo.write_phantoms(scratch / "data", scratch / "new", training_cases=4, new_cases=3, seed=5)
        run(["plan", scratch / "data", "-o", scratch / "planned", "--device", "cpu", "--workers", 1])
        file = scratch / "planned/plan.json"
        plan = json.loads(file.read_text())
        plan["configurations"]["3d_fullres"] |= {
            "patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8],
            "blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2,
        }  # fmt: skip
        file.write_text(json.dumps({name: value for name, value in plan.items() if name != "checksum"}))
        shutil.copytree(scratch / "planned", scratch / "trained")
        run(self.words("train", scratch / "trained"))

    def prepare(self, command: str, place: Path) -> None:
        """Make what the command needs at its place."""
        place.mkdir(parents=True, exist_ok=True)
        if command == "train":
            shutil.copytree(self.scratch / "planned", place, dirs_exist_ok=True)

    def words(self, command: str, place: Path) -> list[object]:
        """What a user types."""
        match command:
            case "plan":
                return ["plan", self.scratch / "data", "-o", place, "--device", "cpu", "--workers", 1]
            case "train":
                return ["train", place, "--fold", 0, "--epochs", 3, "--deterministic", "--device", "cpu", "--workers", 1, "--set",
                        "steps_per_epoch=4", "--set", "probe_steps=0", "--set", "checkpoint_seconds=0.5"]  # fmt: skip
        return ["predict", self.scratch / "trained", self.scratch / "new/images", "-o", place, "--device", "cpu", "--probabilities"]


def disturbed(trial: Trial, command: str, *, kills: int, between: int, disks: int, rng: np.random.Generator) -> dict[str, Any]:
    undisturbed = trial.scratch / f"{command}-undisturbed"
    trial.prepare(command, undisturbed)
    started = time.perf_counter()
    run(trial.words(command, undisturbed))
    usual, expected = time.perf_counter() - started, results(undisturbed)
    counts: collections.Counter[str] = collections.Counter(dict.fromkeys(("kills", "between", "full", "ends", "wrong", "leftovers"), 0))
    while counts["kills"] < kills or counts["between"] < between:
        place = trial.scratch / f"{command}-{counts['ends']}"
        trial.prepare(command, place)
        words = trial.words(command, place)
        for _ in range(int(rng.integers(1, MOST_KILLS + 1))):
            if counts["between"] < between:
                counts["between"] += killed_after(words, int(rng.integers(1, 12)))
            elif counts["kills"] < kills:
                counts["kills"] += killed_within(words, float(rng.uniform(0.0, usual)))
        finish(words, place, expected, counts)
    largest = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    for share in np.linspace(0.05, 0.95, disks):
        with small_disk(trial.scratch / "disk", int(share * largest)) as grow:
            place = trial.scratch / "disk/place"
            try:
                trial.prepare(command, place)
            except (OSError, shutil.Error):
                continue  # not even what the command needs has room
            words = trial.words(command, place)
            code = start(words).wait()
            counts["full"] += code == 3
            counts["wrong"] += code not in (0, 3)
            grow()
            finish(words, place, expected, counts)
    return {"usual_seconds": round(usual, 1), **counts}


def finish(words: Sequence[object], place: Path, expected: dict[str, str], counts: collections.Counter[str]) -> None:
    """Let the command end, hold its results against the expected ones, and remove them."""
    process = start(words, stderr=subprocess.PIPE)
    said = process.communicate()[1]
    found = results(place)
    right = process.returncode == 0 and found == expected
    if not right:
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        print(f"exit code {process.returncode}; different: {different[:5]}\n{said[-2000:]}", file=sys.stderr, flush=True)
    counts["ends"] += 1
    counts["wrong"] += not right
    counts["leftovers"] += sum(path.name.startswith((".writing-", ".tmp")) for path in place.rglob("*"))
    shutil.rmtree(place)


def results(place: Path) -> dict[str, str]:
    """Every file whose bytes are the same from run to run, as a hash."""
    kinds = ("*.nii.gz", "model.safetensors", "splits.json", "fingerprint.json", "dataset.json", "image.b2nd", "failed.csv")
    found = sorted(path for kind in kinds for path in place.rglob(kind))
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def killed_within(words: Sequence[object], seconds: float) -> bool:
    process = start(words)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def killed_after(words: Sequence[object], renamings: int) -> bool:
    return start([renamings, *words], program=["-c", _DIES_AFTER_RENAMING]).wait() == -signal.SIGKILL


def run(words: Sequence[object]) -> None:
    process = start(words, stderr=subprocess.PIPE)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def start(words: Sequence[object], *, program: Sequence[str] = ("-m", "autoseg.cli"), stderr: int = subprocess.DEVNULL) -> Any:
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True, start_new_session=True)


class small_disk:
    """A tmpfs of a size, which `grow` lifts; `with small_disk(folder, size) as grow`."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, max(size, 1 << 14)

    def __enter__(self) -> Any:
        self._folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", self._folder], check=True)
        return lambda: subprocess.run(["mount", "-o", "remount,size=1g", self._folder], check=True)

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", self._folder], check=True)


if __name__ == "__main__":
    main()
