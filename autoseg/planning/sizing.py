"""Patch, batch and width of one configuration: by the reference's feature-map count, or by the cost on the machine at hand.

For the machine at hand there is a list of *candidates*. Each one shows the network more voxels per step than the one before:

    1  the narrow network, patches growing up to the floor (enough to see a structure and its surroundings)
    2  the same patch, wider network
    3  the wide network, patches growing up to the median case
    4  the same patch, residual encoder (unless a time budget makes more steps worth more)
    5  the largest patch, batches growing up to a share of the data set

Where labels come in left/right pairs, the axis between the sides is shortened last: a patch that sees one side alone cannot know which.

The last candidate within the limits of memory and time is taken. The list does not depend on how much there is of either, so more
memory or more time never gives less. Under a time budget it has no residual encoders, and no patches that reach far beyond the median
case while a smaller one covers enough of it: the voxels beyond are padding, and steps are worth more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from autoseg.geometry import Shape, Spacing, triple
from autoseg.planning.configuration import Configuration
from autoseg.planning.constants import PlannerConstants
from autoseg.planning.memory import feature_maps
from autoseg.planning.topology import Topology, features_per_stage, first_entries, plan_topology


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What the real network takes over what the model says, for a configuration and its neighbours in the list."""

    memory: float = 1.0
    time: float = 1.0


LimitOf = Callable[[Configuration, Correction], str | None]  # what a configuration exceeds, in words; see `size_by_cost`


