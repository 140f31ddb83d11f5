from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg import presets
from autoseg.networks.inputs import one_hot
from autoseg.training.cascade import augment_previous_stage, ball
from autoseg.training.sampling import generator_for
from autoseg.training.settings import read_settings

SETTINGS = read_settings(presets.planner("nnunet").values["training"]).cascade


def channels_of(seed=0):
    classes = torch.zeros(1, 12, 14, 13, dtype=torch.int16)
    classes[0, 2:8, 3:9, 2:8] = 1
    classes[0, 8:11, 9:13, 8:12] = 2
    classes[0, 0, 0, 0] = 2  # a second, tiny component
    return one_hot(classes, 3)


def test_each_foreground_class_gets_a_channel():
    classes = torch.tensor([[[[0, 1, 2, 1, 0]]]], dtype=torch.int16)
    assert one_hot(classes, 3).tolist() == [[[[[0, 1, 0, 1, 0]]], [[[0, 0, 1, 0, 0]]]]]


def test_undisturbed_channels_stay_as_they_are():
    calm = replace(SETTINGS, morphology=0.0, drop_component=0.0)
    assert torch.equal(augment_previous_stage(channels_of(), settings=calm, generator=generator_for(1)), channels_of())


def test_morphology_changes_some_channels_and_never_lets_two_structures_overlap():
    wild = replace(SETTINGS, morphology=1.0, drop_component=0.0)
    counts = []
    for seed in range(12):
        out = augment_previous_stage(channels_of(), settings=wild, generator=generator_for(seed))
        assert set(out.unique().tolist()) <= {0.0, 1.0} and float(out.sum(dim=1).max()) <= 1
        counts.append(tuple(out.sum(dim=(0, 2, 3, 4)).int().tolist()))
    before = tuple(channels_of().sum(dim=(0, 2, 3, 4)).int().tolist())
    assert before in counts and any(c[0] > before[0] for c in counts) and any(c[0] < before[0] for c in counts)


def test_only_components_below_the_given_share_of_the_patch_are_dropped():
    dropping = replace(SETTINGS, morphology=0.0, drop_component=1.0, channel=1.0, drop_below=0.05)  # 109 voxels: the first class has 216
    seen = set()
    for seed in range(20):
        out = augment_previous_stage(channels_of(), settings=dropping, generator=generator_for(seed))
        seen.add(tuple(out.sum(dim=(0, 2, 3, 4)).int().tolist()))
    assert seen == {(216, 1), (216, 48)}


def test_the_same_generator_state_disturbs_alike():
    first, again = (
        augment_previous_stage(channels_of(), settings=replace(SETTINGS, morphology=1.0), generator=generator_for(7)) for _ in range(2)
    )
    assert torch.equal(first, again)


@pytest.mark.parametrize("planar", [True, False])
def test_the_structuring_element_is_round(planar):
    element = ball(2.3, planar=planar)
    assert element.shape == ((1 if planar else 5), 5, 5) and element[element.shape[0] // 2, 2, 0] and not element[0, 0, 0]
    assert np.array_equal(element, element[:, ::-1, ::-1])
