"""Imports `nnUNetPlans.json`, the plans file of nnU-Net, as a `Plan` that is trained unchanged; or as that of a model it trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal, TypeVar

import numpy as np

from autoseg import schema
from autoseg.cases import Channel
from autoseg.errors import PlanMismatch, SettingsError
from autoseg.fingerprint import ChannelIntensities, Fingerprint
from autoseg.geometry import Axes, permuted, triple
from autoseg.labels import Labels
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan, input_channels
from autoseg.planning.constants import read_constants
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.mirroring import choose_mirroring
from autoseg.planning.plan import assemble_plan, predict_cost
from autoseg.planning.timing import seconds_per_step
from autoseg.planning.validation import validate_plan
from autoseg.presets import Preset
from autoseg.quantities import format_spacing
from autoseg.version import __version__

T = TypeVar("T")

_RESAMPLING = "resample_data_or_seg_to_shape"
_USUAL_NETWORK: Mapping[str, tuple[Any, ...]] = {
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm3d", "torch.nn.modules.instancenorm.InstanceNorm2d"),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
    "nonlin": ("torch.nn.LeakyReLU",),
    "nonlin_kwargs": ({"inplace": True}, {}, None),
    "conv_bias": (True,),
    "conv_op": ("torch.nn.modules.conv.Conv3d", "torch.nn.modules.conv.Conv2d"),
}
_KNOWN_ARGUMENTS = {
    *_USUAL_NETWORK, "strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder",
    "n_stages", "deep_supervision", "dropout_op_kwargs",
}  # fmt: skip

NAMES = {"2d": "2d", "3d_fullres": "3d_fullres", "3d_lowres": "3d_lowres", "3d_cascade_fullres": "3d_cascade"}
NETWORKS = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}
_FIX = "plan these data with a planner instead: --planner nnunet"
TOLERANCE = 0.02  # relative, of the median spacing: the same data measured by two programs


READERS: Mapping[str, Literal["canonical", "stored"]] = {  # whether a reader of nnU-Net turns scans to RAS+
    "SimpleITKIO": "stored", "SimpleITKIOWithReorient": "canonical", "NibabelIO": "stored", "NibabelIOWithReorient": "canonical",
    "NaturalImage2DIO": "stored", "Tiff3DIO": "stored",
}  # fmt: skip


def plan_of_model(value: Any, names: Sequence[str], *, channels: tuple[Channel, ...], labels: Labels, preset: Preset) -> Plan:
    """Return the plan by which models that nnU-Net trained predict as they do there.

    Parameters
    ----------
    value : the JSON of the plans.json next to the models, of nnU-Net 2.0 to 2.8
    names : configurations, as nnU-Net calls them
    preset : whose training settings are taken where the models are trained further

    Raises
    ------
    SettingsError : not such a file, or it asks for something that autoseg does not do as nnU-Net does; named
    PlanMismatch : the plans file has another number of channels
    """
    file = _parsed(_ModelPlans, value)
    tables = {name: _resolved(name, file.configurations) for name in names}
    if file.image_reader_writer not in READERS:
        raise SettingsError("a reader of images that autoseg does not have", found=file.image_reader_writer, expected=", ".join(READERS))
    figures = file.foreground_intensity_properties_per_channel
    if sorted(figures) != [str(index) for index in range(len(channels))]:
        raise PlanMismatch("the plans file was made for other data", found=f"{len(channels)} channels", expected=f"{len(figures)} channels")
    for name, table in tables.items():
        _refuse_unlike(name, table)
    configurations = [_planned(NAMES[name], _parsed(_Table, table), len(channels), across=None) for name, table in tables.items()]
    plan = Plan(
        planner=file.plans_name,
        planner_values=preset.documented,
        device={},
        name=file.dataset_name,
        channels=channels,
        labels=labels,
        intensities=tuple(_parsed(ChannelIntensities, figures[str(index)]) for index in range(len(channels))),
        axis_order=file.transpose_forward,
        orientation=READERS[file.image_reader_writer],
        configurations=tuple(sorted(configurations, key=lambda c: CONFIGURATION_NAMES.index(c.name))),
        settings=dict(preset.values.get("training", {})),
        reasons=(f"Imported with models that nnU-Net trained by '{file.plans_name}' of {file.dataset_name}.",),
        version=__version__,
    )
    validate_plan(plan)
    return plan


def _refuse_unlike(name: str, table: Mapping[str, Any]) -> None:
    """Raise where a configuration asks for a network or a resampling that autoseg does not have.

    Raises
    ------
    SettingsError : all of it, by name
    """
    faults = []
    for part, order in (("data", 3), ("probabilities", 1)):
        function = table.get(f"resampling_fn_{part}", _RESAMPLING)
        asked = table.get(f"resampling_fn_{part}_kwargs") or {}
        usual = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        if function != _RESAMPLING or any(usual.get(key) != given for key, given in asked.items()):
            faults.append(f"resampling_fn_{part}: {function} {dict(asked)}")
    made_of = (table.get("architecture") or {}).get("arch_kwargs") or {}
    for key, usual_values in _USUAL_NETWORK.items():
        if key in made_of and made_of[key] not in usual_values:
            faults.append(f"{key}: {made_of[key]}")
    faults += [f"{key}: {made_of[key]}" for key in made_of if key not in _KNOWN_ARGUMENTS and made_of[key] not in (None, False)]
    if faults:
        raise SettingsError(
            f"the model of {name} does what autoseg does not do in the same way",
            found="\n".join(faults),
            expected=f"{_RESAMPLING} with its usual orders; instance norm, LeakyReLU, no dropout",
            fix="predict with nnU-Net, or train the data set here: autoseg plan DATASET -o WORKSPACE",
        )


def import_plan(
    value: Mapping[str, Any],
    fingerprint: Fingerprint,
    *,
    preset: Preset,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint] | None = None,
) -> Plan:
    """Return the plan in a plans file of nnU-Net.

    Parameters
    ----------
    value : the JSON, of nnU-Net 2.0 to 2.8; keys that are not read may hold anything
    preset : whose training settings are taken, since the plans file holds none
    footprint : as for `make_plan`

    Raises
    ------
    SettingsError : not such a file, or an architecture that autoseg does not have
    PlanMismatch : the file was made for other data: channels or median spacing differ
    """
    if not isinstance(value, Mapping) or "configurations" not in value or "plans_name" not in value:
        raise SettingsError(
            "not a plans file of nnU-Net v2",
            found=", ".join(list(value)[:8]) if isinstance(value, Mapping) else None,
            expected="plans_name, configurations, ...",
            fix="give the nnUNetPlans.json of the preprocessed data set, or the name of a planner",
        )
    file = _parsed(_PlansFile, value)
    found = {NAMES[name]: _parsed(_Table, _resolved(name, file.configurations)) for name in file.configurations if name in NAMES}
    order = _axis_order(file, fingerprint)
    measure = footprint or modelled_footprint
    configurations = [_configuration(name, table, order, fingerprint, preset, machine, measure) for name, table in found.items()]
    configurations.sort(key=lambda c: CONFIGURATION_NAMES.index(c.name))
    plan = assemble_plan(
        fingerprint,
        preset,
        machine,
        planner=file.plans_name,
        time_budget=None,
        order=order,
        mirroring=choose_mirroring(fingerprint.labels, order, planar=all(c.planar for c in configurations)),
        configurations=configurations,
        why=(f"Imported from '{file.plans_name}' of {file.dataset_name}, which nnU-Net planned.",),
    )
    validate_plan(plan)
    return plan


@dataclass(frozen=True, kw_only=True)
class _PlansFile:
    """The keys of nnUNetPlans.json that are read."""

    plans_name: str
    dataset_name: str = "a data set"
    configurations: Mapping[str, Mapping[str, Any]]
    transpose_forward: Axes
    original_median_spacing_after_transp: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _ModelPlans(_PlansFile):
    """What is read of it besides, with a trained model."""

    image_reader_writer: str
    foreground_intensity_properties_per_channel: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The keys of one of its configurations that are read: the network as `architecture`, or as keys of its own before nnU-Net 2.4."""

    spacing: tuple[float, ...]
    median_image_size_in_voxels: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    batch_dice: bool
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    previous_stage: Literal["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres", ""] | None = None
    architecture: Mapping[str, Any] | None = None
    UNet_class_name: str = ""
    n_conv_per_stage_encoder: tuple[int, ...] = ()
    n_conv_per_stage_decoder: tuple[int, ...] = ()
    pool_op_kernel_sizes: tuple[tuple[int, ...], ...] = ()
    conv_kernel_sizes: tuple[tuple[int, ...], ...] = ()
    unet_max_num_features: int = 0
    UNet_base_num_features: int = 0


