"""From a scan and a model to a label map on the scan's own grid: the steps in order, for `predict` and for validation alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.calibration import FoldOpinion
from autoseg.geometry import Shape, inverse_axes, permuted, triple
from autoseg.images import Image
from autoseg.labels import Labels
from autoseg.networks.inputs import one_hot
from autoseg.planning.configuration import Configuration, Plan
from autoseg.prediction.checks import unusual
from autoseg.prediction.confidence import Opinions
from autoseg.prediction.heads import split_heads
from autoseg.prediction.logits import STEP, Observer, flips_of, logits_of
from autoseg.prediction.memory import Layout, Work, layout_within
from autoseg.prediction.model import Model
from autoseg.prediction.scores import class_type, classes_on_grid, decided, probabilities_on_grid
from autoseg.preprocessing.case import GridTransform, preprocess_case
from autoseg.preprocessing.store import StoredCase
from autoseg.resources import give_back_freed_memory

Receive = Callable[[tuple[slice, slice, slice], NDArray[np.float32]], None]
"""Takes probabilities `(heads, z, y, x)` of one piece of the scan, and where it is: canonical, on the scan's own grid."""

_LARGE = 2**26  # bytes of an image whose preparation leaves much freed memory behind

NOTHING_FOUND = "nothing was found: the whole scan is background"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What was found in one scan."""

    classes: NDArray[np.integer[Any]]  # (z, y, x), canonical, on the scan's own grid; values by `Labels.decode`
    probabilities: NDArray[np.float32] | None  # (heads, z, y, x), on the same grid, where asked for
    seconds: dict[str, float]  # preprocess, network, resample; of all stages together
    warnings: tuple[str, ...]  # what is unusual about the scan, or about the result
    opinions: tuple[tuple[FoldOpinion, ...], ...] = ()  # of each calibrated configuration: of each of its folds; empty if not seen


def segment(
    model: Model,
    image: Image,
    *,
    tta: bool = True,
    probabilities: bool = False,
    receive: Receive | None = None,
    max_memory: int | None = None,
) -> Segmentation:
    """Segment a scan: all stages of the model, the mean of the folds' logits, back to the scan's own grid.

    Parameters
    ----------
    image : canonical, with the channels of the plan
    tta : also look at the mirror images that the plan allows
    probabilities : also return them; takes heads x voxels x 4 bytes
    receive : is given the probabilities piece by piece, a slice at a time; what was cropped away is left out (`beyond_the_crop`)
    max_memory : bytes that the process shall not exceed; by default what it holds and 80 % of what is free

    Raises
    ------
    PlanMismatch : another number of channels than planned for
    UnreadableFile : the image holds values that are not finite
    ModelError : the network gives values that are not finite
    NotEnough : the scan does not fit into the memory there is

    Source: nnU-Net 2.8.1, inference.
    """
    warnings = unusual_for(model, image)
    clock = Clock()
    classes: NDArray[np.integer[Any]] | None = None
    chances = None
    if probabilities:
        chances, receive = collected(model.plan.labels, image.shape)
    opinions = opinions_for(model) if max_memory is None else None  # the folds' logits take memory of their own
    for stage in model.stages:
        with clock("preprocess"):
            prepared = preprocess_case(image, None, plan=model.plan, configuration=stage.configuration)
            volume = torch.from_numpy(np.ascontiguousarray(prepared.image))
            if classes is not None:
                volume = with_previous(volume, prepared.geometry.preprocess_classes(classes), model.plan.labels)
            if image.array.nbytes > _LARGE:
                give_back_freed_memory()
        wanted = receive if stage is model.stages[-1] else None
        work = _work(stage.networks, model.plan, stage.configuration, prepared.geometry, model.device, tta=tta, dense=wanted is not None)
        layout = layout_within(work, limit=max_memory, reserved=2 * image.array[0].size)  # the result, and in the order of its file
        classes = _segment_volume(
            stage.networks,
            volume,
            prepared.geometry,
            plan=model.plan,
            configuration=stage.configuration,
            device=model.device,
            tta=tta,
            layout=layout,
            receive=wanted,
            clock=clock,
            observer=opinions if stage is model.stages[-1] else None,
        )
    assert classes is not None, "a model has at least one stage"
    if not classes.any():
        warnings.append(NOTHING_FOUND)
    seen = () if opinions is None else (opinions.result(),)
    return Segmentation(classes=classes, probabilities=chances, seconds=clock.seconds, warnings=tuple(warnings), opinions=seen)


def opinions_for(model: Model) -> Opinions | None:
    """Return what gathers the opinions of the folds of a model's last stage; None where it is not calibrated."""
    if model.calibration is None:
        return None
    folds, temperature = len(model.stages[-1].networks), model.calibration.dice_temperature
    return Opinions(model.plan.labels, folds=folds, temperature=temperature)


