"""Every loss of the dictionary, and what it needs no word about: ignored voxels, partial annotation, regions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg import losses, presets
from autoseg.errors import SettingsError
from autoseg.labels import make_labels
from autoseg.networks.memory_estimate import traced_bytes
from autoseg.training.batches import BatchLoader
from autoseg.training.loss import make_loss
from autoseg.training.losses.lovasz import lovasz
from autoseg.training.settings import read_settings
from autoseg.training.trainer import Trainer
from tests.training.made import make_case, make_plan

DEFAULT = presets.planner("default").values["training"]
PLAIN = make_labels({"background": 0, "a": 1, "b": 2})
IGNORING = make_labels({"background": 0, "a": 1, "b": 2}, ignore=3)
REGIONS = make_labels({"background": 0, "a": 1, "b": 2}, regions={"both": ((1, 2), 1), "core": ((2,), 2)})


def chosen(name):
    """The settings in which this loss is the only one."""
    used = {"voxels": "pixel", "shapes": "further"}.get(losses.LOSSES[name].kind, "overlap")
    weights = {f"loss.{place}_weight": float(place == used) for place in ("pixel", "overlap", "further")}
    return read_settings(DEFAULT, {f"loss.{used}": name, **weights})


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, 3, (2, 4, 5, 6), generator=generator)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_falls_in_ten_steps_of_training(name):
    plan, configuration = make_plan()
    settings = chosen(name)
    cases = [make_case(f"case{i}", (12, 16, 14), seed=i) for i in range(2)]
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    trainer = Trainer(plan=plan, configuration=configuration, settings=settings, device=cpu, seed=0)
    batches = BatchLoader(cases, plan=plan, configuration=configuration, settings=settings, seed=0, device=cpu, memory=1e9)
    batch = batches.batch(0)
    steps = [trainer.step(batch, learning_rate=0.003) for _ in range(10)]
    assert all(step.taken and not step.learns_nothing for step in steps)
    assert steps[-1].loss < steps[0].loss - (0.001 if losses.LOSSES[name].kind == "shapes" else 0.02)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
@pytest.mark.parametrize("name", [name for name in losses.LOSSES if losses.LOSSES[name].kind != "shapes"])
def test_the_memory_of_every_loss_can_be_traced(name, labels):
    _, configuration = make_plan()
    loss = make_loss(labels, batch_dice=False, settings=chosen(name).loss)
    assert traced_bytes(configuration, channels=1, heads=labels.output_channels, precision=torch.float32, loss=loss) > 100_000


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_perfect_segmentation_has_the_lowest_loss(name, batch_dice):
    logits, target = example()
    perfect = 40.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    loss = make_loss(PLAIN, batch_dice=batch_dice, settings=chosen(name).loss)
    best = -1.0 if losses.LOSSES[name].kind in ("counts", "ranking") else 0.0
    assert float(loss([perfect], target, None)) == pytest.approx(best, abs=1e-4)
    assert float(loss([logits], target, None)) > best + (0.001 if losses.LOSSES[name].kind == "shapes" else 0.1)


@pytest.mark.parametrize("labels", [IGNORING, replace(REGIONS, ignore=3)])
@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("batch_dice", [True, False])
def test_no_loss_looks_at_ignored_voxels(name, labels, batch_dice):
    logits, target = example()
    logits = logits[:, : labels.output_channels]
    ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    target = target.masked_fill(ignored, labels.ignore_class)
    loss = make_loss(labels, batch_dice=batch_dice, settings=chosen(name).loss)
    logits.requires_grad_(True)
    loss([logits], target, None).backward()
    inside = logits.grad.abs().amax(dim=1)
    assert float(inside[ignored].max()) == 0.0 and float(inside[~ignored].max()) > 0.0


@pytest.mark.parametrize("name", [name for name in losses.LOSSES if losses.LOSSES[name].kind != "voxels"])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_class_that_a_case_does_not_annotate_has_no_part_in_the_score(name, batch_dice):
    """Two samples, class 2 annotated in the first alone: its own region has the loss of the first sample for itself."""
    logits, target = example(3)
    target[1] = target[1].clamp(max=1)
    annotated = torch.tensor([[True, True, True], [True, True, False]])
    loss = make_loss(replace(REGIONS, regions=REGIONS.regions[1:]), batch_dice=batch_dice, settings=chosen(name).loss)
    both, first = loss([logits[:, :1]], target, annotated), loss([logits[:1, :1]], target[:1], None)
    assert float(both) == pytest.approx(float(first), abs=1e-6)


def slow_lovasz(probability, truth):
    """Equation 8 of Berman et al.: the Jaccard loss of the sets of the k largest errors, k = 1, 2, ..."""
    order = np.argsort(-np.abs(truth - probability), kind="stable")
    total, before = 0.0, 0.0
    for k in range(1, len(order) + 1):
        wrong = set(order[:k].tolist())
        true = set(np.flatnonzero(truth).tolist())
        predicted = (true - wrong) | (wrong - true)
        jaccard_loss = 1 - len(true & predicted) / len(true | predicted)
        total += abs(truth[order[k - 1]] - probability[order[k - 1]]) * (jaccard_loss - before)
        before = jaccard_loss
    return total


def test_lovasz_is_the_sum_over_growing_sets_of_errors():
    rng = np.random.default_rng(0)
    probability, truth = rng.random((3, 40)), (rng.random((3, 40)) < 0.4).astype(float)
    scores = lovasz(torch.tensor(probability), torch.tensor(truth), chosen("lovasz").loss)
    expected = [1 - slow_lovasz(p, t) for p, t in zip(probability, truth, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_lovasz_of_a_hard_segmentation_is_the_jaccard_index():
    truth, predicted = torch.tensor([[1.0, 1, 1, 0, 0, 0]]), torch.tensor([[1.0, 1, 0, 1, 0, 0]])
    assert float(lovasz(predicted, truth, chosen("lovasz").loss)) == pytest.approx(2 / 4)


def test_a_class_that_is_nowhere_leaves_the_lovasz_term_alone():
    logits, target = example()
    one = make_loss(PLAIN, batch_dice=True, settings=chosen("lovasz").loss)([logits], target.clamp(max=1), None)
    merged = torch.stack([logits[:, 0], logits[:, 1], logits[:, 2]], dim=1).softmax(dim=1)[:, 1].movedim(0, 0).reshape(1, -1)
    truth = (target.clamp(max=1) == 1).float().reshape(1, -1)
    assert float(one) == pytest.approx(-float(lovasz(merged, truth, chosen("lovasz").loss)), abs=1e-5)


@pytest.mark.parametrize(("place", "wrong"), [("pixel", "dice"), ("overlap", "focal"), ("overlap", "lovas")])
def test_a_loss_is_chosen_for_its_own_term_only(place, wrong, tmp_path):
    with pytest.raises(SettingsError, match=f"loss.{place}"):
        read_settings(DEFAULT, {f"loss.{place}": wrong})
    preset = tmp_path / "own.toml"
    preset.write_text(f'extends = "default"\n[training.loss]\n{place} = {{ value = "{wrong}", source = "test" }}\n')
    with pytest.raises(SettingsError, match=f"training.loss.{place}"):
        presets.planner(preset)


def test_the_words_of_a_loss_are_those_of_its_terms():
    settings = read_settings(DEFAULT, {"loss.overlap": "lovasz"}).loss
    assert settings.words == "cross-entropy + Lovász extension of the Jaccard index"
    assert chosen("focal").loss.words == "focal loss"


def test_every_record_is_found_and_says_what_it_is():
    assert set(losses.VOXEL_LOSSES) | set(losses.REGION_LOSSES) | set(losses.SHAPE_LOSSES) == {*losses.LOSSES, "none"}
    for name, record in losses.LOSSES.items():
        assert callable(losses.load(name)) and losses.load(name).__doc__ and record.words


def maps(seed=0):
    """Probabilities and truth of two channels, blobs rather than noise."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.avg_pool3d(torch.randn(2, 8, 9, 10, generator=generator), 3, stride=1, padding=1)
    return torch.sigmoid(4 * smooth + 0.3 * torch.randn(2, 8, 9, 10, generator=generator)), (smooth > 0.1).float()


