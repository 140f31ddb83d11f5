"""Resampling on arrays: cubic splines for images, the largest interpolated share for labels.

The numbers are those of nnU-Net 2.8.1; the way to them is not. Spline interpolation is linear in each row of voxels, so per
axis it is one matrix, and a banded one: a voxel far away weighs less than a rounding error. The bands are cut into small dense
blocks, made once per pair of lengths, and applied slab by slab: besides input and output only a slab is held.

For labels the share of each label would need one interpolated volume per label. But interpolation weights are positive and sum
to one, so where all corners of a cell agree, their label has it all::

    1───1        1───2     Only cells like the right one, along the borders between labels, are weighed corner by corner:
    │   │        │   │     the cost does not grow with the number of labels.
    1───1        1───1

Neither normalisation nor the choice of a target shape is done here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import Shape, Spacing

ANISOTROPY = 3.0  # a voxel longer than this times its shortest edge: the long axis is resampled apart. Source: nnU-Net 2.8.1


def anisotropic_axis(current: Spacing, new: Spacing) -> int | None:
    """Return the axis along which slices are so thick that they must not be mixed; None: none, or no single one.

    Parameters
    ----------
    current, new : mm per voxel, before and after; the current one decides where both are anisotropic

    >>> anisotropic_axis((5.0, 0.8, 0.8), (2.5, 0.8, 0.8))
    0

    Source: nnU-Net 2.8.1 (anisotropic if longest / shortest > 3).
    """
    for spacing in (current, new):
        if max(spacing) / min(spacing) > ANISOTROPY:
            longest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return longest[0] if len(longest) == 1 else None
    return None


def resample_image(array: NDArray[np.float32], shape: Shape, *, anisotropic_axis: int | None, order: int = 3) -> NDArray[np.float32]:
    """Return resample an image to a grid of another shape and the same extent.

    Parameters
    ----------
    array : (c, z, y, x)
    shape : (z, y, x), voxels, wanted
    anisotropic_axis : the axis along which the nearest slice is taken and nothing interpolated; None: all three are interpolated
    order : of the spline, 3 or 1

    Returns
    -------
    (c, z, y, x), float32, each channel (with a separate axis, each slice) within the range of its input. The input itself
    where the shape is the same.

    Source: nnU-Net 2.8.1: scikit-image `resize` with `mode="edge"`, that is scipy `zoom` with `grid_mode=True, mode="nearest"`.
    """
    array = np.asarray(array, dtype=np.float32)
    if array.shape[1:] == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    for channel, out in zip(array, result, strict=True):
        channel = np.ascontiguousarray(channel)
        if anisotropic_axis is None:
            _interpolate(channel, out, order)
        else:
            _interpolate_slices(channel, out, anisotropic_axis, order)
    return result


def resample_scores(scores: NDArray[np.float32], shape: Shape, *, anisotropic_axis: int | None, order: int = 1) -> NDArray[np.float32]:
    """Return resample class scores `(k, z, y, x)` as an image, by default linearly.

    Source: nnU-Net 2.8.1, export of predictions.
    """
    return resample_image(scores, shape, anisotropic_axis=anisotropic_axis, order=order)


def resample_labels(classes: NDArray[Any], shape: Shape, *, anisotropic_axis: int | None) -> NDArray[Any]:
    """Return resample a label map to another shape of the same extent: each voxel gets the label with the largest interpolated share.

    Parameters
    ----------
    classes : (z, y, x), any integers
    shape : (z, y, x), voxels, wanted
    anisotropic_axis : the axis along which the nearest slice is taken; None: linear along all three

    Returns
    -------
    (z, y, x) of the same type. Where shares are equal: the label of the nearest voxel if it is among them, else the smallest.

    Source: nnU-Net 2.8.1 with batchgenerators 0.25.5: arg-max over the linearly interpolated indicators of all labels.
    """
    if classes.shape == tuple(shape):
        return classes
    axes = [
        nearest_places(n, m) if axis == anisotropic_axis else linear_places(n, m)
        for axis, (n, m) in enumerate(zip(classes.shape, shape, strict=True))
    ]
    result = np.empty(shape, dtype=classes.dtype)
    slices, rows, columns = axes
    for lower, upper, where in layers(*slices[:2]):
        _label_layer(classes[lower], classes[upper], slices, rows, columns, where, result)
    return result


# --- images: banded matrices -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Some rows of the matrix of one axis: outputs `start:stop` from inputs `low:high`, all other entries being nothing."""

    start: int
    stop: int
    low: int
    high: int
    matrix: NDArray[np.float32]  # (stop - start, high - low)


