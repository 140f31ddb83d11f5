"""The planner's constants as one typed, frozen value, read from a preset. No number of the method is written in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoseg.errors import SettingsError

SIZINGS = ("feature-maps", "machine")
NETWORKS = ("unet", "residual_unet")
NORMS = ("group", "instance")
SCHEMES = ("ct", "zscore", "zscore_mask", "rescale_0_1", "rgb_0_1", "none")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's memory currency for one dimensionality: feature-map values that fill a card of known memory."""

    values: float  # feature-map values of a batch of `batch` that fill `at_memory`
    at_memory: float  # GB
    target: float  # GB, of the card planned for; the values are scaled by target / at_memory
    batch: int  # the batch size those values stand for
    patch_batch: int  # the batch size at which the patch must fit

    @property
    def budget(self) -> float:
        """Feature-map values allowed."""
        return self.values * (self.target / self.at_memory)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Every constant a plan depends on. Units as in `planners/default.toml`, where each has its source."""

    anisotropy: float
    coarse_percentile: float
    target_spacing: tuple[float, ...]
    coarsest_first: bool
    min_edge: int
    pooling_ratio: float
    network: str
    norm: str
    base_features: int
    most_features_2d: int
    most_features_3d: int
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    start_edge_2d: int
    start_edge_3d: int
    fewest_in_batch: int
    dataset_share: float
    low_resolution_coverage: float
    timed_coverage: float
    low_resolution_step: float
    low_resolution_reduction: float
    memory_2d: Reference
    memory_3d: Reference
    sizing: str
    memory_share: float
    narrow_features: int
    deep_blocks: tuple[int, ...]
    deep_decoder_blocks: tuple[int, ...]
    floor_voxels_2d: int
    floor_voxels_3d: int
    smallest_voxels_2d: int
    smallest_voxels_3d: int
    padded_share: float
    cpu_seconds: float
    steps: int
    cpu_flops_per_core: float
    cpu_value_seconds: float
    cpu_score_seconds: float
    cpu_weight_seconds: float
    cpu_layer_seconds: float
    cpu_input_seconds: float
    card_efficiency: float
    mask_below: float
    schemes: Mapping[str, str]
    steps_per_epoch: int
    mirror_from: float  # draws of each case from which a training mirrors images; 0: always

    def reference(self, *, planar: bool) -> Reference:
        """The memory currency of 2D or 3D."""
        return self.memory_2d if planar else self.memory_3d

    def coverage(self, *, timed: bool) -> float:
        """The share of the median case that a patch must see, or there is a low-resolution stage."""
        return self.timed_coverage if timed else self.low_resolution_coverage

    def most_features(self, *, planar: bool) -> int:
        """The most features any stage may have."""
        return self.most_features_2d if planar else self.most_features_3d


def read_rules(values: Mapping[str, Any]) -> Rules:
    """The rules of a preset, given as nested tables of plain values.

    Raises
    ------
    SettingsError : a table or key is missing, or a value is not one of those allowed
    """
    try:
        augmentation = values.get("training", {}).get("augmentation", {})
        rules = Rules(
            anisotropy=float(values["spacing"]["anisotropy"]),
            coarse_percentile=float(values["spacing"]["coarse_percentile"]),
            target_spacing=tuple(float(s) for s in values["spacing"]["target"]),
            coarsest_first=bool(values["spacing"]["coarsest_axis_first"]),
            min_edge=int(values["topology"]["min_edge"]),
            pooling_ratio=float(values["topology"]["pooling_ratio"]),
            network=values["network"]["kind"],
            norm=values["network"]["norm"],
            base_features=int(values["network"]["base_features"]),
            most_features_2d=int(values["network"]["most_features_2d"]),
            most_features_3d=int(values["network"]["most_features_3d"]),
            blocks=tuple(values["network"]["blocks"]),
            decoder_blocks=tuple(values["network"]["decoder_blocks"]),
            start_edge_2d=int(values["patch"]["start_edge_2d"]),
            start_edge_3d=int(values["patch"]["start_edge_3d"]),
            fewest_in_batch=int(values["batch"]["fewest"]),
            dataset_share=float(values["batch"]["dataset_share"]),
            low_resolution_coverage=float(values["low_resolution"]["coverage"]),
            timed_coverage=float(values["low_resolution"]["timed_coverage"]),
            low_resolution_step=float(values["low_resolution"]["step"]),
            low_resolution_reduction=float(values["low_resolution"]["reduction"]),
            memory_2d=_reference(values["memory_2d"]),
            memory_3d=_reference(values["memory_3d"]),
            sizing=values["sizing"]["method"],
            memory_share=float(values["sizing"]["memory_share"]),
            narrow_features=int(values["sizing"]["narrow_features"]),
            deep_blocks=tuple(values["sizing"]["deep_blocks"]),
            deep_decoder_blocks=tuple(values["sizing"]["deep_decoder_blocks"]),
            floor_voxels_2d=int(values["sizing"]["floor_voxels_2d"]),
            floor_voxels_3d=int(values["sizing"]["floor_voxels_3d"]),
            smallest_voxels_2d=int(values["sizing"]["smallest_voxels_2d"]),
            smallest_voxels_3d=int(values["sizing"]["smallest_voxels_3d"]),
            padded_share=float(values["sizing"]["padded_share"]),
            cpu_seconds=float(values["sizing"]["cpu_seconds"]),
            steps=int(values["sizing"]["steps"]),
            cpu_flops_per_core=float(values["sizing"]["cpu_flops_per_core"]),
            cpu_value_seconds=float(values["sizing"]["cpu_value_seconds"]),
            cpu_score_seconds=float(values["sizing"]["cpu_score_seconds"]),
            cpu_weight_seconds=float(values["sizing"]["cpu_weight_seconds"]),
            cpu_layer_seconds=float(values["sizing"]["cpu_layer_seconds"]),
            cpu_input_seconds=float(values["sizing"]["cpu_input_seconds"]),
            card_efficiency=float(values["sizing"]["card_efficiency"]),
            mask_below=float(values["normalization"]["mask_below"]),
            schemes={name: scheme for name, scheme in values["normalization"].items() if name != "mask_below"},
            steps_per_epoch=int(values.get("training", {}).get("steps_per_epoch", 250)),
            mirror_from=float(augmentation.get("mirror_from", 0)) if augmentation.get("mirror_axes") == "auto" else 0.0,
        )
    except KeyError as error:
        raise SettingsError(
            "the planner preset lacks a value", found=f"no {error}", fix="let it extend 'default', or add the value"
        ) from None
    _check(rules)
    return rules


def _reference(table: Mapping[str, Any]) -> Reference:
    return Reference(
        values=float(table["reference"]),
        at_memory=float(table["reference_memory"]),
        target=float(table["target"]),
        batch=int(table["reference_batch"]),
        patch_batch=int(table["patch_batch"]),
    )


def _check(rules: Rules) -> None:
    for name, value, allowed in (
        ("sizing.method", rules.sizing, SIZINGS),
        ("network.kind", rules.network, NETWORKS),
        ("network.norm", rules.norm, NORMS),
        *((f"normalization.{modality}", scheme, SCHEMES) for modality, scheme in rules.schemes.items()),
    ):
        if value not in allowed:
            raise SettingsError(
                f"the planner preset has a value for {name} that cannot be used",
                found=repr(value),
                expected="one of " + ", ".join(allowed),
                fix="choose one of those",
            )
    if "other" not in rules.schemes:
        raise SettingsError("the planner preset has no normalisation for modality 'other'", fix="add normalization.other")
    if rules.target_spacing and (len(rules.target_spacing) != 3 or min(rules.target_spacing) <= 0):
        raise SettingsError(
            "spacing.target must be three positive lengths, or empty",
            found=str(list(rules.target_spacing)),
            expected="[z, y, x] in mm",
            fix="give three lengths, or [] to let the data decide",
        )
