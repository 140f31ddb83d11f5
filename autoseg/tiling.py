"""A network and a volume in, class scores out: overlapping patches, weighted towards their centres, averaged.

The volume is worked off along its first axis. As soon as no later patch reaches a slice, the slice is finished and handed
on, so only a slab one patch thick is held for all classes, not the volume::

    axis 0  ──────────────────────────▶
    patches [──────────]
                 [──────────]
                       [──────────]
    finished ────┤     ┤ the slab that is held

What the scores mean, and how they come back to a case's own grid, is handled in `prediction`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.geometry import Shape, triple

SIGMA = 1 / 8  # of the Gaussian weights, in patch lengths. Source: nnU-Net 2.8.1
PEAK = 10.0  # weight of a patch's central voxel. Source: nnU-Net 2.8.1
SMALLEST = 2.0**-24  # no voxel weighs less, so that none is divided by zero. Source: nnU-Net 2.8.1 (the smallest half float)
VOXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # patches go through the network together up to this size

Network = Callable[[Tensor], Tensor]  # (n, c, z, y, x) -> logits (n, heads, z, y, x)


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Which mirror images of a patch are also looked at, and what a flip does to the meaning of the scores.

    `axes` are those that may be flipped, (0, 1, 2) being z, y, x of the patch; all their combinations are used. Where a flip
    of `swap_axis` turns left into right, the scores of each pair of heads in `pairs` change places, too, and so do the channels
    of each pair in `input_pairs` on the way in.
    """

    axes: tuple[int, ...] = ()
    swap_axis: int | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    input_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def combinations(self) -> tuple[tuple[int, ...], ...]:
        """The axes flipped in each pass, the patch as it is first.

        >>> Flips(axes=(1, 2)).combinations
        ((), (1,), (2,), (1, 2))
        """
        return tuple(itertools.chain.from_iterable(itertools.combinations(self.axes, k) for k in range(len(self.axes) + 1)))


