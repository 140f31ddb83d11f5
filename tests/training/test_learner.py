import numpy as np
import torch

from autoseg.labels import make_labels
from autoseg.training.batches import Batches
from autoseg.training.learner import Learner
from autoseg.training.schedule import learning_rate
from autoseg.training.settings import read_settings
from tests.training.made import MadeCase, make_plan


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
    learner, batches = Learner(**common), Batches([two_sided_case(i) for i in range(12)], memory=1e9, **common)
    for step in range(steps):
        learner.step(batches.batch(step), learning_rate=learning_rate(step / steps, top=0.01, settings=settings.schedule))
    learner.averaged.eval()
    wrong = right = 0
    with torch.inference_mode():
        for seed in range(100, 108):
            case = two_sided_case(seed)
            for axes in ((), (4,), (3,)):
                found = learner.averaged(torch.from_numpy(case.pixels)[None].flip(axes)).flip(axes).argmax(1)[0].numpy()
                found = np.array([0, 2, 1])[found] if 4 in axes else found
                wrong += int(((found != case.classes) & (found > 0) & (case.classes > 0)).sum())
                right += int(((found == case.classes) & (found > 0)).sum())
    torch.set_num_threads(threads)
    assert wrong == 0 and right > 0.95 * 3 * 8 * 200
