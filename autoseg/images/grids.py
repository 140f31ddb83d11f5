"""Affines as files hold them: which can be used, which can be corrected, and whether two files are on the same grid.

Two rules with one number each:

- Axes that miss the right angle by up to `CORRECTED_ANGLE` degrees are turned to the nearest orthonormal ones, with a note.
  More is real shear (a gantry tilt that was never undone): refused, because no spacing describes such a grid.
- Two files are on the same grid when no corner voxel of the one is more than `NOTED` voxels from where the other puts it,
  or than the rounding of float32 headers explains; beyond `SILENT` that is a note. Then the first file's geometry is taken for both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import GeometryError, GridMismatch
from autoseg.geometry import Affine, Orientation, Shape, corner_distance, orientation_of, reoriented_affine, spacing_of, triple
from autoseg.images.types import Header, Image

SILENT = 0.02  # voxels, anywhere in the volume: tools round spacing and origin to five or six digits
NOTED = 0.05  # voxels; no partial volume effect or interpolation shows so small a shift, but it was not rounding alone
CORRECTED_ANGLE = 1.0  # degrees; headers rounded to a few decimals miss by up to about 0.1, gantry tilts begin at several
LARGEST_SPACING = 1e5  # mm; beyond it, or below its inverse, a number is a damaged header and no spacing
LARGEST_PLACE = 1e7  # mm from the scanner's centre


@np.errstate(all="ignore")  # a damaged header may hold anything; what comes out is checked
def usable_affine(affine: Affine, shape: Shape, *, path: Path | None) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine of a stored array, made fit to work with: orthogonal axes, positive finite spacings.

    Parameters
    ----------
    affine : stored index (z, y, x, 1) -> world, mm, RAS+
    shape : voxels, stored (z, y, x)
    path : for the message; None for an array from memory

    Returns
    -------
    The affine and notes on what was corrected: axes turned by less than `CORRECTED_ANGLE`; an axis of one single voxel without a
    spacing got 1 mm.

    Raises
    ------
    GeometryError : a spacing that is zero, not finite or absurd; axes that are far from orthogonal
    """
    affine = np.array(affine, dtype=np.float64)
    if not np.all(np.isfinite(affine)):
        raise GeometryError(
            "the affine is not finite",
            file=path,
            found=_rows(affine),
            expected="finite numbers",
            fix="correct the affine in the file's header, or convert the file again from its source",
        )
    affine, notes = _with_planar_axis(affine, shape)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(lengths < 1 / LARGEST_SPACING) or np.any(lengths > LARGEST_SPACING):
        raise GeometryError(
            "spacing must be positive" if np.any(lengths < 1 / LARGEST_SPACING) else "spacing is absurdly large",
            file=path,
            found=f"spacing {_numbers(lengths)} mm (z, y, x as stored), shape {shape}",
            expected="three positive spacings in mm",
            fix="write the true voxel spacing into the header (pixdim and affine), or leave the case out with --exclude",
        )
    if np.any(np.abs(affine[:3, 3]) > LARGEST_PLACE):
        raise GeometryError(
            "the image is implausibly far from the scanner",
            file=path,
            found=f"origin {_numbers(affine[:3, 3])} mm",
            expected=f"within {LARGEST_PLACE:g} mm",
            fix="correct the origin in the file's header",
        )
    corrected, angle = _orthogonal(affine)
    if angle > CORRECTED_ANGLE:
        raise GeometryError(
            "the image axes are sheared (gantry tilt?)",
            file=path,
            found=f"axes {angle:.2f} degrees off the right angle",
            expected=f"orthogonal axes, up to {CORRECTED_ANGLE:g} degree is corrected",
            fix="resample the image and its label to an orthogonal grid (dcm2niix does so for tilted CT)",
        )
    if angle > 1e-3:  # what float32 headers miss anyway is not worth a note
        notes = (*notes, f"axes were {angle:.3f} degrees off the right angle and were made orthogonal")
    return corrected, notes


def swap_columns(affine: Affine) -> Affine:
    """Return an affine of indices (x, y, z, 1) as one of (z, y, x, 1), or back."""
    return affine[:, [2, 1, 0, 3]]


