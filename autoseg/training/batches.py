"""From cases to batches on the training device: picking, reading, warping, augmenting, one function per step.

A batch follows from `(seed, step)` alone. Cases that fit are kept in memory; others are read ahead by a thread, because
decompression releases Python's lock and so runs in parallel to the training step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.labels import Labels
from autoseg.networks.inputs import one_hot
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.configuration import Configuration, Plan
from autoseg.training import augmentation, cascade
from autoseg.training.augmentation import Spatial
from autoseg.training.process_group import SINGLE_PROCESS, ProcessGroup
from autoseg.training.sampling import CaseInMemory, Patch, PatchSource, bytes_in_memory, generator_for, pick_patches, read_patch
from autoseg.training.settings import TrainingSettings

READ_AHEAD = 3  # batches


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one optimisation step sees."""

    image: Tensor  # (n, c, z, y, x) float32, on the training device; the cascade's channels come last
    target: Tensor  # (n, z, y, x) int64 classes
    annotated: Tensor | None  # (n, classes) bool; None: every class in every sample
    cases: tuple[str, ...]  # names, for messages


class BatchLoader:
    """The endless series of batches of one run. `batch(step)` may be called for any step; it is fastest in order.

    Parameters
    ----------
    cases : the training cases
    previous : per case the class map `(z, y, x)` of the cascade's previous stage
    memory : bytes in which cases may be kept
    processes : those among which every batch is divided; this one gets its share
    """

    def __init__(
        self,
        cases: Sequence[PatchSource],
        *,
        plan: Plan,
        configuration: Configuration,
        settings: TrainingSettings,
        seed: int,
        device: torch.device,
        memory: float,
        previous: Mapping[str, NDArray[Any]] | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        channels = len(plan.channels)
        self._share = processes.share(configuration.batch_size)
        self._rank = (processes.rank,) if processes.size > 1 else ()  # each process draws its own numbers; one alone draws as it always did
        self.in_memory = sum(bytes_in_memory(case, channels) for case in cases) <= memory
        self._cases: Sequence[PatchSource] = [CaseInMemory(case) for case in cases] if self.in_memory else cases
        self._plan, self._configuration, self._settings = plan, configuration, settings
        self._seed, self._device, self._previous = seed, device, previous
        self._mirroring = plan.mirroring.within(configuration.patch_size)
        self._masked_channels = [i for i, scheme in enumerate(configuration.normalization) if NORMALIZATIONS[scheme].masked]
        self._annotated = _annotation_table(cases, plan.labels)
        self._reader = None if self.in_memory and device.type == "cpu" else _Reader(self._read)
        self.waited = 0.0  # seconds spent waiting for patches
        self.augmented = 0.0  # seconds spent on warping and augmentation

    def batch(self, step: int) -> Batch:
        """Return the batch of one optimisation step.

        Raises
        ------
        AutosegError : a case could not be read
        """
        begin = time.perf_counter()
        read = self._read(step) if self._reader is None else self._reader.get(step)
        self.waited += time.perf_counter() - begin
        begin = time.perf_counter()
        batch = self._assemble(step, read)
        self.augmented += time.perf_counter() - begin
        return batch

    @property
    def waiting_for(self) -> str:
        """What patches are mostly waited for, and the remedy."""
        if self._reader is None or self.in_memory:
            return "for processors: other programs keep them busy"
        if self._reader.computing > 0.5:
            return "for decompression: with more memory, or a larger memory_share, cases are kept there"
        return "for files: keep the workspace on a faster disk"

    def close(self) -> None:
        """Stop the reading thread."""
        if self._reader is not None:
            self._reader.close()

    def _read(self, step: int) -> list[tuple[int, Spatial | None, Patch]]:
        settings, patch = self._settings, self._configuration.patch_size
        picks = pick_patches(
            self._cases,
            patch=patch,
            batch=self._configuration.batch_size,
            step=step,
            seed=self._seed,
            share=settings.foreground,
            rounding=settings.foreground_rounding,
        )
        generator = generator_for(self._seed, 3, step, *self._rank)
        read = []
        for pick in (picks[place] for place in self._share):
            spatial = augmentation.draw_spatial(patch, settings=settings.augmentation, generator=generator)
            box = augmentation.source_box(patch, spatial)
            start = tuple(a + b for a, b in zip(pick.start, box.start, strict=True))
            case = self._cases[pick.case]
            earlier = None if self._previous is None else self._previous[case.name]
            read.append((pick.case, spatial, read_patch(case, start=start, shape=box.shape, previous=earlier)))
        return read

    def _assemble(self, step: int, read: Sequence[tuple[int, Spatial | None, Patch]]) -> Batch:
        plan, settings = self._plan, self._settings.augmentation
        patches = [self._warped(spatial, patch) for _, spatial, patch in read]
        image = torch.stack([patch.image for patch in patches])
        maps = [torch.stack([patch.label for patch in patches])]
        if self._previous is not None:
            maps.append(torch.stack([patch.previous for patch in patches if patch.previous is not None]))
        generator = generator_for(self._seed, 4, step, *self._rank)
        if settings.backend == "batchgenerators":
            from autoseg.training import batchgenerators_backend

            image = batchgenerators_backend.augment(image, settings=settings, generator=generator)
            settings = batchgenerators_backend.mirroring_only(settings)
        numbers = [case for case, _, _ in read]
        image, maps, annotated = augmentation.augment(
            image,
            maps,
            settings=settings,
            generator=generator,
            mirroring=self._mirroring,
            annotated=None if self._annotated is None else self._annotated[numbers],
        )
        for channel in self._masked_channels:  # nothing but zero was there before noise and warping
            image[:, channel].mul_(maps[0] >= 0)
        if self._previous is not None:
            extra = one_hot(maps[1], plan.labels.class_count)
            extra = cascade.augment_previous_stage(extra, settings=self._settings.cascade, generator=generator)
            image = torch.cat((image, extra), dim=1)
        return Batch(
            image=image,
            target=maps[0].long().clamp_(min=0),  # beyond the case is background
            annotated=None if annotated is None else annotated.to(self._device),
            cases=tuple(self._cases[number].name for number in numbers),
        )

    def _warped(self, spatial: Spatial | None, patch: Patch) -> Patch:
        image, label = patch.image.to(self._device, non_blocking=True), patch.label.to(self._device, non_blocking=True)
        maps = [label] if patch.previous is None else [label, patch.previous.to(self._device, non_blocking=True)]
        if spatial is not None:
            shape, linear = self._configuration.patch_size, self._settings.augmentation.labels == "linear"
            image, maps = augmentation.warp(image, maps, spatial, patch=shape, linear_labels=linear)
        return Patch(image=image, label=maps[0], previous=maps[1] if len(maps) > 1 else None)


class _Reader:
    """Reads batches ahead in a thread. Its errors are raised where the batch is asked for."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="patch reader")
        self._ahead: dict[int, Future[Any]] = {}
        self._seconds = self._processor_seconds = 0.0  # spent on reading

    @property
    def computing(self) -> float:
        """Share of the time of reading in which a processor computed; the rest it waited for the disk."""
        return self._processor_seconds / max(self._seconds, 1e-9)

    def get(self, step: int) -> Any:
        """Return what `read` gave for this step; what was read ahead is forgotten where it is not the next one."""
        if step not in self._ahead:
            self._forget()
        for number in range(step, step + READ_AHEAD + 1):
            if number not in self._ahead:
                self._ahead[number] = self._thread.submit(self._timed, number)
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Stop the thread, at the end of the batch that it reads."""
        self._forget()
        self._thread.shutdown()

    def _forget(self) -> None:
        for batch in self._ahead.values():
            batch.cancel()
        self._ahead.clear()

    def _timed(self, step: int) -> Any:
        begin, processor = time.perf_counter(), time.thread_time()
        try:
            return self._read(step)
        finally:
            self._seconds += time.perf_counter() - begin
            self._processor_seconds += time.thread_time() - processor


def _annotation_table(cases: Sequence[PatchSource], labels: Labels) -> Tensor | None:
    """Return whether a class was annotated, (cases, classes); None where all were, everywhere."""
    if all(case.annotated is None for case in cases):
        return None
    table = np.ones((len(cases), labels.class_count), dtype=bool)
    for row, case in enumerate(cases):
        if case.annotated is not None:
            table[row, 1:] = [label.name in case.annotated for label in labels.foreground]
    return torch.from_numpy(table)
