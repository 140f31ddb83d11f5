"""The plan as data: one frozen `Plan` with its `Configuration`s, to JSON and back.

Triples follow the plan's axes: `Plan.axis_order` says which canonical axis (z, y, x) each plan axis is. It is the identity
unless slices are thickest along another axis than z; the first plan axis is always the one with the thickest slices.
A planar configuration has patch, kernels and strides of 1 along the first axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autoseg import schema
from autoseg.architectures import Architecture
from autoseg.cases import Channel
from autoseg.checksums import without_checksum
from autoseg.errors import SettingsError
from autoseg.fingerprint import ChannelIntensities, Fingerprint
from autoseg.geometry import Axes, Shape, Spacing
from autoseg.labels import Labels, LabelsRecord
from autoseg.planning.mirroring import Mirroring

PLAN_FORMAT = 1
Turning = Literal["canonical", "stored"]
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
    network: str  # "unet", "residual_unet", or the name of a preset in `planners/networks`
    norm: str  # "group" or "instance"
    normalization: tuple[str, ...]  # per channel: "ct", "zscore", "zscore_mask", "rescale_0_1", "rgb_0_1", "none"
    batch_dice: bool
    previous_stage: str | None = None  # "3d_lowres" for the cascade
    architecture: Architecture | None = None  # what the network is made of; None: what `network` says, one of the two counted ones
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
    axis_order: Axes  # canonical axis of each plan axis; where `orientation` is "stored", the stored one
    configurations: tuple[Configuration, ...]
    orientation: Turning = "canonical"  # how a network sees a scan: turned to RAS+, or in the order and direction of axes of its file
    mirror_axes: Axes | tuple[int, ...] = (0, 1, 2)  # plan axes that may be flipped in training and prediction
    swap_axis: int | None = None  # plan axis whose flip swaps left/right labels; None: nothing to swap
    settings: Mapping[str, Any] | None = None  # training settings of the preset
    fingerprint: str | None = None  # hash of the fingerprint planned from
    reasons: tuple[str, ...] = ()
    version: str = ""

    def configuration(self, name: str) -> Configuration:
        """Return the configuration of that name.

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

    @property
    def time_budget(self) -> float | None:
        """Seconds per fold that the plan was made for; None: it was made for no limit."""
        seconds = self.device.get("time_budget")
        return None if seconds is None else float(seconds)

    @property
    def mirroring(self) -> Mirroring:
        """The flips that training and prediction may use."""
        return Mirroring(axes=tuple(self.mirror_axes), swap_axis=self.swap_axis, pairs=self.labels.paired_classes)

    def mirrored(self, mirroring: Mirroring) -> Plan:
        """Return the plan with other flips."""
        return replace(self, mirror_axes=mirroring.axes, swap_axis=mirroring.swap_axis)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for plan.json."""
        configurations: dict[str, dict[str, Any]] = {c.name: schema.dump(c) for c in self.configurations}
        for configuration in configurations.values():
            del configuration["name"]
            if configuration["architecture"] is None:
                del configuration["architecture"]
        return {
            "format": PLAN_FORMAT,
            "version": self.version,
            "planner": self.planner,
            "device": dict(self.device),
            "name": self.name,
            "channels": schema.dump(self.channels),
            **self.labels.to_json(),
            "reasons": list(self.reasons),
            "axis_order": list(self.axis_order),
            **({"orientation": self.orientation} if self.orientation != "canonical" else {}),
            "mirror_axes": list(self.mirror_axes),
            "swap_axis": self.swap_axis,
            "configurations": configurations,
            "intensities": schema.dump(self.intensities),
            "settings": dict(self.settings or {}),
            "fingerprint": self.fingerprint,
            "planner_values": dict(self.planner_values),
        }

    @staticmethod
    def from_json(value: Any) -> Plan:
        """Return the inverse of `to_json`.

        Raises
        ------
        SettingsError : written by another format version, or a key is missing, unknown or holds something else than it should;
            every such place is named
        LabelError : labels that cannot work
        """
        named = value = without_checksum(value)
        if isinstance(value, Mapping) and isinstance(configurations := value.get("configurations"), Mapping):
            each = {name: {**c, "name": name} if isinstance(c, Mapping) else c for name, c in configurations.items()}
            named = {**value, "configurations": each}
        record = schema.parse(_PlanRecord, named, what="the plan", fix="correct these places, or plan again", format=PLAN_FORMAT)
        return schema.rebuild(Plan, record, labels=record.scheme(), configurations=tuple(record.configurations.values()))


def input_channels(data: Plan | Fingerprint, configuration: Configuration) -> int:
    """Return the channels of the image, plus one per foreground class for the second stage of a cascade."""
    return len(data.channels) + (len(data.labels.foreground) if configuration.previous_stage else 0)


@dataclass(frozen=True, kw_only=True)
class _PlanRecord(LabelsRecord):
    """plan.json; each configuration with the name it is stored under."""

    format: int
    version: str = ""
    planner: str
    device: Mapping[str, Any]
    name: str
    channels: tuple[Channel, ...]
    reasons: tuple[str, ...] = ()
    axis_order: Axes
    orientation: Turning = "canonical"
    mirror_axes: tuple[int, ...]
    swap_axis: int | None = None
    configurations: Mapping[str, Configuration]
    intensities: tuple[ChannelIntensities, ...]
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    fingerprint: str | None = None
    planner_values: Mapping[str, Any] = field(default_factory=dict)