@dataclass(frozen=True, kw_only=True)
class SizingRequest:
    """What is known of a configuration before its size is."""

    name: str
    spacing: Spacing  # mm, plan axes
    median_shape: tuple[float, float, float]  # voxels at that spacing, plan axes
    dataset_voxels: float  # of all cases together, for the share of the data set in one batch
    counted_labels: int  # entries of the reference's `labels`
    normalization: tuple[str, ...]
    previous_stage: str | None = None
    paired_axis: int | None = None  # plan axis along which labels come in left/right pairs

    @property
    def planar(self) -> bool:
        """Whether slices are seen one by one."""
        return self.name == "2d"

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the patch has more than one voxel."""
        return (1, 2) if self.planar else (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class SizingResult:
    """A configuration, and the figures that led to its size."""

    configuration: Configuration
    start_patch: tuple[float, float, float]  # voxels, what the search began with
    batch_cap: int  # from the share of the data set
    estimate: int | None = None  # feature-map values of one patch (reference sizing)
    limit: str | None = None  # what keeps the next candidate from being taken (machine sizing)
    next_candidate: Configuration | None = None  # what would have been taken otherwise

    def with_batch_dice(self) -> SizingResult:
        """Return the same, with Dice taken over the batch instead of over each patch."""
        return replace(self, configuration=replace(self.configuration, batch_dice=True))


def size_by_feature_maps(request: SizingRequest, constants: PlannerConstants) -> SizingResult:
    """Shrink the patch until the reference's estimate fits its budget, then fill the budget with the batch.

    Source: nnU-Net 2.8.1, get_plans_for_configuration of ExperimentPlanner and ResEncUNetPlanner.
    """
    reference = constants.reference(planar=request.planar)
    start = _start_patch(request, constants)
    for topology in _shrinking(request, start, constants):
        configuration = _configuration(request, topology, constants, base=constants.base_features, batch=constants.fewest_in_batch)
        estimate = feature_maps(configuration, labels=request.counted_labels)
        if estimate * reference.patch_batch <= reference.budget * reference.batch:
            break
    batch = round(reference.budget / estimate * reference.batch)
    cap = _batch_cap(request, configuration.patch_size, constants)
    batch = max(min(batch, cap), constants.fewest_in_batch)
    return SizingResult(configuration=replace(configuration, batch_size=batch), start_patch=start, batch_cap=cap, estimate=estimate)


def size_by_cost(
    request: SizingRequest,
    constants: PlannerConstants,
    limit_of: LimitOf,
    *,
    timed: bool,
    correction: Callable[[Configuration], Correction] | None = None,
) -> SizingResult:
    """Return the last candidate that exceeds no limit.

    Parameters
    ----------
    limit_of : of (configuration, correction of what is modelled): what it exceeds on this machine, in words; None: nothing
    timed : whether a time budget makes more steps worth more than residual encoders and padded patches
    correction : of what is modelled, for a configuration; None: the model is taken as it is

    Returns
    -------
    the configuration; the first candidate where even that one exceeds a limit (`limit` then says which).
    """
    all_candidates = candidates(request, constants, timed=timed)
    factor = Correction()
    best = _last_within(all_candidates, limit_of, factor)
    if correction is not None:
        for _ in range(2):  # the model is off by about as much for neighbouring candidates
            factor = correction(all_candidates[best])
            best = _last_within(all_candidates, limit_of, factor)
        while best:
            factor = correction(all_candidates[best])
            if limit_of(all_candidates[best], factor) is None:
                break
            best -= 1
    following = all_candidates[best + 1] if best + 1 < len(all_candidates) else None
    exceeded = limit_of(all_candidates[best], factor)
    return SizingResult(
        configuration=all_candidates[best],
        start_patch=_start_patch(request, constants),
        batch_cap=_batch_cap(request, all_candidates[best].patch_size, constants),
        limit=exceeded or (limit_of(following, factor) if following else None),
        next_candidate=None if exceeded else following,
    )


def _last_within(configurations: Sequence[Configuration], limit_of: LimitOf, factor: Correction) -> int:
    """Return the index of the last configuration that exceeds no limit; 0 where all do. Costs grow along the list."""
    low, high = 0, len(configurations)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if limit_of(configurations[middle], factor) is None else (low, middle)
    return low


def candidates(request: SizingRequest, constants: PlannerConstants, *, timed: bool) -> tuple[Configuration, ...]:
    """Return all candidates, from the least to the most voxels per step; see the list at the top."""
    patches = _patches(request, constants)
    if timed:
        patches = _without_padding(patches, request, constants)
    floor = constants.floor_voxels_2d if request.planar else constants.floor_voxels_3d
    low = [t for t in patches if math.prod(t.patch_size) <= floor] or patches[:1]
    high = [t for t in patches if math.prod(t.patch_size) > math.prod(low[-1].patch_size)]
    fewest, (narrow, *wider), widest = constants.fewest_in_batch, _widths(constants), constants.base_features
    found = [_configuration(request, t, constants, base=narrow, batch=fewest) for t in low]
    found += [_configuration(request, low[-1], constants, base=base, batch=fewest) for base in wider]
    for smaller, larger in pairwise([low[-1], *high]):
        fits = fewest * math.prod(larger.patch_size) // math.prod(smaller.patch_size)
        found += [
            _configuration(request, smaller, constants, base=widest, batch=batch)
            for batch in range(fewest + 1, min(fits, _batch_cap(request, smaller.patch_size, constants)) + 1)
        ]
        found.append(_configuration(request, larger, constants, base=widest, batch=fewest))
    batches = range(fewest, _batch_cap(request, patches[-1].patch_size, constants) + 1)
    largest = [_configuration(request, patches[-1], constants, base=widest, batch=batch) for batch in batches]
    if not timed and constants.network == "unet" and constants.made_of is None and constants.deep_blocks:
        return (*found, *(_deepened(c, constants) for c in largest))
    return (*found, *largest[1:])


def _deepened(configuration: Configuration, constants: PlannerConstants) -> Configuration:
    """Return the configuration with a residual encoder."""
    return replace(
        configuration,
        network="residual_unet",
        blocks_per_stage=first_entries(constants.deep_blocks, configuration.stages),
        decoder_blocks_per_stage=first_entries(constants.deep_decoder_blocks, configuration.stages - 1),
    )


def _widths(constants: PlannerConstants) -> list[int]:
    """Return channels of the first stage, from narrow to full, in steps of eight: the block size of vectorised convolutions."""
    return [*range(min(constants.narrow_features, constants.base_features), constants.base_features, 8), constants.base_features]


def _patches(request: SizingRequest, constants: PlannerConstants) -> list[Topology]:
    """Return the patches of the shrinking search, smallest first, each larger than the one before."""
    smallest = constants.smallest_voxels_2d if request.planar else constants.smallest_voxels_3d
    found: list[Topology] = []
    for topology in _shrinking(request, _start_patch(request, constants), constants, paired=request.paired_axis):
        volume = math.prod(topology.patch_size)
        if found and volume < smallest:
            break
        if not found or volume < math.prod(found[-1].patch_size):
            found.append(topology)
    return found[::-1]


def _without_padding(patches: list[Topology], request: SizingRequest, constants: PlannerConstants) -> list[Topology]:
    """Return those with little padding; all, where none covers enough of the median case to do without a low-resolution stage."""
    median = request.median_shape
    full = [t for t in patches if all(e <= (1 + constants.padded_share) * m for e, m in zip(t.patch_size, median, strict=True))]
    covered = math.prod(min(e, m) for e, m in zip(full[-1].patch_size, median, strict=True)) if full else 0.0
    return full if covered and covered >= constants.coverage(timed=True) * math.prod(median) else patches


def _start_patch(request: SizingRequest, constants: PlannerConstants) -> tuple[float, float, float]:
    """Return a cube (square) in mm of the starting volume, cut to the median case."""
    edge = constants.start_edge_2d if request.planar else constants.start_edge_3d
    density = [1 / request.spacing[axis] for axis in request.axes]
    factor = (edge ** len(density) / math.prod(density)) ** (1 / len(density))
    sizes = [min(max(round(value * factor), 1), request.median_shape[axis]) for value, axis in zip(density, request.axes, strict=True)]
    return triple([1, *sizes] if request.planar else sizes)


def _shrinking(
    request: SizingRequest, start: Sequence[float], constants: PlannerConstants, *, paired: int | None = None
) -> Iterator[Topology]:
    """Yield the starting patch, then ever smaller ones: each time the axis that covers most of the median case loses one step.

    The axis `paired` is spared once the patch just covers it, as long as that does not make the patch too long along it.

    Source: nnU-Net 2.8.1, get_plans_for_configuration. On ties the later axis is cut.
    """

    def topology_of(patch: Sequence[float]) -> Topology:
        return plan_topology(request.spacing, patch, min_edge=constants.min_edge, ratio=constants.pooling_ratio, planar=request.planar)

    topology = topology_of(start)
    while True:
        yield topology
        patch = list(topology.patch_size)
        spared = paired if _covers_just(paired, topology, request, constants) else None
        axis = max((a for a in request.axes if a != spared), key=lambda a: (patch[a] / request.median_shape[a], a))
        trial = list(patch)
        trial[axis] -= topology.divisor[axis]
        if trial[axis] <= 0:
            return
        patch[axis] -= topology_of(trial).divisor[axis]
        if patch[axis] <= 0:
            return
        topology = topology_of(patch)


def _covers_just(paired: int | None, topology: Topology, request: SizingRequest, constants: PlannerConstants) -> bool:
    """Return whether the patch would no longer cover this axis with one step less, and is not too long along it."""
    if paired not in request.axes:
        return False
    patch, median = topology.patch_size, request.median_shape
    lengths = [patch[axis] * request.spacing[axis] for axis in request.axes if axis != paired and patch[axis] < median[axis]]
    longest = constants.paired_elongation * min(lengths, default=math.inf)
    needed = (1 - constants.padded_share) * median[paired]
    return patch[paired] - topology.divisor[paired] < needed and patch[paired] * request.spacing[paired] <= longest


def _batch_cap(request: SizingRequest, patch: Shape, constants: PlannerConstants) -> int:
    return max(round(request.dataset_voxels * constants.dataset_share / math.prod(patch)), constants.fewest_in_batch)


def _divisible(topology: Topology, constants: PlannerConstants, axes: Sequence[int]) -> Shape:
    """Return the patch, its edges rounded up to what a network from elsewhere divides them by."""
    divides = constants.architecture.divides
    if divides == 1:
        return topology.patch_size
    steps = [math.lcm(divides, divisor) if axis in axes else 1 for axis, divisor in enumerate(topology.divisor)]
    return triple(-(-edge // step) * step for edge, step in zip(topology.patch_size, steps, strict=True))


def _configuration(request: SizingRequest, topology: Topology, constants: PlannerConstants, *, base: int, batch: int) -> Configuration:
    stages = len(topology.strides)
    most = constants.most_features(planar=request.planar) * base // constants.base_features  # the taper of the full width
    return Configuration(
        name=request.name,
        spacing=request.spacing,
        median_shape=request.median_shape,
        patch_size=_divisible(topology, constants, request.axes),
        batch_size=batch,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        features_per_stage=features_per_stage(stages, base=base, most=most),
        blocks_per_stage=first_entries(constants.blocks, stages),
        decoder_blocks_per_stage=first_entries(constants.decoder_blocks, stages - 1),
        network=constants.network,
        norm=constants.norm,
        normalization=request.normalization,
        batch_dice=False,
        previous_stage=request.previous_stage,
        architecture=constants.made_of,
    )
