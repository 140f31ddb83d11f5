"""Choosing the patches of a batch, and reading them.

Everything random about step `s` follows from `(seed, s)` alone: a run that resumes, or that reads ahead in another thread, sees
the same patches as one that does neither. What happens to the patches then is in `augmentation`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.geometry import Box, Shape, triple

BEYOND_CASE = -1  # label of voxels beyond the case


class PatchSource(Protocol):
    """A preprocessed case that patches can be read from: `preprocessing.store.StoredCase` is one."""

    @property
    def name(self) -> str:
        """Id of the case."""

    @property
    def shape(self) -> Shape:
        """Voxels, plan axes."""

    @property
    def locations(self) -> Mapping[int, NDArray[Any]]:
        """Some voxels `(m, 3)` of each class (with regions: of each region) that occurs; of what was annotated under key -1."""

    @property
    def annotated(self) -> tuple[str, ...] | None:
        """Names of the labels annotated in this case; None: all of them."""

    def image(self, slices: tuple[slice, slice, slice] | None = None) -> NDArray[np.float32]:
        """Return the channels `(c, z, y, x)` inside the box."""

    def label(self, slices: tuple[slice, slice, slice] | None = None) -> NDArray[Any]:
        """Return the classes `(z, y, x)` inside the box."""

    def mask(self, slices: tuple[slice, slice, slice] | None = None) -> NDArray[np.bool_] | None:
        """Return what was not zero `(z, y, x)`, where a channel is normalised inside it; else None."""


@dataclass(frozen=True, kw_only=True)
class PatchLocation:
    """One patch to be read: the case, and where the patch begins in it (it may hang over the border)."""

    case: int
    start: Shape
    foreground: bool


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What was read: zeros and `BEYOND_CASE` beyond the case."""

    image: Tensor  # (c, z, y, x) float32
    label: Tensor  # (z, y, x) int16, `BEYOND_CASE` also where the case is masked out
    previous: Tensor | None = None  # (z, y, x) int16, classes of the cascade's previous stage


def generator_for(seed: int, *stream: int) -> torch.Generator:
    """Return a CPU generator that depends on nothing but its numbers, for instance (seed, step, rank).

    >>> int(torch.randint(100, (), generator=generator_for(1, 2))) == int(torch.randint(100, (), generator=generator_for(1, 2)))
    True
    """
    words = np.random.SeedSequence(seed & 0xFFFFFFFF, spawn_key=stream).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def foreground_places(batch: int, *, share: float, rounding: str) -> tuple[bool, ...]:
    """Return which samples of a batch are centred on foreground: the last ones.

    Parameters
    ----------
    share : wanted share of the batch
    rounding : "nearest" as the reference (none in a batch of one), "up" for at least one in every batch

    >>> foreground_places(2, share=0.33, rounding="nearest")
    (False, True)

    Source: nnU-Net 2.8.1, deterministic oversampling.
    """
    first = round(batch * (1 - share)) if rounding == "nearest" else int(batch * (1 - share))
    return tuple(index >= first for index in range(batch))


def pick_patches(
    cases: Sequence[PatchSource],
    *,
    patch: Shape,
    batch: int,
    step: int,
    seed: int,
    share: float,
    rounding: str,
) -> tuple[PatchLocation, ...]:
    """Choose the patches of one batch.

    Cases are dealt like cards: every case is seen once before any is seen again. Places are uniform among those where the patch
    is inside the case (centred along axes where the case is smaller); foreground patches are centred on a voxel of a class
    chosen uniformly among those of the case, so that small structures are seen as often as large ones.

    Source: nnU-Net 2.8.1; there cases are drawn with replacement, and forced patches may hang over the far border.
    """
    places = foreground_places(batch, share=share, rounding=rounding)
    picks = []
    for index, foreground in enumerate(places):
        number = step * batch + index
        round_number, position = divmod(number, len(cases))
        case = _dealt(len(cases), seed, round_number)[position]
        generator = generator_for(seed, 2, number)
        start = _place(cases[case], patch=patch, foreground=foreground, generator=generator)
        picks.append(PatchLocation(case=case, start=start, foreground=foreground))
    return tuple(picks)