@dataclass(frozen=True, kw_only=True)
class _NamedNetwork:
    network_class_name: str
    arch_kwargs: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """The arguments of a network that nnU-Net builds."""

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features_per_stage: tuple[int, ...]
    n_conv_per_stage: tuple[int, ...] | None = None
    n_blocks_per_stage: tuple[int, ...] | None = None
    n_conv_per_stage_decoder: tuple[int, ...]


def _parsed(kind: type[T], value: Any) -> T:
    return schema.parse(kind, schema.pick(kind, value), what="the plans file", fix=_FIX)


def _resolved(name: str, tables: Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a configuration with all that it inherits."""
    if name in seen:
        raise SettingsError("configurations of the plans file inherit from each other in a circle", found=" -> ".join((*seen, name)))
    if name not in tables:
        raise SettingsError("the plans file cannot be understood", found=f"configurations.{name}: is missing", fix=_FIX)
    table = dict(tables[name])
    parent = table.pop("inherits_from", None)
    return table if parent is None else {**_resolved(parent, tables, (*seen, name)), **table}


def _axis_order(file: _PlansFile, fingerprint: Fingerprint) -> Axes:
    """Return the canonical axis of each plan axis.

    The reference counts axes as they are stored, autoseg after turning to the canonical orientation. `transpose_forward` is
    taken if it gives the median spacing that the file notes, else the permutation that does.
    """
    median = np.median([case.spacing for case in fingerprint.cases], axis=0).tolist()
    noted, wanted = file.original_median_spacing_after_transp, file.transpose_forward
    if noted is None or len(noted) != 3 or noted[0] > 100 * max(noted[1:]):  # planar pictures: the reference notes 999 across them
        return wanted
    for order in (wanted, *map(triple, permutations(range(3)))):
        if np.allclose(permuted(median, order), noted, rtol=TOLERANCE):
            return order
    raise PlanMismatch(
        "the plans file was made for other data",
        found=f"median spacing {format_spacing(permuted(median, wanted))}",
        expected=format_spacing(noted),
        fix=_FIX,
    )


def _configuration(
    name: str,
    table: _Table,
    order: Axes,
    fingerprint: Fingerprint,
    preset: Preset,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint],
) -> Configuration:
    across = float(np.median([permuted(case.spacing, order)[0] for case in fingerprint.cases]))
    configuration = _planned(name, table, len(fingerprint.channels), across=across)
    cost = footprint(configuration, input_channels(fingerprint, configuration), fingerprint.labels.output_channels)
    constants = read_constants(preset.values)
    step = seconds_per_step(cost, machine, constants)
    return replace(configuration, predicted=predict_cost(cost, step, constants))


def _planned(name: str, table: _Table, channels: int, *, across: float | None) -> Configuration:
    """Return a configuration of the file.

    Parameters
    ----------
    across : spacing between the slices of a planar one; None: that of its slices, where the data are not known
    """
    planar = name == "2d"
    network, architecture = _architecture(table)
    return Configuration(
        name=name,
        spacing=_triple(table.spacing, planar, table.spacing[0] if across is None else across),
        median_shape=_triple(table.median_image_size_in_voxels, planar, 1.0),
        patch_size=_triple(table.patch_size, planar, 1),
        batch_size=table.batch_size,
        strides=tuple(_triple(stride, planar, 1) for stride in architecture.strides),
        kernel_sizes=tuple(_triple(kernel, planar, 1) for kernel in architecture.kernel_sizes),
        features_per_stage=architecture.features_per_stage,
        blocks_per_stage=architecture.n_conv_per_stage or architecture.n_blocks_per_stage or (),
        decoder_blocks_per_stage=architecture.n_conv_per_stage_decoder[::-1],  # the reference begins at the bottom
        network=network,
        norm="instance",
        normalization=_schemes(table, channels),
        batch_dice=table.batch_dice,
        previous_stage=NAMES[table.previous_stage] if table.previous_stage else None,
        reasons=("As in the plans file.",),
    )


def _schemes(table: _Table, channels: int) -> tuple[str, ...]:
    names, masks = table.normalization_schemes, table.use_mask_for_norm
    if len(names) != channels or len(masks) != channels:
        raise PlanMismatch(
            "the plans file was made for other data", found=f"{channels} channels", expected=f"{len(names)} channels", fix=_FIX
        )
    unknown = [name for name in names if name not in SCHEMES]
    if unknown:
        raise SettingsError("a normalisation that autoseg does not have", found=", ".join(unknown), expected=", ".join(SCHEMES), fix=_FIX)
    return tuple(NORMALIZATIONS[SCHEMES[n]].inside_mask or SCHEMES[n] if mask else SCHEMES[n] for n, mask in zip(names, masks, strict=True))


def _architecture(table: _Table) -> tuple[str, _Architecture]:
    """Return the network's name and arguments, from the newer form of the file or from that before nnU-Net 2.4."""
    if table.architecture is not None:
        named = _parsed(_NamedNetwork, table.architecture)
        kind, given = named.network_class_name.rpartition(".")[2], _parsed(_Architecture, named.arch_kwargs)
    else:
        kind, strides = table.UNet_class_name, table.pool_op_kernel_sizes
        given = _Architecture(
            strides=strides,
            kernel_sizes=table.conv_kernel_sizes,
            features_per_stage=tuple(min(table.unet_max_num_features, table.UNet_base_num_features * 2**i) for i in range(len(strides))),
            n_conv_per_stage=table.n_conv_per_stage_encoder,
            n_conv_per_stage_decoder=table.n_conv_per_stage_decoder,
        )
    if kind not in NETWORKS:
        raise SettingsError("an architecture that autoseg does not have", found=kind, expected=", ".join(NETWORKS), fix=_FIX)
    return NETWORKS[kind], given


def _triple(values: tuple[T, ...], planar: bool, first: T) -> tuple[T, T, T]:
    """Return three values per axis of a table that holds two for a planar configuration."""
    if len(values) != (2 if planar else 3):
        raise SettingsError("the plans file cannot be understood", found=f"{list(values)} for the axes of an image", fix=_FIX)
    return triple((first, *values) if planar else values)
