"""The learning rate at each point of a run. Pure arithmetic."""

from __future__ import annotations

import math

from autoseg.training.settings import ScheduleSettings


def learning_rate(progress: float, *, top: float, settings: ScheduleSettings) -> float:
    """Return the learning rate at some progress.

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
