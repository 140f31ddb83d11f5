"""The settings of training as values: the table `[training]` of a planner preset, read once, checked, passed on.

Every number comes from `planners/*.toml`, where it stands with unit and source; this module holds none.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from autoseg.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How weights follow gradients."""

    name: str  # "sgd" or "adamw"
    learning_rate: float  # at the top of the schedule
    weight_decay: float
    momentum: float  # of sgd; beta 1 of adamw
    beta2: float  # of adamw
    nesterov: bool  # of sgd
    clip_norm: float  # largest norm of the gradient; 0: no clipping


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate moves over the run."""

    name: str  # "poly", "cosine", "constant"
    power: float  # of poly
    warm_up: float  # share of the run in which the rate rises linearly
    final: float  # rate at the end, as a share of the top
    every_step: bool  # or once per epoch


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What is minimised."""

    pixel: str  # "cross_entropy", "focal", "top_k"
    overlap: str  # "dice", "tversky", "focal_tversky"
    pixel_weight: float
    overlap_weight: float
    smooth: float  # added to numerator and denominator of Dice
    focal_gamma: float
    top_k: float  # share of the voxels with the largest loss that count
    tversky_alpha: float  # weight of false positives
    tversky_beta: float  # weight of false negatives
    tversky_gamma: float  # exponent of the focal Tversky loss
    label_smoothing: float
    class_weights: tuple[float, ...]  # per class, background first; empty: all alike
    boundary_weight: float  # w0 of the U-Net paper's weight map; 0: none
    boundary_sigma: float  # voxels
    deep_supervision: bool


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Probabilities are per sample unless said otherwise; ranges are drawn from uniformly."""

    backend: str  # "torch" or "batchgenerators"
    rotation: float  # probability
    rotation_degrees: float  # largest angle about each axis, isotropic 3D patches
    rotation_planar_degrees: float  # largest in-plane angle, 2D and anisotropic patches
    rotation_elongated_degrees: float  # the same for planar patches longer than `elongated`
    elongated: float  # longest / shortest patch axis above which a planar patch counts as elongated
    anisotropic: float  # longest patch axis / first one above which slices are transformed one by one
    scaling: float  # probability
    scaling_range: tuple[float, float]  # above 1: structures get smaller
    scaling_per_axis: bool
    elastic: float  # probability
    elastic_voxels: float  # largest standard deviation of the displacement
    elastic_spacing: float  # voxels between control points
    labels: str  # "nearest", or "linear": arg-max of linearly interpolated indicators
    noise: float
    noise_sigma: tuple[float, float]
    blur: float
    blur_sigma: tuple[float, float]  # voxels
    channel: float  # probability per channel of blur and low resolution, once a sample is chosen
    brightness: float
    brightness_range: tuple[float, float]
    contrast: float
    contrast_range: tuple[float, float]
    low_resolution: float
    low_resolution_range: tuple[float, float]
    gamma_inverted: float
    gamma: float
    gamma_range: tuple[float, float]
    mirror_axes: str  # read by the planner, which decides about the axes; the plan holds the result
    mirror: float  # probability per allowed axis


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """Disturbances of the previous stage's label map."""

    morphology: float  # probability per sample
    morphology_radius: tuple[float, float]  # voxels
    drop_component: float  # probability per sample
    drop_below: float  # largest share of the patch a dropped component may fill
    channel: float  # probability per channel, once a sample is chosen


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The whole table."""

    epochs: int  # where neither --epochs nor --time-budget is given
    steps_per_epoch: int
    foreground: float  # share of the batch centred on foreground
    foreground_rounding: str  # "nearest" (the reference's) or "up" (at least one per batch)
    precision: str  # "auto", "float32", "bfloat16", "float16"
    compile: str  # "auto", "off", "on"
    ema: float  # decay per step of the averaged weights; 0: none
    validation_cases: int  # scored during training
    validation_share: float  # largest share of the time spent on that
    checkpoint_seconds: float  # between two saved states
    memory_share: float  # largest share of free memory for keeping cases in RAM
    probe_steps: int  # on one batch before the first epoch, to see that the network learns at all; 0: none
    skip_limit: int  # non-finite steps in a row before the run gives up
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    loss: LossSettings
    augmentation: AugmentationSettings
    cascade: CascadeSettings


def read_settings(values: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> TrainingSettings:
    """The settings of a plan.

    Parameters
    ----------
    values : nested mapping of plain values, or of tables with `value`, `unit`, `source` as the presets write them
    changes : dotted name -> value, in place of those; a text is read as TOML where it replaces something else than a text

    Raises
    ------
    SettingsError : a key is missing or unknown (the nearest known one is offered), or a value is of the wrong kind
    """
    return _read(TrainingSettings, _changed(values, changes or {}), "")  # type: ignore[no-any-return]


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    tree = {name: _changed(value, {}) if isinstance(value, Mapping) else value for name, value in values.items()}
    for name, value in changes.items():
        *tables, last = name.removeprefix("training.").split(".")
        place: Any = tree
        for table in tables:
            place = place.get(table) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = list(_names(TrainingSettings))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise SettingsError(f"unknown training setting '{name}'", expected=f"'{near[0]}'" if near else None, fix="correct the name")
        old = place[last]["value"] if isinstance(place[last], dict) else place[last]
        place[last] = _parsed(value) if isinstance(value, str) and not isinstance(old, str) else value
    return tree


def _names(kind: type, prefix: str = "") -> Iterator[str]:
    for name, of in get_type_hints(kind).items():
        if dataclasses.is_dataclass(of):
            yield from _names(of, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(kind: type, values: Any, place: str) -> Any:
    if not isinstance(values, Mapping):
        raise SettingsError(f"'{place or 'training'}' must be a table", found=repr(values), expected="a table of settings")
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    unknown = [key for key in values if key not in names]
    missing = [name for name in names if name not in values]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.5)
        raise SettingsError(
            f"unknown training setting '{place}{unknown[0]}'",
            expected=f"'{place}{near[0]}'" if near else ", ".join(names),
            fix="correct the name",
        )
    if missing:
        raise SettingsError(
            f"the plan lacks the training setting '{place}{missing[0]}'",
            expected=", ".join(names),
            fix="plan again with this version of autoseg",
        )
    return kind(**{name: _value(hints[name], values[name], place + name) for name in names})


def _value(kind: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read(kind, value, place + ".")  # type: ignore[arg-type]
    if isinstance(value, Mapping) and "value" in value:
        value = value["value"]
    if kind in (bool, str):
        fits = isinstance(value, kind)
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:  # tuple of float
        length = None if kind == tuple[float, ...] else 2
        fits = isinstance(value, list | tuple) and (length is None or len(value) == length)
        value = tuple(float(v) for v in value) if fits else value
    if not fits:
        raise SettingsError(
            f"the training setting '{place}' cannot be used",
            found=repr(value),
            expected=getattr(kind, "__name__", str(kind)),
            fix="correct the value",
        )
    return value
