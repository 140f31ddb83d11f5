"""Predicted against measured memory and time of one training step, for plans of many kinds.

    python benchmarks/planning_memory.py [--device cpu|cuda] [--time] [--only NAME ...] [--networks [NAME ...]]

`--networks` measures networks of `planners/networks` in three shapes instead (all of them without a name), with the processor time of a
step over that of the plain U-Net, predicted and measured: this ratio is what the planner corrects its model by.

Memory is the peak of torch's allocator over the third step of the real trainer (network, loss, optimizer, averaged weights),
from the profiler on a processor, from `torch.cuda.max_memory_allocated` on a card. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _report import report

from autoseg import machine, presets
from autoseg.cases import Channel
from autoseg.labels import make_labels
from autoseg.networks.memory_estimate import tracer
from autoseg.planning.configuration import Configuration, Plan
from autoseg.planning.constants import read_constants
from autoseg.planning.memory import modelled_footprint
from autoseg.planning.timing import seconds_per_step
from autoseg.planning.topology import features_per_stage, first_entries, plan_topology
from autoseg.training.batches import Batch
from autoseg.training.settings import read_settings
from autoseg.training.trainer import Trainer

# name: patch, spacing, batch, base features, network, channels, labels
PLANS = {
    "hippocampus": ((40, 56, 40), (1, 1, 1), 2, 16, "unet", 1, 3),
    "hippocampus wide": ((40, 56, 40), (1, 1, 1), 2, 32, "unet", 1, 3),
    "isotropic 64": ((64, 64, 64), (1, 1, 1), 2, 16, "unet", 1, 3),
    "anisotropic": ((16, 96, 96), (4, 1, 1), 2, 16, "unet", 2, 2),
    "very anisotropic": ((8, 128, 128), (8, 1, 1), 2, 16, "unet", 1, 2),
    "8 channels": ((48, 48, 48), (1, 1, 1), 2, 16, "unet", 8, 2),
    "100 labels": ((40, 40, 40), (1, 1, 1), 2, 16, "unet", 1, 100),
    "residual": ((40, 40, 40), (1, 1, 1), 2, 16, "residual_unet", 1, 3),
    "residual anisotropic": ((12, 80, 80), (3, 1, 1), 2, 16, "residual_unet", 2, 4),
    "2d": ((1, 256, 256), (1, 1, 1), 2, 16, "unet", 1, 2),
    "2d batch": ((1, 64, 48), (1, 1, 1), 24, 32, "unet", 1, 3),
    "2d residual": ((1, 160, 160), (1, 1, 1), 2, 24, "residual_unet", 3, 4),
    "2d 60 labels": ((1, 128, 128), (1, 1, 1), 4, 16, "unet", 1, 60),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--time", action="store_true", help="measure seconds per step, too")
    parser.add_argument("--only", nargs="*", default=list(PLANS))
    parser.add_argument("--networks", nargs="*", help="networks to measure; all without a name")
    arguments = parser.parse_args()
    if arguments.networks is not None:
        return of_networks(arguments.networks or list(presets.network_names()), arguments.device)
    offered = machine.describe(arguments.device)
    preset = presets.planner("default")
    constants = read_constants(preset.values)
    trace = tracer(offered)
    print(f"{'plan':22} {'measured':>9} {'traced':>9} {'ratio':>6} {'model':>6}   {'s/step':>7} {'predicted':>9} {'ratio':>6}")
    memory, model, seconds = {}, {}, {}
    for name in arguments.only:
        plan, configuration, channels, labels = make(name, preset)
        predicted = trace(configuration, channels, labels)
        modelled = modelled_footprint(configuration, channels, labels, value_bytes=2 if offered.bf16 else 4)
        step = measured_seconds(plan, configuration, arguments.device) if arguments.time else None
        peak = measured_bytes(plan, configuration, arguments.device)
        expected = seconds_per_step(predicted, offered, constants)
        memory[name], model[name] = predicted.training_bytes / peak, modelled.training_bytes / peak
        line = f"{name:22} {peak / 1e6:7.0f}MB {predicted.training_bytes / 1e6:7.0f}MB {memory[name]:6.2f} {model[name]:6.2f}"
        if step is not None and expected is not None:
            seconds[name] = expected / step
            line += f"   {step:7.3f} {expected:9.3f} {seconds[name]:6.2f}"
        print(line, flush=True)
    report(
        "planning_memory",
        {
            "predicted_over_measured_bytes": {name: round(ratio, 3) for name, ratio in memory.items()},
            "worst_bytes": round(max(abs(ratio - 1) for ratio in memory.values()), 3),
            "modelled_over_measured_bytes": {name: round(ratio, 3) for name, ratio in model.items()},
            "predicted_over_measured_seconds": {name: round(ratio, 3) for name, ratio in seconds.items()},
            "device": offered.to_json(),
        },
    )


SHAPES = {"isotropic": ((24, 32, 24), (1, 1, 1), 2), "anisotropic": ((8, 64, 48), (4, 1, 1), 2), "2d": ((1, 96, 128), (1, 1, 1), 4)}


def of_networks(names: list[str], device: str) -> None:
    """Measure networks in three shapes against the plain U-Net of the same size."""
    torch.set_num_threads(1)
    offered = replace(machine.describe(device), cores=1)
    trace = tracer(offered)
    constants = read_constants(presets.planner("default").values)
    memory: dict[str, float] = {}
    seconds: dict[str, float] = {}
    print(f"{'network':40} {'measured':>9} {'traced':>9} {'ratio':>6}   {'x plain':>8} {'predicted':>9} {'ratio':>6}")
    for shape, (patch, spacing, batch) in SHAPES.items():
        plain: tuple[float, float] | None = None
        for name in dict.fromkeys(["unet", *names]):
            preset = presets.planner("default", network=name)
            made_of = read_constants(preset.values)
            plan, configuration, channels, labels = make(shape, preset, given=(patch, spacing, batch, 16, made_of.network, 1, 3))
            stages = configuration.stages
            configuration = replace(
                configuration, architecture=made_of.made_of, blocks_per_stage=first_entries(made_of.blocks, stages),
                decoder_blocks_per_stage=first_entries(made_of.decoder_blocks, stages - 1))  # fmt: skip
            plan = replace(plan, configurations=(configuration,))
            predicted = trace(configuration, channels, labels)
            expected = seconds_per_step(predicted, offered, constants)
            assert expected is not None
            step = statistics.median(steps(plan, configuration, device, 6, clock=time.process_time)[2:])
            peak = measured_bytes(plan, configuration, device)
            plain = plain or (step, expected)
            key = f"{name} {shape}"
            memory[key] = predicted.training_bytes / peak
            seconds[key] = (expected / plain[1]) / (step / plain[0])
            print(f"{key:40} {peak / 1e6:7.0f}MB {predicted.training_bytes / 1e6:7.0f}MB {memory[key]:6.2f}   "
                  f"{step / plain[0]:8.2f} {expected / plain[1]:9.2f} {seconds[key]:6.2f}", flush=True)  # fmt: skip
    report(
        "planning_memory_networks",
        {
            "predicted_over_measured_bytes": {name: round(ratio, 3) for name, ratio in memory.items()},
            "worst_bytes": round(max(abs(ratio - 1) for ratio in memory.values()), 3),
            "predicted_over_measured_time_ratio": {name: round(ratio, 3) for name, ratio in seconds.items()},
            "worst_time_ratio": round(max(abs(ratio - 1) for ratio in seconds.values()), 3),
            "device": offered.to_json(),
        },
    )


def make(name: str, preset: presets.Preset, *, given: Any = None) -> tuple[Plan, Configuration, int, int]:
    patch, spacing, batch, base, network, channels, labels = given or PLANS[name]
    planar = patch[0] == 1
    topology = plan_topology(spacing, patch, min_edge=4, planar=planar)
    stages = len(topology.strides)
    residual = network == "residual_unet"
    configuration = Configuration(
        name="2d" if planar else "3d_fullres",
        spacing=spacing,
        median_shape=patch,
        patch_size=topology.patch_size,
        batch_size=batch,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        features_per_stage=features_per_stage(stages, base=base, most=(512 if planar else 320) * base // 32),
        blocks_per_stage=first_entries((1, 3, 4, 6, 6) if residual else (2,), stages),
        decoder_blocks_per_stage=first_entries((1,) if residual else (2,), stages - 1),
        network=network,
        norm="group",
        normalization=("zscore",) * channels,
        batch_dice=planar,
    )
    plan = Plan(
        planner="default",
        planner_values={},
        device={},
        name=name,
        channels=tuple(Channel(name=f"channel {i}", modality="MR") for i in range(channels)),
        labels=make_labels({"background": 0, **{f"label {i}": i for i in range(1, labels)}}),
        intensities=(),
        axis_order=(0, 1, 2),
        configurations=(configuration,),
        settings=preset.values["training"],
    )
    return plan, configuration, channels, labels


def steps(
    plan: Plan, configuration: Configuration, device: str, count: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each of `count` real optimisation steps on random data."""
    trainer = Trainer(
        plan=plan, configuration=configuration, settings=read_settings(plan.settings or {}), device=torch.device(device), seed=0
    )
    shape = configuration.patch_size
    batch = Batch(
        image=torch.randn(configuration.batch_size, len(plan.channels), *shape, device=device),
        target=torch.randint(0, plan.labels.class_count, (configuration.batch_size, *shape), device=device),
        annotated=None,
        cases=("random",) * configuration.batch_size,
    )
    taken = []
    for _ in range(count):
        start = clock()
        trainer.step(batch, learning_rate=1e-3)
        taken.append(clock() - start)
    return taken


def measured_seconds(plan: Plan, configuration: Configuration, device: str) -> float:
    return statistics.median(steps(plan, configuration, device, 12)[2:])


def measured_bytes(plan: Plan, configuration: Configuration, device: str) -> int:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        steps(plan, configuration, device, 3)
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        steps(plan, configuration, device, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")


if __name__ == "__main__":
    main()
