"""The reference's own plans file, `nnUNetPlans.json`, as a `Plan`: what was planned elsewhere is trained here as it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from autoseg.errors import PlanMismatch, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Axes, permuted
from autoseg.machine import Machine
from autoseg.planning.configuration import CONFIGURATION_NAMES, Configuration, Plan, Predicted
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.mirroring import choose_mirroring
from autoseg.planning.plan import hash_fingerprint, with_disk
from autoseg.planning.rules import read_rules
from autoseg.planning.timing import seconds_per_step
from autoseg.planning.validation import validate_plan
from autoseg.presets import Preset
from autoseg.version import __version__

NAMES = {"2d": "2d", "3d_fullres": "3d_fullres", "3d_lowres": "3d_lowres", "3d_cascade_fullres": "3d_cascade"}
NETWORKS = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}
TOLERANCE = 0.02  # relative, of the median spacing: the same data measured by two programs


def import_plan(
    value: Mapping[str, Any],
    fingerprint: Fingerprint,
    *,
    preset: Preset,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint] | None = None,
) -> Plan:
    """A plan from the content of a reference plans file.

    Parameters
    ----------
    value : the JSON, of nnU-Net 2.0 to 2.8
    preset : whose training settings are taken, since the plans file holds none
    footprint : as for `make_plan`

    Raises
    ------
    SettingsError : not such a file, or an architecture that autoseg does not have
    PlanMismatch : the file was made for other data: channels or median spacing differ
    """
    if "configurations" not in value or "plans_name" not in value:
        raise SettingsError("not a plans file of nnU-Net v2", found=", ".join(list(value)[:8]), expected="plans_name, configurations, ...",
                            fix="give the nnUNetPlans.json of the preprocessed data set, or the name of a planner")  # fmt: skip
    try:
        found = {NAMES[name]: _resolved(name, value["configurations"]) for name in value["configurations"] if name in NAMES}
        order = _axis_order(value, fingerprint)
        measure = footprint or modelled_footprint
        configurations = [_configuration(name, table, order, fingerprint, preset, machine, measure) for name, table in found.items()]
    except (KeyError, TypeError, IndexError) as error:
        raise SettingsError("the plans file cannot be understood", found=f"{type(error).__name__}: {error}",
                            fix="plan with a planner instead: --planner nnunet") from error  # fmt: skip
    configurations.sort(key=lambda c: CONFIGURATION_NAMES.index(c.name))
    planar = all(c.planar for c in configurations)
    mirroring = choose_mirroring(fingerprint.labels, order, planar=planar)
    plan = Plan(
        planner=str(value["plans_name"]),
        planner_values=preset.documented,
        device={**machine.to_json(), "time_budget": None},
        name=fingerprint.name,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
        axis_order=order,
        mirror_axes=mirroring.axes,
        swap_axis=mirroring.swap_axis,
        configurations=tuple(configurations),
        settings=dict(preset.values.get("training", {})),
        fingerprint=hash_fingerprint(fingerprint),
        reasons=(f"Taken from the plans file '{value['plans_name']}' of {value.get('dataset_name', 'a data set')}, planned by nnU-Net.",),
        version=__version__,
    )
    validate_plan(plan)
    return replace(plan, configurations=tuple(with_disk(c, plan, fingerprint) for c in plan.configurations))


def _resolved(name: str, tables: Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration with all that it inherits."""
    if name in seen:
        raise SettingsError("configurations of the plans file inherit from each other in a circle", found=" -> ".join((*seen, name)))
    table = dict(tables[name])
    parent = table.pop("inherits_from", None)
    return table if parent is None else {**_resolved(parent, tables, (*seen, name)), **table}


def _axis_order(value: Mapping[str, Any], fingerprint: Fingerprint) -> Axes:
    """Canonical axes in the order of the plan's.

    The reference counts axes as they are stored, autoseg after turning to the canonical orientation. `transpose_forward` is
    taken if it gives the median spacing that the file notes, else the permutation that does.
    """
    median = np.median([case.spacing for case in fingerprint.cases], axis=0).tolist()
    noted = value.get("original_median_spacing_after_transp")
    wanted: Axes = tuple(value["transpose_forward"])
    if noted is None or noted[0] > 100 * max(noted[1:]):  # planar pictures: the reference notes 999 across them
        return wanted
    for order in (wanted, *permutations(range(3))):
        if np.allclose(permuted(median, order), noted, rtol=TOLERANCE):
            return order  # type: ignore[return-value]
    raise PlanMismatch(
        "the plans file was made for other data",
        found=f"median spacing {_mm(permuted(median, wanted))}",
        expected=_mm(noted),
        fix="plan these data with --planner nnunet",
    )


