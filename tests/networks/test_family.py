"""The family of networks: every preset in every shape, published weight counts, and the parts against other implementations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg import networks, presets
from autoseg.architectures import PLAIN, Architecture
from autoseg.networks import Network, memory_estimate
from autoseg.networks.attention import ConvolutionalAttention, EfficientChannels, Squeeze, SqueezeBoth
from autoseg.networks.context import AtrousPyramid, Memory, PyramidPooling
from autoseg.networks.depthwise import DepthwiseConvolution
from autoseg.networks.group_norm import GroupNorm
from autoseg.networks.mixers import MedNeXt
from autoseg.networks.parts import Parts
from autoseg.networks.resampling import Gated, GatedFine, SkipPlace
from autoseg.planning.configuration import Configuration
from autoseg.planning.constants import read_constants
from autoseg.planning.sizing import SizingRequest, candidates
from autoseg.training.loss import deep_supervision_weights
from tests.networks.test_networks import make_configuration

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed: pip install -e '.[dev]'")
pytestmark = pytest.mark.slow

OURS = [name for name in presets.network_names() if not name.startswith("monai-")]
SHAPES: dict[str, dict[str, Any]] = {
    "isotropic": {"patch_size": (8, 8, 8), "strides": ((1, 1, 1), (2, 2, 2)), "kernel_sizes": ((3, 3, 3),) * 2},
    "thick slices": {"patch_size": (4, 16, 8), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
                     "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3))},
    "planar": {"name": "2d", "patch_size": (1, 16, 24), "strides": ((1, 1, 1), (1, 2, 2), (1, 2, 2)), "kernel_sizes": ((1, 3, 3),) * 3},
}  # fmt: skip


def small(network: str, shape: str, **changes: Any) -> Configuration:
    constants = read_constants(presets.planner(network=network, changes=changes or None).values)
    stages = len(SHAPES[shape]["strides"])
    return make_configuration(
        **SHAPES[shape], features_per_stage=(8, 16, 24)[:stages], blocks_per_stage=constants.blocks[:stages],
        decoder_blocks_per_stage=constants.decoder_blocks[: stages - 1], network=constants.network, architecture=constants.made_of,
    )  # fmt: skip


def learned(network: Network, configuration: Configuration, steps: int) -> tuple[float, float, list[str]]:
    """Train on one batch; the loss before and after, and the weights that never had a gradient."""
    generator = torch.Generator().manual_seed(0)
    shape = configuration.patch_size
    image = torch.randn(2, 2, *shape, generator=generator)
    target = (image[:, 0] > 0).long() + (image[:, 1] > 1).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = network(image)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        value = functional.cross_entropy(outputs[0].float(), target)
        value = value + sum(0.01 * output.float().square().mean() for output in outputs[1:])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses[0], losses[-1], [name for name, weight in network.named_parameters() if weight.grad is None]


@pytest.mark.parametrize(("index", "name"), list(enumerate(OURS)))
def test_every_network_learns_in_bfloat16_and_gives_the_grid_of_its_input(index: int, name: str) -> None:
    """The shapes take turns; every network has each of them in `benchmarks/planning_memory.py --networks`."""
    shape = list(SHAPES)[index % len(SHAPES)]
    configuration = small(name, shape)
    network = networks.build(configuration, channels=2, heads=3, generator=torch.Generator().manual_seed(1))
    before, after, untouched = learned(network, configuration, 6)
    assert math.isfinite(after) and after < before
    assert not untouched
    network.eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 2, *configuration.patch_size)).shape == (1, 3, *configuration.patch_size)


@pytest.mark.parametrize("name", OURS)
def test_every_network_is_built_for_every_shape(name: str) -> None:
    for shape in SHAPES:
        configuration = small(name, shape)
        with torch.device("meta"):
            outputs = networks.build(configuration, channels=2, heads=3)(torch.zeros(1, 2, *configuration.patch_size))
        first = outputs[0] if isinstance(outputs, list) else outputs
        assert first.shape == (1, 3, *configuration.patch_size), shape


def test_a_network_of_monai_is_planned_for_patches_that_it_divides_and_learns() -> None:
    constants = read_constants(presets.planner(network="monai-segresnet").values)
    request = SizingRequest(
        name="3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(36.0, 50.0, 35.0),
        dataset_voxels=1e7,
        counted_labels=3,
        normalization=("zscore",),
    )
    for candidate in candidates(request, constants, timed=True):
        assert all(edge % 16 == 0 for edge in candidate.patch_size)
    configuration = replace(small("monai-segresnet", "isotropic"), patch_size=(16, 16, 16))
    network = networks.build(configuration, channels=2, heads=3, generator=torch.Generator().manual_seed(1))
    before, after, _ = learned(network, configuration, 15)
    assert after < before


def published(name: str, features: Sequence[int], *, planar: bool, channels: int, heads: int, changes: Any, blocks: Any) -> tuple[int, int]:
    """The weights of a network of published widths; without its heads and without those of its norms."""
    constants = read_constants(presets.planner(network=name, changes=changes).values)
    stages = len(features)
    stride, kernel, edge = ((1, 2, 2), (1, 3, 3), (1, 2**stages, 2**stages)) if planar else ((2,) * 3, (3,) * 3, (2**stages,) * 3)
    encoder, decoder = blocks or (constants.blocks[:stages], constants.decoder_blocks[: stages - 1])
    configuration = make_configuration(
        name="2d" if planar else "3d_fullres", patch_size=edge, strides=((1, 1, 1), *(stride,) * (stages - 1)),
        kernel_sizes=(kernel,) * stages, features_per_stage=tuple(features), blocks_per_stage=encoder, decoder_blocks_per_stage=decoder,
        network=constants.network, architecture=constants.made_of)  # fmt: skip
    with torch.device("meta"):
        network = networks.build(configuration, channels=channels, heads=heads)
    whole = sum(weight.numel() for key, weight in network.named_parameters() if ".heads." not in key and ".head." not in key)
    norms = sum(weight.numel() for module in network.modules() if isinstance(module, GroupNorm) for weight in module.parameters())
    return whole, norms


WIDE, NARROW = (64, 128, 256, 512, 1024), (32, 64, 128, 256, 512)
EXACT: dict[str, Any] = {"network.multires_multiple": 1}


@pytest.mark.parametrize(
    ("name", "features", "planar", "channels", "changes", "expected", "head"),
    [
        # closed form of Ronneberger et al. 2015 without norms; a head of 64 -> 2
        ("unet-2015", WIDE, True, 1, None, 31_030_658, 64 * 2 + 2),
        # closed form of Zhou et al. 2018 without norms; a head of 32 -> 1
        ("unet-plus-plus", NARROW, True, 3, None, 9_042_177, 32 + 1),
        # Huang et al. 2020, with batch norms and a head of 3 x 3, 320 -> 1
        ("unet-3-plus", WIDE, True, 3, None, 26_971_777, 320 * 9 + 1),
        # LeeJunHyun/Image_Segmentation, with batch norms and a head of 64 -> 1
        ("r2u-net", WIDE, True, 3, None, 39_091_393, 64 + 1),
        # the authors' code, with batch norms and a head of 51 -> 2 with a norm
        ("multires-unet", NARROW, True, 3, EXACT, 7_251_376, (51 + 1 + 2) * 2),
        ("multires-unet", NARROW, False, 4, EXACT, 18_646_315, (51 + 1 + 2) * 2),
        # the authors' code with deep supervision: five heads to two classes, and a single weight that does nothing
        ("med-next-s", NARROW, False, 1, None, 5_552_843, (992 + 5) * 2 + 1),
        ("med-next-b", NARROW, False, 1, None, 10_528_235, (992 + 5) * 2 + 1),
        ("med-next-m", NARROW, False, 1, None, 17_550_891, (992 + 5) * 2 + 1),
        ("med-next-l", NARROW, False, 1, None, 61_781_195, (992 + 5) * 2 + 1),
    ],
)
def test_published_weight_counts_are_reproduced(
    name: str, features: Sequence[int], planar: bool, channels: int, changes: Any, expected: int, head: int
) -> None:
    whole, norms = published(name, features, planar=planar, channels=channels, heads=1, changes=changes, blocks=None)
    normed = name not in ("unet-2015", "unet-plus-plus")  # those were counted without
    assert whole - (0 if normed else norms) == expected - head


def test_v_net_has_the_convolutions_of_monai() -> None:
    theirs = nets.VNet(spatial_dims=3, in_channels=1, out_channels=2)
    expected = sorted(w.shape for key, w in theirs.named_parameters() if w.dim() == 5 and not key.startswith("out_tr"))
    constants = read_constants(presets.planner(network="v-net").values)
    configuration = make_configuration(
        patch_size=(32,) * 3, strides=((1, 1, 1), *((2, 2, 2),) * 4), kernel_sizes=((3, 3, 3),) * 5,
        features_per_stage=(16, 32, 64, 128, 256), blocks_per_stage=(1, 1, 2, 3, 2), decoder_blocks_per_stage=(1, 1, 2, 2),
        network="v-net", architecture=constants.made_of)  # fmt: skip
    with torch.device("meta"):
        ours = networks.build(configuration, channels=1, heads=2)
    assert sorted(w.shape for key, w in ours.named_parameters() if w.dim() == 5 and ".heads." not in key) == expected


def parts(dimensions: int = 3, **changes: Any) -> Parts:
    return Parts(dimensions, "instance", Architecture(**changes))


def take(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our module the weights of theirs, in the order of their shapes' appearance."""
    given, own = list(theirs.parameters()), list(ours.parameters())
    assert [w.numel() for w in own] == [w.numel() for w in given]
    for weight, value in zip(own, given, strict=True):
        weight.data.copy_(value.data.reshape(weight.shape))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_squeeze_and_excitation_equals_that_of_monai() -> None:
    from monai.networks.blocks import ChannelSELayer

    theirs, ours = ChannelSELayer(3, 16, r=4), Squeeze(parts(reduction=4), 16)
    take(ours, theirs)
    x = torch.randn(2, 16, 3, 4, 5)
    close(ours(x), theirs(x))