def test_squared_and_generalised_dice_equal_those_of_monai():
    monai = pytest.importorskip("monai.losses")
    p, y = maps()
    squared = monai.DiceLoss(squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5, reduction="none")(p[None], y[None]).flatten()
    ours = 1 - losses.load("squared_dice")(p.flatten(1), y.flatten(1), chosen("squared_dice").loss)
    assert ours.tolist() == pytest.approx(squared.tolist(), abs=1e-5)
    counts = [(p * y).flatten(1).sum(1)[None], p.flatten(1).sum(1)[None], y.flatten(1).sum(1)[None]]
    generalised = float(monai.GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)(p[None], y[None]))
    assert (1 - losses.load("generalized_dice")(*counts, chosen("generalized_dice").loss)).tolist()[0] == pytest.approx(
        [generalised] * 2, abs=1e-5
    )


def test_generalised_cross_entropy_lies_between_its_limits():
    entropy = torch.tensor([0.1, 1.0, 3.0])
    settings = chosen("generalized").loss
    near, far = (losses.load("generalized")(entropy, replace(settings, generalized_q=q)) for q in (1e-4, 1.0))
    assert near.tolist() == pytest.approx(entropy.tolist(), rel=5e-3)
    assert far.tolist() == pytest.approx((1 - (-entropy).exp()).tolist())


