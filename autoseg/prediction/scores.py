"""Class scores on the network's grid become classes on the case's own grid, without a volume of scores on that grid.

Scores are interpolated linearly and the largest wins. Linear weights are positive and sum to one, so where all corners of a
cell of the network's grid agree on the winner, it wins everywhere inside the cell; only the cells along borders between
structures are interpolated (`cells`). The result is that of interpolating everything, to rounding, in a
fraction of the time, and the memory is that of a few slices whatever the number of classes::

    1───1        1───2
    │ 1 │        │ ? │        regions: the same, with "the score is above zero" in place of "the largest"
    1───1        1───2
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.geometry import Shape
from autoseg.labels import Labels
from autoseg.prediction.cells import Axis, Plane, fill_cells, mixed_cells, pieces
from autoseg.preprocessing.resampling import layers, linear_places, nearest_places

_P = TypeVar("_P")


def classes_on_grid(
    slabs: Iterable[tuple[int, Tensor]],
    *,
    source: Shape,
    target: Shape,
    anisotropic_axis: int | None,
    labels: Labels,
    rows: tuple[int, int] | None = None,
    out: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.integer[Any]]:
    """Return the classes of scores after resampling them to another shape of the same extent.

    Parameters
    ----------
    slabs : (first slice, logits `(heads, slices, y, x)`) in order, together `source` voxels; fastest with the heads last in memory
    source, target : (z, y, x), voxels
    anisotropic_axis : the axis along which the nearest slice is taken and nothing interpolated; None: all three are interpolated
    labels : one head per class, or one per region
    rows : the first and last + 1 row of the source that the slabs hold, by default all; the target's rows between them are written
    out : where to write, by default a new array

    Returns
    -------
    classes `target` (z, y, x), uint8 or int16

    Source of the rule: nnU-Net 2.8.1: linear resampling of logits, then arg-max, or painting of regions above one half.
    """
    slices, whole, columns = (_axis(n, m, nearest=a == anisotropic_axis) for a, (n, m) in enumerate(zip(source, target, strict=True)))
    rows = rows or (0, source[1])
    written, inside = whole.within(*rows)
    visible = (inside.count > 0)[:, None] & (columns.count > 0)
    between = any(axis.share.any() for axis in (slices, inside, columns))  # else no voxel is between two others
    result = np.empty(target, dtype=class_type(labels)) if out is None else out
    with _Workers() as workers:
        for below, above, where in _layers(_planes(slabs, labels), source[0], target[0], nearest=slices.nearest):
            outs = [result[index, written] for index in where]
            for piece in outs:
                np.take(below.classes[inside.lower], columns.lower, axis=1, out=piece)
            cells = np.flatnonzero(mixed_cells(below, above) & visible) if between else np.empty(0, dtype=np.intp)
            shares = slices.share[where].tolist()
            for some in pieces(cells, below, inside, columns):
                workers.submit(fill_cells, outs, shares, below, above, some, inside, columns, labels)
    return result


def probabilities_on_grid(
    slabs: Iterable[tuple[int, Tensor]],
    *,
    source: Shape,
    target: Shape,
    anisotropic_axis: int | None,
    labels: Labels,
    rows: tuple[int, int] | None = None,
) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield the probabilities of each slice of another grid of the same extent, in order, interpolated as logits.

    Parameters
    ----------
    as for `classes_on_grid`

    Yields
    ------
    the slice of the target, its rows, and their probabilities `(heads, rows, x)`, on the device of the slabs, the heads last in memory
    """
    slices, whole, columns = (_axis(n, m, nearest=a == anisotropic_axis) for a, (n, m) in enumerate(zip(source, target, strict=True)))
    written, inside = whole.within(*(rows or (0, source[1])))
    planes = ((start + index, plane.permute(1, 2, 0)) for start, slab in slabs for index, plane in enumerate(slab.unbind(1)))
    grown = ((index, _grown(_grown(plane, 0, inside), 1, columns)) for index, plane in planes)
    for below, above, where in _layers(grown, source[0], target[0], nearest=slices.nearest):
        for index in where:
            logits = below if below is above else torch.lerp(below, above, float(slices.share[index]))
            yield int(index), written, (logits.sigmoid() if labels.regions else logits.softmax(2)).permute(2, 0, 1)


