"""Small made cases and plans for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autoseg import presets
from autoseg.cases import Channel
from autoseg.labels import Labels, make_labels
from autoseg.planning.configuration import Configuration, Plan


@dataclass
class MadeCase:
    """A preprocessed case in memory, with what a stored one offers."""

    name: str
    pixels: np.ndarray  # (c, z, y, x)
    classes: np.ndarray  # (z, y, x)
    annotated: tuple[str, ...] | None = None
    inside: np.ndarray | None = None
    locations: dict = field(default_factory=dict)

    def __post_init__(self):
        self.shape = self.classes.shape
        found = {int(c): np.argwhere(self.classes == c) for c in np.unique(self.classes) if c > 0}
        self.locations = self.locations or found

    def image(self, slices=None):
        return self.pixels if slices is None else self.pixels[(slice(None), *slices)]

    def label(self, slices=None):
        return self.classes if slices is None else self.classes[slices]

    def mask(self, slices=None):
        return None if self.inside is None else self.inside[slices or ()]


def make_case(name, shape, *, seed=0, channels=1):
    """Noise with a bright box of class 1 and a dark box of class 2 in it."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(channels, *shape)).astype(np.float32) * 0.2
    classes = np.zeros(shape, np.uint8)
    for label, value in ((1, 2.0), (2, -2.0)):
        start = [int(rng.integers(0, max(1, n - max(2, n // 3)))) for n in shape]
        box = tuple(slice(a, a + max(1, n // 3)) for a, n in zip(start, shape, strict=True))
        classes[box] = label
        pixels[(slice(None), *box)] += value
    return MadeCase(name, pixels, classes)


def make_plan(
    *,
    patch=(8, 12, 10),
    batch=2,
    channels=1,
    labels: Labels | None = None,
    planner="default",
    features=(8, 16),
    name="3d_fullres",
    previous_stage=None,
    **changes,
) -> tuple[Plan, Configuration]:
    """A plan with one small configuration, and that configuration."""
    planar = name == "2d"
    stride, kernel = ((1, 2, 2), (1, 3, 3)) if planar else ((2, 2, 2), (3, 3, 3))
    stages = len(features)
    configuration = Configuration(
        name=name,
        spacing=(1.0, 1.0, 1.0),
        median_shape=(10.0, 14.0, 12.0),
        patch_size=patch,
        batch_size=batch,
        strides=((1, 1, 1),) + (stride,) * (stages - 1),
        kernel_sizes=(kernel,) * stages,
        features_per_stage=features,
        blocks_per_stage=(1,) * stages,
        decoder_blocks_per_stage=(1,) * (stages - 1),
        network="unet",
        norm="group",
        normalization=("zscore",) * channels,
        batch_dice=True,
        previous_stage=previous_stage,
    )
    plan = Plan(
        planner=planner,
        planner_values={},
        device={},
        name="made",
        channels=tuple(Channel(name=f"channel{i}", modality="MR") for i in range(channels)),
        labels=labels or make_labels({"background": 0, "bright": 1, "dark": 2}),
        intensities=(),
        axis_order=(0, 1, 2),
        configurations=(configuration,),
        settings=presets.planner(planner).values["training"],
    )
    return replace(plan, **changes), configuration
