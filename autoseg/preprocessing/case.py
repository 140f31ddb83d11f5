"""One case in memory: from the image as read to the arrays a network is trained on, and the way back to the image's own grid.

The same function serves training and prediction, so that a network sees the same numbers in both.

Memory: besides image and label as read, at most 6 bytes per voxel read (one channel as float32, the mask, the label with what is
outside marked), 4 c + 2 per voxel made (the result) and 30 to 80 MB of a slab. Measured: 362 MB for a CT of 20.4 million voxels made
into 32.6 million, 380 MB for a head MR of 40.4 million made into 18.4 million. Storing takes 4 more per voxel made than the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from autoseg import schema
from autoseg.errors import PlanMismatch
from autoseg.geometry import Affine, Axes, Box, Shape, Spacing, inverse_axes, permuted, resampled_shape
from autoseg.images import Image
from autoseg.normalization import NORMALIZATIONS, normalize
from autoseg.planning.configuration import Configuration, Plan
from autoseg.preprocessing.crop import crop, mark_outside, split_outside
from autoseg.preprocessing.resampling import anisotropic_axis, resample_image, resample_labels


class _Rows:
    """Says that a file holds the rows of an array."""

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """Have pydantic read rows of four numbers."""
        return schema.checked(handler.generate_schema(tuple[tuple[float, float, float, float], ...]), np.array)


@dataclass(frozen=True, kw_only=True)
class PlanAxes:
    """How a canonical array is turned to the axes of a plan."""

    order: Axes  # canonical axis of each plan axis
    flips: tuple[int, ...] = ()  # plan axes that are reversed after that

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a canonical array `(..., z, y, x)` in plan axes."""
        lead = array.ndim - 3
        return np.flip(array.transpose(*range(lead), *(lead + axis for axis in self.order)), tuple(lead + axis for axis in self.flips))

    def turned_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array in plan axes `(..., z, y, x)`, canonical: the inverse of `turned`."""
        lead = array.ndim - 3
        straight = np.flip(array, tuple(lead + axis for axis in self.flips))
        return straight.transpose(*range(lead), *(lead + axis for axis in inverse_axes(self.order)))


def plan_axes(plan: Plan, image: Image) -> PlanAxes:
    """Return how an image is turned to the axes of a plan.

    A plan with orientation "stored" sees the array as the file holds it, as models that nnU-Net trained do; then its `axis_order`
    is a permutation of the stored axes.
    """
    if plan.orientation == "canonical" or image.stored is None:
        return PlanAxes(order=plan.axis_order)
    turn = image.stored.orientation
    order = permuted(inverse_axes(turn.axes), plan.axis_order)
    return PlanAxes(order=order, flips=tuple(axis for axis in range(3) if turn.flips[order[axis]]))


@dataclass(frozen=True, kw_only=True)
class GridTransform:
    """What happened to the grid, in order: axes permuted, cropped to `box`, resampled to `shape`."""

    axis_order: Axes  # canonical axis of each plan axis
    flips: tuple[int, ...] = ()  # plan axes that run against the canonical ones
    canonical_shape: Shape  # voxels, canonical (z, y, x), of the image as read
    affine: Annotated[Affine, _Rows()]  # canonical index -> world, of the image as read
    box: Box  # plan axes
    shape: Shape  # voxels, plan axes, after resampling
    spacing: Spacing  # mm, plan axes, of the image as read
    target_spacing: Spacing  # mm, plan axes, after resampling

    @property
    def anisotropic_axis(self) -> int | None:
        """The plan axis along which the case was not interpolated."""
        return anisotropic_axis(self.spacing, self.target_spacing)

    @property
    def anisotropic_axis_back(self) -> int | None:
        """The plan axis along which scores are not interpolated on the way back. Source: nnU-Net 2.8.1."""
        return anisotropic_axis(self.target_spacing, self.spacing)

    @property
    def canonical_spacing(self) -> Spacing:
        """mm per voxel, canonical (z, y, x), of the image as read."""
        return permuted(self.spacing, inverse_axes(self.axis_order))

    def preprocess_classes(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Return a class map on the image's own canonical grid `(z, y, x)`, brought onto the preprocessed grid (plan axes)."""
        cropped = PlanAxes(order=self.axis_order, flips=self.flips).turned(classes)[self.box.slices]
        return resample_labels(cropped, self.shape, anisotropic_axis=self.anisotropic_axis)

    def restore(self, inside: NDArray[Any], *, outside: float | NDArray[Any] = 0) -> NDArray[Any]:
        """Return an array on the cropped grid `(..., z, y, x)`, plan axes, on the image's own canonical grid.

        What was cropped away is filled with `outside`, which may be an array. Resampling comes before it.
        """
        axes = PlanAxes(order=self.axis_order, flips=self.flips)
        if self.box.shape == tuple(self.canonical_shape[axis] for axis in self.axis_order):
            return np.ascontiguousarray(axes.turned_back(inside))
        result = np.empty((*inside.shape[:-3], *self.canonical_shape), dtype=inside.dtype)
        turned = axes.turned(result)
        turned[...] = outside
        turned[(..., *self.box.slices)] = inside
        return result


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """A preprocessed case. All arrays in plan axes and of the same shape."""

    image: NDArray[np.float32]  # (c, z, y, x)
    label: NDArray[Any] | None  # classes (z, y, x), uint8 or uint16; None without a reference segmentation
    mask: NDArray[np.bool_] | None  # (z, y, x), what was not zero; None unless a channel is normalised inside it
    outside: NDArray[np.bool_] | None  # (z, y, x), background outside what was not zero; None without a reference segmentation
    steps: tuple[float | None, ...]  # per channel: the values are whole multiples of it, up to an offset; None: they are any numbers
    geometry: GridTransform


