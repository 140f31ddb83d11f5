"""The logits of networks for a preprocessed volume: precision, mirror images, memory, and who else looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.geometry import triple
from autoseg.labels import Labels
from autoseg.networks.inputs import choose_precision
from autoseg.planning.configuration import Configuration, Plan
from autoseg.prediction.heads import split_heads
from autoseg.prediction.memory import Layout
from autoseg.threads import chooser
from autoseg.tiling import Flips, Network, Tiles, patches_at_once, predict_slabs

STEP = 0.5  # distance between patches, in patches. Source: nnU-Net 2.8.1
APART_BYTES = {"cpu": 2**28, "cuda": 2**32}  # of scores held at once up to which those of each fold are kept apart


class Observer(Protocol):
    """Sees the logits of a volume pass by."""

    def see(self, start: int, logits: Tensor) -> None:
        """Look at the slices from `start` on: `(networks, heads, slices, y, x)`."""


def in_safe_precision(networks: Sequence[nn.Module], device: str) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Return for each network a function that gives its logits, computed in the fastest precision of the device that is safe."""
    kind = torch.device(device)
    precision = choose_precision("auto", kind)

    def wrapped(network: nn.Module) -> Callable[[Tensor], Tensor]:
        def logits(x: Tensor) -> Tensor:
            with torch.autocast(kind.type, dtype=precision, enabled=precision != torch.float32):
                result: Tensor = network(x)
            return result

        return logits

    return tuple(wrapped(network) for network in networks)


def flips_of(plan: Plan, configuration: Configuration, *, tta: bool) -> Flips:
    """Return the mirror images to look at: those of the plan, without the axis that a planar network does not see.

    Where a flip turns left into right, the heads of each pair change places, and so do the channels of the previous stage.
    Regions are paired by their members; a flip that has no counterpart for some region is left out.
    """
    if not tta:
        return Flips()
    labels = plan.labels
    mirroring = plan.mirroring.within(configuration.patch_size)
    heads = mirroring.pairs if not labels.regions else _paired_regions(labels)
    if mirroring.swap_axis is None or heads is None:
        return Flips(axes=tuple(axis for axis in mirroring.axes if axis != mirroring.swap_axis))
    first = len(plan.channels) - 1  # channel of class 1, less 1
    previous = tuple((first + a, first + b) for a, b in mirroring.pairs) if configuration.previous_stage else ()
    return Flips(axes=mirroring.axes, swap_axis=mirroring.swap_axis, pairs=heads, input_pairs=previous)


def logits_of(
    networks: Sequence[nn.Module],
    volume: Tensor,
    *,
    plan: Plan,
    configuration: Configuration,
    device: str,
    tta: bool,
    layout: Layout | None = None,
    rows: tuple[int, int] | None = None,
    observer: Observer | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the mean logits of some networks for a preprocessed volume `(c, z, y, x)`, slab by slab as `tiling.predict_slabs` does.

    With a layout, along its axis, and those `rows` alone. An observer sees the logits of each network; where these would take too much
    memory, or the volume is worked off along another axis or in bands, it sees nothing.

    Raises
    ------
    ModelError : values that are not finite
    """
    flips = flips_of(plan, configuration, tta=tta)
    if observer is not None and (layout is None or (layout.along == 0 and len(layout.bands) == 1)):
        slabs = _apart(networks, volume, plan, configuration, flips, device, layout)
        if slabs is not None:
            return _observed(_finite(slabs), len(networks), observer)
    split = split_heads(networks, flips)
    bodies = in_safe_precision(networks if split is None else split.bodies, device)
    run = [chooser("prediction", device).watched(network) for network in bodies]
    slabs = predict_slabs(
        run if split is None else lambda x: torch.cat([body(x) for body in run], dim=1),
        volume,
        patch=configuration.patch_size,
        heads=plan.labels.output_channels if split is None else split.features,
        step=STEP,
        flips=flips,
        device=device,
        batch=layout.at_once if layout else None,
        along=layout.along if layout else 0,
        rows=rows,
    )
    slabs = slabs if split is None else split.scores(slabs)
    return _finite(slabs)


def _apart(
    networks: Sequence[nn.Module],
    volume: Tensor,
    plan: Plan,
    configuration: Configuration,
    flips: Flips,
    device: str,
    layout: Layout | None,
) -> Iterator[tuple[int, Tensor]] | None:
    """Yield slabs of the logits of each network, one after another along the heads; None where they would take too much memory."""
    heads, count, patch = plan.labels.output_channels, len(networks), configuration.patch_size
    tiles = Tiles(shape=triple(volume.shape[1:]), patch=patch, step=STEP, at_once=patches_at_once(patch, device))
    if tiles.held_bytes(count * heads) > APART_BYTES.get(torch.device(device).type, 2**28):
        return None
    run = [chooser("prediction", device).watched(network) for network in in_safe_precision(networks, device)]
    together: Network = run[0] if count == 1 else lambda x: torch.cat([network(x) for network in run], dim=1)
    pairs = tuple((a + n * heads, b + n * heads) for n in range(count) for a, b in flips.pairs)
    return predict_slabs(
        together, volume, patch=patch, heads=count * heads, step=STEP, flips=replace(flips, pairs=pairs), device=device,
        batch=layout.at_once if layout else None)  # fmt: skip


def _observed(slabs: Iterator[tuple[int, Tensor]], networks: int, observer: Observer) -> Iterator[tuple[int, Tensor]]:
    """Show the logits of each network to an observer, and yield their mean."""
    for start, slab in slabs:
        apart = slab.unflatten(0, (networks, -1))
        observer.see(start, apart)
        yield start, slab if networks == 1 else apart.permute(0, 2, 3, 4, 1).mean(0).permute(3, 0, 1, 2)


def _finite(slabs: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    for start, slab in slabs:
        if not bool(torch.isfinite(slab.sum())):
            raise ModelError(
                "the network gives values that are not numbers",
                expected="finite scores",
                fix="train the model again: its weights are not usable",
            )
        yield start, slab


def _paired_regions(labels: Labels) -> tuple[tuple[int, int], ...] | None:
    """Return the heads that change places when left and right do; None where a region has no counterpart."""
    other = {labels.values[a]: labels.values[b] for pair in labels.paired_classes for a, b in (pair, pair[::-1])}
    members = [frozenset(region.members) for region in labels.regions]
    mirrored = [frozenset(other.get(value, value) for value in region) for region in members]
    if any(region not in members for region in mirrored):
        return None
    partners = [(index, members.index(region)) for index, region in enumerate(mirrored)]
    return tuple((a, b) for a, b in partners if a < b)
