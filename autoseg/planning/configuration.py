"""The plan as data: one frozen `Plan` with its `Configuration`s, to JSON and back.

Triples follow the plan's axes: `Plan.axis_order` says which canonical axis (z, y, x) each plan axis is. It is the identity
unless slices are thickest along another axis than z; the first plan axis is always the one with the thickest slices.
A planar configuration has patch, kernels and strides of 1 along the first axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoseg import files
from autoseg.cases import CHANNELS_SHAPE, Channel
from autoseg.errors import SettingsError
from autoseg.fingerprint import INTENSITIES_SHAPE, ChannelIntensities
from autoseg.geometry import Axes, Shape, Spacing
from autoseg.labels import LABELS_SHAPE, Labels

PLAN_FORMAT = 1
CONFIGURATION_NAMES = ("2d", "3d_lowres", "3d_fullres", "3d_cascade")


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What the planner expects of a configuration on the machine it planned for."""

    parameters: int
    training_memory_bytes: int | None = None
    seconds_per_epoch: float | None = None
    forward_flops: float | None = None  # multiply-adds times two, one batch, forward
    disk_bytes: int | None = None  # of the preprocessed cases


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One U-Net as planned. Read by preprocessing, training and prediction; changed by none of them."""

    name: str  # "3d_fullres"
    spacing: Spacing  # mm; along the first axis of "2d" nothing is resampled and this is the data set's own
    median_shape: tuple[float, float, float]  # voxels at that spacing
    patch_size: Shape  # voxels, divisible by the product of the strides
    batch_size: int
    strides: tuple[Shape, ...]  # one per stage; the first is (1, 1, 1)
    kernel_sizes: tuple[Shape, ...]  # one per stage
    features_per_stage: tuple[int, ...]
    blocks_per_stage: tuple[int, ...]  # convolutions ("unet") or residual blocks ("residual_unet")
    decoder_blocks_per_stage: tuple[int, ...]  # convolutions, one entry fewer, from the highest resolution to the lowest
    network: str  # "unet" or "residual_unet"
    norm: str  # "group" or "instance"
    normalization: tuple[str, ...]  # per channel: "ct", "zscore", "zscore_mask", "rescale_0_1", "rgb_0_1", "none"
    batch_dice: bool
    previous_stage: str | None = None  # "3d_lowres" for the cascade
    predicted: Predicted | None = None
    reasons: tuple[str, ...] = ()

    @property
    def planar(self) -> bool:
        """Whether this is a network for single slices."""
        return self.name == "2d"

    @property
    def stages(self) -> int:
        """Resolutions of the network, the full one included."""
        return len(self.strides)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that preprocessing, training and prediction need to know, and why."""

    planner: str  # name of the preset
    planner_values: Mapping[str, Any]  # every constant of the preset with value, unit and source, as used
    device: Mapping[str, Any]  # the machine planned for
    name: str  # of the data set
    channels: tuple[Channel, ...]
    labels: Labels
    intensities: tuple[ChannelIntensities, ...]  # foreground, per channel
    axis_order: Axes
    configurations: tuple[Configuration, ...]
    mirror_axes: Axes | tuple[int, ...] = (0, 1, 2)  # plan axes that may be flipped in training and prediction
    swap_axis: int | None = None  # plan axis whose flip swaps left/right labels; None: nothing to swap
    settings: Mapping[str, Any] | None = None  # training settings of the preset
    fingerprint: str | None = None  # hash of the fingerprint planned from
    reasons: tuple[str, ...] = ()
    version: str = ""

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name.

        Raises
        ------
        SettingsError : the plan has none of that name
        """
        for configuration in self.configurations:
            if configuration.name == name:
                return configuration
        raise SettingsError(
            f"the plan has no configuration '{name}'",
            found=", ".join(c.name for c in self.configurations),
            expected=name,
            fix="choose one of those with --configuration",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for plan.json."""
        return {
            "format": PLAN_FORMAT,
            "version": self.version,
            "planner": self.planner,
            "device": dict(self.device),
            "name": self.name,
            "channels": [{"name": c.name, "modality": c.modality} for c in self.channels],
            **self.labels.to_json(),
            "reasons": list(self.reasons),
            "axis_order": list(self.axis_order),
            "mirror_axes": list(self.mirror_axes),
            "swap_axis": self.swap_axis,
            "configurations": {c.name: _configuration_to_json(c) for c in self.configurations},
            "intensities": [vars(i) for i in self.intensities],
            "settings": dict(self.settings or {}),
            "fingerprint": self.fingerprint,
            "planner_values": dict(self.planner_values),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`.

        Raises
        ------
        SettingsError : written by another format version, or a key is missing, unknown or holds something else than it should;
            every such place is named
        LabelError : labels that cannot work
        """
        fix = "correct these places, or plan again"
        files.check_shape(value, dict, what="the plan", fix=fix)
        if value.get("format") != PLAN_FORMAT:
            raise SettingsError(
                "a plan of another format",
                found=f"format {value.get('format')}",
                expected=f"format {PLAN_FORMAT}",
                fix="plan again with this version of autoseg",
            )
        files.check_shape(value, _PLAN_SHAPE, what="the plan", fix=fix)
        return Plan(
            version=value.get("version", ""),
            planner=value["planner"],
            planner_values=value.get("planner_values", {}),
            device=value["device"],
            name=value["name"],
            channels=tuple(Channel(name=c["name"], modality=c["modality"]) for c in value["channels"]),
            labels=Labels.from_json(dict(value)),
            intensities=tuple(ChannelIntensities(**i) for i in value["intensities"]),
            axis_order=tuple(value["axis_order"]),
            mirror_axes=tuple(value["mirror_axes"]),
            swap_axis=value.get("swap_axis"),
            configurations=tuple(_configuration_from_json(n, c) for n, c in value["configurations"].items()),
            settings=value.get("settings", {}),
            fingerprint=value.get("fingerprint"),
            reasons=tuple(value.get("reasons", ())),
        )


_CONFIGURATION_SHAPE = {  # for `files.check_shape`; the lengths of the lists are for `validate_plan`
    "spacing": [float, float, float],
    "median_shape": [float, float, float],
    "patch_size": [int, int, int],
    "batch_size": int,
    "strides": [[int, int, int]],
    "kernel_sizes": [[int, int, int]],
    "features_per_stage": [int],
    "blocks_per_stage": [int],
    "decoder_blocks_per_stage": [int],
    "network": str,
    "norm": str,
    "normalization": [str],
    "batch_dice": bool,
    "previous_stage?": (str, None),
    "predicted?": (
        {
            "parameters": float,
            "training_memory_bytes?": (float, None),
            "seconds_per_epoch?": (float, None),
            "forward_flops?": (float, None),
            "disk_bytes?": (float, None),
        },
        None,
    ),
    "reasons?": [str],
}
_PLAN_SHAPE = {
    "format": int,
    "version?": str,
    "planner": str,
    "device": dict,
    "name": str,
    "channels": CHANNELS_SHAPE,
    **LABELS_SHAPE,
    "reasons?": [str],
    "axis_order": [int, int, int],
    "mirror_axes": [int],
    "swap_axis?": (int, None),
    "configurations": {str: _CONFIGURATION_SHAPE},
    "intensities": INTENSITIES_SHAPE,
    "settings?": (dict, None),
    "fingerprint?": (str, None),
    "planner_values?": dict,
}


def _configuration_to_json(c: Configuration) -> dict[str, Any]:
    return {
        "spacing": list(c.spacing),
        "median_shape": list(c.median_shape),
        "patch_size": list(c.patch_size),
        "batch_size": c.batch_size,
        "strides": [list(s) for s in c.strides],
        "kernel_sizes": [list(k) for k in c.kernel_sizes],
        "features_per_stage": list(c.features_per_stage),
        "blocks_per_stage": list(c.blocks_per_stage),
        "decoder_blocks_per_stage": list(c.decoder_blocks_per_stage),
        "network": c.network,
        "norm": c.norm,
        "normalization": list(c.normalization),
        "batch_dice": c.batch_dice,
        "previous_stage": c.previous_stage,
        "predicted": None if c.predicted is None else vars(c.predicted),
        "reasons": list(c.reasons),
    }


def _configuration_from_json(name: str, value: Mapping[str, Any]) -> Configuration:
    return Configuration(
        name=name,
        spacing=tuple(value["spacing"]),
        median_shape=tuple(value["median_shape"]),
        patch_size=tuple(value["patch_size"]),
        batch_size=value["batch_size"],
        strides=tuple(tuple(s) for s in value["strides"]),
        kernel_sizes=tuple(tuple(k) for k in value["kernel_sizes"]),
        features_per_stage=tuple(value["features_per_stage"]),
        blocks_per_stage=tuple(value["blocks_per_stage"]),
        decoder_blocks_per_stage=tuple(value["decoder_blocks_per_stage"]),
        network=value["network"],
        norm=value["norm"],
        normalization=tuple(value["normalization"]),
        batch_dice=value["batch_dice"],
        previous_stage=value.get("previous_stage"),
        predicted=None if value.get("predicted") is None else Predicted(**value["predicted"]),
        reasons=tuple(value.get("reasons", ())),
    )