_SLAB_BYTES = 32_000_000  # of the first intermediate array: small enough to stay near the processor, large enough for its products
_NEGLIGIBLE = 1e-9  # weights below this are left out: float32 rounds at 6e-8
_PAD = 12  # voxels by which scipy continues an array before the spline filter when the border is "nearest"
_REACH = 36  # coefficients further away weigh 0.268**36 = 1e-21 of a voxel
_ROWS = 48  # inputs under the rows of one block, about


def _interpolate(array: NDArray[np.float32], out: NDArray[np.float32], order: int) -> None:
    """Return interpolate along all three axes, the one that shrinks most first: what follows then works on less."""
    low, high = array.min(), array.max()
    axes = sorted((a for a in range(3) if array.shape[a] != out.shape[a]), key=lambda a: out.shape[a] / array.shape[a])
    first, *others = axes
    for blocks, start, stop in _slabs(array, out.shape[first], first, order):
        slab = np.empty(_replaced(array.shape, first, stop - start), dtype=np.float32)
        for block in blocks:
            _apply(block, array, first, slab, start)
        for axis in others:
            slab = _apply_axis(slab, out.shape[axis], axis, order)
        place = tuple(slice(start, stop) if axis == first else slice(None) for axis in range(3))
        np.clip(slab, low, high, out=out[place])


