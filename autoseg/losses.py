"""What a loss is: one record each, from which the choices of presets, the settings, construction and tests follow.

Training minimises a *voxel loss* (`loss.pixel` in the settings) plus a *region loss* (`loss.overlap`), and on request one further term
of shapes (`loss.further`, at full resolution only). To add one, write its
function into a file in `training/losses/` and its record into `LOSSES`. Every function also gets the settings of the loss:

=========  ======================================================  ==================================================
kind       the function gets                                       and returns
=========  ======================================================  ==================================================
voxels     the cross-entropy of each voxel                         the loss of each voxel, in the same shape
counts     overlapping, predicted and true voxels `(n, channels)`  scores of the same shape, 1 where all is right
ranking    probabilities and truth `(channels, voxels)`            one score per channel, 1 where all is right
shapes     probabilities and truth `(channels, z, y, x)`, spacing  one loss per channel, lowest where all is right
=========  ======================================================  ==================================================

A channel is a foreground class or a region. The ignore label, cases in which only some labels are annotated, regions, deep supervision
and the other processes of a group are handled by `training.loss`. In a ranking, voxels that take no part have probability and truth 0,
and a channel without truth is left out.

A loss of a user's own is named "module:callable" in place of one of these, `--set loss.pixel=...` or `--set loss.overlap=...`: of the
kind `voxels` in the first place, in the second of `counts`, or of `ranking` where the function's attribute `kind` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from autoseg import extensions


@dataclass(frozen=True)
class LossRecord:
    """One loss, described without importing it."""

    kind: Literal["voxels", "counts", "ranking", "shapes"]
    function: str  # "module:name"; the module may import torch
    words: str  # for people
    hardest: str | None = None  # setting that says which share of the voxels counts, those with the largest loss; None: all count


# fmt: off
LOSSES = {
    "cross_entropy": LossRecord("voxels", "autoseg.training.losses.cross_entropy:cross_entropy", "cross-entropy"),
    "focal": LossRecord("voxels", "autoseg.training.losses.focal:focal", "focal loss"),
    "top_k": LossRecord("voxels", "autoseg.training.losses.cross_entropy:cross_entropy", "cross-entropy of the hardest voxels", "top_k"),
    "dice": LossRecord("counts", "autoseg.training.losses.dice:dice", "soft Dice"),
    "tversky": LossRecord("counts", "autoseg.training.losses.tversky:tversky", "Tversky index"),
    "focal_tversky": LossRecord("counts", "autoseg.training.losses.tversky:focal_tversky", "focal Tversky index"),
    "generalized": LossRecord("voxels", "autoseg.training.losses.generalized:generalized", "generalised cross-entropy"),
    "generalized_dice": LossRecord("counts", "autoseg.training.losses.generalized:generalized_dice", "generalised Dice"),
    "squared_dice": LossRecord("ranking", "autoseg.training.losses.squared_dice:squared_dice", "Dice with squares"),
    "boundary": LossRecord("shapes", "autoseg.training.losses.boundary:boundary", "boundary loss"),
    "hausdorff": LossRecord("shapes", "autoseg.training.losses.boundary:hausdorff", "Hausdorff loss"),
    "cldice": LossRecord("shapes", "autoseg.training.losses.topology:cldice", "centre-line Dice"),
    "skeleton_recall": LossRecord("shapes", "autoseg.training.losses.topology:skeleton_recall", "skeleton recall"),
    "components": LossRecord("shapes", "autoseg.training.losses.components:components", "Dice of each component"),
    "lovasz": LossRecord("ranking", "autoseg.training.losses.lovasz:lovasz", "Lovász extension of the Jaccard index"),
}
# fmt: on

VOXEL_LOSSES = tuple(name for name, record in LOSSES.items() if record.kind == "voxels")
REGION_LOSSES = tuple(name for name, record in LOSSES.items() if record.kind in ("counts", "ranking"))
SHAPE_LOSSES = ("none", *(name for name, record in LOSSES.items() if record.kind == "shapes"))


def record(name: str) -> LossRecord:
    """Return the record of a loss; a user's own is imported, and is of the kind that its place or its attribute `kind` says."""
    if name in LOSSES:
        return LOSSES[name]
    return LossRecord("ranking" if getattr(load(name), "kind", None) == "ranking" else "counts", name, name)


def load(name: str) -> Callable[..., Any]:
    """Return the function of a loss; this imports torch.

    Raises
    ------
    SettingsError : it is a user's own, and cannot be imported
    """
    return extensions.load(LOSSES[name].function if name in LOSSES else name, what="loss")