def preprocess_case(image: Image, label_classes: NDArray[Any] | None, *, plan: Plan, configuration: Configuration) -> Preprocessed:
    """Permute, crop, normalise, resample.

    Parameters
    ----------
    image : canonical
    label_classes : (z, y, x), canonical, classes by `Labels.encode`; or None

    Raises
    ------
    PlanMismatch : the image has another number of channels than the plan

    Source: nnU-Net 2.8.1: normalisation comes before resampling on purpose; a planar configuration keeps the slices as they are.
    """
    if image.array.shape[0] != len(plan.channels):
        raise PlanMismatch(
            "another number of channels than planned for",
            found=f"{image.array.shape[0]}",
            expected=f"{len(plan.channels)}: {', '.join(c.name for c in plan.channels)}",
            fix="give one file per channel, in the order of the plan",
        )
    axes = plan_axes(plan, image)
    cropped, inside, box = crop(axes.turned(image.array))
    geometry = _geometry(image, axes, configuration, box)
    apart = geometry.anisotropic_axis
    masked = any(NORMALIZATIONS[scheme].masked for scheme in configuration.normalization)
    result = np.empty((len(cropped), *geometry.shape), dtype=np.float32)
    steps: list[float | None] = []
    for channel, out, scheme, intensities in zip(cropped, result, configuration.normalization, plan.intensities, strict=True):
        normalized, factor = normalize(channel, scheme, intensities=intensities, mask=inside)
        steps.append(factor if channel.dtype.kind in "iu" and channel.shape == geometry.shape else None)
        out[...] = resample_image(normalized[None], geometry.shape, anisotropic_axis=apart)[0]
        del normalized
    label, outside, mask = None, None, None
    if label_classes is not None:
        classes = axes.turned(label_classes)[box.slices]
        label, resampled_inside = split_outside(resample_labels(mark_outside(classes, inside), geometry.shape, anisotropic_axis=apart))
        outside = ~resampled_inside
        mask = resampled_inside if masked else None
    elif masked:
        mask = resample_labels(inside.astype(np.uint8), geometry.shape, anisotropic_axis=apart).astype(bool)
    return Preprocessed(image=result, label=label, mask=mask, outside=outside, steps=tuple(steps), geometry=geometry)


def _geometry(image: Image, axes: PlanAxes, configuration: Configuration, box: Box) -> GridTransform:
    spacing = permuted(image.spacing, axes.order)
    target = (spacing[0], *configuration.spacing[1:]) if configuration.planar else configuration.spacing
    return GridTransform(
        axis_order=axes.order,
        flips=axes.flips,
        canonical_shape=image.shape,
        affine=image.affine,
        box=box,
        shape=resampled_shape(box.shape, spacing, target),
        spacing=spacing,
        target_spacing=target,
    )
