import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg import presets
from autoseg.labels import make_labels
from autoseg.training.loss import boundary_weights, deep_supervision_weights, downsampled, make_loss
from autoseg.training.settings import read_settings

SETTINGS = read_settings(presets.planner("nnunet").values["training"]).loss
PLAIN = make_labels({"background": 0, "a": 1, "b": 2})
IGNORING = make_labels({"background": 0, "a": 1, "b": 2}, ignore=3)


@pytest.fixture
def example():
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(2, 3, 3, 4, 5)), dtype=torch.float32)
    target = torch.tensor(rng.integers(0, 3, size=(2, 3, 4, 5)))
    return logits, target


def slow_loss(logits, target, *, batch_dice, valid=None, classes=(1, 2), smooth=1e-5, samples=None):
    """Voxel by voxel, as the reference describes it."""
    n, heads = logits.shape[:2]
    valid = np.ones(target.shape, bool) if valid is None else valid
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = [-np.log(p[i, target[i][z], *z]) for i in range(n) for z in np.ndindex(target.shape[1:]) if valid[i][z]]
    table = {}
    for i in range(n):
        for c in classes:
            inside = valid[i]
            table[i, c] = np.array(
                [
                    (p[i, c] * (target[i] == c))[inside].sum(),
                    p[i, c][inside].sum(),
                    (target[i] == c)[inside].sum(),
                ]
            )
    groups = [[(i, c) for i in range(n)] for c in classes] if batch_dice else [[(i, c)] for i in range(n) for c in classes]
    dice = []
    for group in groups:
        overlap, predicted, truth = sum(table[key] for key in group)
        dice.append((2 * overlap + smooth) / (predicted + truth + smooth))
    return float(np.mean(entropy) - np.mean(dice))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_loss_equals_the_voxel_by_voxel_sums(example, batch_dice):
    logits, target = example
    loss = make_loss(PLAIN, batch_dice=batch_dice, settings=SETTINGS)([logits], target, None)
    assert float(loss) == pytest.approx(slow_loss(logits.double().numpy(), target.numpy(), batch_dice=batch_dice), abs=1e-5)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_ignored_voxels_take_no_part(example, batch_dice):
    logits, target = example
    ignored = torch.tensor(np.random.default_rng(2).random(target.shape) < 0.3)
    loss = make_loss(IGNORING, batch_dice=batch_dice, settings=SETTINGS)
    value = loss([logits], target.masked_fill(ignored, 3), None)
    expected = slow_loss(logits.double().numpy(), target.numpy(), batch_dice=batch_dice, valid=~ignored.numpy())
    assert float(value) == pytest.approx(expected, abs=1e-5)


def test_a_patch_without_any_annotated_voxel_gives_no_gradient():
    logits = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    make_loss(IGNORING, batch_dice=True, settings=SETTINGS)([logits], torch.full((1, 2, 2, 2), 3), None).backward()
    assert torch.isfinite(logits.grad).all() and float(logits.grad.abs().max()) < 1e-4


@pytest.mark.parametrize("batch_dice", [True, False])
def test_loss_equals_the_reference(golden, batch_dice):
    given = json.loads((golden / "golden-numerics.json").read_text())["loss"]
    logits = torch.tensor(given["logits"])
    value = make_loss(PLAIN, batch_dice=batch_dice, settings=SETTINGS)([logits], torch.tensor(given["target"])[:, 0], None)
    assert float(value) == pytest.approx(given["values"][f"ce_dice_batchdice{batch_dice}"], abs=1e-5)
    target = torch.tensor(given["target_with_ignore3"])[:, 0]
    value = make_loss(IGNORING, batch_dice=batch_dice, settings=SETTINGS)([logits], target, None)
    assert float(value) == pytest.approx(given["values"][f"ce_dice_ignore3_batchdice{batch_dice}"], abs=1e-5)


def region_targets(channels):
    """Independent region channels as classes: one class for every combination of regions."""
    combination = sum(channels[:, i].long() << i for i in range(3))
    names = {f"c{i}": i for i in range(1, 8)}
    regions = {f"r{i}": (tuple(v for v in range(1, 8) if v >> i & 1), 1 << i) for i in range(3)}
    return combination, names, regions


