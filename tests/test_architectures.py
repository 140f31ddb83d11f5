"""The networks with closed forms are what these say: weights, convolutions, operations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autoseg import networks
from autoseg.architectures import NETWORKS
from autoseg.planning.configuration import Configuration
from autoseg.planning.memory import convolutions, forward_flops, parameters
from tests.planning.test_memory import configuration

pytestmark = pytest.mark.slow

SHAPES = {"volume": ((16, 24, 16), (1, 1, 1)), "thick slices": ((8, 48, 40), (4, 1, 1)), "planar": ((1, 64, 48), (1, 1, 1)),
          "one stage": ((6, 6, 6), (1, 1, 1))}  # fmt: skip


def planned(network: str, shape: str) -> Configuration:
    """A configuration with two blocks per stage, and a width that stays the same between the two lowest stages."""
    c = configuration(*SHAPES[shape])
    widths = (*c.features_per_stage[:-1], c.features_per_stage[max(c.stages - 2, 0)])
    return replace(c, network=network, features_per_stage=widths)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_the_weights_and_convolutions_of_its_record(network: str, shape: str) -> None:
    c = planned(network, shape)
    with torch.device("meta"):
        built = networks.build(c, channels=3, heads=4)
    found: list[tuple[int, int, int]] = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        transposed = isinstance(module, torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d)
        voxels = math.prod((inputs[0] if transposed else output).shape[2:])
        found.append((module.in_channels, module.out_channels, math.prod(module.kernel_size) * voxels))  # type: ignore[union-attr]

    for module in built.modules():
        if hasattr(module, "kernel_size") and hasattr(module, "in_channels"):
            module.register_forward_hook(count)
    built(torch.zeros(c.batch_size, 3, *c.patch_size, device="meta"))
    expected = [(layer.inputs, layer.outputs, layer.kernel * layer.voxels) for layer in convolutions(c, channels=3, heads=4)]
    assert sorted(found) == sorted(expected)
    assert parameters(c, channels=3, heads=4) == sum(weight.numel() for weight in built.parameters())
    assert forward_flops(c, channels=3, heads=4) == c.batch_size * sum(2.0 * a * b * n for a, b, n in found)


def test_a_wrong_count_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(NETWORKS["unet"], stem=True)
    monkeypatch.setitem(NETWORKS, "wrong", wrong)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        test_a_network_has_the_weights_and_convolutions_of_its_record("wrong", "volume")
