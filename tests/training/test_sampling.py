import json
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.training.sampling import BEYOND_CASE, CaseInMemory, foreground_places, generator_for, pick_patches, read_patch
from tests.training.made import MadeCase, make_case


def pick(cases, step, **changes):
    options = {"patch": (4, 6, 5), "batch": 3, "seed": 7, "share": 0.33, "rounding": "nearest"} | changes
    return pick_patches(cases, step=step, **options)


def test_the_last_samples_of_a_batch_are_forced_as_the_reference_does(golden):
    given_places = json.loads((golden / "golden-numerics.json").read_text())["oversampled_indices"]
    for batch, indices in given_places.items():
        places = foreground_places(int(batch), share=0.33, rounding="nearest")
        assert [i for i, forced in enumerate(places) if forced] == indices


def test_rounding_up_forces_at_least_one_sample_of_every_batch():
    for batch in range(1, 40):
        places = foreground_places(batch, share=0.33, rounding="up")
        assert len(places) == batch and sum(places) == int(np.ceil(batch * 0.33))


def test_every_case_is_seen_once_before_any_is_seen_again(cases):
    seen = [p.case for step in range(8) for p in pick(cases, step)]  # 24 patches of 6 cases
    for round_number in range(4):
        assert sorted(seen[6 * round_number : 6 * round_number + 6]) == list(range(6))
    assert seen[:6] != seen[6:12]


def test_a_step_is_the_same_whichever_steps_came_before(cases):
    in_order = [pick(cases, step) for step in range(5)]
    assert [pick(cases, step) for step in (3, 0, 4)] == [in_order[3], in_order[0], in_order[4]]
    assert pick(cases, 3, seed=8) != in_order[3]


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 50))
def test_patches_lie_inside_the_case_or_are_centred_on_it(shape, patch, step):
    case = make_case("a", shape)
    for p in pick([case], step, patch=patch):
        for start, n, size in zip(p.start, shape, patch, strict=True):
            if n >= size:
                assert 0 <= start <= n - size
            else:
                assert abs((start + size / 2) - n / 2) <= 0.5 and start <= 0


def test_random_patches_reach_every_place():
    case = make_case("a", (6, 8, 7))
    starts = {p.start for step in range(400) for p in pick([case], step, share=0.0)}
    assert starts == {(z, y, x) for z in range(3) for y in range(3) for x in range(3)}


def test_forced_patches_hold_foreground_and_meet_small_structures_as_often_as_large_ones():
    classes = np.zeros((20, 20, 20), np.uint8)
    classes[2:10, 2:10, 2:10] = 1
    classes[18, 17, 19] = 2  # one voxel, in a corner
    case = MadeCase("a", np.zeros((1, 20, 20, 20), np.float32), classes)
    met = Counter()
    for step in range(300):
        for p in pick([case], step, batch=1, share=1.0):
            box = tuple(slice(a, a + n) for a, n in zip(p.start, (4, 6, 5), strict=True))
            met[2 if (classes[box] == 2).any() else 1] += 1
            assert classes[box].any()
    assert 110 < met[2] < 190


def test_a_case_without_foreground_gives_random_patches():
    case = MadeCase("a", np.zeros((1, 9, 9, 9), np.float32), np.zeros((9, 9, 9), np.uint8))
    assert all(min(p.start) >= 0 for p in pick([case], 0, share=1.0))


def test_with_sparse_annotation_every_patch_holds_annotated_voxels():
    classes = np.full((30, 30, 30), 2, np.uint8)  # 2: not annotated
    classes[20:24, 5:9, 11:14] = 0
    places = {-1: np.argwhere(classes == 0)}
    case = MadeCase("a", np.zeros((1, 30, 30, 30), np.float32), classes, locations=places)
    for step in range(30):
        for p in pick([case], step):
            box = tuple(slice(a, a + n) for a, n in zip(p.start, (4, 6, 5), strict=True))
            assert (classes[box] == 0).any()


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-9, 12)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_reading_beyond_the_border_gives_zeros_and_outside(start, shape):
    case = make_case("a", (5, 7, 6))
    far = 20
    pixels = np.pad(case.pixels, ((0, 0), *[(far, far)] * 3))
    classes = np.pad(case.classes.astype(np.int16), far, constant_values=BEYOND_CASE)
    box = tuple(slice(a + far, a + far + n) for a, n in zip(start, shape, strict=True))
    for source in (case, CaseInMemory(case)):
        patch = read_patch(source, start=start, shape=shape, previous=case.classes)
        assert np.array_equal(patch.image.numpy(), pixels[(slice(None), *box)])
        assert np.array_equal(patch.label.numpy(), classes[box])
        assert np.array_equal(patch.previous.numpy(), np.pad(case.classes, far)[box])


def test_reading_leaves_the_case_as_it_is():
    case = CaseInMemory(make_case("a", (4, 6, 5)))
    before = case.image().copy()
    read_patch(case, start=(0, 0, 0), shape=(4, 6, 5)).image.add_(1)
    assert np.array_equal(case.image(), before)


def test_background_outside_the_mask_is_marked_and_foreground_there_is_kept():
    case = make_case("a", (5, 6, 7))
    case.inside = np.random.default_rng(0).random(case.shape) < 0.5
    for source in (case, CaseInMemory(case)):
        label = read_patch(source, start=(0, 0, 0), shape=case.shape).label.numpy()
        assert np.array_equal(label, np.where(~case.inside & (case.classes == 0), BEYOND_CASE, case.classes.astype(int)))


def test_generators_of_different_streams_differ_and_of_the_same_agree():
    draws = {stream: float(torch.rand((), generator=generator_for(3, *stream))) for stream in ((0,), (1,), (0, 1), (1, 0), (1, 1))}
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 0] == float(torch.rand((), generator=generator_for(3, 1, 0)))
