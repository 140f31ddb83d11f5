"""Patches become batches that never look the same twice: batched torch, on the training device.

Two parts. *Spatial*: one affine map with elastic displacement per sample, applied in one interpolation straight from the
smallest box of the case that it needs (`draw_spatial`, `source_box`, `warp`). *Batch*: noise, blur, brightness, contrast, low
resolution, gamma and mirroring on the assembled batch (`augment`).

Every number is drawn on the CPU from the generator that is passed; the same generator state gives the same batch.

Source of order, probabilities and ranges: nnU-Net 2.8.1; the values are in `planners/*.toml`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.geometry import Box, Shape, triple
from autoseg.planning.mirroring import NO_MIRRORING, Mirroring
from autoseg.training.settings import AugmentationSettings


@dataclass(frozen=True, kw_only=True)
class Spatial:
    """Where each voxel of a patch comes from."""

    matrix: NDArray[np.float64]  # (3, 3); centred voxel of the patch -> centred voxel of the source
    displacement: Tensor | None = None  # (3, z, y, x) voxels, coarse grid over the patch


def draw_spatial(patch: Shape, *, settings: AugmentationSettings, generator: torch.Generator) -> Spatial | None:
    """Draw rotation, scaling and elastic displacement for one sample; None where none of them was drawn.

    Slices of planar and anisotropic patches are transformed in plane only.
    """
    draws = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    planar = in_plane_only(patch, settings)
    angles, scales = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if draws[0] < settings.rotation:
        limit = math.radians(rotation_limit(patch, settings))
        angles = [limit * (2 * d - 1) for d in draws[1:4]]
        angles = [angles[0], 0.0, 0.0] if planar else angles
    if draws[4] < settings.scaling:
        low, high = settings.scaling_range
        per_axis = draws[5:8] if settings.scaling_per_axis else draws[5:6] * 3
        scales = [low + (high - low) * d for d in per_axis]
        scales = [1.0, *scales[1:]] if planar else scales
    displacement = None
    if draws[8] < settings.elastic:
        displacement = _draw_displacement(patch, planar=planar, settings=settings, generator=generator)
    if displacement is None and not any(angles) and scales == [1.0, 1.0, 1.0]:
        return None
    return Spatial(matrix=affine_matrix(angles, scales), displacement=displacement)


def affine_matrix(angles: Sequence[float], scales: Sequence[float]) -> NDArray[np.float64]:
    """Return R2 R1 R0 diag(scales): rotations about the axes 0, 1, 2 in turn, radians; (3, 3) on column vectors (z, y, x).

    Source: batchgeneratorsv2 0.3.6.
    """
    (s0, s1, s2), (c0, c1, c2) = np.sin(angles), np.cos(angles)
    r0 = np.array([[1, 0, 0], [0, c0, -s0], [0, s0, c0]])
    r1 = np.array([[c1, 0, s1], [0, 1, 0], [-s1, 0, c1]])
    r2 = np.array([[c2, -s2, 0], [s2, c2, 0], [0, 0, 1]])
    return r2 @ r1 @ r0 @ np.diag(scales)


def in_plane_only(patch: Shape, settings: AugmentationSettings) -> bool:
    """Return whether slices are transformed one by one: planar patches, and those much longer than they are thick."""
    return patch[0] == 1 or max(patch) / patch[0] > settings.anisotropic


def rotation_limit(patch: Shape, settings: AugmentationSettings) -> float:
    """Return the largest angle in degrees."""
    if not in_plane_only(patch, settings):
        return settings.rotation_degrees
    elongated = patch[0] == 1 and max(patch[1:]) / min(patch[1:]) > settings.elongated
    return settings.rotation_elongated_degrees if elongated else settings.rotation_planar_degrees


def source_box(patch: Shape, spatial: Spatial | None) -> Box:
    """Return the smallest box, relative to the patch's first voxel, that holds every voxel the warp will read."""
    if spatial is None:
        return Box(start=(0, 0, 0), stop=patch)
    half = (np.asarray(patch) - 1) / 2
    reach = np.abs(spatial.matrix) @ half
    if spatial.displacement is not None:
        reach = reach + spatial.displacement.abs().amax(dim=(1, 2, 3)).numpy()
    start = np.floor(half - reach - 1e-3).astype(int)
    stop = np.ceil(half + reach + 1e-3).astype(int) + 1
    flat = np.asarray(patch) == 1  # a slice stays a slice
    start, stop = np.where(flat, 0, start), np.where(flat, 1, stop)
    return Box(start=tuple(start.tolist()), stop=tuple(stop.tolist()))


