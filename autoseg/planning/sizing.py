"""Patch, batch and width of one configuration: by the reference's feature-map count, or by the cost on the machine at hand.

The machine's way walks up a *ladder* of networks. Each rung shows the network more voxels per step than the one below:

    1  the narrow network, patches growing up to the floor (enough to see a structure and what surrounds it)
    2  the same patch, wider network
    3  the wide network, patches growing up to the median case
    4  the same patch, residual encoder (where no time budget makes more steps worth more)
    5  the largest patch, batches growing up to a share of the data set

The highest rung that keeps memory and time is taken. The ladder does not depend on how much there is of either, so more memory
or more time never gives less. Under a time budget it has no residual encoders, and no patches that reach far beyond the median case
while a smaller one sees enough of it: the voxels beyond are padding, and steps are worth more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from autoseg.geometry import Shape, Spacing, triple
from autoseg.planning.configuration import Configuration
from autoseg.planning.memory import feature_maps
from autoseg.planning.rules import Rules
from autoseg.planning.topology import Topology, features_per_stage, first_entries, plan_topology

Obstacle = Callable[[Configuration, float], str | None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is known of a configuration before its size is."""

    name: str
    spacing: Spacing  # mm, plan axes
    median_shape: tuple[float, float, float]  # voxels at that spacing, plan axes
    dataset_voxels: float  # of all cases together, for the share of the data set in one batch
    counted_labels: int  # entries of the reference's `labels`
    normalization: tuple[str, ...]
    previous_stage: str | None = None

    @property
    def planar(self) -> bool:
        """Whether slices are seen one by one."""
        return self.name == "2d"


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A configuration, and the figures that led to its size."""

    configuration: Configuration
    start_patch: tuple[float, float, float]  # voxels, what the search began with
    batch_cap: int  # from the share of the data set
    estimate: int | None = None  # feature-map values of one patch (reference sizing)
    limit: str | None = None  # what keeps the next rung from being taken (machine sizing)
    next_rung: Configuration | None = None  # what would have been taken otherwise

    def with_batch_dice(self) -> Sized:
        """The same, its Dice taken over the batch instead of over each patch."""
        return replace(self, configuration=replace(self.configuration, batch_dice=True))


def size_by_feature_maps(wanted: Wanted, rules: Rules) -> Sized:
    """Shrink the patch until the reference's estimate fits its budget, then fill the budget with the batch.

    Source: nnU-Net 2.8.1, get_plans_for_configuration of ExperimentPlanner and ResEncUNetPlanner.
    """
    reference = rules.reference(planar=wanted.planar)
    start = _start_patch(wanted, rules)
    for topology in _shrinking(wanted, start, rules):
        configuration = _configuration(wanted, topology, rules, base=rules.base_features, batch=rules.fewest_in_batch)
        estimate = feature_maps(configuration, labels=wanted.counted_labels)
        if estimate * reference.patch_batch <= reference.budget * reference.batch:
            break
    batch = round(reference.budget / estimate * reference.batch)
    cap = _batch_cap(wanted, configuration.patch_size, rules)
    batch = max(min(batch, cap), rules.fewest_in_batch)
    return Sized(configuration=replace(configuration, batch_size=batch), start_patch=start, batch_cap=cap, estimate=estimate)


def size_by_cost(
    wanted: Wanted, rules: Rules, obstacle: Obstacle, *, timed: bool, correction: Callable[[Configuration], float] | None = None
) -> Sized:
    """The highest rung of the ladder that nothing stands against.

    Parameters
    ----------
    obstacle : of (configuration, correction of its modelled memory): what stands against training it on this machine, in words;
        None if nothing does
    timed : whether a time budget makes more steps worth more than residual encoders and padded patches
    correction : memory of the real network over that of the model, for a configuration; None: the model is taken as it is

    Returns
    -------
    the configuration; the lowest rung where even that one meets an obstacle (`limit` then says which).
    """
    rungs = ladder(wanted, rules, timed=timed)
    factor = 1.0
    low = _highest(rungs, obstacle, factor)
    if correction is not None:
        for _ in range(2):  # the model is off by about as much for neighbouring rungs
            factor = correction(rungs[low])
            low = _highest(rungs, obstacle, factor)
        while low and obstacle(rungs[low], factor := correction(rungs[low])):
            low -= 1
    following = rungs[low + 1] if low + 1 < len(rungs) else None
    alone = obstacle(rungs[low], factor)
    return Sized(
        configuration=rungs[low],
        start_patch=_start_patch(wanted, rules),
        batch_cap=_batch_cap(wanted, rungs[low].patch_size, rules),
        limit=alone or (obstacle(following, factor) if following else None),
        next_rung=None if alone else following,
    )


def _highest(rungs: Sequence[Configuration], obstacle: Obstacle, factor: float) -> int:
    """Index of the last rung that meets no obstacle; 0 where all do. Costs grow from rung to rung."""
    low, high = 0, len(rungs)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if obstacle(rungs[middle], factor) is None else (low, middle)
    return low


def ladder(wanted: Wanted, rules: Rules, *, timed: bool) -> tuple[Configuration, ...]:
    """All candidates, from the least to the most voxels per step; see the drawing at the top."""
    patches = _patches(wanted, rules)
    if timed:
        patches = _without_padding(patches, wanted, rules)
    deep = not timed and rules.network == "unet" and bool(rules.deep_blocks)
    floor = rules.floor_voxels_2d if wanted.planar else rules.floor_voxels_3d
    low = [t for t in patches if math.prod(t.patch_size) <= floor] or patches[:1]
    high = [t for t in patches if math.prod(t.patch_size) > math.prod(low[-1].patch_size)]
    fewest, (narrow, *wider), widest = rules.fewest_in_batch, _widths(rules), rules.base_features
    rungs = [_configuration(wanted, t, rules, base=narrow, batch=fewest) for t in low]
    rungs += [_configuration(wanted, low[-1], rules, base=base, batch=fewest) for base in wider]
    for smaller, larger in pairwise([low[-1], *high]):
        fits = fewest * math.prod(larger.patch_size) // math.prod(smaller.patch_size)
        rungs += [
            _configuration(wanted, smaller, rules, base=widest, batch=batch)
            for batch in range(fewest + 1, min(fits, _batch_cap(wanted, smaller.patch_size, rules)) + 1)
        ]
        rungs.append(_configuration(wanted, larger, rules, base=widest, batch=fewest))
    largest = patches[-1]
    cap = _batch_cap(wanted, largest.patch_size, rules)
    top = [_configuration(wanted, largest, rules, base=widest, batch=batch) for batch in range(fewest, cap + 1)]
    return (*rungs, *(_deepened(c, rules) for c in top)) if deep else (*rungs, *top[1:])


def _deepened(configuration: Configuration, rules: Rules) -> Configuration:
    """The same with a residual encoder."""
    return replace(
        configuration,
        network="residual_unet",
        blocks_per_stage=first_entries(rules.deep_blocks, configuration.stages),
        decoder_blocks_per_stage=first_entries(rules.deep_decoder_blocks, configuration.stages - 1),
    )


def _widths(rules: Rules) -> list[int]:
    """Channels of the first stage, from narrow to full, in steps of eight: the block size of vectorised convolutions."""
    return [*range(min(rules.narrow_features, rules.base_features), rules.base_features, 8), rules.base_features]


def _patches(wanted: Wanted, rules: Rules) -> list[Topology]:
    """The patches of the shrinking search, smallest first, each larger than the one before."""
    smallest = rules.smallest_voxels_2d if wanted.planar else rules.smallest_voxels_3d
    found: list[Topology] = []
    for topology in _shrinking(wanted, _start_patch(wanted, rules), rules):
        volume = math.prod(topology.patch_size)
        if found and volume < smallest:
            break
        if not found or volume < math.prod(found[-1].patch_size):
            found.append(topology)
    return found[::-1]


def _without_padding(patches: list[Topology], wanted: Wanted, rules: Rules) -> list[Topology]:
    """Those with little padding; all, where none of these sees enough of the median case to do without a low-resolution stage."""
    median = wanted.median_shape
    full = [t for t in patches if all(e <= (1 + rules.padded_share) * m for e, m in zip(t.patch_size, median, strict=True))]
    seen = math.prod(min(e, m) for e, m in zip(full[-1].patch_size, median, strict=True)) if full else 0.0
    return full if seen and seen >= rules.coverage(timed=True) * math.prod(median) else patches


def _start_patch(wanted: Wanted, rules: Rules) -> tuple[float, float, float]:
    """A cube (square) in mm of the starting volume, cut to the median case."""
    axes = (1, 2) if wanted.planar else (0, 1, 2)
    edge = rules.start_edge_2d if wanted.planar else rules.start_edge_3d
    density = [1 / wanted.spacing[axis] for axis in axes]
    product = 1.0
    for value in density:
        product *= value
    factor = (edge ** len(axes) / product) ** (1 / len(axes))
    sizes = [min(max(round(value * factor), 1), wanted.median_shape[axis]) for value, axis in zip(density, axes, strict=True)]
    return triple([1, *sizes] if wanted.planar else sizes)


def _shrinking(wanted: Wanted, start: Sequence[float], rules: Rules) -> Iterator[Topology]:
    """The starting patch, then ever smaller ones: each time the axis that covers most of the median case loses one step.

    Source: nnU-Net 2.8.1, get_plans_for_configuration. On ties the later axis is cut.
    """

    def topology_of(patch: Sequence[float]) -> Topology:
        """Pooling and kernels for a patch."""
        return plan_topology(wanted.spacing, patch, min_edge=rules.min_edge, ratio=rules.pooling_ratio, planar=wanted.planar)

    axes = (1, 2) if wanted.planar else (0, 1, 2)
    topology = topology_of(start)
    while True:
        yield topology
        patch = list(topology.patch_size)
        axis = max(axes, key=lambda a: (patch[a] / wanted.median_shape[a], a))
        trial = list(patch)
        trial[axis] -= topology.divisor[axis]
        if trial[axis] <= 0:
            return
        patch[axis] -= topology_of(trial).divisor[axis]
        if patch[axis] <= 0:
            return
        topology = topology_of(patch)


def _batch_cap(wanted: Wanted, patch: Shape, rules: Rules) -> int:
    return max(round(wanted.dataset_voxels * rules.dataset_share / math.prod(patch)), rules.fewest_in_batch)


def _configuration(wanted: Wanted, topology: Topology, rules: Rules, *, base: int, batch: int) -> Configuration:
    stages = len(topology.strides)
    most = rules.most_features(planar=wanted.planar) * base // rules.base_features  # the taper of the full width
    return Configuration(
        name=wanted.name,
        spacing=wanted.spacing,
        median_shape=wanted.median_shape,
        patch_size=topology.patch_size,
        batch_size=batch,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        features_per_stage=features_per_stage(stages, base=base, most=most),
        blocks_per_stage=first_entries(rules.blocks, stages),
        decoder_blocks_per_stage=first_entries(rules.decoder_blocks, stages - 1),
        network=rules.network,
        norm=rules.norm,
        normalization=wanted.normalization,
        batch_dice=False,
        previous_stage=wanted.previous_stage,
    )
