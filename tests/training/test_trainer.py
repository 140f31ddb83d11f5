import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.labels import make_labels
from autoseg.training.batches import BatchLoader
from autoseg.training.schedule import learning_rate
from autoseg.training.settings import read_settings
from autoseg.training.trainer import Trainer
from tests.training.made import MadeCase, make_case, make_plan

pytestmark = pytest.mark.slow


def two_sided_case(seed):
    """Two boxes that look alike, left and right of a bright midline."""
    rng, shape = np.random.default_rng(seed), (8, 12, 24)
    pixels = rng.normal(size=(1, *shape)).astype(np.float32) * 0.3
    pixels[0, :, :, 12] += 4
    classes = np.zeros(shape, np.uint8)
    for label, (low, high) in ((1, (1, 6)), (2, (13, 19))):
        z, y, x = (int(rng.integers(a, b)) for a, b in ((1, 4), (1, 6), (low, high)))
        box = (slice(z, z + 4), slice(y, y + 5), slice(x, x + 5))
        classes[box] = label
        pixels[(0, *box)] += 2
    return MadeCase(f"case{seed}", pixels, classes)


def test_training_that_mirrors_left_and_right_never_labels_the_wrong_side():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    labels = make_labels({"background": 0, "left": 1, "right": 2}, pairs=(("left", "right"),))
    plan, configuration = make_plan(patch=(8, 12, 24), labels=labels, swap_axis=2, mirror_axes=(0, 1, 2), features=(8, 16, 32))
    settings, steps = read_settings(plan.settings), 200
    common = {"plan": plan, "configuration": configuration, "settings": settings, "device": torch.device("cpu"), "seed": 0}
    trainer, batches = Trainer(**common), BatchLoader([two_sided_case(i) for i in range(12)], memory=1e9, **common)
    for step in range(steps):
        trainer.step(batches.batch(step), learning_rate=learning_rate(step / steps, top=0.01, settings=settings.schedule))
    trainer.averaged.eval()
    wrong = right = 0
    with torch.inference_mode():
        for seed in range(100, 108):
            case = two_sided_case(seed)
            for axes in ((), (4,), (3,)):
                found = trainer.averaged(torch.from_numpy(case.pixels)[None].flip(axes)).flip(axes).argmax(1)[0].numpy()
                found = np.array([0, 2, 1])[found] if 4 in axes else found
                wrong += int(((found != case.classes) & (found > 0) & (case.classes > 0)).sum())
                right += int(((found == case.classes) & (found > 0)).sum())
    torch.set_num_threads(threads)
    assert wrong == 0 and right > 0.95 * 3 * 8 * 200


def one_trainer(**changes):
    plan, configuration = make_plan(patch=(8, 8, 8))
    settings = read_settings(plan.settings, {"ema": 0, **changes})
    common = {"plan": plan, "configuration": configuration, "settings": settings, "device": torch.device("cpu"), "seed": 0}
    return Trainer(**common), BatchLoader([make_case("one", (9, 10, 11))], memory=1e9, **common).batch(0)


def test_gradients_longer_than_the_clipping_norm_are_shortened_to_it():
    weights = {}
    for clip in (0.0, 0.01, 1e6):
        sgd = {"optimizer.name": "sgd", "optimizer.nesterov": False, "optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0}
        trainer, batch = one_trainer(**sgd, **{"optimizer.clip_norm": clip})
        before = {name: value.clone() for name, value in trainer.weights().items()}
        norm = trainer.step(batch, learning_rate=1.0).gradient_norm
        moved = torch.cat([(value - before[name]).flatten() for name, value in trainer.weights().items()]).norm()
        assert norm > 0.02, "else nothing is clipped"
        weights[clip] = float(moved)
        assert float(moved) == pytest.approx(0.01 if clip == 0.01 else norm, rel=1e-3)
    assert weights[0.0] == weights[1e6]


def test_half_precision_learns_with_a_scaled_loss_and_skips_what_overflows():
    trainer, batch = one_trainer(precision="float16")
    assert trainer.precision == torch.float16 and trainer.state()["scaler"]["scale"] > 1
    steps = [trainer.step(batch, learning_rate=0.003) for _ in range(12)]
    taken = [step for step in steps if step.taken]
    assert len(taken) == trainer.steps >= 8, "a scale that is too large at first costs a few steps"
    assert taken[-1].loss < taken[0].loss
    assert all(bool(torch.isfinite(value).all()) for value in trainer.weights().values())
    weights, scale = {name: value.clone() for name, value in trainer.weights().items()}, trainer.state()["scaler"]["scale"]
    batch.image[0, 0, 0, 0, 0] = float("inf")
    assert not trainer.step(batch, learning_rate=0.003).taken
    assert all(torch.equal(value, weights[name]) for name, value in trainer.weights().items())
    assert trainer.state()["scaler"]["scale"] < scale


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_probe_leaves_everything_as_it_was_also_the_scale_of_the_loss(precision):
    trainer, batch = one_trainer(precision=precision, ema=0.9)
    fresh = copy.deepcopy(trainer.state())
    steps = trainer.probe(batch, steps=12, learning_rate=0.003)
    taken = [step.loss for step in steps if step.taken]
    assert len(steps) == 13 and len(taken) > 8 and taken[-1] < taken[0]
    assert_same(trainer.state(), fresh)


def test_a_probe_ends_where_every_further_step_would_be_the_same():
    trainer, batch = one_trainer(precision="float32")
    batch.image[0, 0, 0, 0, 0] = float("nan")
    assert [step.taken for step in trainer.probe(batch, steps=5, learning_rate=0.003)] == [False]
    trainer, batch = one_trainer(precision="float32")
    nothing = replace(batch, target=torch.zeros_like(batch.target), annotated=torch.tensor([[True, False, False]] * 2))
    assert [step.learns_nothing for step in trainer.probe(nothing, steps=5, learning_rate=0.003)] == [True]


def assert_same(value, expected):
    """Nested dicts, lists and tensors."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected)
    elif isinstance(expected, dict | list):
        items = expected.items() if isinstance(expected, dict) else enumerate(expected)
        assert len(value) == len(expected)
        for key, item in items:
            assert_same(value[key], item)
    else:
        assert value == expected