def warp(image: Tensor, labels: Sequence[Tensor], spatial: Spatial, *, patch: Shape, linear_labels: bool) -> tuple[Tensor, list[Tensor]]:
    """Sample a patch from its source box.

    Parameters
    ----------
    image : (c, z, y, x) of the box that `source_box` names
    labels : integer maps (z, y, x) of the same box
    patch : wanted shape
    linear_labels : arg-max of linearly interpolated indicators instead of the nearest voxel

    Returns
    -------
    image (c, *patch), linear interpolation; labels (*patch)
    """
    box = source_box(patch, spatial)
    assert tuple(image.shape[1:]) == box.shape
    grid = sampling_grid(patch, box, spatial, image.device)
    sampled = _sample(image, grid, "bilinear").reshape(-1, *patch)
    warped = []
    for label in labels:
        if linear_labels:
            classes = label.unique()
            scores = _sample((label[None] == classes[:, None, None, None]).float(), grid, "bilinear")
            warped.append(classes[scores.argmax(dim=0)].reshape(patch))
        else:
            warped.append(_sample(label[None].float(), grid, "nearest").reshape(patch).to(label.dtype))
    return sampled, warped


def augment(
    image: Tensor,
    labels: Sequence[Tensor],
    *,
    settings: AugmentationSettings,
    generator: torch.Generator,
    mirroring: Mirroring = NO_MIRRORING,
    annotated: Tensor | None = None,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Return a batch after intensity transforms and mirroring, in the reference's order.

    Parameters
    ----------
    image : (n, c, z, y, x) float32
    labels : class maps (n, z, y, x)
    mirroring : the axes that may be flipped, and the classes that change places then
    annotated : (n, classes), whether a class was annotated in the sample's case; None: all were

    Returns
    -------
    image, labels, annotated: as they are afterwards; what was given stays as it is
    """
    n, c, *shape = image.shape
    planar = in_plane_only(triple(shape), settings)
    flat = image.reshape(n * c, *shape).clone()  # one row per sample and channel

    samples = _chosen(n, settings.noise, generator)
    sigmas = _uniform(n, settings.noise_sigma, generator).repeat_interleave(c)
    rows = _rows(samples, c)
    if len(rows):
        flat[rows] += _normal((len(rows), *shape), generator, flat.device) * _shaped(sigmas[rows], flat)

    rows = _rows(_chosen(n, settings.blur, generator), c, _chosen(n * c, settings.channel, generator))
    sigma_per_axis = _uniform((n * c, 3), settings.blur_sigma, generator)
    if len(rows):
        flat[rows] = blur(flat[rows], sigma_per_axis[rows])

    rows = _rows(_chosen(n, settings.brightness, generator), c)
    factors = _around_one(n * c, settings.brightness_range, generator)
    if len(rows):
        flat[rows] *= _shaped(factors[rows], flat)

    rows = _rows(_chosen(n, settings.contrast, generator), c)
    factors = _around_one(n * c, settings.contrast_range, generator)
    if len(rows):
        flat[rows] = contrast(flat[rows], _shaped(factors[rows], flat))

    rows = _rows(_chosen(n, settings.low_resolution, generator), c, _chosen(n * c, settings.channel, generator))
    factors = _uniform(n * c, settings.low_resolution_range, generator)
    for row in rows.tolist():
        flat[row] = low_resolution(flat[row], float(factors[row]), in_plane_only=planar)

    for probability, sign in ((settings.gamma_inverted, -1), (settings.gamma, 1)):
        rows = _rows(_chosen(n, probability, generator), c)
        exponents = _around_one(n * c, settings.gamma_range, generator)
        if len(rows):
            flat[rows] = sign * gamma(sign * flat[rows], _shaped(exponents[rows], flat))

    image, maps = flat.reshape(image.shape), list(labels)
    for axis in (0, 1, 2):
        samples = _chosen(n, settings.mirror, generator)
        if axis in mirroring.axes and len(samples):
            swap = mirroring.pairs if axis == mirroring.swap_axis else ()
            image, maps = _mirrored(image, maps, samples.to(image.device), axis, swap)
            if swap and annotated is not None:  # what is known of the left side is now known of the right one
                annotated = _swapped_columns(annotated, samples, swap)
    return image, maps, annotated


def blur(rows: Tensor, sigmas: Tensor) -> Tensor:
    """Return `rows` (m, z, y, x) after a Gaussian blur with `sigmas` (m, 3) in voxels, borders reflected.

    The kernel has the odd length nearest to 6 sigma + 0.5. Source: batchgeneratorsv2 0.3.6.
    """
    for axis in range(3):
        size = rows.shape[axis + 1]
        if size == 1:
            continue
        kernels = [blur_kernel(float(sigma)) for sigma in sigmas[:, axis]]
        reach = max(len(kernel) // 2 for kernel in kernels)
        weights = torch.zeros((len(kernels), 2 * reach + 1), dtype=rows.dtype)
        for row, kernel in enumerate(kernels):
            weights[row, reach - len(kernel) // 2 : reach + len(kernel) // 2 + 1] = kernel
        weights = weights.to(rows.device)
        padded = rows.index_select(axis + 1, _reflected(size, reach).to(rows.device))
        total = torch.zeros_like(rows)
        for offset in range(2 * reach + 1):
            total.addcmul_(padded.narrow(axis + 1, offset, size), weights[:, offset, None, None, None])
        rows = total
    return rows


def blur_kernel(sigma: float) -> Tensor:
    """Return a sampled Gaussian of sum 1."""
    length = round((6 * sigma + 0.5 - 1) / 2) * 2 + 1
    offsets = torch.arange(length, dtype=torch.float64) - length // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (kernel / kernel.sum()).float()


def contrast(rows: Tensor, factors: Tensor) -> Tensor:
    """Stretch each row about its mean by its factor, inside its previous range."""
    mean = rows.mean(dim=(1, 2, 3), keepdim=True)
    low, high = rows.amin(dim=(1, 2, 3), keepdim=True), rows.amax(dim=(1, 2, 3), keepdim=True)
    return ((rows - mean) * factors + mean).clamp(low, high)


def gamma(rows: Tensor, exponents: Tensor) -> Tensor:
    """Raise each row, scaled to 0..1, to its exponent; range, then mean and standard deviation are put back."""
    deviation, mean = torch.std_mean(rows, dim=(1, 2, 3), keepdim=True)
    low, high = rows.amin(dim=(1, 2, 3), keepdim=True), rows.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).clamp(min=1e-7)
    bent = ((rows - low) / span).pow_(exponents).mul_(span).add_(low)
    new_deviation, new_mean = torch.std_mean(bent, dim=(1, 2, 3), keepdim=True)
    return (bent - new_mean) * (deviation / new_deviation.clamp(min=1e-7)) + mean


def low_resolution(row: Tensor, factor: float, *, in_plane_only: bool) -> Tensor:
    """Return one channel (z, y, x) as if acquired with `factor` of its voxels per axis: nearest down, linear up."""
    shape = tuple(row.shape)
    coarse = [max(1, round(n * factor)) for n in shape]
    if in_plane_only:
        coarse[0] = shape[0]
    down = functional.interpolate(row[None, None], size=coarse, mode="nearest-exact")
    return functional.interpolate(down, size=shape, mode="trilinear", align_corners=False)[0, 0]


def _draw_displacement(patch: Shape, *, planar: bool, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    coarse = [max(2, round(n / settings.elastic_spacing) + 1) if n > 1 else 1 for n in patch]
    sigma = float(torch.rand((), generator=generator)) * settings.elastic_voxels
    field = torch.randn((3, *coarse), generator=generator) * sigma
    if planar:
        field[0] = 0
    return field


def sampling_grid(patch: Shape, box: Box, spatial: Spatial, device: torch.device) -> Tensor:
    """Return normalised sampling positions (z, y, x, 3), last axis (x, y, z) as in `grid_sample`."""
    size, shape = np.asarray(patch, dtype=float), np.asarray(box.shape, dtype=float)
    centre = (size - 1) / 2 - np.asarray(box.start)
    theta = np.empty((3, 4))
    theta[:, :3] = np.diag(2 / shape) @ spatial.matrix @ np.diag(size / 2)
    theta[:, 3] = (2 * centre + 1) / shape - 1
    theta[:, :3] = theta[::-1, 2::-1]
    theta[:, 3] = theta[::-1, 3]
    grid = functional.affine_grid(torch.tensor(theta[None], dtype=torch.float32, device=device), [1, 1, *patch], align_corners=False)[0]
    if spatial.displacement is not None:
        field = functional.interpolate(spatial.displacement[None].to(device), size=patch, mode="trilinear", align_corners=True)[0]
        scale = torch.tensor(2 / shape, dtype=torch.float32, device=device)
        grid = grid + (field * scale[:, None, None, None]).flip(0).movedim(0, -1)
    return grid


def _sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Return `image` (c, z, y, x) at `grid` (z, y, x, 3) as (c, voxels). Slabs become a batch: a CPU works on samples in parallel."""
    parts = torch.get_num_threads() if image.device.type == "cpu" else 1
    points = grid.reshape(-1, 3)
    length = -(-len(points) // parts)
    if parts * length != len(points):
        points = functional.pad(points, (0, 0, 0, parts * length - len(points)))
    many = functional.grid_sample(
        image[None].expand(parts, *image.shape),
        points.reshape(parts, 1, 1, length, 3),
        mode=mode,
        padding_mode="zeros",
        align_corners=False,
    )  # (parts, c, 1, 1, length)
    return many[:, :, 0, 0].movedim(0, 1).reshape(len(image), -1)[:, : grid[..., 0].numel()]


def _mirrored(
    image: Tensor, labels: list[Tensor], samples: Tensor, axis: int, swap: Sequence[tuple[int, int]]
) -> tuple[Tensor, list[Tensor]]:
    image[samples] = image[samples].flip(axis + 2)
    maps = []
    for label in labels:
        flipped = label[samples].flip(axis + 1)
        if swap:
            flipped = swapped(flipped, swap)
        label = label.clone()
        label[samples] = flipped
        maps.append(label)
    return image, maps


def swapped(label: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return class maps with the two classes of every pair exchanged."""
    out = label.clone()
    for left, right in pairs:
        out[label == left] = right
        out[label == right] = left
    return out


def _swapped_columns(table: Tensor, rows: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return a table `(n, classes)` with the two columns of every pair exchanged in some of its rows."""
    order = torch.arange(table.shape[1])
    for left, right in pairs:
        order[left], order[right] = right, left
    out = table.clone()
    out[rows] = table[rows][:, order]
    return out


def _chosen(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) < probability).nonzero()[:, 0]


def _uniform(count: int | tuple[int, ...], span: tuple[float, float], generator: torch.Generator) -> Tensor:
    return span[0] + (span[1] - span[0]) * torch.rand(count, generator=generator)


def _around_one(count: int, span: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw uniformly, half of the values below 1 and half above."""
    low, high = span
    side, draw = torch.rand(count, generator=generator), torch.rand(count, generator=generator)
    return torch.where(side < 0.5, low + (1 - low) * draw, 1 + (high - 1) * draw)


def _rows(samples: Tensor, channels: int, among: Tensor | None = None) -> Tensor:
    """Return the rows of the flattened batch that belong to the samples and are among those given."""
    rows = (samples[:, None] * channels + torch.arange(channels)).flatten()
    return rows if among is None else rows[torch.isin(rows, among)]


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype)[:, None, None, None]


def _normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.randn(shape, generator=generator)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return torch.randn(shape, generator=torch.Generator(device=device).manual_seed(seed), device=device)


def _reflected(size: int, reach: int) -> Tensor:
    """Return the indices of an axis continued by reflection about its border voxels, however short it is."""
    period = 2 * (size - 1)
    index = torch.arange(-reach, size + reach).remainder(period)
    return torch.minimum(index, period - index)
