import csv
import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg import machine
from autoseg.errors import Interrupted, ModelError, PlanMismatch, SettingsError, TrainingFailed
from autoseg.fingerprint import ChannelIntensities
from autoseg.labels import make_labels
from autoseg.networks import checkpoint
from autoseg.training import loop, resuming
from autoseg.training.length import RunLength
from autoseg.training.sampling import pick_patches
from autoseg.training.trainer import Step
from autoseg.workspace import Run
from tests.training.made import make_case, make_plan

pytestmark = pytest.mark.slow

SETTINGS = {
    "steps_per_epoch": 4,
    "checkpoint_seconds": 0.0,
    "optimizer.learning_rate": 0.01,
    "probe_steps": 0,
    "augmentation.mirror_from": 0,
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cases():
    return [make_case(f"case{i}", (9, 13 + i, 11), seed=i) for i in range(6)]


def make_task(cases, root, **changes):
    plan, configuration = make_plan(patch=(8, 12, 8))
    options = {"epochs": 3, "settings": SETTINGS, "deterministic": True, "seed": 5} | changes
    options["length"] = RunLength(**{name: options.pop(name) for name in ("epochs", "time_budget", "started") if name in options})
    return loop.TrainingTask(
        plan=plan, configuration=configuration, fold=0, train_cases=cases[:4], validation_cases=cases[4:], run=Run(root=root), **options
    )


def patch_dice(network, some):
    """A cheap stand-in for full-image Dice: the whole case through the network."""
    scores = []
    with torch.inference_mode():
        for case in some:
            shape = [n // 2 * 2 for n in case.shape]
            box = tuple(slice(0, n) for n in shape)
            found = network(torch.from_numpy(case.pixels[(slice(None), *box)])[None]).argmax(1)[0].numpy()
            truth = case.classes[box]
            scores += [2 * np.sum((found == c) & (truth == c)) / max(1, np.sum(found == c) + np.sum(truth == c)) for c in (1, 2)]
    return float(np.mean(scores))


def train(task, **options):
    return loop.train(task, **({"validate": patch_dice} | options))


def weights_of(run):
    return checkpoint.load_model(run)[0]


def figures(run):
    """What of the history follows from the seed alone, where validation is always due."""
    rows = [json.loads(line) for line in run.history_jsonl.read_text().splitlines()]
    return [tuple(row[name] for name in ("epoch", "step", "loss", "validation_dice")) for row in rows]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_learns_two_boxes_in_noise(cases, tmp_path):
    rows = []
    network = train(make_task(cases, tmp_path, epochs=25), report=rows.append)
    assert not network.training and patch_dice(network, cases[4:]) > 0.7
    losses = [row.loss for row in rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_a_run_leaves_model_state_history_and_calls_for_the_picture(cases, tmp_path):
    drawn, told = [], []
    task = make_task(cases, tmp_path)
    network = train(task, report=told.append, draw=lambda history: drawn.append(len(history)))
    weights, description = checkpoint.load_model(task.run)
    assert equal(weights, dict(network.state_dict()))
    assert description["configuration"] == "3d_fullres" and description["fold"] == 0 and description["epochs"] == 3
    assert description["plan"] == json.loads(json.dumps(task.plan.to_json())) and description["finished"]
    rows = [json.loads(line) for line in task.run.history_jsonl.read_text().splitlines()]
    table = list(csv.DictReader(task.run.history_csv.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == [1, 2, 3] == [int(row["epoch"]) for row in table]
    for row in rows:
        assert (
            row["learning_rate"] > 0
            and row["loss"] > -2
            and row["seconds_per_step"] > 0
            and 0 <= row["data_wait"] <= 1
            and row["memory"] > 1e6
        )
    assert rows[-1]["time_left"] == 0 and drawn == [3] and rows[0]["validation_dice"] is not None
    assert "epoch 1, loss" in str(told[0]) and "left" in str(told[0])


def test_where_no_label_occurs_in_validation_no_figure_is_told(cases, tmp_path):
    rows = []
    task = make_task(cases, tmp_path, epochs=1)
    train(task, validate=lambda network, some: None, report=rows.append)
    assert rows[-1].validation_dice is None and "Dice" not in str(rows[-1])
    assert next(csv.DictReader(task.run.history_csv.read_text().splitlines()))["validation_dice"] == ""
    assert json.loads(task.run.description.read_text())["scores"]["validation_dice"] is None


def test_a_finished_run_is_not_trained_again(cases, tmp_path):
    task = make_task(cases, tmp_path)
    first = train(task)
    before = task.run.weights.stat().st_mtime_ns
    rows = []
    again = train(task, report=rows.append)
    assert rows == [] and equal(dict(first.state_dict()), dict(again.state_dict())) and task.run.weights.stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["killed before the model", "removed", "truncated", "description removed"])
def test_the_model_of_a_finished_run_is_written_anew_from_its_state(cases, tmp_path, harm, monkeypatch):
    task = make_task(cases, tmp_path)
    if harm == "killed before the model":
        train(replace(task, length=RunLength(epochs=1)))
        with monkeypatch.context() as patch:
            patch.setattr(resuming, "_save_model", lambda *anything: None)
            expected = train(task)
        assert checkpoint.load_model(task.run)[1]["epochs"] == 1
    else:
        expected = train(task)
        path = task.run.description if harm == "description removed" else task.run.weights
        path.write_bytes(path.read_bytes()[:-9])
        if "removed" in harm:
            path.unlink()
    said = []
    again = train(task, say=said.append)
    weights, description = checkpoint.load_model(task.run)
    assert equal(weights, dict(expected.state_dict())) and equal(weights, dict(again.state_dict()))
    assert description["epochs"] == 3 and description["steps"] == 12 and description["finished"]
    assert json.loads(task.run.description.read_text())["digest"] == checkpoint.digest(weights)
    assert len(said) == 1 and "rewritten from it" in said[0]


@pytest.mark.parametrize("harm", ["an epoch short", "no table", "no picture", "picture of an earlier epoch"])
def test_the_tables_and_the_picture_that_a_finished_run_lacks_are_made_by_the_next_call(cases, tmp_path, harm):
    """As a kill between the finished state and them leaves it."""
    task = make_task(cases, tmp_path)
    drawn = []

    def draw(history):
        drawn.append(len(history))
        task.run.progress.write_bytes(b"a picture")

    train(task, draw=draw)
    whole = task.run.history_jsonl.read_text(), task.run.history_csv.read_text()
    if harm == "an epoch short":
        task.run.history_jsonl.write_text("".join(whole[0].splitlines(keepends=True)[:2]))
    elif harm == "no table":
        task.run.history_csv.unlink()
    elif harm == "no picture":
        task.run.progress.unlink()
    else:
        os.utime(task.run.progress, ns=(0, task.run.history_jsonl.stat().st_mtime_ns - 1))
    for _ in range(2):
        train(task, draw=draw)
        assert (task.run.history_jsonl.read_text(), task.run.history_csv.read_text()) == whole
        assert drawn == [3, 3] and task.run.progress.exists()  # once is enough


def test_a_damaged_state_says_what_to_do_and_leaves_the_model(cases, tmp_path):
    task = make_task(cases, tmp_path, epochs=1)
    train(task)
    state = next(task.run.state.iterdir())
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(ModelError, match="--overwrite"):
        train(task)
    assert checkpoint.load_model(task.run)[1]["finished"]


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for_and_its_rate_does_not_jump(cases, tmp_path, monkeypatch):
    train(make_task(cases, tmp_path))
    from autoseg.training.trainer import Trainer

    whole, rates = Trainer.step, []

    def step(self, batch, *, learning_rate):
        rates.append(learning_rate)
        return whole(self, batch, learning_rate=learning_rate)

    monkeypatch.setattr(Trainer, "step", step)
    task = make_task(cases, tmp_path, epochs=5)
    train(task)
    assert len(rates) == 8 and rates[0] < 0.01 * SETTINGS["optimizer.learning_rate"]
    assert checkpoint.load_model(task.run)[1]["epochs"] == 5
    said = []
    train(make_task(cases, tmp_path, epochs=4), say=said.append)  # less than there is: nothing to do
    train(make_task(cases, tmp_path, epochs=None, time_budget=60.0, deterministic=False), say=said.append)
    assert len(rates) == 8
    assert [text.split(":")[0] for text in said] == [
        "finished with 20 steps, and not trained again for 16 steps",
        "finished with 20 steps, and not trained again for a time budget of 1 min",
    ]
    assert all("--overwrite" in text for text in said)
    train(task, say=lambda text: pytest.fail(text))  # what it was finished with needs no word


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_saves_and_the_same_call_goes_on_bit_for_bit(cases, tmp_path, name):
    always = SETTINGS | {"validation_share": 1.0, "checkpoint_seconds": 1e9}
    undisturbed = train(make_task(cases, tmp_path / "a", settings=always))
    task = make_task(cases, tmp_path / "b", settings=always)
    calls = []

    def interrupt(network, some):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.2)
        return 0.0

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=name) as caught:
        train(task, validate=interrupt)
    assert caught.value.exit_code == 130 and (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    said = []
    resumed = train(task, say=said.append)
    assert "resuming after step 4" in said[0]
    assert equal(dict(undisturbed.state_dict()), dict(resumed.state_dict()))
    assert figures(task.run) == figures(Run(root=tmp_path / "a"))  # also the score that the signal cut short


def test_a_signal_during_a_step_or_the_work_before_the_first_is_not_kept_waiting_by_what_can_be_cut_short(cases, tmp_path, monkeypatch):
    """During the last step of an epoch it keeps validation from beginning; during reading or compiling it stops that."""
    from autoseg.training import batches
    from autoseg.training.trainer import Trainer

    def signalled(whole, at):
        def counting(*arguments, **options):
            counts.append(1)
            if len(counts) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole(*arguments, **options)

        return counting

    monkeypatch.setattr(torch, "compile", lambda network: network)
    options = {"epochs": 1, "deterministic": False, "settings": SETTINGS | {"compile": "on"}}
    undisturbed = train(make_task(cases, tmp_path / "undisturbed", **options))
    for name, owner, method, at in (
        ("last step", Trainer, "step", 4),
        ("reading", batches, "CaseInMemory", 2),
        ("compiling", torch, "compile", 1),
    ):
        counts, validated = [], []
        task = make_task(cases, tmp_path / name, **options)
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, signalled(getattr(owner, method), at))
            with pytest.raises(Interrupted, match="SIGTERM"):
                train(task, validate=lambda network, some: validated.append(len(counts)) or 0.5)  # noqa: B023 - of this round
        assert len(counts) == at and not validated, name
        resumed = train(task)
        assert equal(dict(undisturbed.state_dict()), dict(resumed.state_dict())), name


def test_a_signal_after_the_last_step_keeps_the_final_validation_from_beginning(cases, tmp_path):
    task = make_task(cases, tmp_path)
    with pytest.raises(Interrupted, match="SIGUSR1"):
        train(task, draw=lambda history: os.kill(os.getpid(), signal.SIGUSR1) if len(history) == 3 else None)
    assert checkpoint.load_model(task.run)[1]["finished"]
    train(task)


class Killed(BaseException):
    """Stands for kill -9: nothing in the loop may catch it and tidy up."""


@pytest.mark.parametrize("moment", ["step 3", "step 10", "first validation"])
def test_killed_at_any_moment_the_same_call_ends_bit_for_bit_equal(cases, tmp_path, moment, monkeypatch):
    always = SETTINGS | {"validation_share": 1.0}
    undisturbed = train(make_task(cases, tmp_path / "a", settings=always))
    task = make_task(cases, tmp_path / "b", settings=always)
    from autoseg.training.trainer import Trainer

    whole, count = Trainer.step, []

    def step(self, batch, *, learning_rate):
        count.append(1)
        if moment == f"step {len(count)}":
            raise Killed
        return whole(self, batch, learning_rate=learning_rate)

    def validate(network, some):
        if moment == "first validation":
            raise Killed
        return patch_dice(network, some)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Killed):
        train(task, validate=validate)
    monkeypatch.setattr(Trainer, "step", whole)
    said = []
    assert equal(dict(undisturbed.state_dict()), dict(train(task, say=said.append).state_dict()))
    assert f"resuming after step {len(count) - (moment != 'first validation')} " in said[0]  # nothing done was lost
    assert task.run.weights.read_bytes() == Run(root=tmp_path / "a").weights.read_bytes()  # the whole file
    assert figures(task.run) == figures(Run(root=tmp_path / "a")) and [epoch for epoch, *_ in figures(task.run)] == [1, 2, 3]


def test_a_model_is_there_after_the_first_step_and_a_state_no_older_than_asked_for_within_an_epoch(cases, tmp_path, monkeypatch):
    """On a clock of its own: a step takes 1 s."""
    from autoseg.training import history
    from autoseg.training.trainer import Trainer

    now, whole, found = [100.0], Trainer.step, []
    task = make_task(cases, tmp_path, epochs=1, settings=SETTINGS | {"checkpoint_seconds": 3.0, "steps_per_epoch": 9})

    def step(self, batch, *, learning_rate):
        found.append(checkpoint.load_model(task.run)[1]["steps"] if task.run.weights.exists() else None)
        now[0] += 1.0
        return whole(self, batch, learning_rate=learning_rate)

    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Trainer, "step", step)
    train(task)
    assert found == [None, 1, 1, 1, 4, 4, 4, 7, 7]


