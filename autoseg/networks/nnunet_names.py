"""The weights of nnU-Net's two networks under the names of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ModelError

_KIND = {"conv": "convolution", "norm": "norm"}


def renamed(theirs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return each weight once, under our name, without the `body.` before it; float32.

    A checkpoint of nnU-Net holds each weight up to four times, under aliases. They must be equal.

    Raises
    ------
    ModelError : a weight that our networks do not have, an alias that differs, or numbers that are not finite
    """
    plain = {name.removeprefix("module.").removeprefix("_orig_mod."): array for name, array in theirs.items()}
    ours: dict[str, NDArray[np.float32]] = {}
    for name, array in plain.items():
        meant = name.replace("decoder.encoder.", "encoder.").replace("all_modules.0.", "conv.").replace("all_modules.1.", "norm.")
        if meant != name:
            if meant not in plain or not np.array_equal(plain[meant], array):
                raise _unusable(f"{name} is not the same as {meant}")
        elif not np.isfinite(array).all():
            raise _unusable(f"{name} holds values that are not finite")
        else:
            ours[_our_name(name)] = array.astype(np.float32)
    return ours


def _our_name(name: str) -> str:
    match name.split("."):
        case ["encoder", "stages", s, "0", "convs", c, ("conv" | "norm") as layer, leaf]:
            return f"stages.{s}.{c}.{_KIND[layer]}.{leaf}"
        case ["encoder", "stem", "convs", "0", ("conv" | "norm") as layer, leaf]:
            return f"stem.{_KIND[layer]}.{leaf}"
        case ["encoder", "stages", s, "blocks", b, "conv1", ("conv" | "norm") as layer, leaf]:
            return f"stages.{s}.{b}.first.{_KIND[layer]}.{leaf}"
        case ["encoder", "stages", s, "blocks", b, "conv2", "conv", leaf]:
            return f"stages.{s}.{b}.second.{leaf}"
        case ["encoder", "stages", s, "blocks", b, "conv2", "norm", leaf]:
            return f"stages.{s}.{b}.norm.{leaf}"
        case ["encoder", "stages", s, "blocks", b, "skip", i, ("conv" | "norm") as layer, leaf] if i.isdigit():
            return f"stages.{s}.{b}.shortcut.{int(i) + (layer == 'norm')}.{leaf}"
        case ["decoder", "transpconvs", d, leaf]:
            return f"decoder.steps.{d}.up.{leaf}"
        case ["decoder", "stages", d, "convs", c, ("conv" | "norm") as layer, leaf]:
            return f"decoder.steps.{d}.blocks.{c}.{_KIND[layer]}.{leaf}"
        case ["decoder", "seg_layers", d, leaf]:
            return f"decoder.heads.{d}.{leaf}"
    raise _unusable(f"a weight that our networks do not have: {name}")


def _unusable(found: str) -> ModelError:
    return ModelError(
        "the weights are not those of a PlainConvUNet or ResidualEncoderUNet of nnU-Net",
        found=found,
        fix="import a model that nnU-Net's own planners and trainers made",
    )
