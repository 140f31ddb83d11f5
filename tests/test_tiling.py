"""Tiling: the reference's positions and weights, and a whole volume against the slow, obvious sum over patches."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from autoseg import tiling
from autoseg.tiling import Flips, gaussian_weights, predict_slabs, tile_starts


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


def whole(network: tiling.Network, volume: Tensor, **settings: Any) -> torch.Tensor:
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
