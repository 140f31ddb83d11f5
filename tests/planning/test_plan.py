"""Whole plans: what must hold for any data set and any machine, and the edge cases by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoseg.errors import NotEnough, SettingsError
from autoseg.labels import make_labels
from autoseg.planning.configuration import Configuration, Plan
from autoseg.planning.constants import read_constants
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.plan import make_plan
from autoseg.planning.preflight import stored_bytes
from autoseg.planning.sizing import SizingRequest, candidates
from autoseg.planning.validation import validate_plan
from tests.planning.fingerprints import CPU, TWO_LABELS, card, make_fingerprint, preset

pytestmark = pytest.mark.slow

PRIMES = [n for n in range(11, 420) if all(n % d for d in range(2, n))]

shapes = st.tuples(*[st.integers(1, 500)] * 3)
spacings = st.tuples(*[st.floats(0.15, 9)] * 3)
data_sets = st.lists(st.tuples(shapes, spacings), min_size=1, max_size=6).map(lambda c: make_fingerprint(*zip(*c, strict=True)))
bytes_ = st.floats(2e9, 120e9)


def seen(c: Configuration) -> int:
    """Voxels per step."""
    return math.prod(c.patch_size) * c.batch_size


@settings(max_examples=40, deadline=None)
@given(data_sets, bytes_, st.sampled_from(["default", "nnunet", "resenc-l"]))
def test_every_plan_is_one_that_can_be_trained(fingerprint, memory, name):
    plan = make_plan(fingerprint, preset=preset(name), machine=card(memory))
    validate_plan(plan)  # divisibility, shortest edge, lists that fit together
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert all(c.batch_size >= 2 for c in plan.configurations)


@settings(max_examples=40, deadline=None)
@given(data_sets, bytes_)
def test_the_memory_budget_is_kept(fingerprint, memory):
    plan = make_plan(fingerprint, preset=preset(), machine=card(memory))
    for c in plan.configurations:
        channels = 1 + 2 * (c.previous_stage is not None)
        assert modelled_footprint(c, channels, 3).training_bytes <= 0.9 * memory


@settings(max_examples=40, deadline=None)
@given(data_sets, bytes_, bytes_)
def test_more_memory_never_shows_the_network_less(fingerprint, one, other):
    small, large = sorted((one, other))
    less = make_plan(fingerprint, preset=preset(), machine=card(small))
    more = make_plan(fingerprint, preset=preset(), machine=card(large))
    for name in ("2d", "3d_fullres"):
        if name in [c.name for c in less.configurations]:
            assert seen(more.configuration(name)) >= seen(less.configuration(name))


@settings(max_examples=20, deadline=None)
@given(data_sets, st.floats(20, 1e5), st.floats(20, 1e5))
def test_more_time_never_shows_the_network_less_per_step(fingerprint, one, other):
    brief, long = sorted((one, other))
    less = make_plan(fingerprint, preset=preset(), machine=CPU, time_budget=brief)
    more = make_plan(fingerprint, preset=preset(), machine=CPU, time_budget=long)
    assert seen(more.configuration("2d")) >= seen(less.configuration("2d"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(PRIMES), min_size=3, max_size=3, unique=True),
    st.lists(st.floats(0.3, 6), min_size=3, max_size=3, unique=True),
    st.permutations(range(3)),
    bytes_,
)
def test_a_permutation_of_the_axes_permutes_the_plan(shape, spacing, order, memory):
    assume(max(spacing) / min(spacing) > 1.01)
    turned = make_fingerprint([tuple(shape[a] for a in order)] * 4, [tuple(spacing[a] for a in order)] * 4)
    straight = make_fingerprint([tuple(shape)] * 4, [tuple(spacing)] * 4)
    first, second = (make_plan(f, preset=preset(), machine=card(memory)) for f in (straight, turned))
    assert order[second.axis_order[0]] == first.axis_order[0]  # the same anatomical axis is the coarsest
    for name in ("3d_fullres", "2d"):
        patches = [dict(zip(plan.axis_order, plan.configuration(name).patch_size, strict=True)) for plan in (first, second)]
        back = {order[axis]: edge for axis, edge in patches[1].items()}
        ties = len({edge / n for edge, n in zip(patches[0].values(), shape, strict=True)}) < 3
        assert ties or back == patches[0]
        assert first.configuration(name).batch_size == second.configuration(name).batch_size


def test_a_traced_footprint_that_is_larger_than_modelled_gives_a_smaller_network():
    fingerprint = make_fingerprint([(300, 300, 300)] * 20, [(1.0, 1.0, 1.0)] * 20)

    def doubled(c: Configuration, channels: int, heads: int) -> Footprint:
        cost = modelled_footprint(c, channels, heads)
        return replace(cost, training_bytes=2 * cost.training_bytes)

    modelled = make_plan(fingerprint, preset=preset(), machine=card(12e9)).configuration("3d_fullres")
    traced = make_plan(fingerprint, preset=preset(), machine=card(12e9), footprint=doubled).configuration("3d_fullres")
    assert seen(traced) < seen(modelled)
    assert traced.predicted is not None
    assert 0.6 * 12e9 < traced.predicted.training_memory_bytes <= 0.9 * 12e9


def test_too_little_memory_for_any_network_is_said_with_figures():
    with pytest.raises(NotEnough, match="does not fit") as error:
        make_plan(make_fingerprint([(64, 64, 64)], [(1.0, 1.0, 1.0)]), preset=preset(), machine=card(10e6))
    assert "MB" in str(error.value)


def test_a_data_set_without_cases_is_refused():
    with pytest.raises(SettingsError, match="without cases"):
        make_plan(make_fingerprint([], []), preset=preset(), machine=CPU)


def test_a_processor_gets_a_narrow_network_and_is_told_what_the_reference_would_do():
    plan = make_plan(make_fingerprint([(36, 50, 35)] * 200, [(1.0, 1.0, 1.0)] * 200), preset=preset(), machine=CPU)
    c = plan.configuration("3d_fullres")
    assert (c.patch_size, c.batch_size) == ((32, 48, 32), 2)
    assert c.features_per_stage == (24, 48, 96, 192)
    assert any("would take patch 40 x 56 x 40, batch" in reason for reason in c.reasons)
    assert c.predicted is not None and c.predicted.seconds_per_epoch is not None
    assert plan.device["time_budget"] == 600


def test_reasons_tell_the_numbers_behind_thick_slices():
    plan = make_plan(make_fingerprint([(20, 256, 256)] * 9, [(6.0, 1.0, 1.0)] * 9), preset=preset(), machine=CPU)
    text = " ".join([*plan.reasons, *plan.configuration("3d_fullres").reasons])
    assert "6 mm along z" in text
    assert "6.0 times the in-plane spacing" in text
    assert "1 x 3 x 3" in text


def test_the_room_on_disk_is_predicted_for_every_configuration():
    fingerprint = make_fingerprint([(200, 260, 240)] * 6, [(1.0, 1.0, 1.0)] * 6)
    plan = make_plan(fingerprint, preset=preset(), machine=CPU, time_budget=60)
    assert {c.name for c in plan.configurations} == {"2d", "3d_lowres", "3d_fullres", "3d_cascade"}
    for c in plan.configurations:
        assert c.predicted is not None
        assert c.predicted.disk_bytes == int(stored_bytes(c, plan, fingerprint))


def test_a_time_budget_shapes_nothing_on_a_card_whose_speed_is_unknown():
    fingerprint = make_fingerprint([(200, 260, 240)] * 30, [(1.0, 1.0, 1.0)] * 30)
    free, bound = (make_plan(fingerprint, preset=preset(), machine=card(24e9), time_budget=budget) for budget in (None, 600))
    for one, other in zip(free.configurations, bound.configurations, strict=True):
        assert replace(one, reasons=()) == replace(other, reasons=())
    assert "Its speed is unknown here" in bound.reasons[0]


def test_a_time_budget_asks_for_a_low_resolution_stage_that_sees_half_of_the_case():
    fingerprint = make_fingerprint([(90, 110, 100)] * 30, [(1.0, 1.0, 1.0)] * 30)
    low = make_plan(fingerprint, preset=preset(), machine=CPU, time_budget=600).configuration("3d_lowres")
    assert math.prod(low.patch_size) / math.prod(low.median_shape) >= 0.5
    assert "3d_lowres" not in by_name(make_plan(fingerprint, preset=preset(), machine=card(24e9)))


@pytest.mark.parametrize(
    ("median", "patch"),
    [((36, 50, 35), (32, 48, 32)), ((32, 48, 32), (32, 48, 32)), ((23, 23, 23), (24, 24, 24))],
    ids=["rounded down", "exact", "rounded up where too little would be seen"],
)
def test_a_time_budget_is_not_spent_on_padding(median, patch):
    fingerprint = make_fingerprint([median] * 200, [(1.0, 1.0, 1.0)] * 200)
    timed, free = (make_plan(fingerprint, preset=preset(), machine=machine).configuration("3d_fullres") for machine in (CPU, card(24e9)))
    assert timed.patch_size == patch
    assert all(edge >= whole for edge, whole in zip(free.patch_size, median, strict=True))


@pytest.mark.parametrize("edge", [39, 79, 159])
def test_a_little_padding_is_no_reason_to_see_less_of_the_case(edge):
    request = SizingRequest(
        name="3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(edge,) * 3,
        dataset_voxels=1e9,
        counted_labels=3,
        normalization=("zscore",),
    )
    timed, free = (candidates(request, read_constants(preset().values), timed=timed)[-1].patch_size for timed in (True, False))
    assert timed == free == (edge + 1,) * 3


def by_name(plan: Plan) -> dict[str, Configuration]:
    return {c.name: c for c in plan.configurations}


@pytest.mark.parametrize("machine", [CPU, card(6e9), card(80e9)], ids=["cpu", "6G", "80G"])
@pytest.mark.parametrize("name", ["default", "nnunet"])
class TestEdgeCases:
    """Each is planned by the default and by the reference's rules, for small and large machines."""

    def plan(self, name, machine, *arguments, **options):
        plan = make_plan(make_fingerprint(*arguments, **options), preset=preset(name), machine=machine)
        validate_plan(plan)
        assert plan.reasons and all(c.reasons for c in plan.configurations)
        return plan

    def test_one_case(self, name, machine):
        assert "3d_fullres" in by_name(self.plan(name, machine, [(60, 70, 80)], [(1.0, 1.0, 1.0)]))

    def test_planar_data_have_only_2d(self, name, machine):
        plan = self.plan(name, machine, [(1, 512, 640)] * 5, [(1.0, 1.0, 1.0)] * 5)
        assert list(by_name(plan)) == ["2d"]
        assert plan.mirror_axes == (1, 2)

    def test_planar_data_stored_along_another_axis(self, name, machine):
        plan = self.plan(name, machine, [(512, 640, 1)] * 5, [(1.0, 1.0, 0.2)] * 5)
        assert list(by_name(plan)) == ["2d"]
        assert plan.axis_order == (2, 0, 1)

    def test_thin_stacks_are_not_halved_across_slices(self, name, machine):
        plan = self.plan(name, machine, [(5, 256, 256)] * 5, [(8.0, 1.0, 1.0)] * 5)
        assert {stride[0] for stride in by_name(plan)["3d_fullres"].strides} == {1}

    def test_micro_ct_of_a_thousand_voxels_each_way_has_a_cascade(self, name, machine):
        plan = self.plan(name, machine, [(1000, 1000, 1000)] * 4, [(0.01, 0.01, 0.01)] * 4)
        assert {"3d_lowres", "3d_cascade"} <= set(by_name(plan))

    def test_spacing_that_differs_fifty_fold(self, name, machine):
        plan = self.plan(name, machine, [(100, 100, 100)] * 5, [(5.0, 0.1, 5.0)] * 5)
        c = by_name(plan)["3d_fullres"]
        assert c.kernel_sizes[0] != (3, 3, 3)

    def test_slices_that_are_far_finer_across_than_in_plane(self, name, machine):
        self.plan(name, machine, [(2, 608, 380)], [(0.0315, 4.28, 0.2)])

    def test_eight_channels(self, name, machine):
        plan = self.plan(name, machine, [(60, 70, 80)] * 5, [(1.0, 1.0, 1.0)] * 5, modalities=["MR"] * 7 + ["CT"])
        assert by_name(plan)["3d_fullres"].normalization == ("zscore",) * 7 + ("ct",)

    def test_two_hundred_labels(self, name, machine):
        labels = make_labels({"background": 0, **{f"label {i}": i for i in range(1, 200)}})
        self.plan(name, machine, [(150, 200, 160)] * 5, [(1.0, 1.0, 1.0)] * 5, labels=labels)

    def test_regions_and_an_ignore_value(self, name, machine):
        regions = {"whole": ((1, 2, 3), 1), "core": ((2, 3), 2), "enhancing": ((3,), 3)}
        labels = make_labels({"background": 0, "oedema": 1, "necrosis": 2, "enhancing tumour": 3}, regions=regions, ignore=4)
        plan = self.plan(name, machine, [(150, 200, 160)] * 5, [(1.0, 1.0, 1.0)] * 5, labels=labels)
        assert plan.labels.output_channels == 3

    def test_tiny_images(self, name, machine):
        self.plan(name, machine, [(6, 7, 9)] * 5, [(1.0, 1.0, 1.0)] * 5)