def test_the_gate_equals_that_of_monai() -> None:
    from monai.networks.nets.attentionunet import AttentionBlock

    theirs = AttentionBlock(spatial_dims=3, f_int=4, f_g=6, f_l=8, dropout=0.0)
    for module in (theirs.W_g, theirs.W_x, theirs.psi):
        for index, layer in enumerate(module):
            if isinstance(layer, nn.BatchNorm3d):
                module[index] = nn.InstanceNorm3d(layer.num_features, affine=True)
    ours = GatedFine(parts(), 8, 6, SkipPlace(8, (3, 3, 3), (2, 2, 2), 1))
    ours.of_up = parts().unit(6, 4, activation=False)
    for mine, other in ((ours.of_up, theirs.W_g), (ours.of_skip, theirs.W_x), (ours.psi, theirs.psi)):
        take(mine, other)
    up, skip = torch.randn(2, 6, 4, 4, 4), torch.randn(2, 8, 4, 4, 4)
    close(ours(skip, skip, up), theirs(g=up, x=skip))


def test_the_gate_of_the_paper_has_the_weights_of_its_closed_form() -> None:
    gate = Gated(parts(), 16, 32, SkipPlace(16, (3, 3, 3), (2, 2, 2), 1))
    c, g, h, s = 16, 32, 8, 8
    assert sum(w.numel() for w in gate.parameters()) == c * h * s + (g * h + h) + (h + 1) + (c * c + c) + 2 * c