@pytest.mark.parametrize("batch_dice", [True, False])
def test_regions_loss_equals_the_reference(golden, batch_dice):
    from autoseg.labels import Label, Labels, Region

    given = json.loads((golden / "golden-numerics.json").read_text())["loss"]
    logits, channels = torch.tensor(given["logits"]), torch.tensor(given["regions_plus_ignore_channel"])
    target, names, regions = region_targets(channels)
    labels = Labels(
        all=(Label(name="background", value=0), *(Label(name=n, value=v) for n, v in names.items())),
        regions=tuple(Region(name=n, members=m, writes=w) for n, (m, w) in regions.items()),
    )
    value = make_loss(labels, batch_dice=batch_dice, settings=SETTINGS)([logits], target, None)
    assert float(value) == pytest.approx(given["values"][f"bce_dice_batchdice{batch_dice}"], abs=1e-5)

    # The reference sums the three channels' entropy over a mask of one channel: three times our mean.
    target = target.masked_fill(channels[:, 3] > 0, 8)
    loss = make_loss(replace(labels, ignore=8), batch_dice=batch_dice, settings=replace(SETTINGS, voxel_weight=3.0))
    assert float(loss([logits], target, None)) == pytest.approx(given["values"][f"bce_dice_ignore_batchdice{batch_dice}"], abs=1e-5)


def test_deep_supervision_weights_equal_the_reference_and_a_single_output_counts(golden):
    given = json.loads((golden / "golden-numerics.json").read_text())["deep_supervision_weights"]
    assert deep_supervision_weights(1) == (1.0,)  # the reference divides 0 by 0
    for stages in range(3, 10):
        assert deep_supervision_weights(stages - 1) == pytest.approx(given[f"{stages}_stages"])


def test_targets_are_downsampled_as_the_reference_does(golden):
    given = json.loads((golden / "golden-numerics.json").read_text())["ds_downsample"]
    full = torch.tensor(given["out"][0])[None]  # (1, 1, y, x)
    for expected in given["out"]:
        lower = torch.tensor(expected)[None]
        assert torch.equal(downsampled(full, lower.shape[1:]), lower)


def test_each_output_is_compared_at_its_own_resolution(example):
    logits, target = example
    lower = torch.randn(2, 3, 3, 2, 5, generator=torch.Generator().manual_seed(3))
    lowest = torch.randn(2, 3, 1, 1, 1, generator=torch.Generator().manual_seed(4))
    loss = make_loss(PLAIN, batch_dice=True, settings=SETTINGS)
    single = [loss([logits], target, None), loss([lower], downsampled(target, (3, 2, 5)), None)]
    assert float(loss([logits, lower, lowest], target, None)) == pytest.approx(float(single[0] * 2 / 3 + single[1] / 3), abs=1e-6)
    off = make_loss(PLAIN, batch_dice=True, settings=replace(SETTINGS, deep_supervision=False))
    assert float(off([logits, lower], target, None)) == pytest.approx(float(single[0]), abs=1e-6)


def test_classes_not_annotated_in_a_case_get_no_loss_there(example):
    logits, target = example
    target = target.clone()
    target[1][target[1] == 2] = 0  # in the second case, label b was not annotated: its voxels are marked background
    annotated = torch.tensor([[True, True, True], [True, True, False]])
    value = make_loss(PLAIN, batch_dice=False, settings=SETTINGS)([logits], target, annotated)

    p = logits.double().softmax(1).numpy()
    entropy, dice = [], []
    for i in (0, 1):
        for z in np.ndindex(target.shape[1:]):
            c = int(target[i][z])
            score = p[i, c, *z] + (p[i, 2, *z] if i == 1 and c == 0 else 0)
            entropy.append(-np.log(score))
        for c in (1, 2) if i == 0 else (1,):
            truth = target[i].numpy() == c
            dice.append((2 * (p[i, c] * truth).sum() + 1e-5) / (p[i, c].sum() + truth.sum() + 1e-5))
    assert float(value) == pytest.approx(np.mean(entropy) - np.mean(dice), abs=1e-5)


def test_a_network_that_finds_the_withheld_label_is_not_punished():
    target = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    annotated = torch.tensor([[True, True, False]])
    finds = torch.full((1, 3, 2, 2, 2), -20.0)
    finds[:, 2] = 20.0
    loss = make_loss(PLAIN, batch_dice=True, settings=SETTINGS)
    assert float(loss([finds], target, annotated)) < float(loss([finds], target, None)) - 10


def test_annotation_of_everything_changes_nothing(example):
    logits, target = example
    loss = make_loss(PLAIN, batch_dice=False, settings=SETTINGS)
    assert torch.equal(loss([logits], target, torch.ones(2, 3, dtype=torch.bool)), loss([logits], target, None))


