"""Strides and kernels: the rules one by one, and against a slow walk that says them in other words."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.planning.topology import features_per_stage, first_entries, plan_topology


def plan(spacing, patch, **changes):
    return plan_topology(spacing, patch, **{"min_edge": 4, **changes})


def test_isotropic_cube_is_halved_along_all_axes_down_to_four_voxels():
    topology = plan((1, 1, 1), (128, 128, 128))
    assert topology.strides == ((1, 1, 1), *((2, 2, 2),) * 5)
    assert topology.kernel_sizes == ((3, 3, 3),) * 6
    assert topology.patch_size == (128, 128, 128)


def test_coarse_axis_is_not_pooled_until_spacings_are_within_a_factor_of_two():
    topology = plan((4, 1, 1), (16, 128, 128))
    assert topology.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))


def test_kernels_are_flat_while_slices_are_twice_as_far_apart_or_more():
    assert plan((4, 1, 1), (16, 128, 128)).kernel_sizes[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert plan((1.99, 1, 1), (16, 128, 128)).kernel_sizes[0] == (3, 3, 3)
    assert plan((2.0, 1, 1), (16, 128, 128)).kernel_sizes[0] == (1, 3, 3)


def test_patch_is_rounded_up_to_what_the_strides_divide():
    assert plan((1, 1, 1), (36, 50, 35)).patch_size == (40, 56, 40)


def test_axis_of_less_than_eight_voxels_is_never_halved():
    topology = plan((5, 1, 1), (7, 64, 64))
    assert topology.divisor[0] == 1
    assert topology.patch_size[0] == 7


def test_a_single_axis_is_not_halved_alone_below_twelve_voxels():
    assert plan((1, 1, 1), (4, 4, 11)).strides == ((1, 1, 1),)
    assert plan((1, 1, 1), (4, 4, 12)).strides == ((1, 1, 1), (1, 1, 2))


def test_planar_networks_leave_the_first_axis_alone():
    topology = plan((5, 1, 1), (1, 64, 48), planar=True)
    assert {stride[0] for stride in topology.strides} == {1}
    assert {kernel[0] for kernel in topology.kernel_sizes} == {1}


def test_lists_of_the_preset_are_cut_or_continued():
    assert first_entries((1, 3, 4, 6), 2) == (1, 3)
    assert first_entries((1, 3, 4, 6), 6) == (1, 3, 4, 6, 6, 6)
    assert features_per_stage(5, base=32, most=320) == (32, 64, 128, 256, 320)


edges = st.tuples(*[st.integers(1, 400)] * 3)
spacings = st.tuples(*[st.floats(0.2, 12)] * 3)


@settings(max_examples=150, deadline=None)
@given(spacings, edges)
def test_every_topology_divides_its_patch_and_keeps_feature_maps_of_four_voxels(spacing, patch):
    topology = plan(spacing, patch)
    total = [math.prod(stride[axis] for stride in topology.strides) for axis in range(3)]
    assert tuple(total) == topology.divisor
    for axis in range(3):
        assert topology.patch_size[axis] % total[axis] == 0
        assert topology.patch_size[axis] >= patch[axis]
        assert topology.patch_size[axis] < patch[axis] + total[axis]
        if total[axis] > 1:
            assert topology.patch_size[axis] // total[axis] >= 4
    assert len(topology.kernel_sizes) == len(topology.strides)
    assert topology.kernel_sizes[-1] == (3, 3, 3)


@settings(max_examples=100, deadline=None)
@given(spacings, edges)
def test_kernels_only_widen_from_stage_to_stage(spacing, patch):
    topology = plan(spacing, patch)
    for above, below in zip(topology.kernel_sizes, topology.kernel_sizes[1:], strict=False):
        assert all(a <= b for a, b in zip(above, below, strict=True))