def test_the_mednext_block_equals_that_of_monai() -> None:
    from monai.networks.blocks.mednext_block import MedNeXtBlock

    theirs, ours = MedNeXtBlock(8, 8, expansion_ratio=3, kernel_size=3, norm_type="group"), MedNeXt(parts(), 8, 8, (3, 3, 3), 3)
    take(ours, theirs)
    x = torch.randn(2, 8, 5, 6, 7)
    close(ours(x), theirs(x))


def test_nested_nodes_equal_the_recursion_of_the_paper() -> None:
    network = networks.build(small("unet-plus-plus", "planar"), channels=2, heads=3).double()
    body = network.body
    image = torch.randn(1, 2, 16, 24, dtype=torch.float64)
    levels, _ = body.encoder(image)

    def node(row: int, column: int) -> Tensor:
        if column == 0:
            return levels[row]
        up = body.decoder.ups[f"{row}-{column}"](node(row + 1, column - 1))
        return body.decoder.nodes[f"{row}-{column}"](torch.cat([*(node(row, j) for j in range(column)), up], dim=1))

    expected = [body.decoder.heads[column - 1](node(0, column)) for column in (2, 1)]
    for found, wanted in zip(network(image[:, :, None]), expected, strict=True):
        torch.testing.assert_close(found[:, :, 0], wanted)