def test_two_runs_of_one_seed_are_equal_and_of_another_are_not(cases, tmp_path):
    first, again, other = (train(make_task(cases, tmp_path / str(i), seed=seed)) for i, seed in enumerate((1, 1, 2)))
    assert equal(dict(first.state_dict()), dict(again.state_dict())) and not equal(dict(first.state_dict()), dict(other.state_dict()))


def test_a_time_budget_shapes_the_schedule_and_leaves_time_for_the_final_validation(cases, tmp_path, monkeypatch):
    """On a clock of its own: a step takes 1 s, validating the two cases 0.5 s."""
    from autoseg.training import history
    from autoseg.training.trainer import Trainer

    now, rates, whole = [100.0], [], Trainer.step

    def step(self, batch, *, learning_rate):
        now[0] += 1.0
        rates.append(learning_rate)
        return whole(self, batch, learning_rate=learning_rate) if len(rates) < 5 else Step(loss=0.0, gradient_norm=0.0, taken=True)

    def validate(network, some):
        now[0] += 0.5
        return 0.5

    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Trainer, "step", step)
    rows = []
    train(make_task(cases, tmp_path, epochs=None, time_budget=100.0, deterministic=False), validate=validate, report=rows.append)
    # 2.5 s, and eight mirror images of what takes 0.5 s, are kept back for the final validation
    assert 100 + 100 - 6.5 <= now[0] <= 100 + 100 - 6.5 + 1.5
    top = rates.index(max(rates))
    assert top < 8 and rates[-1] < 0.01 * max(rates) and rates[top:] == sorted(rates[top:], reverse=True)
    assert sum(row.validation_dice is not None for row in rows) * 0.5 <= 0.03 * 100 + 0.5
    assert 0 <= rows[-1].time_left < 4