def tile_starts(length: int, tile: int, step: float) -> list[int]:
    """Return where tiles begin along one axis: evenly spread, the first at one end and the last at the other.

    Parameters
    ----------
    length : voxels of the axis, at least `tile`
    tile : voxels of a tile
    step : largest distance between neighbours, as a share of the tile

    >>> tile_starts(110, 64, 0.5)
    [0, 23, 46]

    Source: nnU-Net 2.8.1; a tile of one voxel (a slice of a planar network) is never put twice on the same place.
    """
    distance = max(tile * step, 1.0)
    count = int(-(-(length - tile) // distance)) + 1
    if count == 1:
        return [0]
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def gaussian_weights(patch: Shape) -> Tensor:
    """Return how much each voxel of a patch counts: a Gaussian around `patch // 2`, float32 `(z, y, x)`.

    Source: nnU-Net 2.8.1: scipy's gaussian_filter of a single voxel with sigma an eighth of the patch, scaled to a peak of 10.
    """
    weights = torch.ones(1, dtype=torch.float64)
    for length in patch:
        distance = torch.arange(length, dtype=torch.float64) - length // 2
        weights = weights[..., None] * torch.exp(-0.5 * (distance / (length * SIGMA)) ** 2)
    return (PEAK * weights[0]).clamp(min=SMALLEST).to(torch.float32)


def predict_slabs(
    network: Network,
    volume: Tensor,
    *,
    patch: Shape,
    heads: int,
    step: float = 0.5,
    flips: Flips | None = None,
    device: str | torch.device = "cpu",
    batch: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits of a volume, slab by slab along its first axis.

    Parameters
    ----------
    network : in evaluation mode, on `device`
    volume : `(c, z, y, x)`; smaller than the patch, it is continued with zeros for the network and cut back afterwards
    patch : voxels, (z, y, x)
    heads : output channels of the network
    step : distance between patches as a share of the patch, at most 1
    flips : test-time mirroring; the mean of the logits of all passes is taken. By default none
    device : where patches are predicted and sums are held
    batch : patches per call of the network; by default as many as make a good size for the device

    Yields
    ------
    (index of the first slice, float32 logits `(heads, slices, y, x)` on `device`): consecutive, together the whole volume

    Source: nnU-Net 2.8.1, sections 2 to 6 of its inference; sums are kept in float32 instead of half precision.
    """
    shape: Shape = triple(volume.shape[1:])
    padded, before = _pad(volume, patch)
    starts = [tile_starts(n, tile, step) for n, tile in zip(padded.shape[1:], patch, strict=True)]
    positions = list(itertools.product(*starts))  # slice by slice along the first axis
    weights = gaussian_weights(patch).to(device)
    flips = flips or Flips()
    at_once = batch or max(1, VOXELS_AT_ONCE.get(torch.device(device).type, 2**20) // weights.numel())
    rows, columns = (slice(first, first + n) for first, n in zip(before[1:], shape[1:], strict=True))

    groups = [positions[start : start + at_once] for start in range(0, len(positions), at_once)]
    depth = max(group[-1][0] + patch[0] - group[0][0] for group in groups)
    held = _Slab(heads, depth, padded.shape[2:], device)
    for group in groups:
        yield from _cut(held.before(group[0][0]), before[0], shape[0], rows, columns)
        held.move_to(group[0][0])
        held.add(_predict_group(network, padded, group, patch, flips, device), weights, group)
    yield from _cut(held.before(padded.shape[1]), before[0], shape[0], rows, columns)


class _Slab:
    """Weighted sums of logits and sums of weights over some slices of the padded volume, from slice `first` on."""

    def __init__(self, heads: int, depth: int, plane: Sequence[int], device: str | torch.device) -> None:
        self.first = 0
        self._sums = torch.zeros((heads, depth, *plane), dtype=torch.float32, device=device)
        self._total = torch.zeros((depth, *plane), dtype=torch.float32, device=device)

    def before(self, start: int) -> tuple[int, Tensor, Tensor]:
        """Return the slices held before `start`: the index of the first, sums `(heads, slices, y, x)`, weights `(slices, y, x)`."""
        return self.first, self._sums[:, : start - self.first], self._total[: start - self.first]

    def move_to(self, start: int) -> None:
        """Drop the slices before `start` and append zeros after the others."""
        past = start - self.first
        if past > 0:
            for part in (self._total, *self._sums):  # head by head, so that little is held twice
                kept = part[past:].clone()
                part[: len(kept)] = kept
                part[len(kept) :] = 0
            self.first = start

    def add(self, logits: Tensor, weights: Tensor, group: Sequence[tuple[int, ...]]) -> None:
        """Add the weighted logits `(n, heads, *patch)` of the patches that begin at the n positions of `group`."""
        for patch_logits, (z, y, x) in zip(logits, group, strict=True):
            depth, height, width = weights.shape
            where = (slice(z - self.first, z - self.first + depth), slice(y, y + height), slice(x, x + width))
            self._sums[(slice(None), *where)].addcmul_(patch_logits, weights)
            self._total[where].add_(weights)


def _predict_group(
    network: Network, volume: Tensor, group: Sequence[tuple[int, ...]], patch: Shape, flips: Flips, device: str | torch.device
) -> Tensor:
    """Return logits, float32 `(n, heads, *patch)`, of the patches that begin at the n positions of `group`: the mean over all flips."""
    boxes = [tuple(slice(first, first + n) for first, n in zip(position, patch, strict=True)) for position in group]
    patches = torch.stack([volume[(slice(None), *box)] for box in boxes]).to(device, non_blocking=True)
    mean: Tensor | None = None
    with torch.inference_mode():
        for axes in flips.combinations:
            spatial = tuple(axis + 2 for axis in axes)
            swap = flips.swap_axis in axes
            seen = patches.flip(spatial) if axes else patches
            logits = network(_swapped(seen, flips.input_pairs) if swap else seen).float()
            logits = logits.flip(spatial) if axes else logits.contiguous()
            logits = _swapped(logits, flips.pairs) if swap else logits
            mean = logits if mean is None else mean.add_(logits)
        assert mean is not None, "there is always the pass without a flip"
        return mean.div_(len(flips.combinations))


def _swapped(x: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return `(n, c, ...)` with the channels of each pair exchanged."""
    order = list(range(x.shape[1]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return x[:, order] if pairs else x


def _cut(finished: tuple[int, Tensor, Tensor], before: int, slices: int, rows: slice, columns: slice) -> Iterator[tuple[int, Tensor]]:
    """Yield the part of finished slices that belongs to the volume itself, as means; nothing where all of it is padding."""
    first, sums, total = finished
    begin, end = max(first, before), min(first + len(total), before + slices)
    if begin < end:
        where = slice(begin - first, end - first)
        yield begin - before, sums[:, where, rows, columns] / total[where, rows, columns]


def _pad(volume: Tensor, patch: Shape) -> tuple[Tensor, Shape]:
    """Return the volume continued with zeros to at least the patch, and how many voxels were put before it along each axis.

    Source: nnU-Net 2.8.1: half of the difference before, rounded down, the rest after.
    """
    missing = [max(0, p - n) for n, p in zip(volume.shape[1:], patch, strict=True)]
    before = triple(m // 2 for m in missing)
    if not any(missing):
        return volume, before
    sides = [side for b, m in reversed(list(zip(before, missing, strict=True))) for side in (b, m - b)]  # the last axis first
    return torch.nn.functional.pad(volume, sides), before
