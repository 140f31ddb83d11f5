import hashlib
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.labels import make_labels
from autoseg.training.batches import BatchLoader
from autoseg.training.batchgenerators_backend import mirroring_only
from autoseg.training.history import Clock, EpochWatch, row_of
from autoseg.training.length import RunLength
from autoseg.training.settings import read_settings
from tests.training.made import make_case, make_plan


def make_batches(cases, plan, configuration, *, memory=1e9, settings=None, **options):
    settings = settings or read_settings(plan.settings)
    return BatchLoader(
        cases, plan=plan, configuration=configuration, settings=settings, seed=3, device=torch.device("cpu"), memory=memory, **options
    )


def quiet(plan, **changes):
    """Settings without augmentation, but for what is named."""
    settings = read_settings(plan.settings)
    nothing = replace(mirroring_only(settings.augmentation), rotation=0.0, scaling=0.0, mirror=0.0)
    return replace(settings, augmentation=replace(nothing, **changes))


def test_a_batch_depends_on_its_step_alone_read_ahead_or_not(cases):
    plan, configuration = make_plan()
    kept, read_ahead = make_batches(cases, plan, configuration), make_batches(cases, plan, configuration, memory=0)
    assert kept.in_memory and not read_ahead.in_memory
    in_order = [kept.batch(step) for step in range(4)]
    for step in (0, 1, 2, 3, 2, 0):
        ahead = read_ahead.batch(step)
        assert torch.equal(ahead.image, in_order[step].image) and torch.equal(ahead.target, in_order[step].target)
        assert ahead.cases == in_order[step].cases
    read_ahead.close()
    assert in_order[0].image.shape == (2, 1, 8, 12, 10) and in_order[0].target.shape == (2, 8, 12, 10)
    assert in_order[0].target.dtype == torch.int64 and int(in_order[0].target.min()) >= 0


def test_without_augmentation_a_batch_is_cut_out_of_the_cases(cases):
    plan, configuration = make_plan(patch=(4, 6, 5))
    batches = make_batches(cases, plan, configuration, settings=quiet(plan))
    by_name = {case.name: case for case in cases}
    for step in range(5):
        batch = batches.batch(step)
        for image, target, name in zip(batch.image, batch.target, batch.cases, strict=True):
            views = np.lib.stride_tricks.sliding_window_view(by_name[name].pixels[0], (4, 6, 5))
            (place,) = np.argwhere((views == image[0].numpy()).all(axis=(3, 4, 5)))
            box = tuple(slice(a, a + n) for a, n in zip(place, (4, 6, 5), strict=True))
            assert np.array_equal(target.numpy(), by_name[name].classes[box])


def test_an_error_of_the_reading_thread_is_raised_where_the_batch_is_asked_for(cases):
    plan, configuration = make_plan()

    def broken(slices=None):
        raise OSError("the disk is gone")

    for case in cases:
        case.image = broken
    batches = make_batches(cases, plan, configuration, memory=0)
    with pytest.raises(OSError, match="the disk is gone"):
        batches.batch(0)
    batches.close()


@pytest.mark.parametrize(("slow", "cause"), [("disk", "for files"), ("processor", "for decompression"), (None, "for processors")])
def test_what_the_network_waits_for_is_named(cases, slow, cause):
    plan, configuration = make_plan()
    whole = type(cases[0]).image

    def late(self, slices=None):
        if slow == "disk":
            time.sleep(0.02)
        end = time.thread_time() + 0.02
        while slow == "processor" and time.thread_time() < end:
            hashlib.sha256(bytes(2**20))  # computes without Python's lock, as decompression does
        return whole(self, slices)

    for case in cases:
        case.image = late.__get__(case)
    batches = make_batches(cases, plan, configuration, memory=1e9 if slow is None else 0)
    watch = EpochWatch(Clock(0.0), batches)
    for step in range(3):
        batches.batch(step)
    length = RunLength(epochs=1, steps_per_epoch=9)
    row = row_of(epoch=1, step=3, losses=[1.0], watch=watch, length=length, share=0.3, learning_rate=0.01, device=torch.device("cpu"))
    batches.close()  # which takes its time
    assert batches.waiting_for.startswith(cause)
    if slow:
        assert row.data_wait > 0.2 and row.waiting_for == batches.waiting_for
        assert f"({batches.waiting_for})" in str(row)
        assert "(" not in str(replace(row, waiting_for=None))