def unusual_for(model: Model, image: Image) -> list[str]:
    """Return what is unusual about a scan for a model; nothing where it has another number of channels, which is refused later.

    Raises
    ------
    UnreadableFile : the image holds values that are not finite
    """
    fits = image.array.shape[0] == len(model.plan.channels)
    return list(unusual(image, model.plan, model.configuration, model.fingerprint)) if fits else []


def segment_preprocessed(
    network: nn.Module,
    stored: StoredCase,
    *,
    plan: Plan,
    configuration: Configuration,
    device: str,
    tta: bool = True,
    previous: NDArray[np.integer[Any]] | None = None,
    observer: Observer | None = None,
) -> NDArray[np.integer[Any]]:
    """Segment a preprocessed case: the code of `segment` from the network on. Used for validation while training.

    Parameters
    ----------
    network : on `device`; it is in evaluation mode meanwhile
    previous : for the second stage of a cascade: classes of the first, on the grid of the preprocessed case
    observer : sees the logits, on the grid of the preprocessed case

    Returns
    -------
    classes `(z, y, x)`, canonical, on the grid of the case's image file
    """
    volume = torch.from_numpy(np.ascontiguousarray(stored.image(), dtype=np.float32))
    if configuration.previous_stage is not None:
        assert previous is not None, "the second stage of a cascade needs the first one's result"
        volume = with_previous(volume, previous, plan.labels)
    training = network.training
    network.eval()
    work = _work([network], plan, configuration, stored.geometry, device, tta=tta)
    try:
        return _segment_volume(
            [network],
            volume,
            stored.geometry,
            plan=plan,
            configuration=configuration,
            device=device,
            tta=tta,
            layout=layout_within(work, limit=None, strict=False),
            receive=None,
            clock=Clock(),
            observer=observer,
        )
    finally:
        network.train(training)


def with_previous(volume: Tensor, previous: NDArray[np.integer[Any]], labels: Labels) -> Tensor:
    """Return the image `(c, z, y, x)` followed by one channel per foreground class of the previous stage's result `(z, y, x)`."""
    channels = one_hot(torch.from_numpy(previous.astype(np.int16))[None], labels.class_count)[0]
    return torch.cat((volume, channels))


def beyond_the_crop(labels: Labels) -> NDArray[np.float32]:
    """Return the probabilities `(heads, 1, 1, 1)` of what was cropped away: all of it is background. Source: nnU-Net 2.8.1."""
    beyond = np.zeros((labels.output_channels, 1, 1, 1), dtype=np.float32)
    beyond[0] = not labels.regions
    return beyond


def collected(labels: Labels, shape: Shape) -> tuple[NDArray[np.float32], Receive]:
    """Return an array for the probabilities `(heads, z, y, x)` of a scan, and the function that puts pieces into it."""
    chances = np.empty((labels.output_channels, *shape), dtype=np.float32)
    chances[:] = beyond_the_crop(labels)

    def receive(where: tuple[slice, slice, slice], piece: NDArray[np.float32]) -> None:
        chances[(slice(None), *where)] = piece

    return chances, receive