@pytest.mark.parametrize(("before", "left"), [(0, 20), (7, 13), (15, 10)])
def test_preparation_counts_for_a_time_budget_but_leaves_half_of_it_to_the_training(cases, tmp_path, monkeypatch, before, left):
    """On a clock of its own: a step takes 1 s, validation none, 2.5 s are kept back for the final one."""
    now, steps = seconds_per_step(monkeypatch, 1.0)
    task = make_task(cases, tmp_path, epochs=None, time_budget=20.0, started=now[0] - before, deterministic=False)
    train(task, validate=lambda network, some: 0.5)
    assert steps[0] == left - 2
    assert json.loads(task.run.description.read_text())["seconds"] == min(before, 10) + steps[0]
    # counts for a run that goes on, too: what was used before, and this, as far as all preparation together takes no more than half
    state = checkpoint.load_state(task.run.state)
    state["progress"] |= {"finished": False, "elapsed": 8.0}
    checkpoint.save_state(task.run.state, state)
    steps[0] = 0
    train(replace(task, length=replace(task.length, started=now[0] - before)), validate=lambda network, some: 0.5)
    assert steps[0] == 12 - 2 - min(before, 10 - min(before, 10))


def seconds_per_step(monkeypatch, seconds):
    """A clock that steps alone move, and their number, each in a list; no step learns anything."""
    from autoseg.training import history
    from autoseg.training.trainer import Trainer

    now, steps = [100.0], [0]

    def step(self, batch, *, learning_rate):
        now[0] += seconds
        steps[0] += 1
        return Step(loss=0.0, gradient_norm=0.0, taken=True)

    for module in (history, loop):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Trainer, "step", step)
    return now, steps


