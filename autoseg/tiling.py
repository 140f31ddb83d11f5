"""A network and a volume in, class scores out: overlapping patches, weighted towards their centres, averaged.

The volume is worked off along one axis. As soon as no later patch reaches a slice, the slice is finished and handed
on, so only a slab one patch thick is held for all classes, not the volume::

    axis    ──────────────────────────▶
    patches [──────────]
                 [──────────]
                       [──────────]
    finished ────┤     ┤ the slab that is held

The slab keeps the scores of a voxel next to each other, as networks on a processor give them, and each pass of each network is
added to it a few slices at a time: no other copy of all classes is made. Where even the slab is too large, a band of rows
is predicted at a time (`Tiles.rows`); patches that two bands share go through the network twice.

What the scores mean, and how they come back to a case's own grid, is handled in `prediction`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.geometry import Axes, Shape, triple

SIGMA = 1 / 8  # of the Gaussian weights, in patch lengths. Source: nnU-Net 2.8.1
PEAK = 10.0  # weight of a patch's central voxel. Source: nnU-Net 2.8.1
SMALLEST = 2.0**-24  # no voxel weighs less, so that none is divided by zero. Source: nnU-Net 2.8.1 (the smallest half float)
VOXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # patches go through the network together up to this size
_ADDED_BYTES = {"cpu": 2**22, "cuda": 2**27}  # of float32 scores added to the slab at once: on a processor they stay in its cache
_HANDED_BYTES = 2**24  # of finished scores handed on at once, one slice at least

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


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Where the patches of a volume are, in which order they are predicted, and how much is held meanwhile."""

    shape: Shape  # voxels of the volume, (z, y, x)
    patch: Shape  # voxels, (z, y, x)
    step: float = 0.5  # distance between patches as a share of the patch, at most 1
    along: int = 0  # the axis along which the slab moves
    rows: tuple[int, int] | None = None  # first and last + 1 along the first of the two other axes: nothing else is predicted
    at_once: int = 1  # patches per call of the network

    @property
    def axes(self) -> Axes:
        """The axes of the volume in the order of the slabs."""
        return axes_along(self.along)

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """What is predicted, in voxels of the volume continued to at least one patch; in the order of `axes`."""
        bounds = []
        for index, axis in enumerate(self.axes):
            first, last = self.rows if self.rows is not None and index == 1 else (0, self.shape[axis])
            before = max(0, self.patch[axis] - self.shape[axis]) // 2
            bounds.append(slice(before + first, before + last))
        return bounds[0], bounds[1], bounds[2]

    @functools.cached_property
    def groups(self) -> tuple[tuple[Shape, ...], ...]:
        """Where patches begin, in the continued volume and in the order of `axes`: those of each call of the network together."""
        starts = [tile_starts(max(self.shape[axis], self.patch[axis]), self.patch[axis], self.step) for axis in self.axes]
        rows, length = self.inner[1], self.patch[self.axes[1]]
        starts[1] = [start for start in starts[1] if start < rows.stop and start + length > rows.start]
        positions = [triple(position) for position in itertools.product(*starts)]
        return tuple(tuple(positions[start : start + self.at_once]) for start in range(0, len(positions), self.at_once))

    @property
    def held(self) -> Shape:
        """Voxels of the slab, in the order of `axes`."""
        depth = max(group[-1][0] + self.patch[self.along] - group[0][0] for group in self.groups)
        slices, rows, columns = (part.stop - part.start for part in self.inner)
        return (min(depth, slices), rows, columns)

    def held_bytes(self, heads: int) -> int:
        """Return the memory of the slab: sums for each head, and the sum of weights."""
        return 4 * (heads + 1) * math.prod(self.held)


def axes_along(axis: int) -> Axes:
    """Return the axes of slices, rows and columns where slices follow each other along an axis.

    >>> axes_along(1)
    (1, 0, 2)
    """
    return triple((axis, *(other for other in range(3) if other != axis)))