def test_region_with_a_member_not_annotated_gets_no_loss_in_that_case():
    labels = make_labels({"background": 0, "a": 1, "b": 2}, regions={"whole": ((1, 2), 1), "core": ((2,), 2)})
    logits = torch.randn(1, 2, 2, 3, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    annotated = torch.tensor([[True, True, False]])
    make_loss(labels, batch_dice=True, settings=SETTINGS)([logits], torch.ones(1, 2, 3, 2, dtype=torch.long), annotated).backward()
    assert float(logits.grad.abs().max()) == 0
    annotated = torch.tensor([[True, False, True]])
    make_loss(labels, batch_dice=True, settings=SETTINGS)([logits], torch.ones(1, 2, 3, 2, dtype=torch.long), annotated).backward()
    assert float(logits.grad[:, 0].abs().max()) == 0 and float(logits.grad[:, 1].abs().max()) > 0


def pixel_only(**changes):
    return make_loss(PLAIN, batch_dice=True, settings=replace(SETTINGS, region_weight=0.0, **changes))


def test_focal_loss_weighs_each_voxel_by_its_error(example):
    logits, target = example
    p = logits.double().softmax(1).gather(1, target[:, None])
    expected = ((1 - p) ** 2 * -p.log()).mean()
    assert float(pixel_only(voxel_loss="focal")([logits], target, None)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("annotated", [None, torch.tensor([[True, True, False]])])
def test_focal_loss_of_a_voxel_beyond_doubt_has_a_finite_gradient(gamma, annotated):
    logits = 12 * torch.randn(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 8, 16, 16, dtype=torch.long)
    logits.requires_grad_()
    value = pixel_only(voxel_loss="focal", focal_gamma=gamma)([logits], target, annotated)
    value.backward()
    assert torch.isfinite(value.detach()) and torch.isfinite(logits.grad).all()
    scores = logits.detach().double().log_softmax(1)
    entropy = -(scores[:, 0] if annotated is None else scores[:, ::2].logsumexp(1)).clamp(max=0)
    expected = (-torch.expm1(-entropy)) ** gamma * entropy
    assert float(value.detach()) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_top_k_keeps_the_worst_voxels(example):
    logits, target = example
    entropy = np.sort(-logits.double().log_softmax(1).gather(1, target[:, None]).numpy().ravel())[::-1]
    assert float(pixel_only(voxel_loss="top_k", top_k=0.25)([logits], target, None)) == pytest.approx(entropy[:30].mean(), abs=1e-6)


def test_label_smoothing_and_class_weights_equal_those_of_torch(example):
    logits, target = example
    smooth = pixel_only(label_smoothing=0.1)([logits], target, None)
    assert float(smooth) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)), abs=1e-6)
    weights = (0.2, 1.0, 3.0)
    weighted = pixel_only(class_weights=weights)([logits], target, None)
    assert float(weighted) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor(weights))), abs=1e-6
    )