def test_much_cropping_normalises_inside_the_mask():
    fingerprint = make_fingerprint([(60, 70, 80)] * 3, [(1.0, 1.0, 1.0)] * 3, modalities=["MR", "CT", "PET"], left=0.74)
    plan = make_plan(fingerprint, preset=preset(), machine=CPU)
    assert plan.configuration("2d").normalization == ("zscore_mask", "ct", "zscore_mask")
    kept = replace(fingerprint, relative_size_after_crop=0.75)
    assert make_plan(kept, preset=preset(), machine=CPU).configuration("2d").normalization == ("zscore", "ct", "zscore")


def test_fewer_features_for_the_same_labels_are_a_change_of_preset_alone():
    fingerprint = make_fingerprint([(60, 70, 80)] * 30, [(1.0, 1.0, 1.0)] * 30, labels=TWO_LABELS)
    c = make_plan(fingerprint, preset=preset("nnunet", "base_features=16"), machine=card(8e9)).configuration("3d_fullres")
    assert c.features_per_stage[0] == 16


PAIRED = make_labels({"background": 0, "kidney_left": 1, "kidney_right": 2}, pairs=(("kidney_left", "kidney_right"),))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_patches_reach_from_side_to_side_where_labels_come_in_pairs(order):
    shape, spacing = (25, 68, 66), (3.0, 1.0, 1.0) if order == (0, 1, 2) else (1.0, 1.0, 3.0)
    shapes = [shape if order == (0, 1, 2) else (66, 68, 25)]
    for labels, whole in ((PAIRED, True), (TWO_LABELS, False)):
        plan = make_plan(
            make_fingerprint(shapes * 24, [spacing] * 24, labels=labels),
            preset=preset("default", "sizing.paired_elongation=3.0"),
            machine=replace(CPU, conv_flops=130e9),
            time_budget=75,
        )
        full = plan.configuration("3d_fullres")
        axis = plan.axis_order.index(2)
        if order == (0, 1, 2):
            assert (full.patch_size[axis] >= 0.95 * full.median_shape[axis]) == whole
        assert any("from side to side" in reason for reason in full.reasons) == whole
        smaller = [edge for index, edge in enumerate(full.patch_size) if index != axis]
        lengths = [edge * mm for edge, mm in zip(full.patch_size, full.spacing, strict=True)]
        assert lengths[axis] <= 3 * min(lengths) + 1e-6 and min(smaller) > 1


def test_a_patch_is_not_made_a_needle_to_see_both_sides():
    shapes, spacings = [(300, 512, 512)] * 20, [(1.0, 0.8, 0.8)] * 20
    plan = make_plan(
        make_fingerprint(shapes, spacings, labels=PAIRED),
        preset=preset("default", "sizing.paired_elongation=3.0"),
        machine=replace(CPU, conv_flops=130e9),
        time_budget=600,
    )
    full = plan.configuration("3d_fullres")
    lengths = [edge * mm for edge, mm in zip(full.patch_size, full.spacing, strict=True)]
    assert 1.5 * min(lengths[:2]) < lengths[2] <= 3.5 * min(lengths[:2])
    assert any("of the axis from left to right" in reason for reason in full.reasons)


def test_the_reference_planner_knows_no_pairs():
    plans = [
        make_plan(make_fingerprint([(120, 300, 320)] * 20, [(1.0, 1.0, 1.0)] * 20, labels=labels), preset=preset("nnunet"), machine=CPU)
        for labels in (PAIRED, TWO_LABELS)
    ]
    assert plans[0].configuration("3d_fullres").patch_size == plans[1].configuration("3d_fullres").patch_size
