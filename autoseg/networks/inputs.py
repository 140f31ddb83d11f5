"""What a network is given: the channels of its input, and the precision it computes in. The same in training and prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from autoseg import machine
from autoseg.planning.configuration import Configuration, Plan

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def input_channels(plan: Plan, configuration: Configuration) -> int:
    """Return the channels of the image, plus one per foreground class for the second stage of a cascade."""
    return len(plan.channels) + (len(plan.labels.foreground) if configuration.previous_stage else 0)


def one_hot(previous: Tensor, classes: int) -> Tensor:
    """Return class maps `(n, z, y, x)` as float channels `(n, classes - 1, z, y, x)`, without the background."""
    wanted = torch.arange(1, classes, device=previous.device)
    return (previous[:, None] == wanted[:, None, None, None]).float()


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the precision of the forward pass: "auto" is bfloat16 where the device computes in it, float16 on older GPUs."""
    if wanted != "auto":
        return _PRECISIONS[wanted]
    if machine.has_bf16(str(device)):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32
