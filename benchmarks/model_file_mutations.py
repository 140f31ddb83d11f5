"""Damaged model files by the thousand: each must be refused by name, or give the very same model; and memory while one is read.

    OMP_NUM_THREADS=1 python benchmarks/model_file_mutations.py [--mutations N] [--features N] [--seed S]

A network of random weights is exported. Then its file is damaged at random: bytes changed, cut out, put in, doubled or exchanged, bits
turned, the end cut off, and the same in its headers alone. Counted are exceptions that are no `AutosegError`, files that gave another
model, reads of more than 10 s, and files written. Last, a process of its own reads a file of usual size: by how much its memory grows,
in sizes of the file. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from _report import report

from autoseg import networks
from autoseg.cases import Channel
from autoseg.errors import AutosegError
from autoseg.fingerprint import ChannelIntensities
from autoseg.labels import make_labels
from autoseg.networks import checkpoint
from autoseg.pipeline import exporting
from autoseg.planning.configuration import Configuration, Plan
from autoseg.prediction import open_model
from autoseg.workspace import Workspace

SLOW = 10.0  # seconds
PRINTED = 5
GROWTH = """
import re, sys
from pathlib import Path
from autoseg.prediction import open_model
open_model(Path(sys.argv[1]), device="cpu")
def kilobytes(what):
    return int(re.search(what + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
model = open_model(Path(sys.argv[2]), device="cpu")
print(1024 * (kilobytes("VmHWM") - before))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--features", type=int, default=32, help="of the first stage, for the measurement of memory and size")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        small = exported(Path(name) / "small", features=4)
        counts = mutated(small, asked.mutations, random.Random(asked.seed))
        large = exported(Path(name) / "large", features=asked.features)
        weights = sum(path.stat().st_size for path in large.parent.glob("workspace/runs/*/*/*.safetensors"))
        words = [sys.executable, "-c", GROWTH, str(small), str(large)]
        grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        size = large.stat().st_size
        report(
            "model_file_mutations",
            {
                "mutations": asked.mutations,
                **counts,
                "file_bytes": size,
                "size_over_weights": round(size / weights, 5),
                "memory_over_file": round(grown / size, 3),
            },
        )


def exported(root: Path, *, features: int) -> Path:
    """Return a model file of one fold with random weights."""
    spread = ChannelIntensities(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-2.5, percentile_99_5=2.5)
    widths = tuple(min(320, features * 2**stage) for stage in range(6))
    configuration = Configuration(
        name="3d_fullres", spacing=(1.0, 1.0, 1.0), median_shape=(128.0,) * 3, patch_size=(64, 64, 64), batch_size=2,
        strides=((1, 1, 1), *((2, 2, 2),) * 4, (1, 1, 1)), kernel_sizes=((3, 3, 3),) * 6, features_per_stage=widths,
        blocks_per_stage=(2,) * 6, decoder_blocks_per_stage=(2,) * 5, network="unet", norm="group", normalization=("ct",),
        batch_dice=False,
    )  # fmt: skip
    plan = Plan(
        planner="benchmark", planner_values={}, device={"device": "cpu"}, name="random", channels=(Channel(name="ct", modality="CT"),),
        labels=make_labels({"background": 0, "organ": 1}), intensities=(spread,), axis_order=(0, 1, 2), configurations=(configuration,),
    )  # fmt: skip
    workspace = Workspace(root=root / "workspace")
    network = networks.build(configuration, channels=1, heads=plan.labels.output_channels, generator=torch.Generator().manual_seed(0))
    description = {"plan": plan.to_json(), "configuration": "3d_fullres", "fold": 0}
    checkpoint.save_model(workspace.run("3d_fullres", 0), network.state_dict(), description)
    exporting.export(workspace, root / "model.autoseg")
    return root / "model.autoseg"


def mutated(path: Path, times: int, rng: random.Random) -> dict[str, object]:
    """Read that many damaged copies of a file; return what became of them."""
    sound = path.read_bytes()
    expected = state(path)
    found: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    target = path.with_name("damaged.autoseg")
    there = sorted(path.parent.iterdir())
    for number in range(times):
        target.write_bytes(damaged(sound, rng))
        began = time.monotonic()
        try:
            got = state(target)
            outcome = "equal" if got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got) else "another model"
        except AutosegError as error:
            outcome = "refused"
            kinds[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 - what the benchmark looks for
            outcome = "traceback"
            if found[outcome] < PRINTED:
                print(f"mutation {number}: {type(error).__name__}")
                traceback.print_exc()
        found[outcome] += 1
        found["slow"] += time.monotonic() - began > SLOW
    target.unlink()
    found["written"] = len(set(path.parent.iterdir()) - set(there))
    names = ("refused", "equal", "another model", "traceback", "slow", "written")
    return {**{name.replace(" ", "_"): found[name] for name in names}, "errors": dict(kinds)}


def state(path: Path) -> dict[str, torch.Tensor]:
    return open_model(path, device="cpu").stages[-1].networks[0].state_dict()


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """Return a file with one to three damages; half of them in the headers, where they matter most."""
    content = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 3))):
        headers = rng.random() < 0.5
        near = rng.choice([content.find(b"PK\1\2"), content.find(b"PK\3\4", 40), len(content) - 30, 0, 8 + content.find(b".safetensors")])
        at = min(max(0, near + rng.randrange(120)) if headers else rng.randrange(len(content)), len(content) - 1)
        length = rng.choice((1, 1, 1, 4, 16, 300))
        match rng.randrange(7):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + length] = rng.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = rng.randbytes(length)
            case 4:
                content[at:at] = content[at : at + length]
            case 5:
                content[at : at + length] = bytes([rng.choice((0, 255))]) * length
            case 6:
                del content[at:]
        content = content or bytearray(b"\0")
    return bytes(content)


if __name__ == "__main__":
    main()
