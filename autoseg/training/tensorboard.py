"""The figures of a run as TensorBoard events, where the package tensorboard is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoseg.errors import SettingsError
from autoseg.training.history import EpochRow

FIGURES = {
    "loss": "loss",
    "validation_dice": "Dice/validation",
    "seconds_per_step": "time/seconds per step",
    "data_wait": "time/share waiting for data",
    "augmentation": "time/share augmenting",
    "memory": "memory/bytes",
}


def require() -> None:
    """Raise unless TensorBoard's writer is installed.

    Raises
    ------
    SettingsError : it is not; with the command that installs it
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "--tensorboard needs a package that is not installed",
            found=str(error),
            expected="the extra 'tensorboard'",
            fix="pip install tensorboard, or leave the option out: history.csv and progress.png hold the same figures",
        ) from None


class Board:
    """Writes the rows of `history` as they come, by optimisation step. What an interrupted run wrote beyond its saved state is hidden."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def add(self, row: EpochRow) -> None:
        """Write one row of figures."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=row.step)
        for key, name in FIGURES.items():
            if (value := getattr(row, key)) is not None:
                self._writer.add_scalar(name, value, row.step)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        """Write everything to disk."""
        if self._writer is not None:
            self._writer.close()