def test_centre_line_dice_equals_that_of_monai():
    monai = pytest.importorskip("monai.losses")
    p, y = maps(1)
    found = losses.load("cldice")(p, y, (1.0, 1.0, 1.0), chosen("cldice").loss)
    theirs = [float(monai.SoftclDiceLoss(iter_=3, smooth=1e-12)(p[None, c : c + 1], y[None, c : c + 1])) for c in range(2)]
    assert found.tolist() == pytest.approx(theirs, abs=1e-5)


def test_hausdorff_equals_that_of_monai_in_voxels():
    monai = pytest.importorskip("monai.losses")
    p, y = maps(2)
    found = losses.load("hausdorff")(p, y, (1.0, 1.0, 1.0), chosen("hausdorff").loss)
    theirs = [float(monai.HausdorffDTLoss(include_background=True)(p[None, c : c + 1], y[None, c : c + 1])) for c in range(2)]
    assert (100 * found).tolist() == pytest.approx(theirs, rel=1e-5)


def test_the_boundary_loss_is_the_sum_over_voxels_of_error_times_distance():
    truth, found = torch.zeros(1, 1, 1, 7), torch.zeros(1, 1, 1, 7)
    truth[..., 2:4], found[..., 3:6] = 1, 1
    # distances along the row in mm, 2 mm a voxel: -4 is nowhere, for the structure is two voxels wide
    distances = torch.tensor([4.0, 2, -2, -2, 2, 4, 6]) / 10
    expected = float(((found - truth).flatten() * distances).mean())
    assert float(losses.load("boundary")(found, truth, (1.0, 1.0, 2.0), chosen("boundary").loss)) == pytest.approx(expected)


def test_each_component_counts_the_same():
    truth = torch.zeros(1, 1, 1, 20)
    truth[..., 1:3], truth[..., 10:18] = 1, 1
    half = truth.clone()
    half[..., 1:3] = 0  # the small one is missed
    assert float(losses.load("components")(half, truth, (1.0,) * 3, chosen("components").loss)) == pytest.approx(0.5, abs=1e-4)


def test_skeleton_recall_asks_for_the_centre_line_alone():
    truth = torch.zeros(1, 9, 9, 20)
    truth[:, 2:7, 2:7, 2:18] = 1
    thin = torch.zeros_like(truth)
    thin[:, 4, 4, 2:18] = 1
    recall = losses.load("skeleton_recall")
    settings = chosen("skeleton_recall").loss
    assert float(recall(truth, truth, (1.0,) * 3, settings)) == pytest.approx(0, abs=1e-4)
    assert (
        0
        < float(recall(thin, truth, (1.0,) * 3, settings))
        < float(recall(torch.zeros_like(truth), truth, (1.0,) * 3, settings))
        == pytest.approx(1, abs=1e-4)
    )