@pytest.mark.parametrize(("per_voxel", "scored"), [(1e-4, 4), (4e-4, 2), (0.1, 1)])
def test_under_a_time_budget_no_more_cases_are_scored_than_its_share_for_it_allows(cases, tmp_path, monkeypatch, per_voxel, scored):
    """On a clock of its own: a step takes 1 s, and so does validation of 1 / `per_voxel` voxels; 3 s in 100 are for it, 1.2 in 40."""
    from autoseg.training import history
    from autoseg.training.trainer import Trainer

    now, calls = [100.0], []

    def step(self, batch, *, learning_rate):
        now[0] += 1.0
        return Step(loss=0.0, gradient_norm=0.0, taken=True)

    def validate(network, some):
        calls.append([case.name for case in some])
        now[0] += per_voxel * sum(np.prod(case.shape) for case in some)
        return 0.5

    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Trainer, "step", step)
    task = make_task(cases, tmp_path, epochs=None, time_budget=40.0, deterministic=False)
    said = []
    train(replace(task, train_cases=cases[4:], validation_cases=cases[3::-1]), validate=validate, say=said.append)  # from 1287 voxels
    assert calls[0] == ["case0"] and all(sorted(some) == [f"case{i}" for i in range(scored)] for some in calls[1:])
    assert len(calls) == 1 if scored == 1 else len(calls) > 1
    rows = [json.loads(line) for line in task.run.history_jsonl.read_text().splitlines()]
    told = {row.get("validation_cases") for row in rows if row["validation_dice"] is not None}
    assert told == ({None} if scored == 4 else {scored})
    table = list(csv.DictReader(task.run.history_csv.read_text().splitlines()))
    assert scored == 4 or {row["validation_cases"] for row in table} >= {str(scored)}
    assert any(text.startswith("scored during training: case0") for text in said) == (scored < 4)