def placed(
    geometry: GridTransform, axes: Sequence[int], index: int, rows: slice, piece: Tensor
) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
    """Return where a piece of a slice is on the scan's own canonical grid, and the piece in the order of its axes.

    Parameters
    ----------
    axes : the plan axes of slices, rows and columns
    index, rows : the slice, and its rows, on the cropped grid
    piece : `(heads, rows, columns)`
    """
    columns = slice(0, geometry.box.shape[axes[2]])
    inside = dict(zip(axes, (slice(index, index + 1), rows, columns), strict=True))
    spans = {}
    for axis, part in inside.items():
        start, stop = (geometry.box.start[axis] + part.start, geometry.box.start[axis] + part.stop)
        voxels = geometry.canonical_shape[geometry.axis_order[axis]]
        spans[axis] = slice(voxels - stop, voxels - start) if axis in geometry.flips else slice(start, stop)
    of_canonical = inverse_axes(geometry.axis_order)  # the plan axis of each canonical one
    turned = piece[:, None].permute(0, *(1 + list(axes).index(axis) for axis in of_canonical)).numpy()
    return triple(spans[axis] for axis in of_canonical), np.flip(turned, tuple(1 + of_canonical.index(axis) for axis in geometry.flips))


def _work(
    networks: Sequence[nn.Module],
    plan: Plan,
    configuration: Configuration,
    geometry: GridTransform,
    device: str,
    *,
    tta: bool,
    dense: bool = False,
) -> Work:
    split = split_heads(networks, flips_of(plan, configuration, tta=tta))
    return Work(
        configuration=configuration,
        shape=geometry.shape,
        target=geometry.box.shape,
        heads=plan.labels.output_channels,
        summed=plan.labels.output_channels if split is None else split.features,
        device=device,
        step=STEP,
        along=geometry.axis_order.index(0) if dense else None,  # slices as files have them
        dense=dense,
    )


def _segment_volume(
    networks: Sequence[nn.Module],
    volume: Tensor,
    geometry: GridTransform,
    *,
    plan: Plan,
    configuration: Configuration,
    device: str,
    tta: bool,
    layout: Layout,
    receive: Receive | None,
    clock: Clock,
    observer: Observer | None = None,
) -> NDArray[np.integer[Any]]:
    """Return classes, canonical, on the case's own grid, and hand probabilities on where they are wanted."""
    labels, back, axes = plan.labels, geometry.anisotropic_axis_back, layout.axes
    source, target = permuted(geometry.shape, axes), permuted(geometry.box.shape, axes)
    inside = np.empty(target, dtype=class_type(labels))
    for rows in layout.bands:
        slabs = logits_of(
            networks, volume, plan=plan, configuration=configuration, device=device, tta=tta, layout=layout, rows=rows, observer=observer
        )
        checked = clock.each("network", slabs)
        grids: Any = {"source": source, "target": target, "anisotropic_axis": None if back is None else axes.index(back), "rows": rows}
        with clock("resample"):
            if receive is None:
                classes_on_grid(checked, **grids, labels=labels, out=inside)
                continue
            for index, written, chances in probabilities_on_grid(checked, **grids, labels=labels):
                piece = chances.cpu()
                inside[index, written] = decided(piece, labels)
                receive(*placed(geometry, axes, index, written, piece))
    with clock("resample"):
        return geometry.restore(inside.transpose(inverse_axes(axes)))


class Clock:
    """Seconds by stage, for the user who asks where the time went."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a block for a stage, less what blocks inside it count for theirs."""
        started, inner = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            spent = time.perf_counter() - started - (sum(self.seconds.values()) - inner)  # less what inner stages took
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def count(self, seconds: Mapping[str, float]) -> None:
        """Add what another clock has counted."""
        for stage, spent in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def each(self, stage: str, items: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Yield the items, and count the time of making them for a stage."""
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item
