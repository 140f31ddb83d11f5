"""Class scores on the network's grid become classes on the case's own grid, without a volume of scores on that grid.

Scores are interpolated linearly and the largest wins. Linear weights are positive and sum to one, so where all corners of a
cell of the network's grid agree on the winner, it wins everywhere inside the cell; only the cells along borders between
structures are interpolated, class by class. The result is that of interpolating everything, to rounding, in a
fraction of the time, and the memory is that of a slab whatever the number of classes::

    1───1        1───2
    │ 1 │        │ ? │        regions: the same, with "the score is above zero" in place of "the largest"
    1───1        1───2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.geometry import Shape
from autoseg.labels import Labels
from autoseg.preprocessing.resampling import layers, linear_places, nearest_places


def classes_on_grid(
    slabs: Iterable[tuple[int, Tensor]], *, source: Shape, target: Shape, anisotropic_axis: int | None, labels: Labels
) -> NDArray[np.integer[Any]]:
    """Return the classes of scores after resampling them to another shape of the same extent.

    Parameters
    ----------
    slabs : (first slice, logits `(heads, slices, y, x)`) in order, together `source` voxels
    source, target : (z, y, x), voxels
    anisotropic_axis : the axis along which the nearest slice is taken and nothing interpolated; None: all three are interpolated
    labels : one head per class, or one per region

    Returns
    -------
    classes `target` (z, y, x), uint8 or int16

    Source of the rule: nnU-Net 2.8.1: linear resampling of logits, then arg-max, or painting of regions above one half.
    """
    axes = [_places(n, m, nearest=axis == anisotropic_axis) for axis, (n, m) in enumerate(zip(source, target, strict=True))]
    result = np.empty(target, dtype=_class_type(labels))
    planes = _planes(slabs, labels)
    held: dict[int, _Plane] = {}
    reached = -1
    for lower, upper, where in layers(axes[0].lower.numpy(), axes[0].upper.numpy()):
        while reached < upper:
            reached, plane = next(planes)
            held[reached] = plane
        held = {index: plane for index, plane in held.items() if index >= lower}
        _fill_layer(result, where, held[lower], held[upper], axes, labels)
    return result


def classes_of(logits: NDArray[np.float32] | Tensor, labels: Labels) -> NDArray[np.integer[Any]]:
    """Return classes `(...)` of logits `(heads, ...)`: the largest, or the regions above one half painted in their order."""
    scores = torch.as_tensor(logits)
    if labels.regions:
        return labels.paint((scores > 0).numpy())
    return _winners(scores).numpy()


def probabilities_of(logits: NDArray[np.float32], labels: Labels) -> NDArray[np.float32]:
    """Return the probabilities of logits `(heads, ...)`: softmax over classes, or sigmoid of each region. Overwrites the logits."""
    scores = torch.from_numpy(logits)
    if labels.regions:
        return scores.sigmoid_().numpy()
    scores -= scores.amax(0, keepdim=True)
    scores.exp_()
    scores /= scores.sum(0, keepdim=True)
    return scores.numpy()


@dataclass(frozen=True, kw_only=True)
class _Places:
    """For each voxel along an axis of the target: the two voxels of the source that it is between, and the share of the second."""

    lower: Tensor
    upper: Tensor
    share: Tensor  # float32


@dataclass(frozen=True, kw_only=True)
class _Plane:
    """One slice of scores on the network's grid."""

    scores: Tensor  # (y * x, heads)
    classes: Tensor  # (y, x)
    decided: Tensor  # (m, y, x): what all corners of a cell must agree on; the winner, or which regions are above one half


def _places(n: int, m: int, *, nearest: bool) -> _Places:
    lower, upper, share = map(torch.from_numpy, (nearest_places if nearest else linear_places)(n, m))
    return _Places(lower=lower, upper=upper, share=share.float())