@pytest.mark.parametrize(
    ("first", "then", "longer"),
    [
        ({"time_budget": 24.0, "prepared": 12.0}, {"time_budget": 24.0}, False),
        ({"time_budget": 24.0, "prepared": 12.0}, {"time_budget": 40.0}, True),
        ({"time_budget": 12.0}, {"time_budget": 12.0}, False),
        ({"time_budget": 12.0}, {"time_budget": 17.0}, False),
        ({"time_budget": 12.0}, {"time_budget": 24.0}, True),
    ],
)
def test_a_finished_time_budget_is_made_longer_only_where_more_is_asked_for(cases, tmp_path, monkeypatch, first, then, longer):
    """On a clock of its own: a step takes 1 s, validation none."""
    now, steps = seconds_per_step(monkeypatch, 1.0)
    common = {"epochs": None, "deterministic": False}
    first = {**first, "started": now[0] - first.get("prepared", 0.0)}
    first.pop("prepared", None)
    train(make_task(cases, tmp_path, **common, **first), validate=lambda network, some: 0.5)
    before, said = steps[0], []
    train(make_task(cases, tmp_path, **common, **then), validate=lambda network, some: 0.5, say=said.append)
    assert before > 4 and (steps[0] > before) == longer
    assert any("longer run" in text for text in said) == longer
    assert any("not trained again" in text for text in said) == (not longer and first["time_budget"] != then["time_budget"])


def test_the_epoch_that_a_time_budget_cuts_short_is_one_of_its_own_when_the_run_is_made_longer(cases, tmp_path, monkeypatch):
    """On a clock of its own: a step takes 1 s, an epoch four steps, the first run ten; the loss tells the step."""
    from autoseg.training import history
    from autoseg.training.trainer import Trainer

    now, steps = [100.0], []

    def step(self, batch, *, learning_rate):
        now[0] += 1.0
        steps.append(1)
        return Step(loss=float(len(steps)), gradient_norm=0.0, taken=True)

    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "EPOCHS_PER_BUDGET", 1)
    monkeypatch.setattr(Trainer, "step", step)
    for seconds in (12.0, 24.0):
        task = make_task(cases, tmp_path, epochs=None, deterministic=False, time_budget=seconds)
        train(task, validate=lambda network, some: 0.5)
    rows = figures(task.run)
    assert [row[:3] for row in rows[:5]] == [(1, 4, 2.5), (2, 8, 6.5), (3, 10, 9.5), (4, 14, 12.5), (5, 18, 16.5)]
    assert [epoch for epoch, *_ in rows] == list(range(1, len(rows) + 1)) and checkpoint.load_model(task.run)[1]["epochs"] == len(rows)


def test_steps_with_non_finite_numbers_are_left_out_and_explained(cases, tmp_path):
    cases[1].pixels[0, 3, 4, 5] = np.nan
    said = []
    task = make_task(cases, tmp_path, settings=SETTINGS | {"skip_limit": 100})
    network = train(task, say=said.append)
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
    assert said and all("left out" in text and "not all finite in case1" in text for text in said)


def test_a_run_whose_numbers_stay_non_finite_gives_up_with_the_cause(cases, tmp_path):
    for case in cases:
        case.pixels[:] = np.inf
    with pytest.raises(TrainingFailed, match="3 steps in a row"):
        train(make_task(cases, tmp_path, settings=SETTINGS | {"skip_limit": 3}))


def test_the_probe_before_the_first_epoch_changes_nothing_about_the_run(cases, tmp_path):
    plain = train(make_task(cases, tmp_path / "a"))
    said = []
    probed = train(make_task(cases, tmp_path / "b", settings=SETTINGS | {"probe_steps": 5}), say=said.append)
    assert equal(dict(plain.state_dict()), dict(probed.state_dict()))
    assert len(said) == 1 and said[0].startswith("probe: loss ")


