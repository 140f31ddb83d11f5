"""How far a run is, and what the learning rate is there. Pure arithmetic.

A run is measured either in epochs or in seconds; both shape the schedule from the start. *Progress* runs from 0 at the first
step to 1 at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoseg.training.settings import ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run is: a number of steps, or of seconds."""

    steps: int | None = None
    seconds: float | None = None
    reserve: float = 0.0  # seconds kept for the final validation

    def progress(self, *, step: int, elapsed: float) -> float:
        """Share of the run that is behind us, 0 to 1.

        Parameters
        ----------
        step : optimisation steps done
        elapsed : seconds since training began, those of earlier interrupted runs included
        """
        if self.seconds is not None:
            return min(1.0, elapsed / max(self.seconds - self.reserve, 1e-9))
        assert self.steps is not None
        return min(1.0, step / max(self.steps, 1))

    def time_left(self, *, step: int, elapsed: float, seconds_per_step: float) -> float:
        """Seconds until the last step."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.reserve - elapsed)
        assert self.steps is not None
        return max(0, self.steps - step) * seconds_per_step


def learning_rate(progress: float, *, top: float, settings: ScheduleSettings) -> float:
    """The learning rate at some progress.

    Parameters
    ----------
    progress : 0 to 1
    top : the highest rate
    settings : `poly` is top * (1 - p) ** power, `cosine` half a period from top to `final` * top; both follow a linear rise
        over the share `warm_up` of the run and cover what is left of it

    Source: poly as nnU-Net 2.8.1 (power 0.9, no warm-up); cosine Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
    if progress < settings.warm_up:
        return top * max(progress / settings.warm_up, 1e-3)
    position = (progress - settings.warm_up) / (1 - settings.warm_up) if settings.warm_up < 1 else 1.0
    if settings.name == "poly":
        share = (1 - position) ** settings.power
    elif settings.name == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * position))
    else:
        share = 1.0
    return top * (settings.final + (1 - settings.final) * share)
