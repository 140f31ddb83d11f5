"""Why a plan is as it is: one sentence per decision, each with the numbers that led to it.

Written for a reader who has seen a U-Net and not this planner. What was decided, and how, is handled in the other files
of this room; nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.architectures import ARCHITECTURES
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Axes, Spacing, permuted
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration
from autoseg.planning.memory import Footprint
from autoseg.planning.mirroring import Mirroring
from autoseg.planning.rules import Rules
from autoseg.planning.sizing import Sized
from autoseg.planning.spacing import SpacingChoice
from autoseg.planning.timing import steps_within

AXES = ("z", "y", "x")
SIDES = ("head-foot", "front-back", "left-right")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the sentences are told from."""

    fingerprint: Fingerprint
    rules: Rules
    machine: Machine
    time_budget: float | None
    timed: bool  # whether it shapes the networks
    choice: SpacingChoice
    order: Axes
    spacing: Spacing  # of the full resolution, plan axes
    median_shape: tuple[float, float, float]  # at that spacing, plan axes
    normalization: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    mirroring: Mirroring

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the plan axes."""
        return permuted(AXES, self.order)


def of_plan(facts: Facts) -> tuple[str, ...]:
    """The sentences about what all configurations share."""
    return tuple(
        sentence
        for sentence in (
            _machine(facts),
            _spacing(facts),
            _axis_order(facts),
            *_normalization(facts),
            _stages(facts),
            _mirroring(facts),
        )
        if sentence
    )


def of_configuration(
    sized: Sized, facts: Facts, *, step: float | None, cost: Footprint, reference: Configuration | None
) -> tuple[str, ...]:
    """The sentences about one configuration.

    Parameters
    ----------
    step : predicted seconds of one step; None where that is unknown
    cost : what training it takes
    reference : what the reference planner would have taken, for comparison; None where that is what was taken
    """
    c = sized.configuration
    return tuple(
        sentence
        for sentence in (
            _resolution(c, facts),
            _patch(sized),
            _pooling(c, facts),
            _kernels(c, facts),
            _batch(sized, facts),
            _width(sized, facts),
            _cost(sized, facts, cost, step),
            _given_up(c, reference),
            _cascade(c, facts),
        )
        if sentence
    )


def _machine(facts: Facts) -> str:
    machine, rules = facts.machine, facts.rules
    if rules.sizing == "feature-maps":
        return (
            f"Sized as the reference does it, for a card of {rules.memory_3d.target:g} GB whatever the device: "
            f"{rules.memory_3d.budget / 1e6:.0f} million feature-map values in 3D, {rules.memory_2d.budget / 1e6:.0f} million in 2D."
        )
    text = f"Planned for {machine.name}: {_gb(machine.memory_bytes)} of memory, of which training may use {rules.memory_share:.0%}"
    if machine.conv_flops is not None:
        text += f"; its convolutions run at {machine.conv_flops / 1e9:,.0f} GFLOP/s"
    elif facts.time_budget is None and not machine.cpu:
        text += "; how fast it is, is not known here, so no times are predicted"
    if facts.time_budget is not None and not facts.timed:
        return (
            f"{text}; how fast it is, is not known here, so the time budget of {_duration(facts.time_budget)} does not shape the networks."
        )
    if facts.time_budget is not None:
        steps = steps_within(facts.time_budget, rules)
        text += (
            f"; one fold may train for {_duration(facts.time_budget)}, in which it should see about {steps:.0f} steps: "
            f"{facts.time_budget / steps:.2f} s for each"
        )
    return text + "."


def _spacing(facts: Facts) -> str:
    choice, rules = facts.choice, facts.rules
    target, axis = _mm(choice.spacing), AXES[choice.coarse_axis]
    if rules.target_spacing:
        return f"Target spacing {target}, as the planner's preset asks; the median over the cases is {_mm(choice.median_spacing)}."
    if facts.median_shape[0] == 1:
        return f"The images are planar: pixels are resampled to the median spacing, {_mm(choice.spacing)}."
    if choice.percentile is not None:
        return (
            f"Target spacing {target}. Slices are thick ({choice.median_spacing[choice.coarse_axis]:.3g} mm along {axis}, "
            f"{choice.spacing_ratio:.1f} times the spacing in plane) and few (in plane the image has {choice.shape_ratio:.1f} times as "
            f"many voxels as there are slices), both beyond {rules.anisotropy:g} times; so along {axis} "
            f"the {choice.percentile:g}th percentile of the cases is taken in place of the median, so that thin-sliced cases lose less."
        )
    median = f"Target spacing {target}: the median of {len(facts.fingerprint.cases)} case{'s' * (len(facts.fingerprint.cases) != 1)}."
    if choice.spacing_ratio < 1.05:
        return f"{median} No axis is coarser than the others."
    if choice.spacing_ratio > rules.anisotropy:
        return (
            f"{median} Slices along {axis} are thick ({choice.spacing_ratio:.3g} times the spacing in plane, more than "
            f"{rules.anisotropy:g}) but not few (in plane the image has {choice.shape_ratio:.3g} times as many voxels as there are slices, "
            f"not more than {rules.anisotropy:g}); only where they are both would a finer spacing than the median be taken along {axis}."
        )
    return (
        f"{median} Voxels are longest along {axis}, {choice.spacing_ratio:.3g} times as long as along the others; up to "
        f"{rules.anisotropy:g} times the median is taken along every axis."
    )


def _axis_order(facts: Facts) -> str:
    if facts.order == (0, 1, 2):
        return ""
    first = facts.order[0]
    return (
        f"Axes are taken in the order {', '.join(facts.names)}: slices are stacked along {AXES[first]} ({SIDES[first]}), "
        f"where voxels are thickest, {facts.spacing[0]:.3g} mm against {facts.spacing[1]:.3g} and {facts.spacing[2]:.3g} mm."
    )


def _normalization(facts: Facts) -> list[str]:
    sentences = []
    left = facts.fingerprint.relative_size_after_crop
    for channel, scheme, found in zip(facts.fingerprint.channels, facts.normalization, facts.fingerprint.intensities, strict=True):
        record = NORMALIZATIONS[scheme]
        how = record.words.format(channel=channel, intensities=found)
        if record.masked:
            how += f", because cropping to that left {left:.0%} of the voxels (below {facts.rules.mask_below:.0%})"
        sentences.append(f"Channel '{channel.name}' {how}.")
    if len(sentences) > 3 and len(set(facts.normalization)) == 1:
        return [f"All {len(sentences)} channels alike: " + sentences[0]]
    return sentences


def _stages(facts: Facts) -> str:
    by_name = {c.name: c for c in facts.configurations}
    full, low = by_name.get("3d_fullres"), by_name.get("3d_lowres")
    if full is None:
        return "Single slices: there is only the 2d configuration."
    seen = math.prod(full.patch_size) / math.prod(facts.median_shape)
    wanted = facts.rules.coverage(timed=facts.timed)
    if low is not None:
        return (
            f"A full-resolution patch sees {seen:.0%} of the median case, less than {wanted:.0%}; so there is a first stage at "
            f"{_mm(low.spacing)}, which sees {math.prod(low.patch_size) / math.prod(low.median_shape):.0%}, and a cascade that refines it."
        )
    if seen < wanted:
        return (
            f"A full-resolution patch sees {seen:.0%} of the median case, less than {wanted:.0%}; but a coarser stage that sees enough "
            f"would have more than half the voxels, so there is none."
        )
    return f"A full-resolution patch sees {min(seen, 1):.0%} of the median case, at least {wanted:.0%}: no low-resolution stage is needed."


def _mirroring(facts: Facts) -> str:
    pairs = facts.fingerprint.labels.pairs
    axes = [name for axis, name in enumerate(facts.names) if axis in facts.mirroring.axes]
    brief = ""
    if not axes:
        brief = "Images are not mirrored, as the planner's settings say."
    elif len(axes) < 2:
        brief = f"Images are mirrored along {axes[0]} only: a brief training has no time for the other orientations. "
    if axes and facts.rules.mirror_from:
        few = f"{facts.rules.mirror_from:g}"
        brief += f"A training that draws each case fewer than {few} times mirrors none: mirror images would take the time of real ones. "
    if facts.mirroring.swap_axis is None:
        return brief.rstrip()
    named = ", ".join(f"{left} / {right}" for left, right in pairs[:3]) + (f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else "")
    return f"{brief}Mirroring left-right swaps the labels {named}: a mirrored left one is a right one."


def _resolution(c: Configuration, facts: Facts) -> str:
    if c.name == "3d_lowres":
        factor = math.prod(facts.median_shape) / math.prod(c.median_shape)
        return f"At {_mm(c.spacing)} the median case has {_x(c.median_shape)} voxels, {factor:.1f} times fewer than at full resolution."
    return ""


def _patch(sized: Sized) -> str:
    c = sized.configuration
    extent = " x ".join(f"{edge * mm:.0f}" for edge, mm in zip(c.patch_size, c.spacing, strict=True))
    what = "slice" if c.planar else "case"
    shape, size = c.median_shape, c.patch_size
    if c.planar:
        extent, shape, size = extent.split(" x ", 1)[1], shape[1:], size[1:]  # type: ignore[assignment]
    if all(edge >= whole for edge, whole in zip(size, shape, strict=True)):
        return f"The patch of {_x(size)} voxels ({extent} mm) holds the whole median {what} of {_x(shape)} voxels."
    seen = math.prod(min(edge, whole) for edge, whole in zip(size, shape, strict=True)) / math.prod(shape)
    return (
        f"The patch of {_x(size)} voxels ({extent} mm) sees {seen:.0%} of the median {what} of {_x(shape)} voxels; it was cut from "
        f"{_x(sized.start_patch[1:] if c.planar else sized.start_patch)}, always along the axis it covers best."
    )


def _pooling(c: Configuration, facts: Facts) -> str:
    axes = (1, 2) if c.planar else (0, 1, 2)
    halvings = {facts.names[a]: sum(stride[a] == 2 for stride in c.strides) for a in axes}
    counts = ", ".join(f"{name} {count} time{'s' * (count != 1)}" for name, count in halvings.items())
    smallest = [edge // math.prod(s[a] for s in c.strides) for a, edge in enumerate(c.patch_size)]
    text = f"{c.stages} resolutions: halved {counts}, down to {_x([smallest[a] for a in axes])} voxels (at least {facts.rules.min_edge})"
    waits = next((i for i, stride in enumerate(c.strides[1:]) if stride[0] == 2), None)
    if not c.planar and waits:
        ratio = c.spacing[0] / min(c.spacing[1:])
        text += (
            f"; {facts.names[0]} waits for {waits} step{'s' * (waits != 1)}, since its voxels are {ratio:.1f} times as long as the others'"
        )
    elif not c.planar and waits is None and halvings[facts.names[0]] == 0 and c.stages > 1:
        text += f"; {facts.names[0]} is never halved: it has too few voxels, or stays too coarse"
    return text + "."


def _kernels(c: Configuration, facts: Facts) -> str:
    if c.planar:
        return ""
    flat = [i for i, kernel in enumerate(c.kernel_sizes) if 1 in kernel]
    if not flat:
        return "Kernels are 3 x 3 x 3 everywhere: no axis is twice as coarse as another."
    where = "first" if len(flat) == 1 else f"first {len(flat)}"
    return (
        f"Kernels are {_x(c.kernel_sizes[0])} in the {where} of {c.stages} resolutions and 3 x 3 x 3 below, because "
        f"{facts.names[0]} is {c.spacing[0] / min(c.spacing[1:]):.1f} times as coarse as the finest axis (from "
        f"{facts.rules.pooling_ratio:g} on, neighbours are too far apart)."
    )


def _batch(sized: Sized, facts: Facts) -> str:
    c = sized.configuration
    share = f"{facts.rules.dataset_share:.0%} of all voxels"
    if c.batch_size == sized.batch_cap > facts.rules.fewest_in_batch:
        text = f"Batch {c.batch_size}: more would show the network more than {share} in one step."
    elif c.batch_size == facts.rules.fewest_in_batch == sized.batch_cap:
        text = f"Batch {c.batch_size}, the smallest that is used: even one patch more would be more than {share}."
    elif c.batch_size == facts.rules.fewest_in_batch:
        text = f"Batch {c.batch_size}, the smallest that is used: room goes to the patch first."
    else:
        text = f"Batch {c.batch_size}: what is left after the patch; {sized.batch_cap} would be {share}."
    if c.batch_dice:
        text += " Dice is taken over the batch, since single patches often lack a structure."
    return text


def _width(sized: Sized, facts: Facts) -> str:
    c, rules = sized.configuration, facts.rules
    if sized.estimate is not None:
        reference = rules.reference(planar=c.planar)
        return (
            f"{c.features_per_stage[0]} to {c.features_per_stage[-1]} features; one patch counts {sized.estimate / 1e6:.0f} million "
            f"feature-map values, {reference.budget / 1e6:.0f} million are allowed for a batch of {reference.batch}."
        )
    text = f"{c.features_per_stage[0]} to {c.features_per_stage[-1]} features"
    if c.network != rules.network:
        text += (
            f", {sum(c.blocks_per_stage)} {ARCHITECTURES[c.network].words} in the encoder, because the largest patch leaves room for them"
        )
    if sized.limit is not None and sized.next_rung is not None:
        return f"{text}; the next larger network ({_brief(sized.next_rung)}) would take {sized.limit}."
    if sized.limit is not None:
        return f"{text}: the smallest network there is, although it takes {sized.limit}."
    if facts.timed:
        return f"{text}: the largest under a time budget, where more voxels would only be padding; the machine would allow it."
    return f"{text}: the data set gives no reason for a larger one, the machine would allow it."


def _cost(sized: Sized, facts: Facts, cost: Footprint, step: float | None) -> str:
    text = (
        f"{cost.parameters / 1e6:.3g} million weights; a training step takes {_gb(cost.training_bytes)} and computes "
        f"{3 * cost.forward_flops / 1e9:,.0f} GFLOP"
    )
    if step is not None:
        text += f", about {step:.2f} s here: {_duration(step * facts.rules.steps_per_epoch)} for {facts.rules.steps_per_epoch} steps"
    return text + "."


def _given_up(c: Configuration, reference: Configuration | None) -> str:
    if reference is None or (reference.patch_size, reference.batch_size) == (c.patch_size, c.batch_size):
        return ""
    work = (math.prod(reference.patch_size) * reference.batch_size * reference.features_per_stage[0] ** 2) / (
        math.prod(c.patch_size) * c.batch_size * c.features_per_stage[0] ** 2
    )
    return f"For comparison: nnU-Net plans {_brief(reference)} for an 8 GB card, about {work:.2g} times the work per step."


def _cascade(c: Configuration, facts: Facts) -> str:
    if c.previous_stage is None:
        return ""
    count = len(facts.fingerprint.labels.foreground)
    return f"As 3d_fullres, with the segmentation of {c.previous_stage} as {count} further channel{'s' * (count != 1)}."


def _brief(c: Configuration) -> str:
    size = c.patch_size[1:] if c.planar else c.patch_size
    short = ARCHITECTURES[c.network].short
    deep = f", {short}" if short else ""
    return f"patch {_x(size)}, batch {c.batch_size}, {c.features_per_stage[0]} features{deep}"


def _x(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _mm(spacing: Spacing) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