def _configuration(
    name: str,
    table: Mapping[str, Any],
    order: Axes,
    fingerprint: Fingerprint,
    preset: Preset,
    machine: Machine,
    footprint: Callable[[Configuration, int, int], Footprint],
) -> Configuration:
    planar = name == "2d"
    schemes = _schemes(table, len(fingerprint.channels))
    across = float(np.median([permuted(case.spacing, order)[0] for case in fingerprint.cases]))
    architecture = _architecture(table)
    configuration = Configuration(
        name=name,
        spacing=_triple(table["spacing"], planar, across),
        median_shape=tuple(map(float, _triple(table["median_image_size_in_voxels"], planar, 1))),  # type: ignore[arg-type]
        patch_size=_triple(table["patch_size"], planar, 1),
        batch_size=int(table["batch_size"]),
        strides=tuple(_triple(stride, planar, 1) for stride in architecture["strides"]),
        kernel_sizes=tuple(_triple(kernel, planar, 1) for kernel in architecture["kernel_sizes"]),
        features_per_stage=tuple(architecture["features_per_stage"]),
        blocks_per_stage=tuple(architecture["blocks"]),
        decoder_blocks_per_stage=tuple(architecture["decoder_blocks"])[::-1],  # the reference begins at the bottom
        network=architecture["network"],
        norm="instance",
        normalization=schemes,
        batch_dice=bool(table["batch_dice"]),
        previous_stage=NAMES[table["previous_stage"]] if table.get("previous_stage") else None,
        reasons=("As in the plans file.",),
    )
    previous = len(fingerprint.labels.foreground) if configuration.previous_stage else 0
    cost = footprint(configuration, len(fingerprint.channels) + previous, fingerprint.labels.heads)
    rules = read_rules(preset.values)
    step = seconds_per_step(cost, machine, rules)
    predicted = Predicted(
        parameters=cost.parameters,
        training_memory_bytes=cost.training_bytes,
        seconds_per_epoch=None if step is None else step * rules.steps_per_epoch,
        forward_flops=cost.forward_flops,
    )
    return Configuration(**{**vars(configuration), "predicted": predicted})


def _schemes(table: Mapping[str, Any], channels: int) -> tuple[str, ...]:
    names, masks = table["normalization_schemes"], table["use_mask_for_norm"]
    if len(names) != channels:
        raise PlanMismatch("the plans file was made for other data", found=f"{channels} channels", expected=f"{len(names)} channels",
                           fix="plan these data with --planner nnunet")  # fmt: skip
    unknown = [name for name in names if name not in SCHEMES]
    if unknown:
        raise SettingsError("a normalisation that autoseg does not have", found=", ".join(unknown), expected=", ".join(SCHEMES),
                            fix="plan with --planner nnunet")  # fmt: skip
    return tuple("zscore_mask" if SCHEMES[n] == "zscore" and mask else SCHEMES[n] for n, mask in zip(names, masks, strict=True))


def _architecture(table: Mapping[str, Any]) -> dict[str, Any]:
    """Network, strides, kernels, features and blocks, from the newer form of the file or from that before nnU-Net 2.4."""
    if "architecture" in table:
        kind, given = table["architecture"]["network_class_name"].rpartition(".")[2], table["architecture"]["arch_kwargs"]
        blocks = given.get("n_conv_per_stage") or given.get("n_blocks_per_stage")
        decoder = given["n_conv_per_stage_decoder"]
        strides, kernels, features = given["strides"], given["kernel_sizes"], given["features_per_stage"]
    else:
        kind = table["UNet_class_name"]
        blocks, decoder = table["n_conv_per_stage_encoder"], table["n_conv_per_stage_decoder"]
        strides, kernels = table["pool_op_kernel_sizes"], table["conv_kernel_sizes"]
        features = [min(table["unet_max_num_features"], table["UNet_base_num_features"] * 2**i) for i in range(len(strides))]
    if kind not in NETWORKS:
        raise SettingsError(
            "an architecture that autoseg does not have", found=kind, expected=", ".join(NETWORKS), fix="plan with --planner nnunet"
        )
    return {
        "network": NETWORKS[kind],
        "strides": strides,
        "kernel_sizes": kernels,
        "features_per_stage": features,
        "blocks": blocks,
        "decoder_blocks": decoder,
    }


def _triple(values: Sequence[Any], planar: bool, first: Any) -> tuple[Any, Any, Any]:
    return (first, *values) if planar and len(values) == 2 else tuple(values)  # type: ignore[return-value]


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"