def test_a_signal_during_the_probe_is_not_kept_waiting_and_the_run_that_goes_on_is_as_undisturbed(cases, tmp_path, monkeypatch):
    from autoseg.training.trainer import Trainer

    probing = SETTINGS | {"probe_steps": 50}
    undisturbed = train(make_task(cases, tmp_path / "a", settings=probing))
    whole, count = Trainer.step, []

    def step(self, batch, *, learning_rate):
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, batch, learning_rate=learning_rate)

    monkeypatch.setattr(Trainer, "step", step)
    task = make_task(cases, tmp_path / "b", settings=probing)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(task)
    assert len(count) == 4
    monkeypatch.setattr(Trainer, "step", whole)
    assert equal(dict(undisturbed.state_dict()), dict(train(task).state_dict()))


def test_a_network_that_cannot_learn_one_batch_is_named_before_hours_are_spent(cases, tmp_path):
    stuck = SETTINGS | {"probe_steps": 3, "optimizer.learning_rate": 0.0}
    with pytest.raises(TrainingFailed, match="by heart"):
        train(make_task(cases, tmp_path, settings=stuck))


@pytest.mark.parametrize("harm", ["damaged", "not annotated"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_probe_gives_no_verdict_on_a_batch_that_has_nothing_to_learn(cases, tmp_path, harm, everywhere):
    """It goes on to one that has, of the first five; training goes on in any case and is as without a probe."""
    task = make_task(cases, tmp_path / "plain", epochs=1, settings=SETTINGS | {"skip_limit": 100})
    picked = pick_patches(cases[:4], patch=(8, 12, 8), batch=2, step=0, seed=5, share=1.0, rounding="up")
    for case in cases if everywhere else [cases[pick.case] for pick in picked]:
        if harm == "damaged":
            case.pixels[:] = np.nan
        else:
            case.annotated, case.locations = (), {}
            case.classes[:] = 0
    expected = train(task)
    said = []
    probed = replace(task, run=Run(root=tmp_path / "probed"), settings=task.settings | {"probe_steps": 3})
    assert equal(dict(expected.state_dict()), dict(train(probed, say=said.append).state_dict()))
    told = [text for text in said if text.startswith("probe: ")]
    assert told[-1].startswith("probe: none of the first 5" if everywhere else "probe: loss ")
    assert any("1 of 1 steps left out" in text and "not all finite in" in text for text in told) == (harm == "damaged")
    assert everywhere or told[-1].count("case") == 2 and any(cases[pick.case].name not in told[-1] for pick in picked)


def test_a_probe_whose_loss_is_no_number_in_the_end_has_failed_and_tells_how_far_it_came(cases, tmp_path, monkeypatch):
    from autoseg.training.trainer import Trainer

    def probe(self, batch, *, steps, learning_rate):
        return [Step(loss=loss, gradient_norm=1.0, taken=math.isfinite(loss)) for loss in (1.2, 0.9, math.nan)]

    monkeypatch.setattr(Trainer, "probe", probe)
    with pytest.raises(TrainingFailed, match="by heart") as caught:
        train(make_task(cases, tmp_path, settings=SETTINGS | {"probe_steps": 20}))
    assert "loss 1.200 before, nan after 2 steps" in caught.value.found


def test_whether_a_run_mirrors_is_decided_when_it_begins_told_and_kept_in_its_model(cases, tmp_path):
    def axes(run):
        return json.loads(run.description.read_text())["plan"]["mirror_axes"]

    said = []
    brief = make_task(cases, tmp_path / "brief", epochs=1, settings=SETTINGS | {"augmentation.mirror_from": 5})
    train(brief, say=said.append)  # 4 steps of 2 patches, 4 cases
    assert axes(brief.run) == [] and "each case is drawn about 2 times, fewer than 5 (augmentation.mirror_from)" in said[0]
    told = []
    train(replace(brief, length=RunLength(epochs=4)), say=told.append)  # made longer: as it began
    assert axes(brief.run) == [] and any("images are not mirrored, as when the run began" in text for text in told)
    train(replace(brief, length=RunLength(epochs=5), settings=SETTINGS | {"augmentation.mirror_from": 0}), say=told.append)
    assert axes(brief.run) == [] and not any("mirror_from is" in text for text in told)
    long = make_task(cases, tmp_path / "long", epochs=4, settings=SETTINGS | {"augmentation.mirror_from": 5})
    train(long, say=said.append)
    assert axes(long.run) == list(long.plan.mirror_axes) and len(said) == 1


def test_a_finished_run_that_is_taken_as_it_is_is_made_no_longer(cases, tmp_path):
    task = make_task(cases, tmp_path, epochs=1)
    train(task)
    before = task.run.weights.read_bytes()
    train(replace(task, length=RunLength(epochs=2), extendable=False))
    assert task.run.weights.read_bytes() == before
    train(replace(task, length=RunLength(epochs=2)))
    assert task.run.weights.read_bytes() != before


def test_a_state_of_another_network_or_seed_is_refused(cases, tmp_path):
    train(make_task(cases, tmp_path))
    with pytest.raises(PlanMismatch, match="another seed"):
        train(make_task(cases, tmp_path, seed=6))
    task = make_task(cases, tmp_path)
    with pytest.raises(PlanMismatch, match="another plan: 'features_per_stage'"):
        train(replace(task, configuration=replace(task.configuration, features_per_stage=(8, 24))))


def test_a_changed_setting_is_told_and_one_that_the_state_is_made_of_is_refused(cases, tmp_path):
    train(make_task(cases, tmp_path, epochs=1))
    for name, value in {"optimizer.name": "sgd", "optimizer.momentum": 0.5, "optimizer.weight_decay": 0.3, "ema": 0.0}.items():
        with pytest.raises(PlanMismatch, match=f"'{name}' differs") as caught:
            train(make_task(cases, tmp_path, epochs=2, settings=SETTINGS | {name: value}))
        assert f"--set {name}=" in caught.value.fix
    told: list[str] = []
    train(make_task(cases, tmp_path, epochs=2, settings=SETTINGS | {"optimizer.learning_rate": 0.02}), say=told.append)
    assert "optimizer.learning_rate is 0.02 from here on, it was 0.01" in told
    told.clear()
    train(make_task(cases, tmp_path, epochs=3, settings=SETTINGS | {"optimizer.learning_rate": 0.02}), say=told.append)
    assert not any("from here on" in line for line in told)


@pytest.mark.parametrize("epochs", [3, 5])
def test_a_run_goes_on_with_no_other_split_whether_it_is_finished_or_made_longer(cases, tmp_path, epochs):
    task = make_task(cases, tmp_path)
    train(task)
    before = task.run.weights.read_bytes()
    swapped = replace(task, length=RunLength(epochs=epochs), train_cases=[cases[4], *cases[1:4]], validation_cases=[cases[0], cases[5]])
    with pytest.raises(PlanMismatch, match="other training cases") as caught:
        train(swapped)
    assert caught.value.found == "begun without case4" and "--overwrite" in caught.value.fix
    with pytest.raises(PlanMismatch, match="other validation cases"):
        train(replace(task, length=RunLength(epochs=epochs), validation_cases=cases[5:]))
    assert task.run.weights.read_bytes() == before
    train(replace(task, length=RunLength(epochs=epochs), train_cases=cases[3::-1]))  # the same ones in another order


@pytest.mark.parametrize("epochs", [3, 5])
def test_a_run_goes_on_with_no_other_plan_but_its_explanations_may_change(cases, tmp_path, epochs):
    task = make_task(cases, tmp_path)
    train(task)
    task = replace(task, length=RunLength(epochs=epochs))
    for name, value in {"spacing": (2.0, 2.0, 2.0), "normalization": ("ct",), "batch_size": 3}.items():
        with pytest.raises(PlanMismatch, match=f"another plan: '{name}'") as caught:
            train(replace(task, configuration=replace(task.configuration, **{name: value})))
        assert "--overwrite" in caught.value.fix
    intensities = (ChannelIntensities(mean=1, median=1, std=1, min=0, max=2, percentile_00_5=0, percentile_99_5=2),)
    labels = make_labels({"background": 0, "dark": 1, "bright": 2})
    changes = {"mirror_axes": (0,), "swap_axis": 2, "axis_order": (1, 0, 2), "intensities": intensities, "labels": labels}
    for name, value in changes.items():
        with pytest.raises(PlanMismatch, match=f"another plan: '{name}'"):
            train(replace(task, plan=replace(task.plan, **{name: value})))
    told = replace(task.configuration, reasons=("another sentence",))
    train(replace(task, plan=replace(task.plan, reasons=("so",), device={"name": "other"}, configurations=(told,)), configuration=told))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_cascade_goes_on_with_no_other_first_stage(cases, tmp_path, epochs):
    task = make_task(cases, tmp_path, epochs=1, previous_weights={"fold_0": "aa", "fold_1": "bb"})
    train(task)
    with pytest.raises(PlanMismatch, match="first stage") as caught:
        train(replace(task, length=RunLength(epochs=epochs), previous_weights={"fold_0": "aa", "fold_1": "cc"}))
    assert caught.value.found == "other weights in fold_1" and "--overwrite" in caught.value.fix
    train(replace(task, length=RunLength(epochs=epochs), previous_weights={"fold_1": "bb", "fold_0": "aa"}))


def test_a_state_that_does_not_tell_its_cases_is_refused(cases, tmp_path):
    task = make_task(cases, tmp_path)
    train(task)
    state = checkpoint.load_state(task.run.state)
    del state["origin"]
    checkpoint.save_state(task.run.state, state)
    with pytest.raises(PlanMismatch, match="earlier version"):
        train(task)


def test_unknown_settings_and_impossible_wishes_are_refused_at_the_door(cases, tmp_path):
    with pytest.raises(SettingsError, match="learning_rate"):
        train(make_task(cases, tmp_path, settings={"optimizer.learning_rat": 1}))
    with pytest.raises(SettingsError, match="time budget"):
        train(make_task(cases, tmp_path, epochs=None, time_budget=3.0))


def test_class_weights_are_one_per_label_background_included():
    plan, _ = make_plan()
    assert loop.check_settings(plan, {"augmentation.mirror_axes": "none"}).augmentation.mirror_axes == "none"
    with pytest.raises(SettingsError, match="planner's choice"):
        loop.check_settings(plan, {"augmentation.mirror_axes": "left-right"})
    assert loop.check_settings(plan, {"loss.class_weights": "[1, 2, 3]"}).loss.class_weights == (1, 2, 3)
    with pytest.raises(SettingsError, match="background, bright, dark"):
        loop.check_settings(plan, {"loss.class_weights": "[1, 2]"})


def test_a_plan_of_an_earlier_version_gets_the_settings_it_lacks_from_the_default_planner():
    plan, _ = make_plan(planner="nnunet")
    older = {name: value for name, value in plan.settings.items() if name != "probe_steps"}
    older["optimizer"] = {name: value for name, value in older["optimizer"].items() if name != "beta2"}
    assert loop.check_settings(replace(plan, settings=older), {}) == loop.check_settings(plan, {})
    assert loop.check_settings(replace(plan, settings=older), {}).optimizer.name == "sgd"


def test_training_works_outside_the_main_thread(cases, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(make_task(cases, tmp_path, epochs=1))))
    thread.start()
    thread.join(timeout=60)
    assert len(results) == 1


def test_averaged_weights_are_the_running_mean_of_those_trained(cases, tmp_path):
    from autoseg.training.batches import BatchLoader
    from autoseg.training.trainer import Trainer

    task = make_task(cases, tmp_path)
    settings = loop.check_settings(task.plan, {"ema": 0.9, "precision": "float32"})
    common = {"plan": task.plan, "configuration": task.configuration, "settings": settings, "device": torch.device("cpu"), "seed": 1}
    trainer, batches = Trainer(**common), BatchLoader(task.train_cases, memory=1e9, **common)
    mean = {name: value.clone() for name, value in trainer.network.named_parameters()}
    for step in range(12):
        assert trainer.step(batches.batch(step), learning_rate=0.01).taken
        decay = min(0.9, (2 + step) / (11 + step))
        mean = {name: decay * mean[name] + (1 - decay) * value.detach() for name, value in trainer.network.named_parameters()}
    for name, value in trainer.averaged.named_parameters():
        assert torch.allclose(value, mean[name], atol=1e-5), name


def test_a_compiler_that_fails_is_named_in_one_line_and_training_goes_on(cases, tmp_path, monkeypatch):
    def broken(network):
        def forward(x):
            raise RuntimeError("no C++ compiler found\nand a long story")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    said = []
    train(make_task(cases, tmp_path / "a", deterministic=False, settings=SETTINGS | {"compile": "on"}), say=said.append)
    assert said == ["not compiled: RuntimeError: no C++ compiler found"]


def test_what_the_compiler_made_is_used_where_it_is_asked_for_and_changes_no_weight_before_the_first_step(cases, tmp_path, monkeypatch):
    calls = []

    def compiler(network):
        def forward(x):
            calls.append(1)
            return network(x)

        return forward

    plain = train(make_task(cases, tmp_path / "a", deterministic=False))
    monkeypatch.setattr(torch, "compile", compiler)
    compiled = train(make_task(cases, tmp_path / "b", deterministic=False, settings=SETTINGS | {"compile": "on"}))
    assert len(calls) == 12 + 12  # the probe, then three epochs of four steps
    assert equal(dict(plain.state_dict()), dict(compiled.state_dict()))


def test_the_network_sees_bfloat16_where_the_processor_computes_in_it():
    from autoseg.networks.inputs import choose_precision

    expected = torch.bfloat16 if machine.has_bf16("cpu") else torch.float32
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("float32", torch.device("cpu")) == torch.float32