def aligned(affine: Affine, shape: Shape, *, to: Affine) -> Orientation:
    """Return how to turn a stored array so that its axes run as those of the grid `to`.

    For files on the same grid this is the exact answer where `orientation_of` could fall either way: an affine turned by
    45 degrees, given twice with slightly different rounding, has two nearest orientations.
    """
    ours = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    theirs = to[:3, :3] / np.linalg.norm(to[:3, :3], axis=0)
    cosines = theirs.T @ ours  # rows: axes of `to`; columns: stored axes
    axes = np.argmax(np.abs(cosines), axis=1)
    if sorted(axes.tolist()) != [0, 1, 2]:
        return orientation_of(affine)
    flips = triple(bool(cosines[row, axis] < 0) for row, axis in enumerate(axes))
    return Orientation(axes=triple(int(axis) for axis in axes), flips=flips)


def grid_gap(first: Image | Header, second: Image | Header) -> tuple[float, float]:
    """Return how far apart two canonical grids of equal shape put the same voxel, at worst: (voxels of the first, mm)."""
    step = np.linalg.solve(first.affine, second.affine) - np.eye(4)  # second's voxel index as the first sees it, less itself
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in first.shape))]).T
    voxels = float(np.abs((step @ corners)[:3]).max())
    return voxels, corner_distance(first.affine, second.affine, first.shape)


def require_same_grid(first: Image | Header, second: Image | Header, *, kinds: tuple[str, str] = ("image", "label")) -> tuple[str, ...]:
    """Raise for two files that are not on the same grid; return a note where they are only nearly so.

    Parameters
    ----------
    first, second : in canonical orientation
    kinds : what the two are, for the message: ("image", "label"), ("channel 0", "channel 1")

    Raises
    ------
    GridMismatch : unequal shapes, or a voxel more than `NOTED` voxels apart and more than float32 rounds; the message gives the
        distance in mm, the numbers to the digits in which they differ, and two remedies
    """
    file = None if second.stored is None else second.stored.path
    if first.shape != second.shape:
        raise GridMismatch(
            f"{kinds[1]} and {kinds[0]} differ in shape",
            file=file,
            details=_rows_of(first, second, kinds),
            expected="equal shapes (z, y, x)",
            fix=f"take the {kinds[1]} that belongs to this {kinds[0]}\nor resample it: {_resampling(kinds)}\n"
            "or leave the case out with --exclude",
        )
    if not (_placed(first) and _placed(second)):
        return ()
    voxels, distance = grid_gap(first, second)
    rounding = max(_rounding(first), _rounding(second))
    if voxels <= max(SILENT, rounding):
        return ()
    if voxels <= NOTED:
        return (f"{kinds[1]} and {kinds[0]} are up to {voxels:.2g} voxels apart; the geometry of the {kinds[0]} was taken",)
    raise GridMismatch(
        f"{kinds[1]} and {kinds[0]} are not on the same grid",
        file=file,
        details=_rows_of(first, second, kinds),
        found=f"up to {distance:.4g} mm ({voxels:.4g} voxels) between the two positions of a voxel" + _turn(first, second),
        expected=f"at most {max(NOTED, rounding):.2g} voxel anywhere in the volume",
        fix=f"where the voxels do line up: {_copying(kinds)}\nwhere they do not: {_resampling(kinds)}\n"
        "or leave the case out with --exclude",
    )


def _rounding(item: Image | Header) -> float:
    """Return by how many voxels two headers may differ whose numbers are the same but for their rounding to float32."""
    reach = np.abs(item.affine[:3]) @ np.array([*(n - 1 for n in item.shape), 1.0])
    return float((np.abs(np.linalg.inv(item.affine[:3, :3])) @ reach).max() * np.finfo(np.float32).eps)


def canonical_affine(affine: Affine, shape: Shape, orientation: Orientation) -> Affine:
    """Return the affine of the array once it is turned by `orientation`, without negative zeros."""
    return reoriented_affine(affine, shape, orientation) + 0.0


