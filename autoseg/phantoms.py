"""Synthetic scans with their reference segmentations: the data of the demo and of the end-to-end tests.

A phantom is a small trunk as a T1-weighted scan would show it: two kidneys that differ only in their side, and a small
node. A spine and a vessel as bright as the node are there to be left alone. Shapes, places, contrast, spacing, the bias field
and the noise differ between cases. This module makes arrays; the callers write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import GeometryError
from autoseg.geometry import Affine, Orientation, Shape, Spacing, affine_from_spacing, reoriented_affine, triple, undo_reorient
from autoseg.labels import make_labels

LABELS = make_labels(
    {"background": 0, "kidney_left": 1, "kidney_right": 2, "node": 3},
    pairs=(("kidney_left", "kidney_right"),),
)

_Grid = NDArray[np.float32]


class Phantom(NamedTuple):
    """One synthetic case."""

    image: NDArray[np.int16]  # (1, z, y, x)
    label: NDArray[np.uint8]  # (z, y, x), label values of `LABELS`
    affine: Affine


def make_phantoms(
    count: int, *, seed: int = 0, large: bool = False, orientations: tuple[str, ...] = ("RAS",)
) -> Iterator[tuple[str, Phantom]]:
    """Names and phantoms, one after the other; case i is the same whatever the count.

    Parameters
    ----------
    count : number of cases
    seed : any integer; other seeds give other cases
    large : volumes of about 160 x 160 x 160 voxels, large enough to want a cascade, in place of about 24 x 68 x 64
    orientations : how the arrays are stored, in turns: see `oriented`
    """
    for index in range(count):
        phantom = make_phantom(np.random.default_rng([seed, index]), large=large)
        yield f"phantom_{index:03d}", oriented(phantom, orientations[index % len(orientations)])


def make_phantom(rng: np.random.Generator, *, large: bool = False) -> Phantom:
    """One phantom in canonical orientation.

    Parameters
    ----------
    rng : source of everything that differs between cases
    large : about 160 x 160 x 160 voxels of about 1 mm in place of about 24 x 68 x 64 of about 3 x 1 x 1 mm

    Returns
    -------
    image (1, z, y, x) int16, label values (z, y, x) uint8, affine. Every structure is whole and inside the volume.
    """
    shape, spacing = _grid(rng, large)
    tissues = _tissues(rng, shape, spacing)
    clean = np.zeros(shape, dtype=np.float32)
    label = np.zeros(shape, dtype=np.uint8)
    for tissue in tissues:
        box, coverage = _coverage(tissue.solid, shape, spacing)
        clean[box] += coverage * (tissue.brightness - clean[box])  # partial volume: later tissues cover earlier ones
        if tissue.value is not None:
            label[box][coverage >= 0.5] = tissue.value
    image = _scanned(rng, clean, spacing)
    affine = affine_from_spacing(spacing)
    affine[:3, 3] = rng.uniform(-60, 60, 3).round(2)
    return Phantom(image=image[None], label=label, affine=affine)


def oriented(phantom: Phantom, code: str) -> Phantom:
    """The same phantom, stored otherwise; nothing changes in the world.

    Parameters
    ----------
    phantom : in canonical orientation
    code : where the stored axes x, y, z run to, as in the field: "RAS" is the canonical one, "LPS" that of DICOM

    Raises
    ------
    GeometryError : the code does not name each of the three directions once

    >>> small = make_phantom(np.random.default_rng(0))
    >>> oriented(small, "ASL").label.shape == tuple(small.label.shape[axis] for axis in (2, 0, 1))
    True
    """
    directions = {"S": (0, False), "I": (0, True), "A": (1, False), "P": (1, True), "R": (2, False), "L": (2, True)}
    letters = code.upper()[::-1]  # arrays are (z, y, x)
    if sorted(directions[c][0] for c in letters if c in directions) != [0, 1, 2] or len(letters) != 3:
        raise GeometryError(
            "not an orientation",
            found=code,
            expected="three letters, one of R/L, one of A/P, one of S/I, such as LPS",
            fix="correct the orientation",
        )
    stored_axis = {directions[letter][0]: axis for axis, letter in enumerate(letters)}
    orientation = Orientation(
        axes=(stored_axis[0], stored_axis[1], stored_axis[2]),
        flips=triple(directions[letters[stored_axis[axis]]][1] for axis in range(3)),
    )
    label = np.ascontiguousarray(undo_reorient(phantom.label, orientation))
    to_stored = np.linalg.inv(reoriented_affine(np.eye(4), label.shape, orientation))  # canonical index <- stored index
    return Phantom(
        image=np.ascontiguousarray(undo_reorient(phantom.image, orientation)),
        label=label,
        affine=phantom.affine @ to_stored,
    )


@dataclass(frozen=True, kw_only=True)
class _Solid:
    """A deformed ellipsoid: `axes` in mm along its own directions, bent along its first, its surface waved."""

    centre: NDArray[np.float64]  # mm from the corner of the volume, (z, y, x)
    axes: NDArray[np.float64]  # semi-axes, mm
    rotation: NDArray[np.float64]  # 3 x 3, world (z, y, x) -> own directions
    bend: float = 0.0  # how far the ends are moved along the second axis, in units of that semi-axis
    waves: tuple[tuple[NDArray[np.float64], float, float], ...] = ()  # direction times frequency, phase, amplitude

    def level(self, z: Any, y: Any, x: Any) -> _Grid:
        """About 0 in the centre, 1 on the surface; `z, y, x` in mm, broadcast together."""
        own = [sum(r * (p - c) for r, p, c in zip(row, (z, y, x), self.centre, strict=True)) for row in self.rotation]
        u = [np.asarray(o / a, dtype=np.float32) for o, a in zip(own, self.axes, strict=True)]
        if self.bend:
            u[1] = u[1] + np.float32(self.bend) * (u[0] ** 2 - np.float32(0.4))
        radius = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2) + np.float32(1e-6)
        swell: Any = np.float32(1)
        for direction, phase, amplitude in self.waves:
            along = sum(np.float32(d) * v for d, v in zip(direction, u, strict=True)) / radius
            swell = swell + np.float32(amplitude) * np.sin(along + np.float32(phase))
        return np.asarray(radius / swell, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class _Tissue:
    solid: _Solid
    brightness: float
    value: int | None = None  # in the label map; None: not segmented


def _grid(rng: np.random.Generator, large: bool) -> tuple[Shape, Spacing]:
    low, high = ((146, 152, 148), (168, 174, 170)) if large else ((21, 60, 56), (28, 76, 72))
    shape = triple(int(n) for n in rng.integers(low, high, endpoint=True))
    through, inside = (rng.uniform(0.9, 1.2), rng.uniform(0.9, 1.1)) if large else (rng.uniform(2.7, 3.3), rng.uniform(0.9, 1.1))
    spacing = (round(float(through), 3), round(float(inside), 3), round(float(inside), 3))
    return shape, spacing


def _tissues(rng: np.random.Generator, shape: Shape, spacing: Spacing) -> list[_Tissue]:
    """From the outside to the inside; canonical axes, so the left side is where x is low.

    ::

        axial slice     y ^   .-------------.
                          |  /     node      \\
                          | |       vessel    |
                          | |  kidney   kidney|      left: low x
                          |  \\     spine     /
                          +---`-------------'--> x
    """
    extent = np.array(shape) * spacing
    trunk = extent * [0.5, rng.uniform(0.43, 0.47), rng.uniform(0.44, 0.48)]  # semi-axes
    middle = extent / 2 + rng.uniform(-0.02, 0.02, 3) * extent
    contrast = rng.uniform(0.9, 1.1, 5)

    def solid(offset: tuple[float, float, float], axes: Any, *, turn: float = 0.0, bend: float = 0.0, wave: float = 0.0) -> _Solid:
        """A body at an offset from the middle, both in shares of the trunk."""
        return _Solid(
            centre=middle + np.array(offset) * trunk,
            axes=np.asarray(axes, dtype=float) * trunk,
            rotation=_rotation(rng.uniform(-turn, turn, 3)),
            bend=bend,
            waves=tuple((rng.normal(size=3) * 1.6, rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.0) * wave) for _ in range(3)),
        )

    def kidney(side: int) -> _Solid:
        """A bean on one side: -1 left of the middle in the array, 1 right of it."""
        place = (rng.uniform(-0.15, 0.15), rng.uniform(-0.25, -0.05), side * rng.uniform(0.46, 0.52))
        axes = (rng.uniform(0.42, 0.55), rng.uniform(0.28, 0.38), rng.uniform(0.24, 0.32))
        return solid(place, axes, turn=0.25, bend=rng.uniform(-0.5, 0.5), wave=0.07)

    node_place = (rng.uniform(-0.35, 0.35), rng.uniform(0.42, 0.52), rng.uniform(-0.25, 0.25))
    node_axes = np.array([0.23, 0.21, 0.23]) * rng.uniform(0.9, 1.15, 3)
    return [
        _Tissue(solid=solid((0, 0, 0), (40, 1.0, 1.0), wave=0.02), brightness=300 * contrast[0]),
        _Tissue(solid=solid((0, -0.7, 0), (40, 0.17, 0.2), turn=0.002), brightness=120 * contrast[1]),
        _Tissue(solid=solid((0, 0.02, rng.uniform(-0.06, 0.06)), (40, 0.08, 0.09), turn=0.002), brightness=720 * contrast[4]),
        _Tissue(solid=kidney(-1), brightness=520 * contrast[3], value=1),
        _Tissue(solid=kidney(+1), brightness=520 * contrast[3], value=2),
        _Tissue(solid=solid(node_place, node_axes, turn=1.0, wave=0.08), brightness=720 * contrast[4], value=3),
    ]


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns about the three axes, in radians, one after the other."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (i for i in range(3) if i != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def _coverage(solid: _Solid, shape: Shape, spacing: Spacing, *, samples: int = 4) -> tuple[tuple[slice, ...], _Grid]:
    """Return the part of each voxel that is inside, 0 to 1, in the box around the solid: `samples`^3 points in voxels near the surface."""
    reach = np.sqrt(((solid.rotation * solid.axes[:, None]) ** 2).sum(axis=0)) * (1.3 + abs(solid.bend))  # mm, (z, y, x)
    start = np.maximum(np.floor((solid.centre - reach) / spacing), 0).astype(int)
    stop = np.minimum(np.ceil((solid.centre + reach) / spacing) + 1, shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    z, y, x = (((np.arange(s.start, s.stop) + 0.5) * d).astype(np.float32) for s, d in zip(box, spacing, strict=True))
    level = solid.level(z[:, None, None], y[None, :, None], x[None, None, :])
    coverage = (level < 1).astype(np.float32)
    margin = 2.0 * float(np.linalg.norm(0.5 * np.array(spacing) @ np.abs(solid.rotation.T) / solid.axes))
    near = np.nonzero(np.abs(level - 1) < margin)
    steps = (np.arange(samples, dtype=np.float32) + 0.5) / samples - 0.5
    inside = np.zeros(near[0].size, dtype=np.float32)
    for dz in steps:
        for dy in steps:
            for dx in steps:
                inside += solid.level(z[near[0]] + dz * spacing[0], y[near[1]] + dy * spacing[1], x[near[2]] + dx * spacing[2]) < 1
    coverage[near] = inside / samples**3
    return box, coverage


def _scanned(rng: np.random.Generator, clean: _Grid, spacing: Spacing) -> NDArray[np.int16]:
    """Texture, a bias field, the gain of the scanner and the noise of a magnitude image."""
    texture = _smooth_noise(rng, clean.shape, spacing, width=4.0)
    image = clean * (1 + 0.04 * texture)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in clean.shape), indexing="ij", sparse=True)
    slope, curve = rng.uniform(-0.18, 0.18, 3), rng.uniform(-0.12, 0.12, 3)
    image *= np.exp(sum(np.float32(s) * a + np.float32(c) * a**2 for a, s, c in zip(axes, slope, curve, strict=True)))
    noise = 22.0 * rng.uniform(0.6, 1.3)
    real = image + noise * rng.standard_normal(clean.shape, dtype=np.float32)
    imaginary = noise * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.round(np.hypot(real, imaginary) * rng.uniform(0.7, 1.6)).astype(np.int16)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing: Spacing, *, width: float) -> _Grid:
    """A random field of unit variance, correlated over `width` mm; made on a coarse grid, then enlarged."""
    coarse = [max(2, round(n * d / width)) for n, d in zip(shape, spacing, strict=True)]
    field = rng.standard_normal(coarse, dtype=np.float32)
    field = ndimage.zoom(field, [n / c for n, c in zip(shape, coarse, strict=True)], order=1, grid_mode=True, mode="nearest")
    return np.asarray(field / field.std(), dtype=np.float32)
