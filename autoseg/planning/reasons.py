"""Why a plan is as it is: one sentence per decision, each with the numbers that led to it.

Written for a reader who knows U-Nets but not this planner. The other modules of this package decide; this one explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from autoseg import architectures
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration
from autoseg.planning.context import AXES, PlanningContext
from autoseg.planning.memory import Footprint
from autoseg.planning.mirroring import Mirroring
from autoseg.planning.sizing import SizingResult
from autoseg.planning.timing import steps_within
from autoseg.quantities import format_bytes, format_duration, format_shape, format_spacing

SIDES = ("head-foot", "front-back", "left-right")


def of_plan(context: PlanningContext, configurations: Sequence[Configuration], mirroring: Mirroring) -> tuple[str, ...]:
    """Return the sentences about what all configurations share."""
    sentences = (
        _machine(context),
        _spacing(context),
        _axis_order(context),
        *_normalization(context),
        _stages(context, configurations),
        _mirroring(context, mirroring),
    )
    return tuple(filter(None, sentences))


def of_configuration(
    sized: SizingResult, context: PlanningContext, *, step: float | None, cost: Footprint, reference: Configuration | None
) -> tuple[str, ...]:
    """Return the sentences about one configuration.

    Parameters
    ----------
    step : predicted seconds of one step; None where that is unknown
    cost : what training it takes
    reference : what the reference planner would have taken, for comparison; None where that is what was taken
    """
    c = sized.configuration
    sentences = (
        _resolution(c, context),
        _patch(sized),
        _sides(c, context),
        _pooling(c, context),
        _kernels(c, context),
        _batch(sized, context),
        _width(sized, context),
        _architecture(c),
        _cost(context, cost, step),
        _compared(c, reference),
        _cascade(c, context),
    )
    return tuple(filter(None, sentences))


def _machine(context: PlanningContext) -> str:
    machine, constants = context.machine, context.constants
    if constants.sizing == "feature-maps":
        return (
            f"Sized like nnU-Net, for a card of {constants.memory_3d.target:g} GB whatever the device: at most "
            f"{constants.memory_3d.budget / 1e6:.0f} million feature-map values in 3D and "
            f"{constants.memory_2d.budget / 1e6:.0f} million in 2D."
        )
    text = (
        f"Planned for {machine.name} with {format_bytes(machine.memory_bytes)} of memory, {constants.memory_share:.0%} of it for training"
    )
    if machine.conv_flops is not None:
        text += f". It computes convolutions at {machine.conv_flops / 1e9:,.0f} GFLOP/s"
    elif context.time_budget is None and not machine.cpu:
        text += ". Its speed is unknown here, so no training times are predicted"
    if context.time_budget is not None and not context.timed:
        text += f". Its speed is unknown here, so the time budget of {format_duration(context.time_budget)} does not affect the networks"
    elif context.time_budget is not None:
        steps = steps_within(context.time_budget, constants)
        text += (
            f". One fold may train for {format_duration(context.time_budget)}, which should allow about {steps:.0f} steps "
            f"of {context.time_budget / steps:.2f} s"
        )
    return text + "."


def _spacing(context: PlanningContext) -> str:
    choice, threshold = context.choice, context.constants.anisotropy
    target, axis = format_spacing(choice.spacing), AXES[choice.coarse_axis]
    if context.constants.target_spacing:
        return (
            f"Target spacing {target}, as set in the planner preset; the median over the cases is {format_spacing(choice.median_spacing)}."
        )
    if context.median_shape[0] == 1:
        return f"The images are 2D: pixels are resampled to the median spacing, {target}."
    if choice.percentile is not None:
        return (
            f"Target spacing {target}. Slices are thick ({choice.median_spacing[choice.coarse_axis]:.3g} mm along {axis}, "
            f"{choice.spacing_ratio:.1f} times the in-plane spacing) and few (an image has {choice.shape_ratio:.1f} times as many voxels "
            f"in plane as slices), both above the threshold of {threshold:g}. Along {axis} the target is therefore the "
            f"{choice.percentile:g}th percentile of the cases instead of the median, so that cases with thin slices lose less detail."
        )
    count = len(context.fingerprint.cases)
    median = f"Target spacing {target}: the median of {count} case{'s' * (count != 1)}."
    if choice.spacing_ratio < 1.05:
        return f"{median} No axis is coarser than the others."
    if choice.spacing_ratio > threshold:
        return (
            f"{median} Slices along {axis} are thick ({choice.spacing_ratio:.3g} times the in-plane spacing, more than {threshold:g}) but "
            f"not few (an image has {choice.shape_ratio:.3g} times as many voxels in plane as slices, not more than {threshold:g}). "
            f"Only if both were the case would the target along {axis} be finer than the median."
        )
    return (
        f"{median} The voxels are longest along {axis}, {choice.spacing_ratio:.3g} times as long as along the other axes; the median is "
        f"used for every axis up to a factor of {threshold:g}."
    )


def _axis_order(context: PlanningContext) -> str:
    if context.order == (0, 1, 2):
        return ""
    first = context.order[0]
    return (
        f"The axis order is {', '.join(context.axis_names)}: slices are stacked along {AXES[first]} ({SIDES[first]}), where the spacing is "
        f"{context.spacing[0]:.3g} mm, compared with {context.spacing[1]:.3g} and {context.spacing[2]:.3g} mm along the other axes."
    )


def _normalization(context: PlanningContext) -> list[str]:
    sentences = []
    left = context.fingerprint.relative_size_after_crop
    for channel, scheme, found in zip(context.fingerprint.channels, context.normalization, context.fingerprint.intensities, strict=True):
        record = NORMALIZATIONS[scheme]
        how = record.words.format(channel=channel, intensities=found)
        if record.masked:
            how += f", because cropping leaves {left:.0%} of the voxels (less than {context.constants.mask_below:.0%})"
        sentences.append(f"Channel '{channel.name}' {how}.")
    if len(sentences) > 3 and len(set(context.normalization)) == 1:
        return [f"The same for all {len(sentences)} channels: {sentences[0]}"]
    return sentences


def _stages(context: PlanningContext, configurations: Sequence[Configuration]) -> str:
    by_name = {c.name: c for c in configurations}
    full, low = by_name.get("3d_fullres"), by_name.get("3d_lowres")
    if full is None:
        return "The images are single slices, so 2d is the only configuration."
    covered = math.prod(full.patch_size) / math.prod(context.median_shape)
    required = context.constants.coverage(timed=context.timed)
    if low is not None:
        return (
            f"A patch at full resolution covers {covered:.0%} of the median case, less than {required:.0%}. A first network therefore "
            f"works at {format_spacing(low.spacing)}, where a patch covers {math.prod(low.patch_size) / math.prod(low.median_shape):.0%}, "
            f"and a second one (the cascade) refines its result."
        )
    if covered < required:
        return (
            f"A patch at full resolution covers {covered:.0%} of the median case, less than {required:.0%}. There is still no "
            f"low-resolution stage: one whose patch covers enough would have more than half as many voxels as the full resolution."
        )
    return (
        f"A patch at full resolution covers {min(covered, 1):.0%} of the median case, at least the required {required:.0%}: "
        f"no low-resolution stage is needed."
    )


def _mirroring(context: PlanningContext, mirroring: Mirroring) -> str:
    axes = [name for axis, name in enumerate(context.axis_names) if axis in mirroring.axes]
    sentences = []
    if not axes:
        sentences.append("Images are not mirrored, as set in the planner preset.")
    elif len(axes) == 1:
        sentences.append(f"Images are mirrored along {axes[0]} only: a short training run has no time to learn other orientations.")
    if axes and context.constants.mirror_from:
        sentences.append(
            f"A run that uses each case fewer than {context.constants.mirror_from:g} times does not mirror at all: the mirror images "
            f"would take time from the real ones."
        )
    if mirroring.swap_axis is not None:
        pairs = context.fingerprint.labels.pairs
        named = ", ".join(f"{left} / {right}" for left, right in pairs[:3]) + (
            f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        )
        sentences.append(f"Mirroring left-right swaps the labels {named}: in a mirror image the left one is on the right.")
    return " ".join(sentences)


def _resolution(c: Configuration, context: PlanningContext) -> str:
    if c.name != "3d_lowres":
        return ""
    factor = math.prod(context.median_shape) / math.prod(c.median_shape)
    return (
        f"At {format_spacing(c.spacing)} the median case has {format_shape(c.median_shape)} voxels, "
        f"{factor:.1f} times fewer than at full resolution."
    )


def _patch(sized: SizingResult) -> str:
    c = sized.configuration
    what, first = ("slice", 1) if c.planar else ("case", 0)
    shape, size = c.median_shape[first:], c.patch_size[first:]
    lengths = [edge * mm for edge, mm in zip(size, c.spacing[first:], strict=True)]
    extent = " x ".join(f"{mm:.0f}" if mm >= 1 else f"{mm:.2g}" for mm in lengths)
    text = f"The patch of {format_shape(size)} voxels ({extent} mm)"
    if all(edge >= whole for edge, whole in zip(size, shape, strict=True)):
        return f"{text} holds the whole median {what} of {format_shape(shape)} voxels."
    covered = math.prod(min(edge, whole) for edge, whole in zip(size, shape, strict=True)) / math.prod(shape)
    return (
        f"{text} covers {covered:.0%} of the median {what} of {format_shape(shape)} voxels. The search started from "
        f"{format_shape(sized.start_patch[first:])} and repeatedly shortened the axis that was covered best."
    )


def _sides(c: Configuration, context: PlanningContext) -> str:
    axis = context.paired_axis
    if axis is None:
        return ""
    covered, name = min(1.0, c.patch_size[axis] / c.median_shape[axis]), context.axis_names[axis]
    why = "labels come in left/right pairs, and a patch that sees one side alone cannot know which side it is"
    if covered >= 1 - context.constants.padded_share:
        return f"The patch reaches from side to side (along {name}): {why}."
    return (
        f"The patch covers {covered:.0%} of the axis from left to right ({name}), although {why}: it is at most "
        f"{context.constants.paired_elongation:g} times as long along {name} as along its shortest other axis."
    )


def _pooling(c: Configuration, context: PlanningContext) -> str:
    axes = (1, 2) if c.planar else (0, 1, 2)
    halvings = [sum(stride[axis] == 2 for stride in c.strides) for axis in range(3)]
    counts = ", ".join(f"{context.axis_names[axis]} {halvings[axis]} time{'s' * (halvings[axis] != 1)}" for axis in axes)
    smallest = [c.patch_size[axis] // math.prod(stride[axis] for stride in c.strides) for axis in axes]
    text = (
        f"The network has {c.stages} resolutions: it halves {counts}, down to {format_shape(smallest)} voxels "
        f"(each edge at least {context.constants.min_edge})"
    )
    first = next((stage for stage, stride in enumerate(c.strides) if stride[0] == 2), None)
    if not c.planar and first is None and c.stages > 1:
        text += f"; {context.axis_names[0]} is never halved: it has too few voxels, or stays too coarse"
    elif not c.planar and first is not None and first > 1:
        ratio = c.spacing[0] / min(c.spacing[1:])
        text += f"; {context.axis_names[0]} is first halved in stage {first + 1}, as its voxels are {ratio:.1f} times as long as in plane"
    return text + "."


def _kernels(c: Configuration, context: PlanningContext) -> str:
    if c.planar:
        return ""
    flat = sum(1 in kernel for kernel in c.kernel_sizes)
    if not flat:
        return "All kernels are 3 x 3 x 3: no axis is twice as coarse as another."
    return (
        f"Kernels are {format_shape(c.kernel_sizes[0])} in the first {'resolution' if flat == 1 else f'{flat} resolutions'} and 3 x 3 x 3 "
        f"below, because {context.axis_names[0]} is {c.spacing[0] / min(c.spacing[1:]):.1f} times as coarse as the finest axis (from a "
        f"factor of {context.constants.pooling_ratio:g}, neighbouring slices are too far apart)."
    )


def _batch(sized: SizingResult, context: PlanningContext) -> str:
    c, fewest = sized.configuration, context.constants.fewest_in_batch
    share = f"{context.constants.dataset_share:.0%} of all voxels in the data set"
    if c.batch_size == sized.batch_cap > fewest:
        why = f": a larger batch would hold more than {share}."
    elif c.batch_size == fewest == sized.batch_cap:
        why = f", the smallest batch allowed: one more patch would exceed {share}."
    elif c.batch_size == fewest:
        why = ", the smallest batch allowed: memory and time go to a larger patch first."
    else:
        why = f": what memory and time allow after the patch; {sized.batch_cap} would be {share}."
    dice = " Dice is computed over the whole batch, because a single patch often lacks a structure." if c.batch_dice else ""
    return f"Batch size {c.batch_size}{why}{dice}"


def _width(sized: SizingResult, context: PlanningContext) -> str:
    c, constants = sized.configuration, context.constants
    text = f"The stages have {c.features_per_stage[0]} to {c.features_per_stage[-1]} feature maps"
    if sized.estimate is not None:
        reference = constants.reference(planar=c.planar)
        return (
            f"{text}; one patch takes {sized.estimate / 1e6:.0f} million feature-map values, and "
            f"{reference.budget / 1e6:.0f} million are allowed for a batch of {reference.batch}."
        )
    if c.network != constants.network:
        blocks = f"{sum(c.blocks_per_stage)} {architectures.record(c.network).words}"
        text += f", and the encoder has {blocks}, as the largest patch leaves room for them"
    if sized.limit is None and context.timed:
        return f"{text}. Under a time budget nothing larger is planned, although it would fit: the additional voxels would only be padding."
    if sized.limit is None:
        return f"{text}. Nothing larger is planned, although it would fit: the data set is too small to need it."
    if sized.next_candidate is not None:
        return f"{text}. The next larger network ({_brief(sized.next_candidate)}) would need {sized.limit}."
    return f"{text}. This is the smallest network there is, although it needs {sized.limit}."


def _architecture(c: Configuration) -> str:
    """Return what a network is made of, where that is not the plain U-Net."""
    made_of = c.architecture
    if made_of is None:
        return ""
    if made_of.entry:
        return f"The network is {made_of.entry}: its blocks, norms and resolutions are its own; patch, batch and width are planned for it."
    parts = {field.name: getattr(made_of, field.name) for field in fields(made_of)}
    named = [f"{key} {_listed(value)}" for key, value in parts.items() if value != getattr(architectures.PLAIN, key)]
    return f"The network is {c.network}, which differs from the plain U-Net in: {', '.join(named)}."


def _listed(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cost(context: PlanningContext, cost: Footprint, step: float | None) -> str:
    text = (
        f"The network has {cost.parameters / 1e6:.3g} million weights; a training step needs {format_bytes(cost.training_bytes)} and "
        f"{3 * cost.forward_flops / 1e9:,.0f} GFLOP"
    )
    if step is not None:
        steps = context.constants.steps_per_epoch
        text += f" and takes about {step:.2f} s here, {steps} steps about {format_duration(step * steps)}"
    return text + "."


def _compared(c: Configuration, reference: Configuration | None) -> str:
    if reference is None or (reference.patch_size, reference.batch_size) == (c.patch_size, c.batch_size):
        return ""
    work = (math.prod(reference.patch_size) * reference.batch_size * reference.features_per_stage[0] ** 2) / (
        math.prod(c.patch_size) * c.batch_size * c.features_per_stage[0] ** 2
    )
    return (
        f"For comparison: nnU-Net, which plans for an 8 GB card, would take {_brief(reference)}, about {work:.2g} times the work per step."
    )


def _cascade(c: Configuration, context: PlanningContext) -> str:
    if c.previous_stage is None:
        return ""
    count = len(context.fingerprint.labels.foreground)
    return f"Like 3d_fullres, with the segmentation of {c.previous_stage} as {count} additional input channel{'s' * (count != 1)}."


def _brief(c: Configuration) -> str:
    short = architectures.record(c.network).short
    size = format_shape(c.patch_size[1:] if c.planar else c.patch_size)
    return f"patch {size}, batch size {c.batch_size}, {c.features_per_stage[0]} feature maps{f', {short}' if short else ''}"
