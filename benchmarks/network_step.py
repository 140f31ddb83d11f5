"""One forward and backward pass of a U-Net on this processor or card: memory formats, norms, precisions, and nnU-Net's network.

    python benchmarks/network_step.py [--patch 40 56 40] [--batch 7] [--features 32] [--device cpu] [--peer PYTHON]

Four stages of two convolutions each, as both plan the hippocampus set. The loss is a mean of squares: neither data nor optimizer
are measured here. The peer's network computes in float32 on a processor, as its trainer does there, and under float16 autocast on a
card. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PEER = """
import json, sys, time, torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
given = json.loads(sys.argv[1])
torch.set_num_threads(given["threads"])
device = given["device"]
features = [given["features"] * 2**i for i in range(4)]
norm = (torch.nn.InstanceNorm3d, {"eps": 1e-5, "affine": True})
network = PlainConvUNet(1, 4, features, torch.nn.Conv3d, [[3] * 3] * 4, [[1] * 3] + [[2] * 3] * 3, [2] * 4, 3, [2] * 3, True,
    *norm, None, None, torch.nn.LeakyReLU, {"inplace": True}, True).to(device)
image = torch.randn(given["batch"], 1, *given["patch"], device=device)
def step():
    with torch.autocast(device, dtype=torch.float16, enabled=device != "cpu"):
        levels = network(image)
    sum(level.float().pow(2).mean() for level in levels).backward()
    network.zero_grad(set_to_none=True)
    if device != "cpu": torch.cuda.synchronize()
times = []
for _ in range(given["repeats"] + 1):
    start = time.perf_counter(); step(); times.append(time.perf_counter() - start)
print(json.dumps(sorted(times[1:])[given["repeats"] // 2]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[40, 56, 40])
    parser.add_argument("--batch", type=int, default=7)
    parser.add_argument("--features", type=int, default=32, help="of the first stage; doubled from stage to stage")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", default=os.environ.get("AUTOSEG_PEER_PYTHON"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does
    from _report import report

    figures = {name: ours(given, **variant) for name, variant in VARIANTS.items()}
    best = figures["group_bf16_seconds"]
    peer = None
    if given.peer:
        theirs = subprocess.run([given.peer, "-c", PEER, json.dumps(vars(given))], check=True, capture_output=True, text=True)
        peer = {"step_seconds": float(theirs.stdout.splitlines()[-1])}
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}")
    print("peer", peer)
    report("network_step", figures, peer=peer, ratio=peer and peer["step_seconds"] / best)


VARIANTS: dict[str, dict[str, Any]] = {
    "group_bf16_seconds": {"norm": "group", "bf16": True},
    "instance_bf16_seconds": {"norm": "instance", "bf16": True},
    "group_float32_seconds": {"norm": "group", "bf16": False},
    "group_bf16_contiguous_seconds": {"norm": "group", "bf16": True, "contiguous": True},
    "torch_group_norm_bf16_seconds": {"norm": "group", "bf16": True, "plain": True},
}


def ours(given: argparse.Namespace, *, norm: str, bf16: bool, contiguous: bool = False, plain: bool = False) -> float:
    """Median seconds of a step. `contiguous`: not channels-last; `plain`: torch's own backward pass of GroupNorm."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from autoseg import networks, resources
    from autoseg.networks import group_norm
    from autoseg.planning.configuration import Configuration

    resources.keep_freed_memory()
    torch.set_num_threads(given.threads)
    configuration = Configuration(
        name="3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=tuple(map(float, given.patch)),  # type: ignore[arg-type]
        patch_size=tuple(given.patch),
        batch_size=given.batch,
        strides=((1, 1, 1), *((2, 2, 2),) * 3),
        kernel_sizes=((3, 3, 3),) * 4,
        features_per_stage=tuple(given.features * 2**stage for stage in range(4)),
        blocks_per_stage=(2,) * 4,
        decoder_blocks_per_stage=(2,) * 3,
        network="unet",
        norm=norm,
        normalization=("zscore",),
        batch_dice=False,
    )
    network = networks.build(configuration, channels=1, heads=3, device=given.device)
    image = torch.randn(given.batch, 1, *given.patch, device=given.device)
    forward = network
    if contiguous:
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
        forward = lambda x: network.body(x, all_resolutions=True)  # noqa: E731
    fast = group_norm._slow_in_torch
    if plain:
        group_norm._slow_in_torch = lambda x: False
    times = []
    for _ in range(given.repeats + 1):
        start = time.perf_counter()
        with torch.autocast(given.device.split(":")[0], dtype=torch.bfloat16, enabled=bf16):
            levels = forward(image)
        sum(level.float().pow(2).mean() for level in levels).backward()
        network.zero_grad(set_to_none=True)
        if given.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    group_norm._slow_in_torch = fast
    return sorted(times[1:])[given.repeats // 2]


if __name__ == "__main__":
    main()