def test_label_smoothing_says_nothing_of_classes_that_were_not_annotated(example):
    logits, target = example
    target = target.clone()
    target[1][target[1] == 2] = 0
    annotated = torch.tensor([[True, True, True], [True, True, False]])
    p, expected = logits.double().softmax(1).numpy(), []
    for i in (0, 1):
        for z in np.ndindex(target.shape[1:]):
            a, b, c = p[i, :, *z]
            known = np.log([a, b, c] if i == 0 else [a + c, b])
            expected.append(-0.8 * known[int(target[i][z])] - 0.2 * known.mean())
    assert float(pixel_only(label_smoothing=0.2)([logits], target, annotated)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_tversky_weighs_false_positives_and_negatives(example):
    logits, target = example
    p, expected = logits.double().softmax(1), []
    for c in (1, 2):
        truth = (target == c).double()
        hit, false_positive, false_negative = (p[:, c] * truth).sum(), (p[:, c] * (1 - truth)).sum(), ((1 - p[:, c]) * truth).sum()
        expected.append(float(hit / (hit + 0.3 * false_positive + 0.7 * false_negative)))
    settings = replace(SETTINGS, voxel_weight=0.0, region_loss="tversky")
    value = make_loss(PLAIN, batch_dice=True, settings=settings)([logits], target, None)
    assert float(value) == pytest.approx(-np.mean(expected), abs=1e-5)
    focal = make_loss(PLAIN, batch_dice=True, settings=replace(settings, region_loss="focal_tversky"))([logits], target, None)
    assert float(focal) == pytest.approx(np.mean([(1 - t) ** 0.75 - 1 for t in expected]), abs=1e-5)


def test_weight_map_is_highest_where_two_structures_nearly_touch():
    target = torch.zeros(1, 1, 7, 12, dtype=torch.long)
    target[0, 0, 2:5, 1:4] = 1
    target[0, 0, 2:5, 6:9] = 1
    weights = boundary_weights(target, weight=10.0, sigma=2.0)[0, 0]
    distances = (2.0, 1.0)  # the voxel (3, 4) to each structure: 1 to the left one, 2 to the right one
    assert float(weights[3, 4]) == pytest.approx(1 + 10 * np.exp(-(sum(distances) ** 2) / 8), rel=1e-5)
    assert float(weights[3, 2]) == 1 and float(weights[3, 4]) > float(weights[3, 11])


def slow_boundary_weights(target, *, weight, sigma):
    """All distances at once, each of a voxel to every voxel of a component."""
    out = np.ones(target.shape)
    for i, sample in enumerate(target):
        components, count = ndimage.label(sample > 0)
        for voxel in np.argwhere(sample == 0) if count > 1 else ():
            reach = [np.sqrt(((np.argwhere(components == c) - voxel) ** 2).sum(axis=1).min()) for c in range(1, count + 1)]
            out[(i, *voxel)] += weight * np.exp(-(sum(sorted(reach)[:2]) ** 2) / (2 * sigma**2))
    return out


@pytest.fixture
def scattered():
    """Samples with many components, with one, and with none."""
    target = np.random.default_rng(7).choice(3, p=[0.9, 0.06, 0.04], size=(3, 4, 7, 9))
    target[1] = target[2] = 0
    target[1, 1:3, 2:4, 3] = 2
    return torch.tensor(target)


def test_weight_map_equals_that_of_all_distances_at_once(scattered):
    expected = slow_boundary_weights(scattered.numpy(), weight=10.0, sigma=2.0)
    assert boundary_weights(scattered, weight=10.0, sigma=2.0).numpy() == pytest.approx(expected, rel=1e-5)
    assert expected[0].max() > 5 and expected[1:].max() == 1


def test_memory_of_the_weight_map_does_not_grow_with_the_structures():
    peaks = []
    for count in (2, 40):
        target = torch.zeros(1, 20, 24, 22, dtype=torch.long)
        for y, x in [(y, x) for y in range(1, 24, 3) for x in range(1, 22, 3)][:count]:
            target[0, 1, y, x] = 1
        tracemalloc.start()
        boundary_weights(target, weight=10.0, sigma=2.0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_entropy_is_weighted_where_structures_nearly_touch(scattered):
    logits = torch.tensor(np.random.default_rng(8).normal(size=(3, 3, 4, 7, 9)), dtype=torch.float32)
    weights = slow_boundary_weights(scattered.numpy(), weight=10.0, sigma=2.0)
    p = logits.double().softmax(1).numpy()
    entropy = [-np.log(p[i, int(scattered[i][tuple(z)]), *z]) for i, *z in np.ndindex(weights.shape)]
    value = pixel_only(boundary_weight=10.0, boundary_sigma=2.0)([logits], scattered, None)
    assert float(value) == pytest.approx((entropy * weights.ravel()).sum() / weights.sum(), rel=1e-5)
    ignored = np.random.default_rng(9).random(weights.shape) < 0.3
    settings = replace(SETTINGS, region_weight=0.0, boundary_weight=10.0, boundary_sigma=2.0, class_weights=(0.2, 1.0, 3.0))
    value = make_loss(IGNORING, batch_dice=True, settings=settings)([logits], scattered.masked_fill(torch.tensor(ignored), 3), None)
    seen = scattered.numpy() * ~ignored  # what is ignored is no structure
    weights = slow_boundary_weights(seen, weight=10.0, sigma=2.0) * np.array([0.2, 1.0, 3.0])[seen] * ~ignored
    assert float(value) == pytest.approx((entropy * weights.ravel()).sum() / weights.sum(), rel=1e-5)


# --- everything together -----------------------------------------------------------------------------------------------------

NAMES = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"whole": ((1, 2, 3), 1), "core": ((2, 3), 2), "tip": ((3,), 3)}
EVERYWHERE = ((True, True, True, True),) * 3
IN_SOME_CASES = ((True, True, True, True), (True, False, True, True), (True, True, True, False))
NOWHERE = ((True, False, True, True), (True, False, True, True), (True, False, False, True))  # a: in no case


def slow_everything(logits, target, *, regions, annotated, ignored, settings, batch_dice):
    """Voxel by voxel and head by head, whatever is annotated and whatever is not."""
    n, heads = logits.shape[:2]
    members = [classes for classes, _ in regions.values()] if regions else [(c,) for c in range(heads)]
    known = [[all(annotated[i][c] for c in classes) for classes in members] for i in range(n)]
    weights_of = settings.class_weights or [1.0] * len(NAMES)
    share = settings.label_smoothing
    entropies, weights = [], []
    sums = {(i, head): np.zeros(3) for i in range(n) for head in range(heads)}
    for i, *z in np.ndindex(target.shape):
        if ignored[i, *z]:
            continue
        c, x = int(target[i, *z]), logits[i, :, *z]
        if regions:
            p = 1 / (1 + np.exp(-x))
            for head in (head for head in range(heads) if known[i][head]):
                truth = (1 - share) * (c in members[head]) + share / 2
                entropies.append(-truth * np.log(p[head]) - (1 - truth) * np.log(1 - p[head]))
                weights.append(weights_of[c])
        else:
            p = np.exp(x) / np.exp(x).sum()
            scores = {head: p[head] for head in range(heads) if known[i][head]}
            scores[0] += sum(p[head] for head in range(heads) if not known[i][head])  # background may be any of those
            entropies.append(-(1 - share) * np.log(scores[c]) - share * np.mean([np.log(q) for q in scores.values()]))
            weights.append(weights_of[c])
        for head in range(heads):
            truth = c in members[head]
            sums[i, head] += (p[head] * truth, p[head], truth)
    entropies, weights = np.array(entropies), np.array(weights)
    if settings.voxel_loss == "focal":
        entropies = (1 - np.exp(-entropies)) ** settings.focal_gamma * entropies
    if settings.voxel_loss == "top_k":  # a share of all voxels, annotated or not
        count = int(settings.top_k * target.size * (heads if regions else 1))
        pixel = np.sort(entropies * weights)[::-1][:count].sum() / count
    else:
        pixel = (entropies * weights).sum() / weights.sum()

    scored = range(heads) if regions else range(1, heads)
    groups = [[(i, head) for i in range(n) if known[i][head]] for head in scored]
    groups = groups if batch_dice else [[key] for group in groups for key in group]
    dice = []
    for overlap, predicted, truth in (sum(sums[key] for key in group) for group in groups if group):
        dice.append((2 * overlap + settings.smooth) / (predicted + truth + settings.smooth))
    return pixel - np.mean(dice)


@pytest.mark.parametrize("annotated", [EVERYWHERE, IN_SOME_CASES, NOWHERE])
@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("regions", [None, REGIONS])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"voxel_loss": "focal", "focal_gamma": 1.5},
        {"voxel_loss": "top_k", "top_k": 0.3},
        {"class_weights": (0.2, 1.0, 3.0, 2.0)},
        {"voxel_loss": "top_k", "top_k": 0.3, "class_weights": (0.2, 1.0, 3.0, 2.0)},
        {"label_smoothing": 0.2},
    ],
    ids=["cross_entropy", "focal", "top_k", "class_weights", "top_k_class_weights", "label_smoothing"],
)
def test_annotation_ignored_voxels_and_regions_go_together(changes, regions, ignoring, annotated):
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(3, 3 if regions else 4, 2, 3, 4)) * 2
    target = rng.integers(0, 4, size=(3, 2, 3, 4))
    target = np.stack([np.where(np.array(row)[sample], sample, 0) for sample, row in zip(target, annotated, strict=True)])
    ignored = (rng.random(target.shape) < 0.3) & ignoring
    labels, settings = make_labels(NAMES, regions=regions or {}, ignore=4 if ignoring else None), replace(SETTINGS, **changes)
    for batch_dice in (True, False):
        loss = make_loss(labels, batch_dice=batch_dice, settings=settings)
        value = loss([torch.tensor(logits, dtype=torch.float32)], torch.tensor(np.where(ignored, 4, target)), torch.tensor(annotated))
        expected = slow_everything(
            logits, target, regions=regions, annotated=annotated, ignored=ignored, settings=settings, batch_dice=batch_dice
        )
        assert float(value) == pytest.approx(expected, abs=2e-5)
