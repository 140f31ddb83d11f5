"""Trains on made cases, alone or as one of several processes that torchrun started, and writes what it saw: see test_process_group.py."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.labels import make_labels
from autoseg.networks import checkpoint
from autoseg.training import loop
from autoseg.training.batches import Batch
from autoseg.training.length import RunLength
from autoseg.training.process_group import joined
from autoseg.training.trainer import Trainer
from autoseg.workspace import Run
from tests.training.made import make_case, make_plan

PLAIN = {
    "precision": "float32",
    "steps_per_epoch": 3,
    "probe_steps": 2,
    "augmentation.rotation": 0.0,
    "augmentation.scaling": 0.0,
    "augmentation.noise": 0.0,
    "augmentation.blur": 0.0,
    "augmentation.brightness": 0.0,
    "augmentation.contrast": 0.0,
    "augmentation.low_resolution": 0.0,
    "augmentation.gamma": 0.0,
    "augmentation.gamma_inverted": 0.0,
    "augmentation.mirror": 0.0,
}
NAMES = {"background": 0, "first": 1, "second": 2}
KINDS = {  # labels, whether Dice runs over the batch, whether some classes were not annotated
    "batch dice": (make_labels(NAMES), True, False),
    "dice per sample": (make_labels(NAMES), False, False),
    "partly annotated": (make_labels(NAMES), True, True),
    "partly annotated, dice per sample": (make_labels(NAMES), False, True),
    "regions": (make_labels(NAMES, regions={"both": ((1, 2), 1), "inner": ((2,), 2)}), False, True),
    "ignore": (make_labels(NAMES, ignore=3), True, False),
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        found = {kind: steps(kind, processes) for kind in KINDS}
        found["loop"] = whole_run(folder / "run", processes)
        found["damaged"] = run_with_a_damaged_case(folder / "damaged", processes)
        (folder / f"rank{processes.rank}.json").write_text(json.dumps(found))


def steps(kind, processes):
    """Losses and a sum of the weights of three steps on one batch of four."""
    labels, batch_dice, partly = KINDS[kind]
    plan, configuration = make_plan(patch=(8, 8, 8), batch=4, labels=labels)
    configuration = replace(configuration, batch_dice=batch_dice)
    settings = loop.check_settings(plan, PLAIN)
    trainer = Trainer(plan=plan, configuration=configuration, settings=settings, device=torch.device("cpu"), seed=1, processes=processes)
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(4, 1, 8, 8, 8, generator=generator)
    target = torch.randint(0, 4 if labels.ignore_class else 3, (4, 8, 8, 8), generator=generator)
    target[0] = 0  # one sample without any foreground
    annotated = torch.ones(4, 3, dtype=torch.bool)
    annotated[1, 2] = annotated[2, 1] = False
    mine = list(processes.share(4))
    batch = Batch(
        image=image[mine], target=target[mine], annotated=annotated[mine] if partly else None, cases=tuple(f"case{i}" for i in mine)
    )
    losses = [trainer.step(batch, learning_rate=0.01).loss for _ in range(3)]
    return {"losses": losses, "weights": digest(trainer.network.state_dict())}


def whole_run(folder, processes):
    """Two epochs of the loop, and the files it leaves."""
    plan, configuration = make_plan(patch=(8, 12, 8), batch=4)
    cases = [make_case(f"case{i}", (9, 13 + i, 11), seed=i) for i in range(6)]
    validated = []
    task = loop.TrainingTask(
        plan=plan, configuration=configuration, fold=0, train_cases=cases[:4], validation_cases=cases[4:], run=Run(root=folder),
        length=RunLength(epochs=2), settings=PLAIN, seed=2, deterministic=True, processes=processes,
    )  # fmt: skip
    said = []
    network = loop.train(task, validate=lambda network, some: validated.append(len(some)) or 0.5, say=said.append)
    rows = [json.loads(line) for line in task.run.history_jsonl.read_text().splitlines()] if processes.is_main else []
    if processes.is_main:
        assert checkpoint.holds(task.run, network.state_dict(), steps=6)
    return {
        "losses": [row["loss"] for row in rows],
        "weights": digest(network.state_dict()),
        "validated": validated,
        "said": len(said),
    }


def run_with_a_damaged_case(folder, processes):
    """What an epoch of the loop says where one of four cases, all of them in every batch, has a value that is no number."""
    plan, configuration = make_plan(patch=(8, 12, 8), batch=4)
    cases = [make_case(f"case{i}", (8, 12, 8), seed=i) for i in range(4)]
    cases[2].pixels[:] = float("nan")
    task = loop.TrainingTask(
        plan=plan, configuration=configuration, fold=0, train_cases=cases, validation_cases=(), run=Run(root=folder),
        length=RunLength(epochs=1), settings=PLAIN | {"steps_per_epoch": 6, "probe_steps": 1}, processes=processes,
    )  # fmt: skip
    said = []
    loop.train(task, validate=lambda network, some: 0.5, say=said.append)
    return said


def digest(weights):
    """Sums, but of what no gradient reaches beyond rounding: a bias that the norm behind it takes away."""
    return {name: float(value.double().abs().sum()) for name, value in weights.items() if not name.endswith("convolution.bias")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