def _interpolate_slices(array: NDArray[np.float32], out: NDArray[np.float32], axis: int, order: int) -> None:
    """Return interpolate each slice across `axis`, then take the nearest slice: interpolating across thick slices makes artefacts."""
    sources = np.moveaxis(array, axis, 0)
    targets = np.moveaxis(out, axis, 0)
    wanted = nearest_places(sources.shape[0], targets.shape[0])[0]
    needed = np.unique(wanted)
    per_slab = max(1, _SLAB_BYTES // max(1, 4 * sources[0].size, 4 * targets[0].size))
    order_of_axes = sorted((1, 2), key=lambda a: targets.shape[a] / sources.shape[a])
    for begin in range(0, len(needed), per_slab):
        chosen = needed[begin : begin + per_slab]
        slab = np.ascontiguousarray(sources[chosen])
        low, high = slab.min(axis=(1, 2), keepdims=True), slab.max(axis=(1, 2), keepdims=True)
        for a in order_of_axes:
            slab = _apply_axis(slab, targets.shape[a], a, order)
        np.clip(slab, low, high, out=slab)
        for index in np.flatnonzero((wanted >= chosen[0]) & (wanted <= chosen[-1])):
            targets[index] = slab[np.searchsorted(chosen, wanted[index])]


def _slabs(array: NDArray[np.float32], length: int, axis: int, order: int) -> Iterator[tuple[list[_Block], int, int]]:
    """Yield the blocks of one axis in groups whose outputs fit into a slab."""
    per_row = 4 * array.size // array.shape[axis]
    group: list[_Block] = []
    for block in _matrix(array.shape[axis], length, order):
        if group and (block.stop - group[0].start) * per_row > _SLAB_BYTES:
            yield group, group[0].start, group[-1].stop
            group = []
        group.append(block)
    yield group, group[0].start, group[-1].stop


def _apply_axis(array: NDArray[np.float32], length: int, axis: int, order: int) -> NDArray[np.float32]:
    if array.shape[axis] == length:
        return array
    out = np.empty(_replaced(array.shape, axis, length), dtype=np.float32)
    for block in _matrix(array.shape[axis], length, order):
        _apply(block, array, axis, out, 0)
    return out


def _apply(block: _Block, array: NDArray[np.float32], axis: int, out: NDArray[np.float32], origin: int) -> None:
    """Apply one block: matrix products over views, nothing is transposed in memory."""
    start, stop = block.start - origin, block.stop - origin
    if axis == 0:
        source, target = array.reshape(array.shape[0], -1), out.reshape(out.shape[0], -1)
        np.matmul(block.matrix, source[block.low : block.high], out=target[start:stop])
    elif axis == 1:
        np.matmul(block.matrix, array[:, block.low : block.high], out=out[:, start:stop])
    else:
        source, target = array.reshape(-1, array.shape[2]), out.reshape(-1, out.shape[2])
        np.matmul(source[:, block.low : block.high], block.matrix.T, out=target[:, start:stop])


def _replaced(shape: Sequence[int], axis: int, length: int) -> tuple[int, ...]:
    return (*shape[:axis], length, *shape[axis + 1 :])


@functools.lru_cache(maxsize=256)
def _matrix(n: int, m: int, order: int) -> tuple[_Block, ...]:
    """Return the matrix that takes `n` voxels to `m`, as blocks along its diagonal."""
    rows = max(1, min(64, round(_ROWS * m / n)))
    make = {1: _linear_rows, 3: _cubic_rows}[order]
    return tuple(_trimmed(start, min(m, start + rows), *make(n, m, start, min(m, start + rows))) for start in range(0, m, rows))


def _trimmed(start: int, stop: int, low: int, weights: NDArray[np.float64]) -> _Block:
    used = np.flatnonzero(np.abs(weights).max(axis=0) > _NEGLIGIBLE)
    first, last = int(used[0]), int(used[-1]) + 1
    matrix = np.ascontiguousarray(weights[:, first:last], dtype=np.float32)
    return _Block(start=start, stop=stop, low=low + first, high=low + last, matrix=matrix)


def _centres(n: int, m: int) -> NDArray[np.float64]:
    """Return where the centres of `m` voxels are among `n` voxels over the same extent."""
    return (np.arange(m, dtype=np.float64) + 0.5) * (n / m) - 0.5


def _linear_rows(n: int, m: int, start: int, stop: int) -> tuple[int, NDArray[np.float64]]:
    lower, upper, share = (values[start:stop] for values in linear_places(n, m))
    low = int(lower[0])
    weights = np.zeros((stop - start, int(upper[-1]) + 1 - low))
    rows = np.arange(stop - start)
    weights[rows, lower - low] = 1 - share
    weights[rows, upper - low] += share
    return low, weights


def _cubic_rows(n: int, m: int, start: int, stop: int) -> tuple[int, NDArray[np.float64]]:
    """Return rows of `B F P`: P continues the border by `_PAD` voxels, F gives the spline's coefficients, B sums four of them.

    F inverts what a cubic spline of coefficients c gives at the voxels, (c[i-1] + 4 c[i] + c[i+1]) / 6, over the few voxels that
    matter; beyond the last one the coefficients are reflected. Source: scipy 1.17, `spline_filter1d` with `mode="nearest"`.
    """
    centres = _centres(n, m)[start:stop] + _PAD
    knots = np.floor(centres).astype(int)
    t = centres - knots
    low, high = max(0, int(knots[0]) - 1 - _REACH), min(n + 2 * _PAD, int(knots[-1]) + 3 + _REACH)
    values = 4 * np.eye(high - low) + np.eye(high - low, k=1) + np.eye(high - low, k=-1)
    values[0, 0] = values[-1, -1] = 5
    filtered = 6 * np.linalg.inv(values)
    basis = ((1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6)
    weights = sum(basis[j][:, None] * filtered[knots - 1 + j - low] for j in range(4))
    voxels = np.clip(np.arange(low, high) - _PAD, 0, n - 1)  # the continued border belongs to the border voxel
    first = int(voxels[0])
    folded = np.zeros((stop - start, int(voxels[-1]) + 1 - first))
    np.add.at(folded.T, voxels - first, np.asarray(weights).T)
    return first, folded


# --- labels: cells between voxels --------------------------------------------------------------------------------------------

Places = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]  # lower voxel, upper voxel, share of the upper one


def linear_places(n: int, m: int) -> Places:
    """Return for each of `m` voxels the two of `n` voxels over the same extent between whose centres it is, and the share of the second."""
    centres = np.clip(_centres(n, m), 0, n - 1)
    lower = np.floor(centres).astype(np.intp)
    share = centres - lower
    return lower, np.where(share > 0, np.minimum(lower + 1, n - 1), lower), share


def nearest_places(n: int, m: int) -> Places:
    """Return the same with the nearest voxel alone."""
    nearest = np.floor(np.clip(_centres(n, m), 0, n - 1) + 0.5).astype(np.intp)
    return nearest, nearest, np.zeros(m)


def layers(lower: NDArray[np.intp], upper: NDArray[np.intp]) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
    """Yield the output slices between the same two input slices together: lower and upper input slice, output slices."""
    changes = np.flatnonzero((np.diff(lower) != 0) | (np.diff(upper) != 0)) + 1
    for where in np.split(np.arange(len(lower)), changes):
        yield int(lower[where[0]]), int(upper[where[0]]), where


def _label_layer(
    below: NDArray[Any],
    above: NDArray[Any],
    slices: Places,
    rows: Places,
    columns: Places,
    where: NDArray[np.intp],
    result: NDArray[Any],
) -> None:
    """Return fill the output slices `where`, all of them between the input slices `below` and `above`."""
    (r0, r1, r_share), (c0, c1, c_share) = rows, columns
    flat = below is above or below.ctypes.data == above.ctypes.data
    result[where] = below[r0[:, None], c0]
    mixed = _mixed_cells(below, above, flat)
    at = np.flatnonzero(mixed[r0[:, None], c0])
    if at.size == 0:
        return
    i, j = np.divmod(at, len(c0))
    planes = [below] if flat else [below, above]
    corners = np.stack([plane[r[i], c[j]] for plane in planes for r in (r0, r1) for c in (c0, c1)])
    in_plane = np.stack([a * b for a in (1 - r_share[i], r_share[i]) for b in (1 - c_share[j], c_share[j])])
    nearest_in_plane = 2 * (r_share[i] >= 0.5) + (c_share[j] >= 0.5)
    for index in where:
        share = slices[2][index]
        weights = in_plane if flat else np.concatenate([in_plane * (1 - share), in_plane * share])
        nearest = nearest_in_plane + (4 if not flat and share >= 0.5 else 0)
        result[index].reshape(-1)[at] = _largest_share(corners, weights, nearest)


def _mixed_cells(below: NDArray[Any], above: NDArray[Any], flat: bool) -> NDArray[np.bool_]:
    """Return for each voxel of a slice whether the corners of the cell that begins there disagree."""
    mixed = np.zeros(below.shape, dtype=bool)
    for plane in [below] if flat else [below, above]:
        along_columns = plane[:, 1:] != plane[:, :-1]
        mixed[:, :-1] |= along_columns
        mixed[:-1, :-1] |= along_columns[1:]
        mixed[:-1] |= plane[1:] != plane[:-1]
    if not flat:
        mixed |= below != above  # with all edges of the lower and upper face equal, one vertical edge speaks for four
    return mixed


def _largest_share(corners: NDArray[Any], weights: NDArray[np.float64], nearest: NDArray[np.intp]) -> NDArray[Any]:
    """Return the winning label of each voxel from its corners and their weights, both (4 or 8, n)."""
    label = np.take_along_axis(corners, nearest[None], axis=0)[0]
    share = np.einsum("kn,kn->n", weights, corners == label)
    open_ = np.flatnonzero(share <= 0.5 + _TIE)  # elsewhere the nearest voxel's label has the majority
    if open_.size:
        label[open_] = _contest(corners[:, open_], weights[:, open_], label[open_], share[open_])
    return label


_TIE = 1e-12  # shares nearer than this are equal: the products of weights round differently in every implementation


def _contest(corners: NDArray[Any], weights: NDArray[np.float64], nearest: NDArray[Any], share: NDArray[np.float64]) -> NDArray[Any]:
    winner, best = nearest.copy(), share + _TIE
    for candidate in corners:
        votes = np.einsum("kn,kn->n", weights, corners == candidate)
        # ahead of the winner, or level with one that is not the nearest voxel's and is larger
        better = (votes > best) | ((votes > best - 2 * _TIE) & (candidate < winner) & (winner != nearest))
        winner[better] = candidate[better]
        best[better] = votes[better] + _TIE
    return winner
