import sys
from dataclasses import replace

import pytest

from autoseg.errors import SettingsError
from autoseg.training import tensorboard
from autoseg.training.history import EpochRow

ROW = EpochRow(epoch=1, step=4, elapsed=1.0, loss=1.5, seconds_per_step=0.25, data_wait=0.0, augmentation=0.1, memory=1000, time_left=9.0)


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_the_rows_of_a_run_can_be_read_back_by_step(tmp_path):
    with tensorboard.Board(tmp_path) as board:
        board.add(ROW)
        board.add(replace(ROW, step=8, loss=0.5, validation_dice=0.75))
    found = read(tmp_path)
    assert found["loss"] == [(4, 1.5), (8, 0.5)]
    assert found["Dice/validation"] == [(8, 0.75)]
    assert set(found) == set(tensorboard.FIGURES.values())


def test_what_a_killed_run_wrote_beyond_its_saved_state_is_hidden_by_the_one_that_goes_on(tmp_path):
    with tensorboard.Board(tmp_path) as board:
        for step in (4, 8, 12):
            board.add(replace(ROW, step=step))
    with tensorboard.Board(tmp_path) as board:
        board.add(replace(ROW, step=8, loss=0.25))
    assert read(tmp_path)["loss"] == [(4, 1.5), (8, 0.25)]


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    tensorboard.require()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match="pip install tensorboard"):
        tensorboard.require()
