"""How many resolutions a network has, which axes each step halves, and which kernels it uses. Pure arithmetic.

plan axes      z     y     x          spacing 3.3 x 1 x 1 mm
stage 0        |--|  |-|   |-|        kernel 1 x 3 x 3: neighbours along z are three times farther away
stride         1     2     2          z waits until its spacing is within a factor of two of the finest
stage 1        |--|  |--|  |--|       kernel 3 x 3 x 3
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.geometry import Shape, Spacing, triple


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Strides and kernels of every stage, for a patch that they divide."""

    patch_size: Shape  # voxels, rounded up to a multiple of `divisor`
    divisor: Shape  # the product of the strides along each axis
    strides: tuple[Shape, ...]  # one per stage; the first is (1, 1, 1)
    kernel_sizes: tuple[Shape, ...]  # one per stage


def plan_topology(spacing: Spacing, patch: Sequence[float], *, min_edge: int, ratio: float = 2.0, planar: bool = False) -> Topology:
    """Halve an axis as long as it has voxels enough and is not much coarser than the finest; convolve along it likewise.

    Parameters
    ----------
    spacing : mm, plan axes
    patch : voxels wanted, plan axes; fractions allowed; for a planar network the first is 1
    min_edge : voxels, the shortest edge a feature map may have
    ratio : an axis this much coarser than the finest, or more, is neither halved nor convolved along yet
    planar : leave the first axis alone: neither halved nor convolved along

    Returns
    -------
    the topology; its patch is never smaller than the one wanted.

    >>> plan_topology((4.0, 1.0, 1.0), (16, 130.5, 128), min_edge=4).strides
    ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))

    Source: nnU-Net 2.8.1, get_pool_and_conv_props.
    """
    axes = (1, 2) if planar else (0, 1, 2)
    current, size = list(spacing), [float(edge) for edge in patch]
    kernel, kernels, strides = [1, 1, 1], list[Shape](), [(1, 1, 1)]
    while halved := _axes_to_halve(axes, current, size, min_edge=min_edge, ratio=ratio):
        finest = min(current[axis] for axis in axes)
        for axis in axes:
            if current[axis] / finest < ratio:
                kernel[axis] = 3  # from here to the bottom, even if the spacings part again
        strides.append(triple(2 if axis in halved else 1 for axis in range(3)))
        kernels.append(triple(kernel))
        for axis in halved:
            current[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append(triple(3 if axis in axes else 1 for axis in range(3)))
    divisor = triple(map(math.prod, zip(*strides, strict=True)))
    return Topology(
        patch_size=triple(math.ceil(edge / step) * step for edge, step in zip(patch, divisor, strict=True)),
        divisor=divisor,
        strides=tuple(strides),
        kernel_sizes=tuple(kernels),
    )


def _axes_to_halve(axes: Sequence[int], spacing: Sequence[float], size: Sequence[float], *, min_edge: int, ratio: float) -> list[int]:
    """Return the axes that the next stage halves; none at the lowest resolution."""
    long_enough = [axis for axis in axes if size[axis] >= 2 * min_edge]
    finest = min((spacing[axis] for axis in long_enough), default=0.0)
    halved = [axis for axis in long_enough if spacing[axis] / finest < ratio]
    return [] if len(halved) == 1 and size[halved[0]] < 3 * min_edge else halved


def features_per_stage(stages: int, *, base: int, most: int) -> tuple[int, ...]:
    """Return the features of each stage: they double with each resolution, up to `most`.

    >>> features_per_stage(6, base=32, most=320)
    (32, 64, 128, 256, 320, 320)
    """
    return tuple(min(most, base * 2**stage) for stage in range(stages))


def first_entries(values: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the first `count` of `values`; the last one is repeated where there are fewer."""
    return tuple(values[min(index, len(values) - 1)] for index in range(count))
