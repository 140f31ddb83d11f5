"""The settings of training as values: the table `[training]` of a planner preset, read once, checked, passed on.

Every number comes from `planners/*.toml`, where it has its unit and source; this module holds only the limits beyond which it makes
no sense. They are written as the types of the settings, and so are the names to choose from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from autoseg import extensions, files, losses, presets, schema
from autoseg.errors import SettingsError
from autoseg.planning.configuration import Plan


class Ordered:
    """Says of two numbers that the first is not the larger one."""

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """Have pydantic check the order after the type."""
        return schema.checked(handler(kind), self._check)

    def _check(self, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"{list(value)} instead of two numbers, the smaller one first")
        return value


@dataclass(frozen=True)
class LossName:
    """The names that a loss can have: some of ours, or "module:callable"."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """Have pydantic check the name after the type."""
        return schema.checked(handler(kind), self._check)

    def _check(self, value: str) -> str:
        if extensions.is_own(value):
            losses.load(value)
        elif value not in self.names:
            raise ValueError(f'"{value}" instead of one of {", ".join(self.names)}')
        return value


Share = Annotated[float, Field(ge=0, le=1)]  # also probabilities
ShareNotNone = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Degrees = Annotated[float, Field(ge=0, le=360)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
PositiveRange = Annotated[tuple[Positive, Positive], Ordered()]  # ranges: the smaller number first
NotNegativeRange = Annotated[tuple[NotNegative, NotNegative], Ordered()]
ShareRange = Annotated[tuple[ShareNotNone, ShareNotNone], Ordered()]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How weights follow gradients."""

    name: Literal["adamw", "sgd"]
    learning_rate: NotNegative  # at the top of the schedule
    weight_decay: NotNegative
    momentum: Decay  # of sgd; beta 1 of adamw
    beta2: Decay  # of adamw
    nesterov: bool  # of sgd
    clip_norm: NotNegative  # largest norm of the gradient; 0: no clipping


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate moves over the run."""

    name: Literal["cosine", "poly", "constant"]
    power: NotNegative  # of poly
    warm_up: Share  # share of the run in which the rate rises linearly
    final: Share  # rate at the end, as a share of the top
    every_step: bool  # or once per epoch


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What is minimised."""

    voxel_loss: Annotated[str, LossName(losses.VOXEL_LOSSES)] = schema.key("pixel")
    region_loss: Annotated[str, LossName(losses.REGION_LOSSES)] = schema.key("overlap")
    voxel_weight: NotNegative = schema.key("pixel_weight")
    region_weight: NotNegative = schema.key("overlap_weight")
    further: Annotated[str, LossName(losses.SHAPE_LOSSES)]  # term of shapes
    further_weight: NotNegative
    generalized_q: ShareNotNone
    skeleton_steps: Count
    smooth: NotNegative  # added to numerator and denominator of Dice
    focal_gamma: NotNegative
    top_k: ShareNotNone  # share of the voxels with the largest loss that count
    tversky_alpha: NotNegative  # weight of false positives
    tversky_beta: NotNegative  # weight of false negatives
    tversky_gamma: Positive  # exponent of the focal Tversky loss
    label_smoothing: Decay
    class_weights: tuple[NotNegative, ...]  # per class, background first; empty: all alike
    boundary_weight: NotNegative  # w0 of the U-Net paper's weight map; 0: none
    boundary_sigma: Positive  # voxels
    deep_supervision: bool

    @property
    def words(self) -> str:
        """The sum of its terms, in words."""
        terms = {self.voxel_loss: self.voxel_weight, self.region_loss: self.region_weight}
        terms |= {} if self.further == "none" else {self.further: self.further_weight}
        return " + ".join(losses.record(name).words for name, weight in terms.items() if weight)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Probabilities are per sample unless said otherwise; ranges are drawn from uniformly."""

    backend: Literal["torch", "batchgenerators"]
    rotation: Share  # probability
    rotation_degrees: Degrees  # largest angle about each axis, isotropic 3D patches
    rotation_planar_degrees: Degrees  # largest in-plane angle, 2D and anisotropic patches
    rotation_elongated_degrees: Degrees  # the same for planar patches longer than `elongated`
    elongated: NotNegative  # longest / shortest patch axis above which a planar patch counts as elongated
    anisotropic: NotNegative  # longest patch axis / first one above which slices are transformed one by one
    scaling: Share  # probability
    scaling_range: PositiveRange  # above 1: structures get smaller
    scaling_per_axis: bool
    elastic: Share  # probability
    elastic_voxels: NotNegative  # largest standard deviation of the displacement
    elastic_spacing: Positive  # voxels between control points
    labels: Literal["nearest", "linear"]  # linear: arg-max of linearly interpolated indicators
    noise: Share
    noise_sigma: NotNegativeRange
    blur: Share
    blur_sigma: PositiveRange  # voxels
    channel: Share  # probability per channel of blur and low resolution, once a sample is chosen
    brightness: Share
    brightness_range: NotNegativeRange
    contrast: Share
    contrast_range: NotNegativeRange
    low_resolution: Share
    low_resolution_range: ShareRange
    gamma_inverted: Share
    gamma: Share
    gamma_range: PositiveRange
    mirror_axes: Literal[
        "auto", "all", "left-right", "none"
    ]  # read by the planner, which decides about the axes; the plan holds the result
    mirror_from: NotNegative  # draws of each case from which a training mirrors at all, where `mirror_axes` is "auto"
    mirror: Share  # probability per allowed axis


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """Disturbances of the previous stage's label map."""

    morphology: Share  # probability per sample
    morphology_radius: NotNegativeRange  # voxels
    drop_component: Share  # probability per sample
    drop_below: Share  # largest share of the patch a dropped component may fill
    channel: Share  # probability per channel, once a sample is chosen


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The whole table."""

    epochs: Count  # where neither --epochs nor --time-budget is given
    steps_per_epoch: Count
    foreground: Share  # share of the batch centred on foreground
    foreground_rounding: Literal["up", "nearest"]  # up: at least one per batch; nearest: the reference's
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: Literal["auto", "off", "on"]
    ema: Decay  # decay per step of the averaged weights; 0: none
    validation_cases: CountOrNone  # scored during training; 0: none, and how long the final validation takes is not measured
    validation_share: Share  # largest share of the time spent on that
    checkpoint_seconds: NotNegative  # between two saved states
    memory_share: Share  # largest share of free memory for keeping cases in RAM
    probe_steps: CountOrNone  # on one batch before the first epoch, to see that the network learns at all; 0: none
    skip_limit: Count  # non-finite steps in a row before the run gives up
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    loss: LossSettings
    augmentation: AugmentationSettings
    cascade: CascadeSettings


def read_settings(values: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> TrainingSettings:
    """Return the settings of a plan.

    Parameters
    ----------
    values : nested mapping of plain values, or of tables with `value`, `unit`, `source` as the presets write them
    changes : dotted name -> value, in place of those; a string is read as TOML where it replaces anything but a string

    Raises
    ------
    SettingsError : a key or a name is missing or unknown (the nearest known one is offered), or a value is of the wrong kind,
        out of its limits, or does not go with another
    """
    tree = _changed(values, changes or {}) if isinstance(values, Mapping) else values
    settings = schema.parse(TrainingSettings, tree, what="a training setting", fix="correct it: --set NAME=VALUE, or plan again")
    if settings.optimizer.name == "sgd" and settings.optimizer.nesterov and settings.optimizer.momentum == 0:
        raise SettingsError(
            "the training setting 'optimizer.nesterov' needs a momentum",
            found="optimizer.momentum = 0",
            expected="optimizer.momentum above 0, or optimizer.nesterov = false",
            fix="change one of the two: --set optimizer.nesterov=false",
        )
    return settings


def check_settings(plan: Plan, changes: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings of a plan with some of them changed. What a plan of an earlier version lacks is taken from the default planner.

    Parameters
    ----------
    changes : dotted name -> value, for instance {"optimizer.learning_rate": 0.001}; a string is read as the type that it replaces

    Raises
    ------
    SettingsError : unknown name, with the nearest known one; a value of the wrong kind or out of its limits; class weights that
        are not one per class; other axes to mirror along than the plan's
    """
    values = _completed(plan.settings or {}, presets.planner().values["training"])
    settings, planned = read_settings(values, changes), read_settings(values).augmentation.mirror_axes
    if settings.augmentation.mirror_axes not in (planned, "none"):
        raise SettingsError(
            "the axes that are mirrored are the planner's choice",
            found=f"augmentation.mirror_axes={settings.augmentation.mirror_axes}",
            expected=f"{planned}, as planned, or none",
            fix="write other axes into plan.json (mirror_axes), or mirror from the first draw on: --set augmentation.mirror_from=0",
        )
    weights, classes = settings.loss.class_weights, plan.labels.names
    if weights and len(weights) != len(classes):
        raise SettingsError(
            "the training setting 'loss.class_weights' does not fit the labels",
            found=f"{len(weights)} weights",
            expected=f"{len(classes)}, one for each of: {', '.join(classes)}",
            fix="give one number per label, background first, or none: --set loss.class_weights=[]",
        )
    return settings


def _completed(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with the missing keys of `base`, table by table."""
    whole = {**base, **values}
    tables = (name for name, value in base.items() if isinstance(value, Mapping) and isinstance(whole[name], Mapping))
    return whole | {name: _completed(whole[name], base[name]) for name in tables}


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    tree = {name: _plain(value) for name, value in values.items()}
    for name, value in changes.items():
        *tables, last = name.removeprefix("training.").split(".")
        place: Any = tree
        for table in tables:
            place = place.get(table) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = list(_names(tree))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise SettingsError(f"unknown training setting '{name}'", expected=f"'{near[0]}'" if near else None, fix="correct the name")
        place[last] = files.toml_value(value) if isinstance(value, str) and not isinstance(place[last], str) else value
    return tree


def _plain(value: Any) -> Any:
    """Return a setting as a plain value: without unit and source, tables within it likewise."""
    if not isinstance(value, Mapping):
        return value
    return value["value"] if "value" in value else {name: _plain(inner) for name, inner in value.items()}


def _names(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield prefix + name
