"""What a network is given: the segmentation of a previous stage, and the precision it computes in. The same in training and prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from autoseg import machine

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
