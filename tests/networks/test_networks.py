"""Networks: the parameter counts of the reference, the shapes of any plan, and the blocks against slow and obvious versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg import architectures, networks
from autoseg.errors import SettingsError
from autoseg.networks.blocks import ConvolutionBlock, ResidualBlock, normalization
from autoseg.networks.group_norm import GroupNorm
from autoseg.planning.configuration import Configuration

pytestmark = pytest.mark.slow


def make_configuration(**changes: Any) -> Configuration:
    """A small anisotropic network with unequal axes; `changes` replace its entries."""
    values: dict[str, Any] = {
        "name": "3d_fullres",
        "spacing": (3.0, 1.0, 1.0),
        "median_shape": (6.0, 24.0, 18.0),
        "patch_size": (4, 16, 12),
        "batch_size": 2,
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "features_per_stage": (8, 12, 20),
        "blocks_per_stage": (2, 1, 2),
        "decoder_blocks_per_stage": (1, 2),
        "network": "unet",
        "norm": "group",
        "normalization": ("zscore",),
        "batch_dice": False,
    }
    return Configuration(**{**values, **changes})


PLANAR: dict[str, Any] = {
    "name": "2d",
    "patch_size": (1, 16, 24),
    "strides": ((1, 1, 1), (1, 2, 2), (1, 2, 2)),
    "kernel_sizes": ((1, 3, 3),) * 3,
}


def test_parameter_counts_equal_those_of_every_published_plan(golden_plans: Path) -> None:
    counted: dict[str, int] = {}
    wrong = []
    for path in sorted(golden_plans.glob("*.json")):
        plan = json.loads(path.read_text())
        for name, expected in plan["n_parameters"].items():
            configuration, channels, heads = _from_golden(plan, name)
            key = str((configuration, channels, heads))
            if key not in counted:
                with torch.device("meta"):
                    network = networks.build(configuration, channels=channels, heads=heads)
                counted[key] = sum(parameter.numel() for parameter in network.parameters())
            if counted[key] != expected:
                wrong.append(f"{path.stem} {name}: {counted[key]}, published {expected}")
    assert len(counted) > 50, "the published plans were not read"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("network", architectures.NETWORKS)
@pytest.mark.parametrize("changes", [{}, PLANAR, {"norm": "instance"}], ids=["3d", "2d", "instance"])
def test_training_gives_logits_of_every_resolution_and_evaluation_the_full_one(network: str, changes: dict[str, Any]) -> None:
    configuration = make_configuration(network=network, **changes)
    built = networks.build(configuration, channels=2, heads=3)
    patch = configuration.patch_size
    image = torch.randn(2, 2, *patch)
    levels = built(image)
    stride = configuration.strides[1]
    assert [tuple(level.shape) for level in levels] == [
        (2, 3, *patch),
        (2, 3, *(n // s for n, s in zip(patch, stride, strict=True))),
    ]
    built.eval()
    assert tuple(built(image).shape) == (2, 3, *patch)
    plain = networks.build(configuration, channels=2, heads=3, deep_supervision=False)
    assert isinstance(plain(image), Tensor)


def test_every_parameter_learns() -> None:
    for name in architectures.NETWORKS:
        network = networks.build(make_configuration(network=name), channels=1, heads=2)
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                nn.init.ones_(module.norm.weight)
        sum(level.pow(2).mean() for level in network(torch.randn(2, 1, 4, 16, 12))).backward()
        still = [key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
        # a bias before a normalisation of groups of one channel shifts nothing; with larger groups it does
        assert not still, (name, still)


def test_a_planar_network_computes_in_two_dimensions() -> None:
    network = networks.build(make_configuration(**PLANAR), channels=1, heads=2)
    assert not [module for module in network.modules() if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)]


def test_a_network_of_a_single_stage_has_its_head_on_the_encoder() -> None:
    configuration = make_configuration(
        strides=((1, 1, 1),), kernel_sizes=((3, 3, 3),), features_per_stage=(8,), blocks_per_stage=(2,), decoder_blocks_per_stage=()
    )
    network = networks.build(configuration, channels=1, heads=4)
    assert [tuple(level.shape) for level in network(torch.randn(1, 1, 5, 6, 7))] == [(1, 4, 5, 6, 7)]


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (320, 8), (20, 4), (30, 2), (7, 1), (1, 1)])
def test_groups_divide_any_number_of_channels(width: int, groups: int) -> None:
    assert normalization("group", width).groups == groups
    assert normalization("instance", width).groups == width


def test_the_generator_alone_decides_the_first_weights() -> None:
    configuration = make_configuration()
    first, second, third = (
        networks.build(configuration, channels=1, heads=2, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_first_weights_are_kaiming_normal_for_leaky_relu() -> None:
    network = networks.build(make_configuration(features_per_stage=(64, 64, 64)), channels=1, heads=2)
    weight = network.body.stages[1][0].convolution.weight
    expected = (2 / (1 + 0.01**2) / (64 * 27)) ** 0.5
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert not network.body.stages[1][0].convolution.bias.any()


def test_residual_blocks_begin_as_their_shortcut() -> None:
    network = networks.build(make_configuration(network="residual_unet"), channels=1, heads=2)
    block = network.body.stages[2][1]
    x = torch.randn(1, 20, 2, 4, 3)
    assert torch.allclose(block(x), functional.leaky_relu(x, 0.01))


def test_a_residual_block_pools_projects_and_adds() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, 4, 6, kernel=(1, 3, 3), stride=(1, 2, 2), norm="instance")
    x = torch.randn(2, 4, 3, 6, 8)
    first, second, shortcut = block.first.convolution, block.second, block.shortcut[1]
    inner = functional.leaky_relu(functional.instance_norm(functional.conv3d(x, first.weight, first.bias, (1, 2, 2), (0, 1, 1))), 0.01)
    inner = functional.instance_norm(functional.conv3d(inner, second.weight, second.bias, 1, (0, 1, 1)))
    pooled = functional.avg_pool3d(x, (1, 2, 2), (1, 2, 2))
    expected = functional.leaky_relu(inner + functional.instance_norm(functional.conv3d(pooled, shortcut.weight)), 0.01)
    assert shortcut.bias is None
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_the_decoder_joins_upsampled_and_skip_in_that_order() -> None:
    network = networks.build(make_configuration(), channels=1, heads=2)
    step = network.body.decoder.steps[0]
    low, skip = torch.randn(1, 20, 2, 4, 3), torch.randn(1, 12, 4, 8, 6)
    expected = step.blocks(torch.cat((step.up(low), skip), dim=1))
    assert torch.allclose(step(low, skip), expected)
    first = network.body.decoder.steps[1].blocks[0]
    assert isinstance(first, ConvolutionBlock) and first.convolution.in_channels == 2 * 8


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "groups"), [((2, 16, 6, 5, 4), 8), ((2, 20, 4, 6, 7), 4), ((3, 6, 7, 5, 3), 6), ((2, 8, 9, 12), 2)])
def test_channels_last_group_norm_has_the_derivatives_of_the_plain_one(shape: tuple[int, ...], groups: int, precision: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    channels_last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    exact = 1e-5 if precision == torch.float32 else 0.03
    x, dy = (torch.randn(shape, generator=generator).to(precision) * 2 + 1 for _ in range(2))
    norm = GroupNorm(groups, shape[1])
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    found_x = x.clone(memory_format=channels_last).requires_grad_()
    assert not found_x.is_contiguous(), "else the fast path is not tested"
    found = torch.autograd.grad(norm(found_x), (found_x, norm.weight, norm.bias), dy)
    plain_x, weight, bias = (t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias))
    expected = torch.autograd.grad(_slow_group_norm(plain_x, groups, weight, bias), (plain_x, weight, bias), dy.double())
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < exact


def test_group_norm_with_a_group_per_channel_is_instance_norm() -> None:
    x = torch.randn(2, 6, 5, 4, 3)
    assert torch.allclose(normalization("instance", 6)(x), nn.InstanceNorm3d(6, affine=True)(x), atol=1e-6)


def test_channels_last_and_contiguous_networks_agree() -> None:
    network = networks.build(make_configuration(), channels=1, heads=2)
    image = torch.randn(2, 1, 4, 16, 12)
    fast = [level.detach() for level in network(image)]
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    plain = network.body(image, all_resolutions=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(fast, plain, strict=True))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"network": "unett"}, "unett"), ({"norm": "batch"}, "batch"), ({"features_per_stage": (8, 16)}, "features_per_stage")],
)
def test_a_plan_that_cannot_be_built_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        networks.build(make_configuration(**changes), channels=1, heads=2)


def _slow_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    result = []
    for case in x:
        parts = []
        for part in case.chunk(groups):
            parts.append((part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt())
        ones = (1,) * (case.dim() - 1)
        result.append(torch.cat(parts) * weight.view(-1, *ones) + bias.view(-1, *ones))
    return torch.stack(result)


def _from_golden(plan: dict[str, Any], name: str) -> tuple[Configuration, int, int]:
    """A reference configuration in our terms, with its input channels and heads."""
    entry = plan["configurations"][name]
    entry = {**plan["configurations"][entry["inherits_from"]], **entry} if "inherits_from" in entry else entry
    arch = entry["architecture"]["arch_kwargs"]
    planar = len(entry["patch_size"]) == 2
    residual = "Residual" in entry["architecture"]["network_class_name"]

    def triples(rows: list[list[int]]) -> tuple[Any, ...]:
        return tuple(tuple([1, *row] if planar else row) for row in rows)

    foreground = len([label for label in plan["dataset"]["labels"] if label not in ("background", "ignore")])
    channels = plan["num_input_channels"] + (foreground if entry.get("previous_stage") else 0)
    configuration = make_configuration(
        name="2d" if planar else "3d_fullres",
        strides=triples(arch["strides"]),
        kernel_sizes=triples(arch["kernel_sizes"]),
        features_per_stage=tuple(arch["features_per_stage"]),
        blocks_per_stage=tuple(arch["n_blocks_per_stage" if residual else "n_conv_per_stage"]),
        decoder_blocks_per_stage=tuple(reversed(arch["n_conv_per_stage_decoder"])),
        network="residual_unet" if residual else "unet",
        norm="instance",
    )
    return configuration, channels, plan["num_segmentation_heads"]