def _grown(plane: Tensor, dim: int, axis: Axis) -> Tensor:
    """Return logits `(y, x, heads)` at the voxels of the target along one axis."""
    lower, share = torch.from_numpy(axis.lower).to(plane.device), torch.from_numpy(axis.share).to(plane.device)
    if not share.any():
        return plane if len(lower) == plane.shape[dim] else plane.index_select(dim, lower)
    upper = (lower + 1).clamp_(max=plane.shape[dim] - 1)
    return plane.index_select(dim, lower).lerp_(plane.index_select(dim, upper), share[:, None] if dim == 1 else share[:, None, None])


def classes_of(logits: NDArray[np.float32] | Tensor, labels: Labels) -> NDArray[np.integer[Any]]:
    """Return classes `(...)` of logits `(heads, ...)`: the largest, or the regions above one half painted in their order."""
    scores = torch.as_tensor(logits)
    if labels.regions:
        return labels.paint((scores > 0).numpy())
    return _winners(scores).numpy()


def decided(probabilities: Tensor, labels: Labels) -> NDArray[np.integer[Any]]:
    """Return classes `(y, x)` of probabilities `(heads, y, x)`: the largest, or the regions above one half painted in their order."""
    if labels.regions:
        return labels.paint((probabilities > 0.5).numpy())
    return probabilities.permute(1, 2, 0).contiguous().numpy().argmax(2).astype(class_type(labels))


def _axis(n: int, m: int, *, nearest: bool) -> Axis:
    lower, _, share = (nearest_places if nearest else linear_places)(n, m)
    return Axis.between(n, lower, share, nearest=nearest)


def _layers(planes: Iterator[tuple[int, _P]], n: int, m: int, *, nearest: bool) -> Iterator[tuple[_P, _P, NDArray[np.intp]]]:
    """Yield the source slices below and above with the target slices between them, `n` and `m` slices being all there are."""
    lower, upper, _ = (nearest_places if nearest else linear_places)(n, m)
    held: dict[int, _P] = {}
    reached = -1
    for first, last, where in layers(lower, upper):
        while reached < last:
            reached, plane = next(planes)
            held = {index: kept for index, kept in held.items() if index >= first}
            held[reached] = plane
        yield held[first], held[last], where


def _planes(slabs: Iterable[tuple[int, Tensor]], labels: Labels) -> Iterator[tuple[int, Plane]]:
    kind = class_type(labels)
    for start, slab in slabs:
        for index in range(slab.shape[1]):
            scores = slab[:, index].permute(1, 2, 0).contiguous().cpu().numpy()  # (y, x, heads)
            if labels.regions:
                above = scores > 0
                yield start + index, Plane(scores=scores, classes=labels.paint(above.transpose(2, 0, 1)), decided=above)
            else:
                winners = scores.argmax(2).astype(kind)
                yield start + index, Plane(scores=scores, classes=winners, decided=winners)


class _Workers:
    """Threads for pieces of work that do not touch each other's results; as many as torch may use."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._begun: deque[Future[None]] = deque()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        while self._begun and kind is None:
            self._begun.popleft().result()

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in one of the threads; wait while many are still to be done, since each keeps what it was given."""
        if self._pool is None:
            function(*arguments)
            return
        while len(self._begun) >= 2 * self._threads:
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(function, *arguments))


def _winners(scores: Tensor) -> Tensor:
    """Return the index of the largest of `(k, ...)`, the first where several are: `argmax(0)`, which torch does 5 to 30 times slower."""
    heads = len(scores)
    kind = torch.uint8 if heads <= 256 else torch.int16
    fall = torch.arange(heads - 1, -1, -1, dtype=kind, device=scores.device).view(-1, *[1] * (scores.dim() - 1))
    return (heads - 1) - ((scores == scores.amax(0)).to(kind) * fall).amax(0)


def class_type(labels: Labels) -> type[np.integer[Any]]:
    """Return the smallest type that holds the classes."""
    return np.uint8 if labels.class_count <= 256 else np.int16
