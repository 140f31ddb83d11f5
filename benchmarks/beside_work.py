"""A training step and a network pass next to busy cores: with the number of threads chosen by trying, and with all of them.

    python benchmarks/beside_work.py [--busy 0 1 2] [--seconds 30] [--spin]

Hippocampus-like: patch 32 x 48 x 32, 32 to 256 features, batch 2 in training. Every measurement runs in a process of its own, each busy
program in a session of its own, because some kernels share cores out by session. `--spin` lets waiting threads spin, as in a program
that imports torch before autoseg. The median counts, of the steps after the first third. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="numbers of busy programs")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, seconds=given.seconds)))
        return
    from _report import report

    policy = {} if given.spin else {"OMP_WAIT_POLICY": "passive"}
    figures: dict[str, float] = {}
    for busy in given.busy:
        for work in ("training", "prediction"):
            for way in ("chosen", "all"):
                command = [sys.executable, __file__, "--one", work, way, "--seconds", str(given.seconds)]
                with busy_programs(busy):
                    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **policy})
                found = json.loads(done.stdout.splitlines()[-1])
                print(f"{busy} busy, {work}, {way}: {found}", flush=True)
                figures[f"{work}_{way}_threads_{busy}_busy_seconds"] = found["seconds"]
    for work in ("training", "prediction"):
        for way in ("chosen", "all"):
            alone, next_to_one = (figures.get(f"{work}_{way}_threads_{busy}_busy_seconds") for busy in (0, 1))
            if alone and next_to_one:
                figures[f"{work}_{way}_threads_times_as_long_next_to_one"] = next_to_one / alone
    report("beside_work", figures)


@contextlib.contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Keep as many cores busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def measure(work: str, way: str, *, seconds: float) -> dict[str, float | int]:
    """Return the median seconds of a step or pass, and the number of threads at the end."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import torch

    from autoseg import networks, presets, resources, threads
    from autoseg.labels import make_labels
    from autoseg.planning.configuration import Configuration
    from autoseg.training.loss import make_loss
    from autoseg.training.settings import read_settings
    from autoseg.training.trainer import make_optimizer

    resources.keep_freed_memory()
    stages, generator = 4, torch.Generator().manual_seed(0)
    configuration = Configuration(
        name="3d_fullres", spacing=(1, 1, 1), median_shape=(36, 50, 35), patch_size=(32, 48, 32), batch_size=2,
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)), kernel_sizes=((3, 3, 3),) * stages, features_per_stage=(32, 64, 128, 256),
        blocks_per_stage=(2,) * stages, decoder_blocks_per_stage=(2,) * (stages - 1), network="unet", norm="group",
        normalization=("zscore",), batch_dice=False,
    )  # fmt: skip
    network = networks.build(configuration, channels=1, heads=3, generator=generator)
    settings = read_settings(presets.planner().values["training"])
    optimizer = make_optimizer(network, settings.optimizer)
    loss = make_loss(make_labels({"background": 0, "a": 1, "b": 2}), batch_dice=False, settings=settings.loss)
    image = torch.randn((2 if work == "training" else 1, 1, *configuration.patch_size), generator=generator)
    target = torch.randint(0, 3, (len(image), *configuration.patch_size), generator=generator)

    def once() -> None:
        if work == "training":
            outputs = network(image)
            loss(outputs if isinstance(outputs, list) else [outputs], target, None).backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            with torch.inference_mode():
                network(image)

    network.train(work == "training")
    chooser, used, times, begun = threads.ThreadChooser(work), 0, [], time.perf_counter()
    with threads.choosing(lambda text: print(text, file=sys.stderr), keep=way == "all"):
        while time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            with chooser.work():
                used = torch.get_num_threads()
                once()
            times.append((start, time.perf_counter() - start))
    settled = [duration for start, duration in times if start - begun >= seconds / 3]
    return {"seconds": statistics.median(settled), "mean_seconds": statistics.mean(settled), "threads": used}


if __name__ == "__main__":
    main()
