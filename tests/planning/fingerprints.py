"""Fingerprints for the tests of planning: data sets that exist as numbers only."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from autoseg import presets
from autoseg.cases import Channel
from autoseg.fingerprint import CaseFacts, ChannelIntensities, Fingerprint
from autoseg.labels import Labels, make_labels
from autoseg.machine import Machine

CT = ChannelIntensities(mean=40, median=38, std=60, min=-800, max=900, percentile_00_5=-120, percentile_99_5=240)
TWO_LABELS = make_labels({"background": 0, "organ": 1, "tumour": 2})
CPU = Machine(device="cpu", name="a laptop", memory_bytes=16 * 10**9, cores=2, bf16=True, conv_flops=400e9)


def card(memory: float) -> Machine:
    """A graphics card with so many bytes."""
    return Machine(device="cuda", name="a card", memory_bytes=int(memory), cores=8, bf16=True, conv_flops=None)


def make_fingerprint(
    shapes: Sequence[tuple[int, int, int]],
    spacings: Sequence[tuple[float, float, float]],
    *,
    modalities: Sequence[str] = ("MR",),
    labels: Labels = TWO_LABELS,
    left: float = 1.0,
) -> Fingerprint:
    """A data set of these shapes and spacings."""
    return Fingerprint(
        name="numbers",
        channels=tuple(Channel(name=f"channel {i}", modality=m) for i, m in enumerate(modalities)),
        labels=labels,
        cases=tuple(
            CaseFacts(name=f"case_{i:03}", spacing=spacing, shape=shape, shape_after_crop=shape, files={}, label_voxels={})
            for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
        ),
        intensities=(CT,) * len(modalities),
        relative_size_after_crop=left,
    )


def with_settings(documented: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The leaves of a preset with some values changed: "key=value", the value as in TOML; the end of a key is enough."""
    changed = copy.deepcopy(dict(documented))
    for change in changes:
        key, _, text = change.partition("=")
        *tables, last = key.split(".")
        found = [changed] if tables else [table for table in changed.values() if last in table]
        for table in tables:
            found = [found[0][table]]
        assert len(found) == 1, f"{key} could mean several"
        found[0][last] |= {"value": tomllib.loads(f"value = {text}")["value"]}
    return changed


def preset(name: str = "default", *changes: str) -> presets.Preset:
    """A planner preset, with settings changed as by --set."""
    found = presets.planner(name)
    documented = with_settings(found.documented, changes)
    return presets.Preset(name=name, description="", extends=found.extends, values=presets.plain(documented), documented=documented)
