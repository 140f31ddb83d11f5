"""The reference's published plans, reproduced exactly from its fingerprints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from autoseg import presets
from autoseg.cases import Channel
from autoseg.fingerprint import CaseFacts, ChannelIntensities, Fingerprint
from autoseg.labels import make_labels
from autoseg.machine import Machine
from autoseg.planning.configuration import Configuration, Plan
from autoseg.planning.importing import import_plan
from autoseg.planning.memory import feature_maps
from autoseg.planning.plan import make_plan
from tests.planning.fingerprints import with_settings

pytestmark = pytest.mark.slow

PRESETS = {"default": "nnunet", "resenc-m": "resenc-m", "resenc-l": "resenc-l", "resenc-xl": "resenc-xl"}
MODALITIES = {"ct": "CT", "nonorm": "unchanged", "rescale_to_0_1": "rescaled", "rgb_to_0_1": "RGB"}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}
MACHINE = Machine(device="cuda:0", name="a card", memory_bytes=8 * 10**9, cores=8, bf16=True, conv_flops=None)


def test_every_golden_plan_is_reproduced_exactly(golden_plans: Path) -> None:
    files = sorted(golden_plans.glob("*.json"))
    assert files, f"no golden plans in {golden_plans}"
    wrong = {}
    for file in files:
        golden = json.loads(file.read_text())
        differences = _differences(golden)
        if differences:
            wrong[file.name] = differences
    assert not wrong, f"{len(wrong)} of {len(files)} differ: {json.dumps(wrong, indent=1)[:4000]}"


def test_a_changed_constant_is_noticed(golden_plans: Path) -> None:
    golden = json.loads(next(golden_plans.glob("*__default.json")).read_text())
    golden["planner"] = "resenc-l"
    assert _differences(golden)


def test_the_references_own_plans_files_are_imported_as_they_stand(golden_plans: Path) -> None:
    names = ["kits__default", "thin_7slices__resenc-l", "gray2d_var__default", "aniso_last_axis__resenc-m"]
    for name in names:
        golden = json.loads((golden_plans / f"{name}.json").read_text())
        facts = _fingerprint(golden)
        file = {**golden["plans_other"], "configurations": golden["configurations"]}
        imported = import_plan(file, facts, preset=presets.planner("nnunet"), machine=MACHINE)
        planned = make_plan(facts, preset=_preset(golden), machine=MACHINE)
        assert imported.axis_order == planned.axis_order
        for ours, theirs in zip(planned.configurations, imported.configurations, strict=True):
            same = {**vars(theirs), "reasons": ours.reasons, "predicted": ours.predicted}
            if ours.planar:
                same["spacing"] = (ours.spacing[0], *theirs.spacing[1:])  # across slices the plans file says nothing
            assert Configuration(**same) == ours


def _differences(golden: dict) -> list[str]:
    plan = make_plan(_fingerprint(golden), preset=_preset(golden), machine=MACHINE)
    found, other = [], golden["plans_other"]
    if list(plan.axis_order) != other["transpose_forward"]:
        found.append(f"axis order {plan.axis_order}, not {other['transpose_forward']}")
    names = {c.name.replace("3d_cascade", "3d_cascade_fullres") for c in plan.configurations}
    if names != set(golden["configurations"]):
        found.append(f"configurations {sorted(names)}, not {sorted(golden['configurations'])}")
        return found
    for name, expected in golden["configurations"].items():
        ours = plan.configuration(name.replace("3d_cascade_fullres", "3d_cascade"))
        merged = {**golden["configurations"].get(expected.get("inherits_from"), {}), **expected}
        for key, (got, want) in _rows(golden, name, merged, ours, plan).items():
            same = (
                got == want
                if key != "spacing"
                else len(got) == len(want) and all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(got, want, strict=True))
            )
            if not same:
                found.append(f"{name} {key}: {got}, not {want}")
    return found


def _rows(golden: dict, name: str, merged: dict, ours: Configuration, plan: Plan) -> dict:
    skip = 1 if ours.planar else 0
    kwargs = merged["architecture"]["arch_kwargs"]
    schemes = [
        SCHEMES[s] + ("_mask" if m else "") for s, m in zip(merged["normalization_schemes"], merged["use_mask_for_norm"], strict=True)
    ]
    rows = {
        "patch": (list(ours.patch_size[skip:]), merged["patch_size"]),
        "batch": (ours.batch_size, merged["batch_size"]),
        "strides": ([list(s[skip:]) for s in ours.strides], kwargs["strides"]),
        "kernels": ([list(k[skip:]) for k in ours.kernel_sizes], kwargs["kernel_sizes"]),
        "features": (list(ours.features_per_stage), kwargs["features_per_stage"]),
        "blocks": (list(ours.blocks_per_stage), list(kwargs.get("n_conv_per_stage") or kwargs["n_blocks_per_stage"])),
        "decoder blocks": (list(ours.decoder_blocks_per_stage[::-1]), list(kwargs["n_conv_per_stage_decoder"])),
        "network": (
            ours.network,
            {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}[merged["architecture"]["network_class_name"].split(".")[-1]],
        ),
        "norm": (ours.norm, "instance"),
        "spacing": (list(ours.spacing[skip:]), merged["spacing"]),
        "median shape": ([float(n) for n in ours.median_shape[skip:]], [float(n) for n in merged["median_image_size_in_voxels"]]),
        "batch dice": (ours.batch_dice, merged["batch_dice"]),
        "previous stage": (ours.previous_stage, merged.get("previous_stage")),
        "normalization": (list(ours.normalization), schemes),
        "parameters": (ours.predicted.parameters if ours.predicted else None, golden["n_parameters"][name]),
    }
    if name in golden["final_estimate"]:
        rows["estimate"] = (feature_maps(ours, labels=len(golden["dataset"]["labels"])), golden["final_estimate"][name])
    return rows


def _preset(golden: dict) -> presets.Preset:
    name = PRESETS[golden["planner"]]
    asked = golden.get("planner_kwargs", {})
    preset = presets.planner(name)
    settings = []
    if asked.get("overwrite_target_spacing"):
        settings.append(f"spacing.target={list(asked['overwrite_target_spacing'])}")
    if asked.get("suppress_transpose"):
        settings.append("spacing.coarsest_axis_first=false")
    if asked.get("gpu_memory_target_in_gb"):
        settings += [f"memory_{d}.target={asked['gpu_memory_target_in_gb']}" for d in ("2d", "3d")]
    if not settings:
        return preset
    documented = with_settings(preset.documented, settings)
    return presets.Preset(name=name, description="", extends=preset.extends, values=presets.plain(documented), documented=documented)


def _fingerprint(golden: dict) -> Fingerprint:
    dataset, facts = golden["dataset"], golden["fingerprint"]
    labels = dict(dataset["labels"])
    ignore = labels.pop("ignore", None)
    if any(isinstance(v, (list, tuple)) and len(v) > 1 for v in labels.values()):
        members = {n: tuple(v) if isinstance(v, (list, tuple)) else (v,) for n, v in labels.items() if n != "background"}
        values = {"background": 0, **{f"value {v}": v for v in sorted({v for m in members.values() for v in m})}}
        order = dataset.get("regions_class_order") or [m[-1] for m in members.values()]
        regions = {n: (m, w) for (n, m), w in zip(members.items(), order, strict=True)}
        scheme = make_labels(values, regions=regions, ignore=ignore)
    else:
        scheme = make_labels({n: v[0] if isinstance(v, (list, tuple)) else v for n, v in labels.items()}, ignore=ignore)
    channels = [
        Channel(name=name, modality=MODALITIES.get(name.casefold(), "MR"))
        for _, name in sorted(dataset["channel_names"].items(), key=lambda i: int(i[0]))
    ]
    intensities = facts["foreground_intensity_properties_per_channel"]
    return Fingerprint(
        name=golden["name"],
        channels=tuple(channels),
        labels=scheme,
        cases=tuple(
            CaseFacts(
                name=f"case {i}",
                spacing=tuple(map(float, spacing)),
                shape=tuple(shape),
                shape_after_crop=tuple(shape),
                files={},
                label_voxels={},
            )
            for i, (spacing, shape) in enumerate(zip(facts["spacings"], facts["shapes_after_crop"], strict=True))
        ),
        intensities=tuple(ChannelIntensities(**intensities[str(i)]) for i in range(len(channels))),
        relative_size_after_crop=facts["median_relative_size_after_cropping"],
    )
