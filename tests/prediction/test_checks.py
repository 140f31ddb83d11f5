"""Warnings about a scan or a result that is far from those of the training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoseg.cases import Channel
from autoseg.fingerprint import CaseFacts, ChannelIntensities, Fingerprint
from autoseg.labels import make_labels
from autoseg.prediction.checks import unusual_volumes

INTENSITIES = ChannelIntensities(mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1)


def facts(count: int) -> Fingerprint:
    rng = np.random.default_rng(0)
    cases = tuple(
        CaseFacts(
            name=str(index), spacing=(2.0, 1.0, 1.0), shape=(10, 20, 20), shape_after_crop=(10, 20, 20), files={},
            label_voxels={"liver": 1000 + int(rng.integers(0, 500)), "tumour": index % 2 * 50},
        )
        for index in range(count)
    )  # fmt: skip
    channels = (Channel(name="CT", modality="ct"),)
    labels = make_labels({"background": 0, "liver": 1, "tumour": 2})
    return Fingerprint(name="x", channels=channels, labels=labels, cases=cases, intensities=(INTENSITIES,), relative_size_after_crop=1.0)


def test_a_result_within_the_range_of_the_training_is_not_unusual() -> None:
    known = facts(20)
    assert unusual_volumes({"liver": 1200, "tumour": 0}, (2.0, 1.0, 1.0), known) == []
    assert unusual_volumes({"liver": 600, "tumour": 30}, (4.0, 1.0, 1.0), known) == []  # ml count, not voxels


def test_a_volume_far_beyond_the_training_is_reported_in_ml() -> None:
    (text,) = unusual_volumes({"liver": 90_000, "tumour": 50}, (2.0, 1.0, 1.0), facts(20))
    assert "'liver' has 180 ml" in text
    (text,) = unusual_volumes({"liver": 0, "tumour": 50}, (2.0, 1.0, 1.0), facts(20))
    assert "'liver' was not found" in text


def test_few_cases_say_nothing() -> None:
    assert unusual_volumes({"liver": 90_000, "tumour": 50}, (2.0, 1.0, 1.0), facts(4)) == []
    assert unusual_volumes({"liver": 90_000, "tumour": 50}, (2.0, 1.0, 1.0), replace(facts(20), cases=())) == []
