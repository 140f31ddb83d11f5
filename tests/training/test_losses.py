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
    used, other = ("pixel", "overlap") if losses.LOSSES[name].kind == "voxels" else ("overlap", "pixel")
    return read_settings(DEFAULT, {f"loss.{used}": name, f"loss.{other}_weight": 0.0})


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
    assert steps[-1].loss < steps[0].loss - 0.02


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
@pytest.mark.parametrize("name", losses.LOSSES)
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
    best = 0.0 if losses.LOSSES[name].kind == "voxels" else -1.0
    assert float(loss([perfect], target, None)) == pytest.approx(best, abs=1e-4)
    assert float(loss([logits], target, None)) > best + 0.1


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
    assert set(losses.VOXEL_LOSSES) | set(losses.REGION_LOSSES) == set(losses.LOSSES)
    for name, record in losses.LOSSES.items():
        assert callable(losses.load(name)) and losses.load(name).__doc__ and record.words