def test_masked_channels_stay_zero_outside_the_mask_and_others_do_not():
    plan, configuration = make_plan(channels=2)
    configuration = replace(configuration, normalization=("zscore_mask", "zscore"))
    case = make_case("a", (8, 12, 10), channels=2)
    case.inside = np.zeros(case.shape, bool)
    case.inside[2:6, 3:9, 2:8] = True
    case.inside |= case.classes > 0
    settings = quiet(plan, noise=1.0, noise_sigma=(0.1, 0.1))
    image = make_batches([case], plan, configuration, settings=settings).batch(0).image
    outside = torch.from_numpy(~case.inside)
    assert float(image[:, 0][:, outside].abs().max()) == 0 < float(image[:, 0][:, ~outside].abs().min())
    assert float(image[:, 1][:, outside].abs().min()) > 0


def test_flipping_a_slice_along_its_thickness_swaps_no_labels():
    labels = make_labels({"background": 0, "left": 1, "right": 2}, pairs=(("left", "right"),))
    plan, configuration = make_plan(name="2d", patch=(1, 12, 10), labels=labels, swap_axis=0)
    case = make_case("a", (1, 12, 10))
    batches = make_batches([case], plan, configuration, settings=quiet(plan, mirror=1.0))
    target = batches.batch(0).target
    assert torch.equal(target[0, 0], torch.from_numpy(case.classes[0].astype(np.int64)).flip((0, 1)))


def test_the_previous_stage_becomes_channels_that_move_with_the_image(cases):
    plan, configuration = make_plan(name="3d_cascade", previous_stage="3d_lowres")
    settings = quiet(plan, mirror=0.5, rotation=1.0)
    settings = replace(settings, cascade=replace(settings.cascade, morphology=0.0, drop_component=0.0))
    previous = {case.name: case.classes for case in cases}
    batch = make_batches(cases, plan, configuration, settings=settings, previous=previous).batch(1)
    assert batch.image.shape[1] == 3
    for channel, c in ((1, 1), (2, 2)):
        assert torch.equal(batch.image[:, channel], (batch.target == c).float())


def test_annotation_of_each_case_travels_with_its_samples(cases):
    plan, configuration = make_plan(batch=6)
    cases[2].annotated, cases[4].annotated = ("bright",), ()
    batch = make_batches(cases, plan, configuration).batch(0)
    expected = {"case2": [True, True, False], "case4": [True, False, False]}
    assert batch.annotated.tolist() == [expected.get(name, [True] * 3) for name in batch.cases]
    assert make_batches(cases[:2], plan, configuration).batch(0).annotated is None


@pytest.mark.parametrize("backend", ["torch", "batchgenerators"])
def test_annotation_of_a_flipped_sample_is_that_of_its_other_side(backend):
    labels = make_labels({"background": 0, "left": 1, "right": 2}, pairs=(("left", "right"),))
    plan, configuration = make_plan(batch=4, labels=labels, swap_axis=2)
    case = make_case("a", (8, 12, 10))
    case.classes[case.classes == 2] = 0
    case.annotated = ("left",)
    batches = make_batches([case], plan, configuration, settings=quiet(plan, mirror=0.5, backend=backend))
    rows = []
    for step in range(3):
        batch = batches.batch(step)
        for target, row in zip(batch.target, batch.annotated.tolist(), strict=True):
            assert row == [True, bool((target == 1).any()), bool((target == 2).any())]
            rows.append(row)
    assert [True, True, False] in rows and [True, False, True] in rows


def test_both_backends_give_batches_of_one_form(cases):
    plan, configuration = make_plan()
    settings = read_settings(plan.settings, {"augmentation.mirror": 0.0})
    ours = make_batches(cases, plan, configuration, settings=settings).batch(0)
    settings = replace(settings, augmentation=replace(settings.augmentation, backend="batchgenerators"))
    theirs = make_batches(cases, plan, configuration, settings=settings).batch(0)
    assert theirs.image.shape == ours.image.shape and theirs.image.dtype == torch.float32
    assert torch.equal(theirs.target, ours.target) and theirs.cases == ours.cases