def patches_at_once(patch: Shape, device: str | torch.device) -> int:
    """Return how many patches make a good size for one call of the network."""
    return max(1, VOXELS_AT_ONCE.get(torch.device(device).type, 2**20) // math.prod(patch))


def predict_slabs(
    networks: Network | Sequence[Network],
    volume: Tensor,
    *,
    patch: Shape,
    heads: int,
    step: float = 0.5,
    flips: Flips | None = None,
    device: str | torch.device = "cpu",
    batch: int | None = None,
    along: int = 0,
    rows: tuple[int, int] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits of a volume, slab by slab along one axis.

    Parameters
    ----------
    networks : one or several, in evaluation mode, on `device`; the mean of their logits is taken
    volume : `(c, z, y, x)`; smaller than the patch, it is continued with zeros for the network and cut back afterwards
    patch : voxels, (z, y, x)
    heads : output channels of the network
    step : distance between patches as a share of the patch, at most 1
    flips : test-time mirroring; the mean of the logits of all passes is taken. By default none
    device : where patches are predicted and sums are held
    batch : patches per call of the network; by default as many as make a good size for the device
    along, rows : as for `Tiles`

    Yields
    ------
    (index of the first slice, float32 logits `(heads, slices, y, x)` on `device`): consecutive, together the whole volume. With
    another axis than the first, its slices: `(heads, *axes)` in the order of `Tiles.axes`. On a processor the logits of a
    voxel are next to each other in memory

    Source: nnU-Net 2.8.1, sections 2 to 6 of its inference; sums are kept in float32 instead of half precision.
    """
    folds: Sequence[Network] = [networks] if callable(networks) else networks
    flips = flips or Flips()
    at_once = batch or patches_at_once(patch, device)
    tiles = Tiles(shape=triple(volume.shape[1:]), patch=patch, step=step, along=along, rows=rows, at_once=at_once)
    padded, _ = _pad(volume, patch)
    held = _Slab(tiles, heads, len(folds) * len(flips.combinations), device)
    for group in tiles.groups:
        yield from held.finished(group[0][0])
        held.weigh(group)
        for logits, axes, pairs in _passes(folds, _patches(padded, tiles, group).to(device, non_blocking=True), flips):
            held.add(logits, group, axes, pairs)
            del logits
    yield from held.finished(padded.shape[1 + along])


class _Slab:
    """Weighted sums of logits and sums of weights over some slices of the continued volume, from slice `first` on.

    The slices are a ring: the place of a finished one is used again.
    """

    def __init__(self, tiles: Tiles, heads: int, passes: int, device: str | torch.device) -> None:
        self._tiles, self._heads, self._passes = tiles, heads, passes
        self._weights = gaussian_weights(tiles.patch).to(device).permute(tiles.axes).contiguous()
        self._total = torch.zeros(tiles.held, dtype=torch.float32, device=device)
        self._kind = torch.device(device).type
        if self._kind == "cpu":
            self._sums = torch.zeros((*tiles.held, heads), dtype=torch.float32)
        else:  # as networks give them there
            self._sums = torch.zeros((heads, *tiles.held), dtype=torch.float32, device=device).permute(1, 2, 3, 0)
        self._first = tiles.inner[0].start

    def weigh(self, group: Sequence[Shape]) -> None:
        """Count the weights of the patches that begin at the positions of `group`."""
        for position in group:
            for in_slab, in_patch in self._places(position):
                self._total[in_slab] += self._weights[in_patch]

    def add(self, logits: Tensor, group: Sequence[Shape], flipped: Sequence[int], pairs: Sequence[tuple[int, int]]) -> None:
        """Add the weighted logits `(n, heads, z, y, x)` of one pass over patches that were flipped along axes and exchange paired heads."""
        axes = self._tiles.axes
        back = [axes.index(axis) for axis in flipped]
        for one, position in zip(logits, group, strict=True):
            scores = one.permute(*(1 + axis for axis in axes), 0)  # (slices, rows, columns, heads)
            for in_slab, in_patch in self._places(position):
                where = tuple(
                    slice(n - part.stop, n - part.start) if index in back else part
                    for index, (part, n) in enumerate(zip(in_patch, scores.shape, strict=False))
                )
                part = scores[where].float()
                part = _swapped(part.flip(back) if back else part, pairs, dim=3)
                self._sums[in_slab].addcmul_(part, self._weights[in_patch][..., None])

    def finished(self, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the mean logits `(heads, slices, y, x)` of the slices before `stop`, each with where it begins; empty their places."""
        inner = self._tiles.inner[0]
        per_slice = self._total[0].numel()
        for place, first in self._runs(self._first, min(stop, inner.stop), _HANDED_BYTES // per_slice):
            total = self._total[place]
            means = self._sums[place] / (total * self._passes)[..., None]
            self._sums[place] = 0
            total[...] = 0
            self._first = first + len(means)
            yield first - inner.start, means.permute(3, 0, 1, 2)

    def _places(self, position: Shape) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Yield where in the slab and where in the patch that begins at `position` the same voxels are, some slices at a time."""
        in_slab, in_patch, lengths = [], [], triple(self._tiles.patch[axis] for axis in self._tiles.axes)
        for start, length, inner in zip(position, lengths, self._tiles.inner, strict=True):
            first, last = max(start, inner.start), min(start + length, inner.stop)
            in_slab.append(slice(first - inner.start, last - inner.start))
            in_patch.append(slice(first - start, last - start))
        begin, end = position[0] + in_patch[0].start, position[0] + in_patch[0].stop
        per_slice = self._weights[0].numel()
        for place, first in self._runs(begin, end, _ADDED_BYTES.get(self._kind, 2**26) // per_slice):
            inside = slice(first - position[0], first - position[0] + place.stop - place.start)
            yield (place, *in_slab[1:]), (inside, *in_patch[1:])

    def _runs(self, first: int, stop: int, bytes_per_voxel: int) -> Iterator[tuple[slice, int]]:
        """Yield consecutive places in the ring, each of at most so many bytes per voxel of a slice, and the slice that comes first."""
        depth = len(self._total)
        most = max(1, bytes_per_voxel // (4 * self._heads))
        while first < stop:
            place = (first - self._tiles.inner[0].start) % depth
            count = min(most, stop - first, depth - place)
            yield slice(place, place + count), first
            first += count


def _patches(volume: Tensor, tiles: Tiles, group: Sequence[Shape]) -> Tensor:
    """Return the patches `(n, c, z, y, x)` that begin at the positions of `group`."""
    found = []
    for position in group:
        start = dict(zip(tiles.axes, position, strict=True))
        found.append(volume[(slice(None), *(slice(start[axis], start[axis] + tiles.patch[axis]) for axis in range(3)))])
    return torch.stack(found)


def _passes(
    networks: Sequence[Network], patches: Tensor, flips: Flips
) -> Iterator[tuple[Tensor, tuple[int, ...], Sequence[tuple[int, int]]]]:
    """Yield for each flip and network its logits as they are, the axes that were flipped, and the pairs of heads to exchange."""
    for axes in flips.combinations:
        swap = flips.swap_axis in axes
        seen = patches.flip([axis + 2 for axis in axes]) if axes else patches
        seen = _swapped(seen, flips.input_pairs if swap else (), dim=1)
        for network in networks:
            with torch.inference_mode():
                logits = network(seen)
            yield logits, axes, flips.pairs if swap else ()
            del logits


def _swapped(x: Tensor, pairs: Sequence[tuple[int, int]], *, dim: int) -> Tensor:
    """Return a tensor with the channels of each pair, along one dimension, exchanged."""
    if not pairs:
        return x
    order = torch.arange(x.shape[dim])
    for left, right in pairs:
        order[left], order[right] = right, left
    return x.index_select(dim, order.to(x.device))


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
