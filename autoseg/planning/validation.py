"""Checks whether a plan, which may have been edited by hand, can be trained. Every fault is reported, with figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import get_args

from autoseg import architectures
from autoseg.errors import NotEnough, SettingsError
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan, input_channels
from autoseg.planning.constants import Norm
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.quantities import format_bytes

LARGEST = 1_000_000  # of any size, number of features or blocks: far beyond all that can be trained


def validate_plan(
    plan: Plan, *, machine: Machine | None = None, footprint: Callable[[Configuration, int, int], Footprint] | None = None
) -> None:
    """Raise an error unless the plan can be trained.

    Parameters
    ----------
    machine : what training may use; None: memory is not considered
    footprint : as for `make_plan`

    Raises
    ------
    SettingsError : lists that do not fit together, a patch that its strides do not divide, feature maps that get too small, unknown
        names, a cascade on other arrays than the full resolution's, a flip that mixes left and right labels; all faults of all
        configurations are in the message
    NotEnough : a configuration takes more memory than the machine has
    """
    faults = [
        *_of_the_whole(plan),
        *_of_mirroring(plan),
        *_of_the_cascade(plan),
        *(f"{c.name}: {fault}" for c in plan.configurations for fault in _of_one(plan, c)),
    ]
    if faults:
        raise SettingsError(
            "the plan cannot be used as it is",
            found="\n".join(faults),
            fix="correct these places in plan.json, or plan again",
        )
    if machine is not None:
        check_memory(plan, [c.name for c in plan.configurations], machine=machine, footprint=footprint)


def _of_the_whole(plan: Plan) -> Iterator[str]:
    if sorted(plan.axis_order) != [0, 1, 2]:
        yield f"axis_order {list(plan.axis_order)} is no permutation of 0, 1, 2"
    if not set(plan.mirror_axes) <= {0, 1, 2}:
        yield f"mirror_axes {list(plan.mirror_axes)} names axes other than 0, 1, 2"
    if plan.swap_axis not in (None, 0, 1, 2):
        yield f"swap_axis {plan.swap_axis} is not 0, 1 or 2"
    if len(plan.intensities) != len(plan.channels):
        yield f"intensities has {len(plan.intensities)} entries, one per channel is needed: {len(plan.channels)}"
    if not plan.configurations:
        yield "there is no configuration"
    names = [c.name for c in plan.configurations]
    for c in plan.configurations:
        if c.name not in CONFIGURATION_NAMES:
            yield f"unknown configuration '{c.name}': one of {', '.join(CONFIGURATION_NAMES)}"
        if c.previous_stage is not None and c.previous_stage not in names:
            yield f"{c.name} follows '{c.previous_stage}', which is not planned"


def _of_mirroring(plan: Plan) -> Iterator[str]:
    """Yield flips that mix up left and right: a mirrored left kidney is a right one, so that flip and no other must swap their labels."""
    if not plan.labels.pairs or sorted(plan.axis_order) != [0, 1, 2]:
        return
    left_right = plan.axis_order.index(2)  # left and right lie along the canonical x axis
    seen = any(c.patch_size[left_right] > 1 for c in plan.configurations if len(c.patch_size) == 3)
    named = ", ".join(f"{left}/{right}" for left, right in plan.labels.pairs)
    if left_right in plan.mirror_axes and plan.swap_axis is None and seen:
        yield (
            f"mirror_axes {list(plan.mirror_axes)} flips left and right, and swap_axis null leaves {named} as they were: make "
            f"swap_axis {left_right}, or take {left_right} out of mirror_axes"
        )
    elif plan.swap_axis not in (None, left_right):
        yield f"swap_axis {plan.swap_axis} swaps {named} in a flip that does not: left and right lie along axis {left_right}"


def _of_the_cascade(plan: Plan) -> Iterator[str]:
    """Yield differences to the arrays of the full resolution: the cascade is trained on those, and prediction makes its own."""
    found = {c.name: c for c in plan.configurations}
    full, cascade = found.get("3d_fullres"), found.get("3d_cascade")
    if full is None or cascade is None:
        return
    for key in ("spacing", "normalization"):
        ours, theirs = list(getattr(cascade, key)), list(getattr(full, key))
        if ours != theirs:
            yield f"3d_cascade: {key} {ours} differs from that of 3d_fullres, {theirs}: the cascade is trained on its arrays"


def _of_one(plan: Plan, c: Configuration) -> Iterator[str]:
    wrong = list(wrong_lengths(c))
    yield from wrong
    if len(c.normalization) != len(plan.channels):
        yield f"normalization has {len(c.normalization)} entries, {len(plan.channels)} are needed"
    numbers = (c.batch_size, *c.patch_size, *c.features_per_stage, *c.blocks_per_stage, *c.decoder_blocks_per_stage)
    if any(not isinstance(n, int) or n < 1 for n in (*numbers, *chain(*c.strides, *c.kernel_sizes))):
        yield "sizes, strides, kernels, features and blocks must be whole numbers of at least 1"
    elif max((*numbers, *chain(*c.strides, *c.kernel_sizes))) > LARGEST:
        yield f"sizes, strides, kernels, features and blocks must be at most {LARGEST:,}"
    elif not wrong:
        yield from _of_the_shape(c)
    yield from unknown_names(c)
    for name in c.normalization:
        if name not in NORMALIZATIONS:
            yield f"normalization '{name}' is unknown: one of {', '.join(NORMALIZATIONS)}"


def wrong_lengths(c: Configuration) -> Iterator[str]:
    """Yield the lists that do not fit the number of stages, a sentence each."""
    lengths = {
        "kernel_sizes": c.stages,
        "features_per_stage": c.stages,
        "blocks_per_stage": c.stages,
        "decoder_blocks_per_stage": c.stages - 1,
    }
    for key, needed in lengths.items():
        if len(getattr(c, key)) != needed:
            yield f"{key} has {len(getattr(c, key))} entries, {needed} are needed"


def unknown_names(c: Configuration) -> Iterator[str]:
    """Yield a network or a norm that does not exist, a sentence each."""
    networks = tuple(architectures.NETWORKS) if c.architecture is None else (c.network,)
    for key, name, known in (("network", c.network, networks), ("norm", c.norm, get_args(Norm))):
        if name not in known:
            yield f"{key} '{name}' is unknown: one of {', '.join(known)}"


def _of_the_shape(c: Configuration) -> Iterator[str]:
    if min(c.spacing) <= 0 or not all(map(math.isfinite, c.spacing)):
        yield f"spacing {list(c.spacing)} must be three positive lengths"
    if c.strides[0] != (1, 1, 1):
        yield f"the first stride is {list(c.strides[0])}, it must be [1, 1, 1]"
    if any(n % 2 == 0 for n in chain(*c.kernel_sizes)):
        yield "kernels must be odd, so that feature maps keep their shape"
    if c.planar and any(first != 1 for first, *_ in (c.patch_size, *c.strides, *c.kernel_sizes)):
        yield "patch, strides and kernels of 2d must be 1 along the first axis"
    factors = [math.prod(stride[axis] for stride in c.strides) for axis in range(3)]
    for axis, (edge, factor) in enumerate(zip(c.patch_size, factors, strict=True)):
        if edge % factor:
            near = max(factor, round(edge / factor) * factor)
            yield (
                f"patch_size {list(c.patch_size)}: {edge} is not divisible by {factor}, the product of the strides along axis {axis}; "
                f"{near} is"
            )
    if c.stages > 1 and all(edge < 2 * factor for edge, factor in zip(c.patch_size, factors, strict=True)):
        yield f"patch_size {list(c.patch_size)}: the smallest feature map is a single voxel; make the patch larger, or halve it fewer times"


def check_memory(
    plan: Plan,
    names: Sequence[str],
    *,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint] | None = None,
) -> None:
    """Raise `NotEnough` unless the configurations of these names can be trained in the memory of a machine.

    Raises
    ------
    NotEnough : one of them takes more than there is; with figures
    """
    footprint = footprint or modelled_footprint
    for c in map(plan.configuration, names):
        needed = footprint(c, input_channels(plan, c), plan.labels.output_channels).training_bytes
        if needed > machine.memory_bytes:
            raise NotEnough(
                f"training {c.name} takes more memory than there is",
                found=f"{format_bytes(machine.memory_bytes)} on {machine.name}",
                expected=f"{format_bytes(needed)} for patch {' x '.join(map(str, c.patch_size))}, batch {c.batch_size}",
                fix="make the patch or the batch smaller in plan.json, or plan again with --memory",
            )
