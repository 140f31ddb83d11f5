"""A small plan with every kind of configuration, and a workspace with two folds of random networks for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg import networks
from autoseg.cases import Channel
from autoseg.fingerprint import ChannelIntensities
from autoseg.labels import Labels, make_labels
from autoseg.networks import checkpoint
from autoseg.planning.configuration import Configuration, Plan, input_channels
from autoseg.workspace import Workspace

LABELS = make_labels({"background": 0, "left": 7, "right": 5, "node": 100}, pairs=(("left", "right"),))
REGIONS = make_labels({"background": 0, "edema": 1, "core": 2}, regions={"whole": ((1, 2), 1), "core": ((2,), 2)})


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Plans for two channels with slices thickest along canonical x, which is the first plan axis."""

    def made(labels: Labels = LABELS, **changes: Any) -> Plan:
        intensities = ChannelIntensities(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-2.5, percentile_99_5=2.5)
        values: dict[str, Any] = {
            "planner": "test",
            "planner_values": {},
            "device": {"device": "cpu"},
            "name": "toy",
            "channels": (Channel(name="ct", modality="CT"), Channel(name="mr", modality="MR")),
            "labels": labels,
            "intensities": (intensities, intensities),
            "axis_order": (2, 0, 1),
            "configurations": (
                _configuration("3d_fullres"),
                _configuration("2d", patch_size=(1, 12, 16), kernel_sizes=((1, 3, 3),) * 3, strides=((1, 1, 1), (1, 2, 2), (1, 2, 2))),
                _configuration("3d_lowres", spacing=(4.0, 2.0, 2.2)),
                _configuration("3d_cascade", previous_stage="3d_lowres"),
            ),
            "mirror_axes": (0, 1, 2),
            "swap_axis": 0,
        }
        return Plan(**{**values, **changes})

    return made


@pytest.fixture
def make_workspace(tmp_path: Path, make_plan: Callable[..., Plan]) -> Callable[..., Workspace]:
    """Workspaces whose networks have random weights, and no image or cache at all."""

    def made(plan: Plan | None = None, *, folds: int = 2, root: Path | None = None) -> Workspace:
        plan = plan or make_plan()
        workspace = Workspace(root=root or tmp_path / "workspace")
        for configuration in plan.configurations:
            for fold in range(folds):
                network = networks.build(
                    configuration,
                    channels=input_channels(plan, configuration),
                    heads=plan.labels.output_channels,
                    generator=torch.Generator().manual_seed(fold),
                )
                description = {"plan": plan.to_json(), "configuration": configuration.name, "fold": fold}
                checkpoint.save_model(workspace.run(configuration.name, fold), network.state_dict(), description)
        return workspace

    return made


def only(plan: Plan, *names: str) -> Plan:
    """The plan with some of its configurations, to save time."""
    return replace(plan, configurations=tuple(c for c in plan.configurations if c.name in names))


def _configuration(name: str, **changes: Any) -> Configuration:
    values: dict[str, Any] = {
        "name": name,
        "spacing": (3.0, 1.0, 1.1),
        "median_shape": (8.0, 24.0, 26.0),
        "patch_size": (4, 12, 16),
        "batch_size": 2,
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (1, 3, 3), (3, 3, 3)),
        "features_per_stage": (4, 6, 8),
        "blocks_per_stage": (1, 1, 1),
        "decoder_blocks_per_stage": (1, 1),
        "network": "unet",
        "norm": "group",
        "normalization": ("ct", "zscore"),
        "batch_dice": False,
    }
    return Configuration(**{**values, **changes})
