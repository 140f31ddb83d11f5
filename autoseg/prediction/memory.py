"""How much memory predicting a volume takes, and how it is worked off so that it keeps within a limit.

The scores of a slab one patch thick are held for all classes. Where that is too much, in this order: the slab moves along the
axis that makes it smallest, fewer patches go through the network together, and the volume is predicted in bands of rows. Bands
share a row, so that what is between two rows is between two rows of one band; patches that reach into two bands are predicted twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from autoseg import machine
from autoseg.errors import NotEnough
from autoseg.geometry import Axes, Shape
from autoseg.networks.inputs import choose_precision
from autoseg.planning.configuration import Configuration
from autoseg.quantities import format_bytes
from autoseg.resources import free_memory, resident_memory
from autoseg.tiling import Tiles, axes_along, patches_at_once

SHARE = 0.8  # of the free memory that is used where the user sets no limit
SMALL = 2**28  # bytes of a slab up to which it moves along the first axis: its slices are then contiguous in the result, too
MODEST = 2**29  # bytes of work that any machine is taken to have
_PLANES = 6  # slices of scores in work at once while classes are brought back to the scan's grid
_DENSE = 6  # the same on the scan's grid, where probabilities of all voxels are wanted
_OVERHEAD = 2**26  # bytes: pieces of cells in work, Python's objects
_FEATURE_MAPS = 6  # of the width of the first stage, at full resolution, at the widest point of the decoder
_LOGITS = 2  # copies of a patch's logits: as the convolution makes them, and as they are handed on


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a volume is worked off."""

    along: int  # the axis along which the slab moves
    bands: tuple[tuple[int, int], ...]  # first and last + 1 row of each, along the first of the two other axes; neighbours share a row
    at_once: int  # patches per call of the network
    needed: int  # bytes, about

    @property
    def axes(self) -> Axes:
        """The plan axes of slices, rows and columns."""
        return axes_along(self.along)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What has to be predicted."""

    configuration: Configuration
    shape: Shape  # voxels of the preprocessed volume
    target: Shape  # voxels of the scan, as far as it is predicted
    heads: int
    summed: int  # channels that the network gives and the slab holds: the heads, or fewer features (`heads`)
    device: str
    step: float
    along: int | None = None  # the axis along which the slab must move
    dense: bool = False  # the probabilities of all voxels are wanted


def choose_layout(work: Work, available: int) -> Layout:
    """Return the layout that needs fewest passes of the network within some memory; the one that needs least where none fits.

    Parameters
    ----------
    available : bytes, on the device that predicts
    """
    found: list[tuple[int, Layout]] = []
    least: Layout | None = None
    for layout, passes in _layouts(work):
        if layout.needed <= available:
            found.append((passes, layout))
        if least is None or layout.needed < least.needed:
            least = layout
    assert least is not None, "there is always a layout"
    return min(found, key=lambda entry: entry[0])[1] if found else least


def layout_within(work: Work, *, limit: int | None, reserved: int = 0, strict: bool = True) -> Layout:
    """Return how a volume is worked off within the memory there is.

    Parameters
    ----------
    limit : bytes that the process may hold; by default what it holds and a share of what is free. Work that needs little is then not
        compared with it, so that small scans are predicted without a look at the machine
    reserved : bytes of main memory that something else will need
    strict : refuse what does not fit, instead of trying

    Raises
    ------
    NotEnough : the least that is possible does not fit
    """
    if limit is None and (usual := next(_layouts(work))[0]).needed <= MODEST:
        return usual
    available = available_memory(work.device, limit=limit, reserved=reserved)
    layout = choose_layout(work, available)
    if strict:
        require(layout, available, limit=limit)
    return layout


def available_memory(device: str, *, limit: int | None = None, reserved: int = 0) -> int:
    """Return how many bytes predicting may take from now on.

    Parameters
    ----------
    limit : bytes that the process may hold; by default what it holds and a share of what is free
    reserved : bytes of main memory that something else will need
    """
    free = int(SHARE * free_memory()) if limit is None else limit - resident_memory()
    if torch.device(device).type == "cuda":
        free = min(int(SHARE * machine.free_on(device)), limit or 2**63)
        return free
    return free - reserved


def require(layout: Layout, available: int, *, limit: int | None) -> None:
    """Raise unless a layout fits into the memory there is.

    Raises
    ------
    NotEnough : it does not
    """
    if layout.needed > (available if limit is not None else available / SHARE):
        raise NotEnough(
            "the scan does not fit into the memory that predicting may use",
            found=f"{format_bytes(max(0, available))} left for the network and its scores",
            expected=f"{format_bytes(layout.needed)} at least",
            fix="allow more with --max-memory, or crop the scan"
            if limit is not None
            else "use a machine with more memory, or crop the scan",
        )


def _layouts(work: Work) -> Iterator[tuple[Layout, int]]:
    """Yield layouts with their number of patches: along each axis, with fewer and fewer rows to a band."""
    patch = work.configuration.patch_size
    most = patches_at_once(patch, work.device)
    first = Tiles(shape=work.shape, patch=patch, step=work.step, at_once=most)
    axes: Sequence[int]
    if work.along is not None:
        axes = (work.along,)
    else:
        axes = (0,) if first.held_bytes(work.summed) <= SMALL else sorted(range(3), key=lambda axis: _ratio(work, axis))
    for along in axes:
        rows = work.shape[first.axes[1] if along == 0 else 0]
        for number in sorted({1, *(-(-rows // length) for length in _lengths(rows))}):
            for at_once in dict.fromkeys((most, 1)):
                bands = bands_of(rows, number)
                tiles = [
                    Tiles(shape=work.shape, patch=patch, step=work.step, along=along, rows=band if number > 1 else None, at_once=at_once)
                    for band in bands
                ]
                needed = max(_needed(work, one) for one in tiles)
                yield Layout(along=along, bands=bands, at_once=at_once, needed=needed), sum(len(g) for one in tiles for g in one.groups)


def _ratio(work: Work, axis: int) -> float:
    """Return the share of the volume that a slab along an axis holds."""
    return work.configuration.patch_size[axis] / max(work.shape[axis], work.configuration.patch_size[axis])


def _lengths(rows: int) -> Iterator[int]:
    length = rows
    while length > 8:
        length = max(8, length * 3 // 4)
        yield length


def bands_of(rows: int, number: int) -> tuple[tuple[int, int], ...]:
    """Return bands of nearly equal length that share a row with the next.

    >>> bands_of(10, 3)
    ((0, 4), (3, 7), (6, 10))
    """
    step = max(1, -(-(rows - 1) // number))
    return tuple((first, min(first + step + 1, rows)) for first in range(0, max(1, rows - 1), step))


def _needed(work: Work, tiles: Tiles) -> int:
    """Return about how many bytes predicting takes on its device: the slab, a call of the network, slices on the way back."""
    itemsize = choose_precision("auto", torch.device(work.device)).itemsize
    features = work.configuration.features_per_stage[0]
    per_voxel = itemsize * (_FEATURE_MAPS * features + _LOGITS * work.summed)
    network = tiles.at_once * math.prod(work.configuration.patch_size) * per_voxel
    _, rows, columns = tiles.held
    planes = _PLANES * 4 * work.heads * rows * columns
    if work.dense:
        _, height, width = (work.target[axis] for axis in tiles.axes)
        share = rows / work.shape[tiles.axes[1]]
        planes += int(_DENSE * 4 * work.heads * height * width * share)
    return tiles.held_bytes(work.summed) + network + planes + _OVERHEAD
