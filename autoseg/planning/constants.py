"""The planner's constants as one typed, frozen value, read from a preset. No number of the method is written in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from autoseg import extensions, schema
from autoseg.architectures import PLAIN, Architecture
from autoseg.errors import SettingsError

Norm = Literal["group", "instance"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's memory currency for one dimensionality: feature-map values that fill a card of known memory."""

    values: float = schema.key("reference")  # feature-map values of a batch of `batch` that fill `at_memory`
    at_memory: float = schema.key("reference_memory")  # GB
    target: float  # GB, of the card planned for; the values are scaled by target / at_memory
    batch: int = schema.key("reference_batch")  # the batch size those values stand for
    patch_batch: int  # the batch size at which the patch must fit

    @property
    def budget(self) -> float:
        """Feature-map values allowed."""
        return self.values * (self.target / self.at_memory)


@dataclass(frozen=True, kw_only=True)
class PlannerConstants:
    """Every constant a plan depends on. Units as in `planners/default.toml`, where each has its source."""

    anisotropy: float = schema.key("spacing.anisotropy")
    coarse_percentile: float = schema.key("spacing.coarse_percentile")
    target_spacing: tuple[float, ...] = schema.key("spacing.target")
    coarsest_first: bool = schema.key("spacing.coarsest_axis_first")
    min_edge: int = schema.key("topology.min_edge")
    pooling_ratio: float = schema.key("topology.pooling_ratio")
    network: str = schema.key("network.kind")
    architecture: Architecture = schema.key("network")  # what the network is made of
    norm: Norm = schema.key("network.norm")
    base_features: int = schema.key("network.base_features")
    most_features_2d: int = schema.key("network.most_features_2d")
    most_features_3d: int = schema.key("network.most_features_3d")
    blocks: tuple[int, ...] = schema.key("network.blocks")
    decoder_blocks: tuple[int, ...] = schema.key("network.decoder_blocks")
    start_edge_2d: int = schema.key("patch.start_edge_2d")
    start_edge_3d: int = schema.key("patch.start_edge_3d")
    fewest_in_batch: int = schema.key("batch.fewest")
    dataset_share: float = schema.key("batch.dataset_share")
    low_resolution_coverage: float = schema.key("low_resolution.coverage")
    timed_coverage: float = schema.key("low_resolution.timed_coverage")
    low_resolution_step: float = schema.key("low_resolution.step")
    low_resolution_reduction: float = schema.key("low_resolution.reduction")
    memory_2d: Reference
    memory_3d: Reference
    sizing: Literal["feature-maps", "machine"] = schema.key("sizing.method")
    memory_share: float = schema.key("sizing.memory_share")
    narrow_features: int = schema.key("sizing.narrow_features")
    deep_blocks: tuple[int, ...] = schema.key("sizing.deep_blocks")
    deep_decoder_blocks: tuple[int, ...] = schema.key("sizing.deep_decoder_blocks")
    floor_voxels_2d: int = schema.key("sizing.floor_voxels_2d")
    floor_voxels_3d: int = schema.key("sizing.floor_voxels_3d")
    smallest_voxels_2d: int = schema.key("sizing.smallest_voxels_2d")
    smallest_voxels_3d: int = schema.key("sizing.smallest_voxels_3d")
    padded_share: float = schema.key("sizing.padded_share")
    paired_elongation: float = schema.key("sizing.paired_elongation", default=0.0)  # 0: the paired axis is as any other
    cpu_seconds: float = schema.key("sizing.cpu_seconds")
    steps: int = schema.key("sizing.steps")
    cpu_flops_per_core: float = schema.key("sizing.cpu_flops_per_core")
    cpu_value_seconds: float = schema.key("sizing.cpu_value_seconds")
    cpu_score_seconds: float = schema.key("sizing.cpu_score_seconds")
    cpu_weight_seconds: float = schema.key("sizing.cpu_weight_seconds")
    cpu_layer_seconds: float = schema.key("sizing.cpu_layer_seconds")
    cpu_input_seconds: float = schema.key("sizing.cpu_input_seconds")
    depthwise_factor: float = schema.key("sizing.depthwise_factor", default=1.0)
    card_efficiency: float = schema.key("sizing.card_efficiency")
    mask_below: float = schema.key("normalization.mask_below")
    schemes: Mapping[str, str] = schema.key("normalization")  # by modality
    steps_per_epoch: int = schema.key("training.steps_per_epoch", default=250)
    # times that a run draws each case, from which it mirrors images; 0: always
    mirror_from: float = schema.key("training.augmentation.mirror_from", default=0.0)

    def reference(self, *, planar: bool) -> Reference:
        """Return the memory currency of 2D or 3D."""
        return self.memory_2d if planar else self.memory_3d

    @property
    def made_of(self) -> Architecture | None:
        """What a planned network is made of; None where it is one that the planner counts by closed forms."""
        own = extensions.is_own(self.network)
        architecture = replace(self.architecture, entry=self.network) if own else self.architecture
        return None if architecture == PLAIN else architecture

    def coverage(self, *, timed: bool) -> float:
        """Return the share of the median case that a patch must cover, or there is a low-resolution stage."""
        return self.timed_coverage if timed else self.low_resolution_coverage

    def most_features(self, *, planar: bool) -> int:
        """Return the most features any stage may have."""
        return self.most_features_2d if planar else self.most_features_3d


def read_constants(values: Mapping[str, Any]) -> PlannerConstants:
    """Return the constants of a preset, given as nested tables of plain values.

    Raises
    ------
    SettingsError : a table or key is missing, or a value is of the wrong type; each is named
    """
    found: dict[str, Any] = {}
    for name in schema.names(PlannerConstants):
        value: Any = values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    found["network"] = schema.pick(Architecture, values.get("network", {}))
    if isinstance(schemes := found.get("normalization"), Mapping):
        found["normalization"] = {modality: scheme for modality, scheme in schemes.items() if modality != "mask_below"}
    if values.get("training", {}).get("augmentation", {}).get("mirror_axes") != "auto":
        found.pop("training.augmentation.mirror_from", None)
    constants = schema.parse(PlannerConstants, found, what="the planner preset", fix="let it extend 'default', or correct these values")
    if constants.target_spacing and (len(constants.target_spacing) != 3 or min(constants.target_spacing) <= 0):
        raise SettingsError(
            "spacing.target must be three positive lengths, or empty",
            found=str(list(constants.target_spacing)),
            expected="[z, y, x] in mm",
            fix="give three lengths, or [] to let the data decide",
        )
    return constants
