"""Checkpoints: what goes in comes out, damage is noticed, nothing half-written is ever read as whole."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from autoseg import files
from autoseg.errors import DiskFull, MissingPath, ModelError
from autoseg.networks import checkpoint
from autoseg.workspace import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """An empty folder of one fold."""
    return Run(root=tmp_path / "fold_0")


def test_weights_and_description_come_back(run: Run) -> None:
    weights = {
        "a": torch.randn(3, 2, 4, 5, 6).to(memory_format=torch.channels_last_3d),
        "b": torch.arange(4),
        "scalar": torch.tensor(1.5),
        "half": torch.randn(3).bfloat16(),
    }
    checkpoint.save_model(run, weights, {"configuration": "2d", "scores": {"dice": None}})
    loaded, description = checkpoint.load_model(run)
    assert all(torch.equal(loaded[name], weights[name]) and loaded[name].dtype == weights[name].dtype for name in weights)
    assert loaded.keys() == weights.keys()
    assert description["configuration"] == "2d" and description["scores"] == {"dice": None}
    assert files.read_json(run.description)["configuration"] == "2d"
    assert files.read_json(run.description)["digest"] == checkpoint.digest(weights)


def test_weights_that_share_memory_are_saved_as_what_they_show(run: Run) -> None:
    whole = torch.arange(12.0)
    checkpoint.save_model(run, {"whole": whole, "part": whole[2:5], "again": whole}, {})
    loaded, _ = checkpoint.load_model(run)
    assert loaded["part"].tolist() == [2, 3, 4] and torch.equal(loaded["again"], whole)


def test_any_flipped_byte_is_noticed(run: Run) -> None:
    checkpoint.save_model(run, {"a": torch.randn(50)}, {"configuration": "2d"})
    whole = run.weights.read_bytes()
    for place in (2, 20, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[place] ^= 1
        run.weights.write_bytes(broken)
        with pytest.raises(ModelError):
            checkpoint.load_model(run)


def test_a_truncated_file_is_noticed(run: Run) -> None:
    checkpoint.save_model(run, {"a": torch.randn(50)}, {})
    run.weights.write_bytes(run.weights.read_bytes()[:-7])
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load_model(run)


def test_a_model_holds_its_own_weights_and_no_others(run: Run) -> None:
    weights = {"a": torch.randn(50)}
    assert not checkpoint.holds(run, weights, steps=3)
    checkpoint.save_model(run, weights, {"steps": 3})
    assert checkpoint.holds(run, weights, steps=3)
    assert not checkpoint.holds(run, weights, steps=4)
    assert not checkpoint.holds(run, {"a": weights["a"] + 1}, steps=3)
    for path in (run.weights, run.description):
        content = path.read_bytes()
        path.write_bytes(content[:-7])
        assert not checkpoint.holds(run, weights, steps=3)
        path.unlink()
        assert not checkpoint.holds(run, weights, steps=3)
        path.write_bytes(content)
    files.write_json(run.description, [])
    assert not checkpoint.holds(run, weights, steps=3)


@pytest.mark.parametrize("broken", ["truncated", "of another format", "of another shape"])
def test_a_state_that_cannot_be_read_says_how_to_begin_again(tmp_path: Path, broken: str) -> None:
    checkpoint.save_state(tmp_path, {"a": torch.randn(50)})
    path = tmp_path / "state.safetensors"
    if broken == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        description = {"format": 99} if broken == "of another format" else {"format": checkpoint.MODEL_FORMAT, "state": ["tensor", "b"]}
        checkpoint.write_tensors(path, {"a": torch.zeros(2)}, description)
    with pytest.raises(ModelError, match="state") as caught:
        checkpoint.load_state(tmp_path)
    assert "--overwrite" in str(caught.value) and "predict continues with the model next to it" in str(caught.value)


def test_foreign_files_and_formats_are_refused(run: Run) -> None:
    with pytest.raises(MissingPath):
        checkpoint.load_model(run)
    run.root.mkdir(parents=True)
    save_file({"a": torch.zeros(2)}, run.weights)
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load_model(run)
    checkpoint.write_tensors(run.weights, {"a": torch.zeros(2)}, {"format": 99})
    with pytest.raises(ModelError, match="format"):
        checkpoint.load_model(run)


def test_a_write_that_fails_leaves_the_model_before_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_model(run, {"a": torch.ones(3)}, {"epochs": 1})

    def dies(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", dies)
    with pytest.raises(DiskFull):
        checkpoint.save_model(run, {"a": torch.zeros(3)}, {"epochs": 2})
    weights, description = checkpoint.load_model(run)
    assert weights["a"].tolist() == [1, 1, 1] and description["epochs"] == 1
    assert sorted(path.name for path in run.root.iterdir()) == ["model.json", "model.safetensors"]


def test_the_state_of_a_training_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "numpy": rng.bit_generator.state,
        "array": rng.integers(0, 9, (2, 3)),
        "loss": [0.1, math.inf, float("nan"), None, True, np.float64(0.3)],
        "pair": (1, "two"),
    }
    checkpoint.save_state(tmp_path, state)
    found = checkpoint.load_state(tmp_path)
    assert found is not None
    again = torch.optim.AdamW(network.parameters())
    again.load_state_dict(found["optimizer"])
    moments = [(values["exp_avg"], values["exp_avg_sq"], values["step"]) for values in again.state.values()]
    expected = [(values["exp_avg"], values["exp_avg_sq"], values["step"]) for values in optimizer.state.values()]
    assert all(torch.equal(a, b) for one, other in zip(moments, expected, strict=True) for a, b in zip(one, other, strict=True))
    assert torch.equal(found["torch"], state["torch"])
    assert found["numpy"] == state["numpy"]
    assert np.array_equal(found["array"], state["array"])
    assert found["loss"][:2] == [0.1, math.inf] and math.isnan(found["loss"][2]) and found["loss"][3:] == [None, True, 0.3]
    assert found["pair"] == (1, "two")


def test_there_is_no_state_before_the_first_save(tmp_path: Path) -> None:
    assert checkpoint.load_state(tmp_path / "state") is None


def test_what_cannot_be_kept_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.thing"):
        checkpoint.save_state(tmp_path, {"thing": object()})


def test_the_same_model_is_the_same_file_however_often_it_is_written_and_however_long_it_took(tmp_path):
    """Of several keys in the header, safetensors writes the order of a hash table, which changes from call to call."""
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    runs = [Run(root=tmp_path / str(seconds)) for seconds in range(8)]
    for seconds, run in enumerate(runs):
        checkpoint.save_model(run, weights, {"x": 1, "y": [2]}, remarks={"seconds": seconds})
    assert len({run.weights.read_bytes() for run in runs}) == 1
    assert [json.loads(run.description.read_text())["seconds"] for run in runs] == list(range(8))


def _changed(path: Path, before: str, after: str) -> None:
    """Replace a text of the header of a safetensors file by one of the same length."""
    assert len(before) == len(after) and path.read_bytes().count(before.encode()) == 1
    path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))


@pytest.mark.parametrize(("before", "after"), [("123.25", "623.25"), ("checksum", "checksun"), ('"fold\\\\": 0', '"fold\\\\": 1')])
def test_a_changed_description_is_noticed_although_the_weights_are_whole(run: Run, before: str, after: str) -> None:
    checkpoint.save_model(run, {"a": torch.randn(50)}, {"plan": {"intensities": [{"mean": 123.25}]}, "fold": 0})
    before, after = before.encode().decode("unicode_escape"), after.encode().decode("unicode_escape")
    _changed(run.weights, before, after)
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load_model(run)


def test_a_model_of_an_earlier_version_has_no_checksum_and_opens(run: Run) -> None:
    weights = {"a": torch.randn(50)}
    header = {"sha256": checkpoint.digest(weights), "description": {"format": 1, "configuration": "2d"}}
    run.root.mkdir()
    save_file(weights, run.weights, metadata={"autoseg": json.dumps(header)})
    assert checkpoint.load_model(run)[1]["configuration"] == "2d"


def test_a_model_json_that_says_something_else_is_not_held(run: Run) -> None:
    weights = {"a": torch.randn(50)}
    checkpoint.save_model(run, weights, {"steps": 3, "plan": {"mean": 123.25}}, remarks={"seconds": 7.5})
    assert checkpoint.holds(run, weights, steps=3)
    for before, after in (("123.25", "623.25"), ("7.5", "9.5")):
        whole = run.description.read_text()
        run.description.write_text(whole.replace(before, after))
        assert not checkpoint.holds(run, weights, steps=3)
        run.description.write_text(whole)


def test_a_model_may_be_read_by_whom_the_umask_lets_read(run: Run) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save_model(run, {"a": torch.randn(5)}, {})
    finally:
        os.umask(before)
    assert run.weights.stat().st_mode & 0o777 == 0o640 == run.description.stat().st_mode & 0o777


def test_a_full_disk_is_told_as_such_and_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFull, match="disk is full"):
        checkpoint.save_state(run.state, {"a": torch.randn(5)})
    assert list(run.state.iterdir()) == []
