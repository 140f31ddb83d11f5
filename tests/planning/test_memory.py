"""Feature maps, weights, operations and bytes: closed forms against the real network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autoseg import networks
from autoseg.labels import make_labels
from autoseg.networks import memory_estimate
from autoseg.planning.configuration import Configuration
from autoseg.planning.memory import feature_maps, forward_flops, modelled_footprint, parameters, scored_shapes, stage_shapes
from autoseg.planning.topology import features_per_stage, first_entries, plan_topology
from tests.planning.fingerprints import CPU

pytestmark = pytest.mark.slow


def configuration(patch, spacing=(1, 1, 1), *, batch=2, base=8, network="unet", norm="group") -> Configuration:
    planar = patch[0] == 1
    topology = plan_topology(spacing, patch, min_edge=4, planar=planar)
    stages = len(topology.strides)
    residual = network == "residual_unet"
    return Configuration(
        name="2d" if planar else "3d_fullres",
        spacing=spacing,
        median_shape=patch,
        patch_size=topology.patch_size,
        batch_size=batch,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        features_per_stage=features_per_stage(stages, base=base, most=320),
        blocks_per_stage=first_entries((1, 3, 4) if residual else (2,), stages),
        decoder_blocks_per_stage=first_entries((1,) if residual else (2,), stages - 1),
        network=network,
        norm=norm,
        normalization=("zscore",),
        batch_dice=False,
    )


KINDS = {
    "isotropic": configuration((24, 32, 16)),
    "anisotropic": configuration((8, 48, 40), (4, 1, 1)),
    "planar": configuration((1, 64, 48)),
    "residual": configuration((16, 24, 16), network="residual_unet"),
    "residual planar": configuration((1, 64, 48), network="residual_unet"),
    "two stages": configuration((12, 12, 12)),
    "one stage": configuration((6, 6, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_operations_are_those_of_the_real_network(kind):
    c = KINDS[kind]
    counted = {"weights": 0, "flops": 0}

    def count(module, inputs, output):
        channels_in = inputs[0].shape[1]
        transposed = isinstance(module, (torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d))
        places = math.prod((inputs[0] if transposed else output).shape[2:])
        counted["flops"] += 2 * channels_in * output.shape[1] * math.prod(module.kernel_size) * places * output.shape[0]

    network = networks.build(c, channels=3, heads=4)
    counted["weights"] = sum(weight.numel() for weight in network.parameters())
    for module in network.modules():
        if hasattr(module, "kernel_size") and hasattr(module, "weight"):
            module.register_forward_hook(count)
    network(torch.zeros(c.batch_size, 3, *c.patch_size))
    assert parameters(c, channels=3, heads=4) == counted["weights"]
    assert forward_flops(c, channels=3, heads=4) == counted["flops"]


def test_feature_maps_are_those_the_reference_counts():
    c = replace(configuration((128, 128, 128), base=32), blocks_per_stage=(2,) * 6, decoder_blocks_per_stage=(2,) * 5)
    assert feature_maps(c, labels=3) == 452_796_416  # published: plain 3D 128^3, three labels


def test_stage_shapes_end_at_the_bottleneck():
    assert stage_shapes(KINDS["anisotropic"])[:3] == ((8, 48, 40), (8, 24, 20), (8, 12, 10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "heads"), [(1, 2), (6, 40)])
def test_the_model_of_memory_is_near_the_traced_network(kind, channels, heads):
    c = replace(KINDS[kind], batch_size=8)
    traced = memory_estimate.traced_bytes(c, channels=channels, heads=heads, precision=torch.bfloat16)
    modelled = modelled_footprint(c, channels, heads).training_bytes
    assert modelled == pytest.approx(traced, rel=0.15)


def test_single_precision_takes_more():
    c = KINDS["isotropic"]
    single = memory_estimate.traced_bytes(c, channels=1, heads=3, precision=torch.float32)
    half = memory_estimate.traced_bytes(c, channels=1, heads=3, precision=torch.bfloat16)
    assert 1.3 * half < single < 2 * half
    assert modelled_footprint(c, 1, 3, value_bytes=4).training_bytes == pytest.approx(single, rel=0.15)


def test_the_stand_in_loss_takes_the_memory_of_the_real_one():
    from autoseg import presets
    from autoseg.training.loss import make_loss
    from autoseg.training.settings import read_settings

    c, heads = KINDS["isotropic"], 30
    labels = make_labels({"background": 0, **{f"label {i}": i for i in range(1, heads)}})
    real = make_loss(labels, batch_dice=False, settings=read_settings(presets.planner("default").values["training"]).loss)
    own = memory_estimate.traced_bytes(c, channels=1, heads=heads, precision=torch.bfloat16)
    with_real = memory_estimate.traced_bytes(
        c, channels=1, heads=heads, precision=torch.bfloat16, loss=lambda outputs, target: real(outputs, target, None)
    )
    assert own == pytest.approx(with_real, rel=0.08)


def test_the_loss_sees_all_outputs_but_the_lowest():
    c = KINDS["isotropic"]
    assert len(scored_shapes(c)) == c.stages - 2
    assert scored_shapes(KINDS["one stage"]) == stage_shapes(KINDS["one stage"])[:1]


def test_what_does_not_change_the_memory_is_not_traced_again(monkeypatch):
    traced = []

    def count(c, **options):
        traced.append(c)
        return memory_estimate.Traced(
            peak_bytes=10**6, parameters=1, dense_flops=1.0, depthwise_flops=0.0, moved_bytes=1, operations=1, scored=1)  # fmt: skip

    monkeypatch.setattr(memory_estimate, "trace", count)
    trace = memory_estimate.tracer(CPU)
    c = KINDS["isotropic"]
    first = trace(c, 1, 3)
    again = trace(replace(c, name="3d_lowres", batch_dice=True, spacing=(2.0, 2.0, 2.0), reasons=("for a test",)), 1, 3)
    assert (again, len(traced)) == (first, 1)
    trace(replace(c, batch_size=3), 1, 3)
    trace(c, 2, 3)
    assert len(traced) == 3


def test_the_bytes_of_a_batch_grow_with_its_patches():
    c = KINDS["residual"]
    one, two, four = (
        memory_estimate.traced_bytes(replace(c, batch_size=n), channels=1, heads=3, precision=torch.bfloat16) for n in (32, 64, 128)
    )
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
