"""Along which axes images are flipped in training and prediction, and which labels change places then."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from autoseg.geometry import Axes
from autoseg.labels import Labels


@dataclass(frozen=True, kw_only=True)
class Mirroring:
    """The flips of a plan; made by the planner, narrowed when a run begins, carried by the plan of its model to prediction."""

    axes: tuple[int, ...] = ()  # of the plan
    swap_axis: int | None = None  # whose flip turns left into right; None: no flip does, or no labels come in such pairs
    pairs: tuple[tuple[int, int], ...] = ()  # classes that change places then

    @property
    def passes(self) -> int:
        """Number of combinations of flips, none included: forward passes per patch in prediction."""
        return int(2 ** len(self.axes))

    def along(self, axes: Collection[int]) -> Mirroring:
        """Return the flips along these axes alone."""
        return replace(
            self, axes=tuple(axis for axis in self.axes if axis in axes), swap_axis=self.swap_axis if self.swap_axis in axes else None
        )

    def within(self, patch_size: Sequence[int]) -> Mirroring:
        """Return the flips that change a patch: those along axes of more than one voxel."""
        return self.along([axis for axis, voxels in enumerate(patch_size) if voxels > 1])


NO_MIRRORING = Mirroring()


def choose_mirroring(labels: Labels, order: Axes, *, planar: bool, wanted: str = "all", brief: bool = False) -> Mirroring:
    """Return the flips that a data set allows.

    Left and right lie along the canonical x axis. Where labels come in such pairs, a flip of that axis exchanges them;
    everything else about the flipped scan stays a plausible scan.

    Parameters
    ----------
    order : the canonical axis (z, y, x) that each plan axis is
    wanted : "all", "left-right", "none", or "auto": all, but in a brief training only left and right of a body
    brief : whether a time budget limits the training. Scans are read in one orientation, so a network that is trained for
        minutes does not have to know what they look like upside down; pictures without anatomical axes have no such orientation
    """
    axes = tuple(axis for axis in range(3) if not (planar and axis == 0))
    left_right = order.index(2)
    if wanted == "none":
        axes = ()
    elif wanted == "left-right" or (wanted == "auto" and brief and not planar):
        axes = (left_right,)
    return Mirroring(axes=axes, swap_axis=left_right if labels.pairs and left_right in axes else None, pairs=labels.paired_classes)