def test_pooled_context_equals_a_slow_restatement() -> None:
    module = PyramidPooling(parts(2), 8, (3, 3), (6, 5)).double()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    seen = [x]
    for size, project in zip((1, 2, 3, 6), module.project, strict=True):
        rows, columns = (min(size, edge) for edge in (6, 5))
        pooled = torch.empty(2, 8, rows, columns, dtype=torch.float64)
        for i in range(rows):
            for j in range(columns):
                window = x[:, :, i * 6 // rows : math.ceil((i + 1) * 6 / rows), j * 5 // columns : math.ceil((j + 1) * 5 / columns)]
                pooled[:, :, i, j] = window.mean(dim=(2, 3))
        seen.append(functional.interpolate(project(pooled), size=(6, 5), mode="bilinear", align_corners=False))
    torch.testing.assert_close(module(x), module.fuse(torch.cat(seen, dim=1)))


def test_dilated_context_equals_a_slow_restatement() -> None:
    module = AtrousPyramid(parts(2), 6, (3, 3), (12, 9)).double()
    x = torch.randn(2, 6, 12, 9, dtype=torch.float64)
    found = [module.branches[0](x)]
    for share, branch in zip((0.18, 0.36, 0.55), list(module.branches)[1:], strict=True):
        rates = [max(1, round(share * edge)) for edge in (12, 9)]
        convolution, norm, activation = branch
        padded = functional.pad(x, (rates[1], rates[1], rates[0], rates[0]))
        taps = [
            torch.einsum("oi,nihw->nohw", convolution.weight[:, :, i, j], padded[:, :, i * rates[0] :, j * rates[1] :][:, :, :12, :9])
            for i in range(3)
            for j in range(3)
        ]
        found.append(activation(norm(sum(taps))))
    whole = module.whole(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 12, 9)
    torch.testing.assert_close(module(x), module.project(torch.cat([*found, whole], dim=1)))


def test_channel_gates_equal_slow_restatements() -> None:
    x = torch.randn(1, 16, 3, 4, 5)
    eca = EfficientChannels(parts(), 16)
    kernel, means = eca.layer.weight[0, 0], functional.pad(x.mean(dim=(2, 3, 4))[0], (1, 1))
    gates = torch.stack([torch.sigmoid((kernel * means[i : i + 3]).sum()) for i in range(16)])
    close(eca(x), x * gates.view(1, 16, 1, 1, 1))
    both = SqueezeBoth(parts(), 16)
    close(both(x), x * both.channels.gate(x) + x * torch.sigmoid(both.voxels(x)))
    cbam = ConvolutionalAttention(parts(), 16, (3, 3, 3))
    mean, most = x.mean(dim=(2, 3, 4), keepdim=True), x.amax(dim=(2, 3, 4), keepdim=True)
    y = x * torch.sigmoid(cbam.layers(mean) + cbam.layers(most))
    close(cbam(x), y * torch.sigmoid(cbam.voxels(torch.stack((y.mean(1), y.amax(1)), dim=1))))


def test_the_order_of_memory_slots_does_not_matter() -> None:
    module = Memory(parts(slots=5), 8, (3, 3, 3), (2, 3, 4))
    x = torch.randn(1, 8, 2, 3, 4)
    before = module(x)
    module.slots.data = module.slots.data[:, [3, 1, 4, 0, 2]]
    close(module(x), before)


@pytest.mark.parametrize(
    ("kernel", "stride", "transposed"), [((3, 3, 3), (1, 1, 1), False), ((1, 3, 3), (1, 2, 2), False), ((5, 5), (2, 2), True)]
)
def test_the_depthwise_backward_pass_equals_float64(kernel: tuple[int, ...], stride: tuple[int, ...], transposed: bool) -> None:
    layer = DepthwiseConvolution(6, kernel, stride, transposed=transposed)
    x = torch.randn(2, 6, *(4, 6, 8)[: len(kernel)], requires_grad=True)
    wanted = layer.weight.detach().double().requires_grad_(), x.detach().bfloat16().double().requires_grad_()
    expected = layer.how.convolved(wanted[1], wanted[0].bfloat16().double(), None)
    factor = [s if transposed else 1 / s for s in stride]
    assert expected.shape[2:] == tuple(int(edge * f) for edge, f in zip(x.shape[2:], factor, strict=True))
    dy = torch.randn_like(expected).bfloat16()
    expected.backward(dy.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).backward(dy)
    assert x.grad is not None and wanted[1].grad is not None and layer.weight.grad is not None and wanted[0].grad is not None
    torch.testing.assert_close(x.grad.double(), wanted[1].grad, rtol=0.02, atol=0.02 * float(wanted[1].grad.abs().max()))
    torch.testing.assert_close(layer.weight.grad.double(), wanted[0].grad, rtol=0.02, atol=0.01 * float(wanted[0].grad.abs().max()))


def test_equal_resolutions_weigh_the_same() -> None:
    assert deep_supervision_weights(3, nested=True) == (1 / 3, 1 / 3, 1 / 3)


def test_the_trace_sees_what_a_network_takes_more_than_the_plain_one() -> None:
    cost = {}
    for name in ("unet", "unet-plus-plus", "med-next-s", "trans-unet"):
        configuration = small(name, "planar")
        cost[name] = memory_estimate.trace(configuration, channels=2, heads=3, precision=torch.bfloat16)
        built = networks.build(configuration, channels=2, heads=3)
        assert cost[name].parameters == sum(weight.numel() for weight in built.parameters())
    plain = cost["unet"]
    assert cost["unet-plus-plus"].peak_bytes > plain.peak_bytes and cost["unet-plus-plus"].operations > plain.operations
    assert plain.depthwise_flops == 0 < cost["med-next-s"].depthwise_flops
    assert cost["trans-unet"].dense_flops > plain.dense_flops


def test_every_name_of_a_part_is_used_by_a_preset_or_is_the_default() -> None:
    made = [read_constants(presets.planner(network=name).values).architecture for name in presets.network_names()]
    for key in ("block", "decoder_block", "down", "up", "topology", "context", "attention", "fusion"):
        assert getattr(PLAIN, key) in {getattr(one, key) for one in made}
    assert {one.topology for one in made} == {"ladder", "nested", "full-scale", "pyramid", "single", "scores"}


def test_a_description_survives_the_plan_as_json() -> None:
    from autoseg import schema

    configuration = small("med-next-b", "planar")
    again = schema.parse(Configuration, schema.dump(configuration), what="it", fix="none")
    assert again == configuration and hash(replace(again, reasons=())) == hash(replace(configuration, reasons=()))
