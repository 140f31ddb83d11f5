"""Distances between the surfaces of two masks.

Source: Nikolov et al. 2021, doi:10.2196/26151, and its code google-deepmind/surface-distance: same elements, areas and rules.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from autoseg.geometry import Spacing

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """From every element of each surface the distance to the other surface in mm, and the element's area in mm2."""

    from_prediction: NDArray[np.float64]
    prediction_areas: NDArray[np.float64]
    from_reference: NDArray[np.float64]
    reference_areas: NDArray[np.float64]

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both surfaces together that is within `tolerance` mm of the other one.

        Distances equal to the tolerance count as within it, whatever their last digit became in binary.
        """
        limit = tolerance * (1 + 1e-6) + 1e-9
        near = self.prediction_areas[self.from_prediction <= limit].sum() + self.reference_areas[self.from_reference <= limit].sum()
        return float(near / (self.prediction_areas.sum() + self.reference_areas.sum()))

    def hausdorff(self, percentile: float = 95.0) -> float:
        """The distance that `percentile` percent of each surface does not exceed, in mm; the larger of the two directions."""
        return max(
            _percentile(self.from_prediction, self.prediction_areas, percentile),
            _percentile(self.from_reference, self.reference_areas, percentile),
        )

    @property
    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean over both surfaces together, by area."""
        total = (self.from_prediction * self.prediction_areas).sum() + (self.from_reference * self.reference_areas).sum()
        return float(total / (self.prediction_areas.sum() + self.reference_areas.sum()))


def surface_distances(prediction: Mask, reference: Mask, spacing: Spacing) -> SurfaceDistances | None:
    """How far the surfaces of two masks are from each other.

    Surface elements lie at the corners where voxels meet; each has the area that marching cubes gives to the 2 x 2 x 2 voxels
    around it. Outside the array is background, but along an axis of one voxel, so that a planar image has contours.

    Parameters
    ----------
    prediction, reference : (z, y, x), one shape; crop them to what is true in either to save time
    spacing : (z, y, x), mm per voxel

    Returns
    -------
    `None` where either mask is empty: there is no surface to be near to.

    Source: Nikolov et al. 2021, doi:10.2196/26151, and its code google-deepmind/surface-distance: same elements, areas and rules.
    """
    if not prediction.any() or not reference.any():
        return None
    predicted, predicted_areas = _surface(prediction, spacing)
    true, true_areas = _surface(reference, spacing)
    return SurfaceDistances(
        from_prediction=_nearest(predicted, true, spacing),
        prediction_areas=predicted_areas,
        from_reference=_nearest(true, predicted, spacing),
        reference_areas=true_areas,
    )


def _surface(mask: Mask, spacing: Spacing) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Surface elements of a mask: index of the corner (elements, 3) and area (elements,).

    ::

        mask      . # #       bits of the two voxels that meet at each corner, along each axis in turn:
        corners  0 1 2 3      corner i is between voxel i - 1 and voxel i
    """
    codes = mask.view(np.uint8) if mask.flags.c_contiguous else np.ascontiguousarray(mask).view(np.uint8)
    for axis, bits in ((2, 1), (1, 2), (0, 4)):
        codes = _meeting(codes, axis, bits)
    at = np.nonzero((codes != 0) & (codes != 255))
    return np.stack(at, axis=1), _element_areas(spacing)[codes[at]]


def _meeting(codes: NDArray[np.uint8], axis: int, bits: int) -> NDArray[np.uint8]:
    """Join the codes of neighbours along an axis; beyond the ends is background, or the voxel itself where there is only one."""
    if codes.shape[axis] == 1:
        return np.asarray(codes | (codes << bits), dtype=np.uint8)
    shape = list(codes.shape)
    shape[axis] += 1
    joined = np.zeros(shape, dtype=np.uint8)
    before = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
    behind = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    joined[behind] = codes
    joined[before] |= codes << bits
    return joined


def _nearest(points: NDArray[np.intp], others: NDArray[np.intp], spacing: Spacing) -> NDArray[np.float64]:
    """Distance in mm from each corner in `points` to the nearest one in `others`, both (n, 3)."""
    scale = np.asarray(spacing)
    tree = cKDTree(others * scale, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(points * scale, workers=1)
    # from whole voxels, so that a distance does not depend on where in the image it is
    return np.asarray(np.sqrt((((points - others[nearest]) * scale) ** 2).sum(axis=1)))


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percentile: float) -> float:
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(share, percentile / 100)), len(distances) - 1)])


@functools.lru_cache(maxsize=64)
def _element_areas(spacing: Spacing) -> NDArray[np.float64]:
    """mm2 of the surface element of each of the 256 ways in which 2 x 2 x 2 voxels can be inside or outside."""
    z, y, x = spacing
    scale = np.array([y * x, z * x, z * y])  # what each component of an area vector is stretched by
    return np.array([sum(float(np.linalg.norm(vector * scale)) for vector in vectors) for vectors in _area_vectors()])


@functools.cache
def _area_vectors() -> tuple[tuple[NDArray[np.float64], ...], ...]:
    """Area vectors of the triangles of marching cubes, with voxels of unit length, for each of the 256 codes.

    Bit 4 z + 2 y + x of a code says whether that corner of the cube is inside. Corners inside that touch along a diagonal
    only are kept apart; with more than half of the corners inside, inside and outside change roles.

    Source: Lorensen & Cline 1987, doi:10.1145/37402.37422.
    """
    listed = []
    for code in range(256):
        inside = [bool(code >> corner & 1) for corner in range(8)]
        if sum(inside) > 4:
            inside = [not i for i in inside]
        listed.append(tuple(vector for loop in _loops(inside) for vector in _triangles(loop)))
    return tuple(listed)


def _loops(inside: list[bool]) -> list[NDArray[np.float64]]:
    """The closed polygons, (corners, 3) each, in which the surface meets the faces of the cube, at the middle of its edges."""
    steps: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for axis in range(3):
        for side in (0, 1):
            ring = [np.insert(np.array(place), axis, side) for place in ((0, 0), (0, 1), (1, 1), (1, 0))]
            flags = [inside[int(place @ (4, 2, 1))] for place in ring]
            middles = [tuple((ring[i] + ring[(i + 1) % 4]) / 2) for i in range(4)]  # of the edge behind corner i
            for first in range(4):
                if flags[first] and not flags[first - 1]:  # a run of corners inside starts here; it is cut off by one line
                    last = next(i % 4 for i in range(first, first + 4) if not flags[(i + 1) % 4])
                    steps.setdefault(middles[first - 1], []).append(middles[last])
                    steps.setdefault(middles[last], []).append(middles[first - 1])
    loops, left = [], set(steps)
    while left:
        loop = [min(left)]
        while True:
            left.discard(loop[-1])
            onward = [place for place in steps[loop[-1]] if place in left]
            if not onward:
                break
            loop.append(onward[0])
        loops.append(np.array(loop))
    return loops


def _triangles(loop: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Area vectors of the fan of triangles that fills a polygon; of those with the largest area, as in surface-distance's table."""
    fans = []
    for start in range(len(loop)):
        turned = np.roll(loop, -start, axis=0) - loop[start]
        fans.append([np.cross(turned[i], turned[i + 1]) / 2 for i in range(1, len(loop) - 1)])
    return max(fans, key=lambda fan: sum(float(np.linalg.norm(vector)) for vector in fan))
