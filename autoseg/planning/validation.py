"""A plan is data and may be edited by hand: is it still one that can be trained? Every fault is reported, with figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from autoseg.architectures import ARCHITECTURES
from autoseg.errors import NotEnough, SettingsError
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan
from autoseg.planning.constants import NORMS
from autoseg.planning.memory import Footprint, modelled_footprint


def validate_plan(
    plan: Plan, *, machine: Machine | None = None, footprint: Callable[[Configuration, int, int], Footprint] | None = None
) -> None:
    """Nothing, for a plan that can be trained.

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
    """A mirrored left kidney is a right one: where labels come in such pairs, that flip and no other must swap them."""
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
    """The cascade learns from the arrays of the full resolution; prediction makes its own, which must be the same."""
    found = {c.name: c for c in plan.configurations}
    full, cascade = found.get("3d_fullres"), found.get("3d_cascade")
    if full is None or cascade is None:
        return
    for key, ours, theirs in (
        ("spacing", cascade.spacing, full.spacing),
        ("normalization", cascade.normalization, full.normalization),
    ):
        if tuple(ours) != tuple(theirs):
            yield f"3d_cascade: {key} {list(ours)} differs from that of 3d_fullres, {list(theirs)}: the cascade is trained on its arrays"


def _of_one(plan: Plan, c: Configuration) -> Iterator[str]:
    lists = {
        "kernel_sizes": (len(c.kernel_sizes), c.stages),
        "features_per_stage": (len(c.features_per_stage), c.stages),
        "blocks_per_stage": (len(c.blocks_per_stage), c.stages),
        "decoder_blocks_per_stage": (len(c.decoder_blocks_per_stage), c.stages - 1),
        "normalization": (len(c.normalization), len(plan.channels)),
        "spacing": (len(c.spacing), 3),
        "patch_size": (len(c.patch_size), 3),
    }
    wrong = {key: counts for key, counts in lists.items() if counts[0] != counts[1]}
    for key, (found, wanted) in wrong.items():
        yield f"{key} has {found} entries, {wanted} are needed"
    if wrong or any(len(triple) != 3 for triple in (*c.strides, *c.kernel_sizes)):
        return
    numbers = (c.batch_size, *c.patch_size, *c.features_per_stage, *c.blocks_per_stage, *c.decoder_blocks_per_stage)
    numbers += tuple(n for triple in (*c.strides, *c.kernel_sizes) for n in triple)
    if any(not isinstance(n, int) or n < 1 for n in numbers):
        yield "sizes, strides, kernels, features and blocks must be whole numbers of at least 1"
        return
    if min(c.spacing) <= 0 or not all(map(math.isfinite, c.spacing)):
        yield f"spacing {list(c.spacing)} must be three positive lengths"
    if c.strides[0] != (1, 1, 1):
        yield f"the first stride is {list(c.strides[0])}, it must be [1, 1, 1]"
    if any(n % 2 == 0 for kernel in c.kernel_sizes for n in kernel):
        yield "kernels must be odd, so that feature maps keep their shape"
    if c.planar and (c.patch_size[0] != 1 or any(t[0] != 1 for t in (*c.strides, *c.kernel_sizes))):
        yield "patch, strides and kernels of 2d must be 1 along the first axis"
    yield from _edges(c)
    chosen = [
        ("network", c.network, ARCHITECTURES),
        ("norm", c.norm, NORMS),
        *(("normalization", scheme, NORMALIZATIONS) for scheme in c.normalization),
    ]
    for key, choice, allowed in chosen:
        if choice not in allowed:
            yield f"{key} '{choice}' is unknown: one of {', '.join(allowed)}"


def _edges(c: Configuration) -> Iterator[str]:
    for axis in range(3):
        factor = math.prod(stride[axis] for stride in c.strides)
        edge = c.patch_size[axis]
        if edge % factor:
            near = max(factor, round(edge / factor) * factor)
            yield (
                f"patch_size {list(c.patch_size)}: {edge} is not divisible by {factor}, the product of the strides along axis {axis}; "
                f"{near} is"
            )
    lowest = [edge // math.prod(stride[axis] for stride in c.strides) for axis, edge in enumerate(c.patch_size)]
    if c.stages > 1 and math.prod(lowest) <= 1:
        yield f"patch_size {list(c.patch_size)}: the smallest feature map is a single voxel; make the patch larger, or halve it fewer times"


def check_memory(
    plan: Plan,
    names: Sequence[str],
    *,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint] | None = None,
) -> None:
    """Nothing, if the configurations of these names can be trained in the memory of a machine.

    Raises
    ------
    NotEnough : one of them takes more than there is; with figures
    """
    footprint = footprint or modelled_footprint
    for c in map(plan.configuration, names):
        channels = len(plan.channels) + (len(plan.labels.foreground) if c.previous_stage else 0)
        needed = footprint(c, channels, plan.labels.output_channels).training_bytes
        if needed > machine.memory_bytes:
            raise NotEnough(
                f"training {c.name} takes more memory than there is",
                found=f"{machine.memory_bytes / 1e9:.1f} GB on {machine.name}",
                expected=f"{needed / 1e9:.1f} GB for patch {' x '.join(map(str, c.patch_size))}, batch {c.batch_size}",
                fix="make the patch or the batch smaller in plan.json, or plan again with --memory",
            )
