"""Tiling: the reference's positions and weights, and a whole volume against the slow, obvious sum over patches."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from autoseg import tiling
from autoseg.tiling import Flips, Tiles, gaussian_weights, predict_slabs, tile_starts


def test_positions_equal_the_reference(golden: Path) -> None:
    for example in json.loads((golden / "golden-numerics.json").read_text())["sliding_window_steps"]:
        found = [tile_starts(n, tile, example["step"]) for n, tile in zip(example["image"], example["tile"], strict=True)]
        assert found == example["steps"]


def test_tiles_of_one_slice_visit_every_slice_once() -> None:
    assert tile_starts(5, 1, 0.5) == [0, 1, 2, 3, 4]


def test_tiles_reach_both_ends_and_no_step_is_longer_than_asked() -> None:
    for length, tile, step in itertools.product(range(3, 40, 3), (1, 2, 3), (0.25, 0.5, 1.0)):
        starts = tile_starts(length, tile, step)
        assert starts[0] == 0 and starts[-1] == length - tile
        assert max(np.diff(starts), default=0) <= max(1, np.ceil(tile * step))
        assert len(set(starts)) == len(starts)


def test_gaussian_weights_equal_the_reference_in_its_own_precision(golden: Path) -> None:
    maps = json.loads((golden / "golden-numerics.json").read_text())["gaussian_map"]
    assert np.array_equal(gaussian_weights((1, 8, 6))[0].half().numpy(), np.array(maps["8x6_full"], dtype=np.float16))
    for name in ("128^3", "20x320x256"):
        weights = gaussian_weights(tuple(maps[name]["shape"])).half()
        assert float(weights.double().sum()) == pytest.approx(maps[name]["sum_f64"], rel=1e-12)
        assert int((weights == weights.min()).sum()) == maps[name]["n_at_min"]
        assert float(weights.max()) == maps[name]["max"]


def test_gaussian_weights_are_scipys_filter_of_one_voxel() -> None:
    patch = (7, 10, 13)
    single = np.zeros(patch)
    single[tuple(n // 2 for n in patch)] = 1
    smooth = ndimage.gaussian_filter(single, [n / 8 for n in patch], mode="constant")
    assert np.allclose(gaussian_weights(patch).numpy(), 10 * smooth / smooth.max(), rtol=1e-5, atol=1e-7)


def test_padding_equals_the_reference(golden: Path) -> None:
    example = json.loads((golden / "golden-numerics.json").read_text())["pad_to_patch"]
    volume = torch.tensor(example["in"], dtype=torch.float32)[None, None]  # (1, 1, 2, 3)
    padded, before = tiling._pad(volume, (1, *example["patch"]))
    assert padded.tolist() == example["out"]
    assert before == (0, *(first for first, _ in example["slicer"][2:]))


def affected_by_everything(heads: int) -> tiling.Network:
    """A network whose logits depend on the place in the patch, on the neighbours and on the channel."""
    generator = torch.Generator().manual_seed(5)
    kernel = torch.randn((heads, 2, 3, 3, 3), generator=generator)

    def network(x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[-1]) + torch.linspace(0, 3, x.shape[-2])[:, None]
        return torch.nn.functional.conv3d(x, kernel, padding=1) * ramp

    return network


def slow_prediction(network: tiling.Network, volume: Tensor, patch: tuple[int, int, int], heads: int, flips: Flips) -> Tensor:
    """One patch and one flip at a time, everything held, in double precision."""
    sums = torch.zeros((heads, *volume.shape[1:]), dtype=torch.float64)
    total = torch.zeros(volume.shape[1:], dtype=torch.float64)
    weights = gaussian_weights(patch).double()
    exchange = list(range(heads))
    for a, b in flips.pairs:
        exchange[a], exchange[b] = b, a
    for corner in itertools.product(*(tile_starts(n, p, 0.5) for n, p in zip(volume.shape[1:], patch, strict=True))):
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        part = volume[(slice(None), *box)]
        logits = []
        for axes in flips.combinations:
            spatial = [axis + 1 for axis in axes]
            one = network(part.flip(spatial)[None])[0].flip(spatial).double()
            logits.append(one[exchange] if flips.swap_axis in axes else one)
        sums[(slice(None), *box)] += weights * torch.stack(logits).mean(0)
        total[box] += weights
    return sums / total


def whole(network: Any, volume: Tensor, **settings: Any) -> torch.Tensor:
    return torch.cat([slab.cpu() for _, slab in predict_slabs(network, volume, **settings)], dim=1)


@pytest.mark.parametrize("flips", [Flips(), Flips(axes=(0, 2)), Flips(axes=(0, 1, 2), swap_axis=2, pairs=((1, 2),))])
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_a_volume_equals_the_slow_sum_over_patches(flips: Flips, batch: int | None) -> None:
    volume = torch.randn((2, 11, 9, 14), generator=torch.Generator().manual_seed(1))
    network = affected_by_everything(4)
    found = whole(network, volume, patch=(4, 6, 8), heads=4, flips=flips, batch=batch)
    assert torch.allclose(found.double(), slow_prediction(network, volume, (4, 6, 8), 4, flips), atol=1e-4)


def test_a_volume_smaller_than_the_patch_is_seen_between_zeros_and_cut_back() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    volume = torch.randn(1, 3, 10, 5)
    assert torch.allclose(whole(network, volume, patch=(6, 8, 8), heads=1), volume, atol=1e-6)
    assert all(tuple(x.shape[2:]) == (6, 8, 8) for x in seen)
    assert not seen[0][:, :, 0].any() and not seen[0][:, :, 4:].any() and not seen[0][..., 0].any() and not seen[0][..., 6:].any()


def test_slabs_are_consecutive_complete_and_no_thicker_than_they_must_be() -> None:
    volume = torch.randn(1, 40, 12, 9)
    reached = 0
    for start, slab in predict_slabs(lambda x: x, volume, patch=(8, 6, 6), heads=1, batch=1):
        assert start == reached and slab.shape[1] <= 8
        assert torch.allclose(slab, volume[:, start : start + slab.shape[1]], atol=1e-5)
        reached = start + slab.shape[1]
    assert reached == 40


def test_channels_of_a_previous_stage_change_sides_with_the_flip() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    volume = torch.arange(3.0).view(3, 1, 1, 1) + torch.arange(4.0)
    whole(network, volume, patch=(1, 1, 4), heads=3, flips=Flips(axes=(2,), swap_axis=2, pairs=((1, 2),), input_pairs=((1, 2),)))
    straight, flipped = (x[0, :, 0, 0] for x in seen)
    assert torch.equal(flipped, straight[[0, 2, 1]].flip(1))


@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("rows", [None, (0, 5), (4, 9)])
def test_a_slab_along_any_axis_and_a_band_of_rows_give_the_same_logits(along: int, rows: tuple[int, int] | None) -> None:
    volume = torch.randn((2, 11, 9, 14), generator=torch.Generator().manual_seed(1))
    network, settings = (
        affected_by_everything(4),
        {"patch": (4, 6, 8), "heads": 4, "flips": Flips(axes=(1, 2), swap_axis=1, pairs=((1, 2),))},
    )
    found = whole(network, volume, **settings, along=along, rows=rows)
    tiles = Tiles(shape=(11, 9, 14), patch=(4, 6, 8), along=along, rows=rows)
    expected = whole(network, volume, **settings).permute(0, *(1 + axis for axis in tiles.axes))[:, :, slice(*(rows or (None,)))]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_small_volume_is_seen_between_zeros_along_any_axis() -> None:
    volume = torch.randn(1, 3, 10, 5)
    for along, order in enumerate([(0, 1, 2), (1, 0, 2), (2, 0, 1)]):
        found = whole(lambda x: x, volume, patch=(6, 8, 8), heads=1, along=along)
        assert torch.allclose(found, volume.permute(0, *(1 + axis for axis in order)), atol=1e-6)


def test_several_networks_are_added_one_by_one_and_give_the_mean_of_their_logits() -> None:
    volume, flips = torch.randn(2, 11, 9, 14), Flips(axes=(0, 2), swap_axis=2, pairs=((1, 2),))
    networks = [affected_by_everything(4), lambda x: affected_by_everything(4)(x).square()]
    means = [slow_prediction(network, volume, (4, 6, 8), 4, flips) for network in networks]
    found = whole(networks, volume, patch=(4, 6, 8), heads=4, flips=flips)
    assert torch.allclose(found.double(), (means[0] + means[1]) / 2, atol=1e-4)


def test_logits_of_half_precision_are_summed_in_float32_whatever_their_layout() -> None:
    volume = torch.randn((2, 11, 9, 14), generator=torch.Generator().manual_seed(1))
    exact = affected_by_everything(4)
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    one, other = (
        whole(lambda x, layout=layout: exact(x).bfloat16().contiguous(memory_format=layout), volume, patch=(4, 6, 8), heads=4, batch=1)
        for layout in layouts
    )
    rounded = slow_prediction(lambda x: exact(x).bfloat16(), volume, (4, 6, 8), 4, Flips())
    assert torch.equal(one, other) and one.dtype == torch.float32
    assert torch.allclose(one.double(), rounded, atol=1e-4)


def test_what_is_held_is_one_patch_of_slices_however_long_the_volume_and_less_with_a_band() -> None:
    long = Tiles(shape=(1000, 100, 60), patch=(20, 16, 12))
    assert long.held == (20, 100, 60) and long.held_bytes(7) == 4 * 8 * 20 * 100 * 60
    assert replace(long, along=1).held == (16, 1000, 60)
    assert replace(long, rows=(30, 50)).held == (20, 20, 60)
    assert replace(long, shape=(10, 100, 60)).held == (10, 100, 60)


def test_slabs_handed_on_stay_as_they_are_when_their_place_is_used_again() -> None:
    volume = torch.randn(1, 40, 12, 9)
    kept = list(predict_slabs(lambda x: x, volume, patch=(8, 6, 6), heads=1))
    assert torch.allclose(torch.cat([slab for _, slab in kept], dim=1), volume, atol=1e-5)
