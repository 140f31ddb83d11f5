"""Curves show what a history holds; they are looked at by people besides."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from autoseg.pictures import CURVES, progress

pytestmark = pytest.mark.slow


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def test_curves_are_drawn_from_what_there_is():
    assert {column for curves in CURVES.values() for column, *_ in curves} >= {
        "loss",
        "validation_dice",
        "learning_rate",
        "seconds_per_step",
    }
    full = [
        {
            "epoch": i,
            "loss": 1 / (i + 1),
            "validation_dice": 0.5 if i % 2 else None,
            "learning_rate": 0.01,
            "seconds_per_step": 2.0,
            "data_wait": 0.1,
        }
        for i in range(30)
    ]
    nothing, one, all_of_it = (pixels(progress(history)) for history in ([], full[:1], full))
    assert nothing.shape == all_of_it.shape and one.shape[0] < all_of_it.shape[0], "three panels in a row after one epoch without Dice"
    colour = np.array(to_rgb(CURVES["validation Dice"][0][2]))
    seen = [(np.abs(picture - colour).max(axis=-1) < 0.02).sum() for picture in (nothing, one, all_of_it)]
    assert seen[0] == seen[1] == 0 < seen[2]
    assert pixels(progress([{"epoch": 0, "loss": float("nan")}], title="3d_fullres, fold 0")).size