def _copying(kinds: tuple[str, str]) -> str:
    if kinds[1] == "label":
        return "--fix-geometry copy-image takes the geometry of the image for the label"
    return f"copy the geometry of {kinds[0]} into the header of {kinds[1]}"


def _resampling(kinds: tuple[str, str]) -> str:
    if kinds[1] == "label":
        return "--fix-geometry resample-label takes the nearest voxel of the label"
    return f"resample {kinds[1]} onto the grid of {kinds[0]}"


def _with_planar_axis(affine: Affine, shape: Shape) -> tuple[Affine, tuple[str, ...]]:
    """Give an axis of one voxel that has no direction one: across the other two, 1 mm."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    empty = [axis for axis in range(3) if lengths[axis] < 1 / LARGEST_SPACING and shape[axis] == 1]
    if len(empty) != 1:
        return affine, ()
    others = [axis for axis in range(3) if axis != empty[0]]
    across = np.cross(affine[:3, others[1]], affine[:3, others[0]])
    across *= np.sign(across[np.argmax(np.abs(across))]) or 1.0  # towards right, anterior or superior: one slice has no order
    length = float(np.linalg.norm(across))
    if length == 0:
        return affine, ()
    corrected = affine.copy()
    corrected[:3, empty[0]] = across / length
    return corrected, ("the axis of the single slice had no spacing; 1 mm was taken",)


def _orthogonal(affine: Affine) -> tuple[Affine, float]:
    """Return the affine with the nearest orthonormal directions (polar decomposition), and the largest miss of 90 degrees, degrees."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / lengths
    miss = np.abs(cosines.T @ cosines - np.eye(3)).max()
    angle = float(np.degrees(np.arcsin(min(1.0, miss))))
    if angle < 1e-3:
        return affine, angle
    left, _, right = np.linalg.svd(cosines)
    corrected = affine.copy()
    corrected[:3, :3] = (left @ right) * lengths
    return corrected, angle


def _placed(item: Image | Header) -> bool:
    return item.stored is None or item.stored.has_position


def _turn(first: Image | Header, second: Image | Header) -> str:
    """Return by how much the axes of two grids differ, for a message; nothing where they are parallel."""
    cosines = np.sum(first.affine[:3, :3] * second.affine[:3, :3], axis=0) / np.array(spacing_of(first.affine)) / spacing_of(second.affine)
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
    return f"; axes turned by {angle:.3g} degrees" if angle > 0.01 else ""


def _rows_of(first: Image | Header, second: Image | Header, kinds: tuple[str, str]) -> dict[str, str]:
    """Return a line on each of two grids, its numbers to the digits in which they differ."""
    items = (first, second)
    rows = [f"{'' if item.stored is None else f'{item.stored.path}   '}shape {item.shape}" for item in items]
    columns = [("spacing", " mm", [np.array(spacing_of(item.affine)) for item in items])]
    if _placed(first) and _placed(second):
        columns.append(("origin", "", [item.affine[:3, 3] for item in items]))
    for name, unit, values in columns:
        for row, text in enumerate(_told_apart(*values) if first.shape == second.shape else map(_numbers, values)):
            rows[row] += f"   {name} {text}{unit}"
    return dict(zip(kinds, rows, strict=True))


def _told_apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[str, str]:
    """Return two vectors as text: four digits, and more where only those show that a number differs.

    >>> _told_apart(np.array([2.5, 0.35156]), np.array([2.5, 0.35158]))
    ('(2.5, 0.35156)', '(2.5, 0.35158)')
    """
    differ = ~np.isclose(first, second, rtol=1e-6, atol=1e-6)
    for digits in range(4, 10):
        if all(f"{one:.{digits}g}" != f"{other:.{digits}g}" for one, other in zip(first[differ], second[differ], strict=True)):
            break
    return _numbers(first, digits), _numbers(second, digits)


def _numbers(values: Iterable[float], digits: int = 4) -> str:
    return "(" + ", ".join(f"{float(value):.{digits}g}" for value in values) + ")"


def _rows(affine: Affine) -> str:
    return "\n".join(_numbers(row) for row in affine[:3])