def read_patch(case: PatchSource, *, start: Sequence[int], shape: Shape, previous: NDArray[Any] | None = None) -> Patch:
    """Read a box that may hang over the border of the case.

    Parameters
    ----------
    start : first voxel, may be negative
    shape : of the box
    previous : class map of the cascade's previous stage, on the grid of the case
    """
    inner = Box(
        start=triple(max(0, a) for a in start),
        stop=triple(min(n, a + s) for n, a, s in zip(case.shape, start, shape, strict=True)),
    )
    if min(inner.shape) <= 0:
        inner = Box(start=(0, 0, 0), stop=(0, 0, 0))
    into = tuple(slice(i - a, i - a + n) for i, a, n in zip(inner.start, start, inner.shape, strict=True))
    pixels = torch.from_numpy(np.array(case.image(inner.slices), dtype=np.float32, order="C"))  # a copy: the case stays as it is
    classes = torch.from_numpy(_classes(case, inner.slices))
    image = _padded(pixels, into, shape, 0.0)
    label = _padded(classes, into, shape, BEYOND_CASE)
    if previous is None:
        return Patch(image=image, label=label)
    earlier = torch.from_numpy(np.array(previous[inner.slices], dtype=np.int16, order="C"))
    return Patch(image=image, label=label, previous=_padded(earlier, into, shape, 0))


class CaseInMemory:
    """A case held in RAM, so that reading a patch is a copy."""

    def __init__(self, case: PatchSource) -> None:
        self.name = case.name
        self.shape = case.shape
        self.locations = case.locations
        self.annotated = case.annotated
        everything = (slice(None),) * 3
        self._image = np.ascontiguousarray(case.image(everything), dtype=np.float32)
        self._label = _classes(case, everything)

    def image(self, slices: tuple[slice, slice, slice] | None = None) -> NDArray[np.float32]:
        """Return the channels `(c, z, y, x)` inside the box."""
        return self._image if slices is None else self._image[(slice(None), *slices)]

    def label(self, slices: tuple[slice, slice, slice] | None = None) -> NDArray[Any]:
        """Return the classes `(z, y, x)` inside the box."""
        return self._label if slices is None else self._label[slices]

    def mask(self, slices: tuple[slice, slice, slice] | None = None) -> None:
        """Return None: the label already contains it."""


def bytes_in_memory(case: PatchSource, channels: int) -> int:
    """Return the size of a `CaseInMemory`."""
    return int(np.prod(case.shape)) * (4 * channels + 2)


@functools.lru_cache(maxsize=4)
def _dealt(cases: int, seed: int, round_number: int) -> list[int]:
    order: list[int] = torch.randperm(cases, generator=generator_for(seed, 1, round_number)).tolist()
    return order


def _classes(case: PatchSource, slices: tuple[slice, slice, slice]) -> NDArray[np.int16]:
    classes = np.array(case.label(slices), dtype=np.int16, order="C")
    mask = case.mask(slices)
    if mask is not None:
        classes[~mask & (classes == 0)] = BEYOND_CASE
    return classes


def _place(case: PatchSource, *, patch: Shape, foreground: bool, generator: torch.Generator) -> Shape:
    bounds = [_bounds(n, p) for n, p in zip(case.shape, patch, strict=True)]
    keys = sorted(key for key, voxels in case.locations.items() if len(voxels))
    classes = [key for key in keys if key > 0]
    if foreground and classes:
        key = classes[_integer(len(classes), generator)]
    elif -1 in keys:  # sparse annotation: every patch is centred where something was annotated
        key = -1
    else:
        return triple(low + _integer(high - low + 1, generator) for low, high in bounds)
    voxels = case.locations[key]
    voxel = voxels[_integer(len(voxels), generator)]
    centred = (int(v) - p // 2 for v, p in zip(voxel, patch, strict=True))
    return triple(min(max(start, low), high) for start, (low, high) in zip(centred, bounds, strict=True))


def _bounds(shape: int, patch: int) -> tuple[int, int]:
    """Return the first and last start of a patch; equal and negative where the case is smaller."""
    if shape >= patch:
        return 0, shape - patch
    return -((patch - shape) // 2), -((patch - shape) // 2)


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _padded(inner: Tensor, into: tuple[slice, ...], shape: Shape, value: float) -> Tensor:
    if tuple(inner.shape[-3:]) == tuple(shape):
        return inner
    whole = inner.new_full((*inner.shape[:-3], *shape), value)
    whole[..., into[0], into[1], into[2]] = inner
    return whole