def _planes(slabs: Iterable[tuple[int, Tensor]], labels: Labels) -> Iterator[tuple[int, _Plane]]:
    for start, slab in slabs:
        heads, _, height, width = slab.shape
        decided = (slab > 0 if labels.regions else _winners(slab)[None]).cpu()
        for index in range(slab.shape[1]):
            scores = slab[:, index].reshape(heads, height * width).t().contiguous().cpu()
            plane = decided[:, index]
            classes = torch.from_numpy(labels.paint(plane.numpy())) if labels.regions else plane[0]
            yield start + index, _Plane(scores=scores, classes=classes, decided=plane)


def _fill_layer(
    result: NDArray[np.integer[Any]], where: NDArray[np.intp], below: _Plane, above: _Plane, axes: list[_Places], labels: Labels
) -> None:
    """Return fill the target slices `where`, all of them between the source slices `below` and `above`."""
    slices, rows, columns = axes
    result[where] = below.classes[rows.lower[:, None], columns.lower].numpy()
    if not any(places.share.any() for places in axes):
        return  # no voxel is between two others
    cells = _mixed_cells(below, above)
    at = cells[rows.lower[:, None], columns.lower].nonzero()  # (pixels, 2)
    if len(at) == 0:
        return
    i, j = at.unbind(1)
    lower = _interpolated(below, rows, columns, i, j)
    upper = lower if above is below else _interpolated(above, rows, columns, i, j)
    for index in where:
        scores = torch.lerp(lower, upper, float(slices.share[index])) if above is not below else lower
        found = labels.paint((scores.t() > 0).numpy()) if labels.regions else scores.argmax(1).numpy()
        result[index, i.numpy(), j.numpy()] = found


def _mixed_cells(below: _Plane, above: _Plane) -> Tensor:
    """Return for each voxel of a slice whether the corners of the cell that begins there disagree."""
    mixed = torch.zeros_like(below.classes, dtype=torch.bool)
    for plane in (below,) if above is below else (below, above):
        decided = plane.decided
        along_x = _any(decided[:, :, 1:] != decided[:, :, :-1])
        along_y = _any(decided[:, 1:] != decided[:, :-1])
        mixed[:, :-1] |= along_x
        mixed[:-1, :-1] |= along_x[1:]
        mixed[:-1] |= along_y
    if above is not below:
        mixed |= _any(below.decided != above.decided)  # the edges of both faces agree, so one upright edge speaks for four
    return mixed


def _any(differences: Tensor) -> Tensor:
    return differences[0] if len(differences) == 1 else differences.any(0)


def _interpolated(plane: _Plane, rows: _Places, columns: _Places, i: Tensor, j: Tensor) -> Tensor:
    """Return the scores `(pixels, heads)` between the four corners around each pixel."""
    width = plane.classes.shape[1]
    top, bottom = rows.lower[i] * width, rows.upper[i] * width
    left, right = columns.lower[j], columns.upper[j]
    across, down = columns.share[j], rows.share[i]
    corners = torch.stack((top + left, top + right, bottom + left, bottom + right), dim=1)
    weights = torch.stack(((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across), dim=1)
    return torch.nn.functional.embedding_bag(corners, plane.scores, mode="sum", per_sample_weights=weights)  # a sum of weighted rows


def _winners(scores: Tensor) -> Tensor:
    """Return the index of the largest of `(k, ...)`, the first where several are: `argmax(0)`, which torch does 5 to 30 times slower."""
    heads = len(scores)
    kind = torch.uint8 if heads <= 256 else torch.int16
    fall = torch.arange(heads - 1, -1, -1, dtype=kind, device=scores.device).view(-1, *[1] * (scores.dim() - 1))
    return (heads - 1) - ((scores == scores.amax(0)).to(kind) * fall).amax(0)


def _class_type(labels: Labels) -> type[np.integer[Any]]:
    return np.uint8 if labels.class_count <= 256 else np.int16
