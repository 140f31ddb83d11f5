"""Compares what preprocessing and training will need with what there is, before anything expensive. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autoseg.cases.memory import case_bytes
from autoseg.errors import NotEnough
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import permuted, resampled_shape
from autoseg.planning.configuration import Configuration, Plan
from autoseg.quantities import format_bytes, format_duration
from autoseg.workers import WORKER_BYTES

STATE_TENSORS = 5  # of the weights' size: weights, averaged weights, two moments, the model that is predicted with


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a plan needs and what there is: bytes and seconds."""

    cases: int
    folds: int
    disk_needed: Mapping[str, float]  # bytes of preprocessed cases, by configuration; "models" for weights and states of all folds
    disk_free: float  # bytes
    memory_needed: float  # bytes, to preprocess the largest case
    largest: str  # its name
    memory_free: float  # bytes
    seconds: Mapping[str, float | None]  # of training one fold, by configuration; None where the device's rate is unknown

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of a table: what, needed, available."""
        disk = sum(self.disk_needed.values())
        hours = [
            (f"training {name}", f"{format_duration(seconds)} a fold, {format_duration(seconds * self.folds)} for {self.folds}", "")
            for name, seconds in self.seconds.items()
            if seconds is not None
        ]
        return (
            ("cases", str(self.cases), f"{self.folds} folds"),
            ("disk", format_bytes(disk), f"{format_bytes(self.disk_free)} free"),
            ("memory for the largest case", format_bytes(self.memory_needed), f"{format_bytes(self.memory_free)} free"),
            *hours,
        )

    @property
    def problem(self) -> NotEnough | None:
        """Why the plan cannot be followed, with the remedy; None: it can be."""
        disk = sum(self.disk_needed.values())
        if disk > self.disk_free:
            parts = ", ".join(f"{name} {format_bytes(amount)}" for name, amount in self.disk_needed.items())
            return NotEnough(
                "the disk has no room for the preprocessed cases and models",
                found=f"{format_bytes(self.disk_free)} free",
                expected=f"{format_bytes(disk)}: {parts}",
                fix="choose a workspace on another disk with -o, or train fewer configurations with --configuration",
            )
        if self.memory_needed > self.memory_free:
            return NotEnough(
                "the largest case does not fit into the memory while it is preprocessed",
                case=self.largest,
                found=f"{format_bytes(self.memory_free)} free",
                expected=format_bytes(self.memory_needed),
                fix=f"leave that case out with --exclude {self.largest}, or use a machine with more memory",
            )
        return None


def preflight(
    plan: Plan, fingerprint: Fingerprint, *, folds: int, epochs: int, disk_free: float, memory_free: float, time_budget: float | None = None
) -> Preflight:
    """Estimate what training all configurations of a plan on all folds will need.

    Parameters
    ----------
    epochs : that one fold trains without a time budget
    disk_free, memory_free : bytes there are
    time_budget : seconds one fold trains; None: `epochs` decide
    """
    stored = {c.name: stored_bytes(c, plan, fingerprint) for c in plan.configurations if c.previous_stage is None}
    weights = sum(c.predicted.parameters for c in plan.configurations if c.predicted is not None)
    needed, largest = max(
        (
            (case_bytes(native, len(plan.channels), resampled=made), case.name)
            for c in plan.configurations
            for case, (native, made) in zip(fingerprint.cases, _voxels(c, plan, fingerprint), strict=True)
        ),
        default=(0.0, ""),
    )
    return Preflight(
        cases=len(fingerprint.cases),
        folds=folds,
        disk_needed={**stored, "models": 4.0 * STATE_TENSORS * weights * folds},
        disk_free=disk_free,
        memory_needed=WORKER_BYTES + needed,
        largest=largest,
        memory_free=memory_free,
        seconds={c.name: time_budget or _seconds(c, epochs) for c in plan.configurations},
    )


def stored_bytes_per_voxel(channels: int) -> float:
    """Estimate the bytes on disk of one preprocessed voxel.

    Source: measured on CT and MR, compressed: 0.8 with one channel; 2 for noise that cannot be compressed.
    """
    return 1.2 * channels + 0.1


def stored_bytes(configuration: Configuration, plan: Plan, fingerprint: Fingerprint) -> float:
    """Estimate the bytes of the preprocessed cases on disk."""
    voxels = sum(made for _, made in _voxels(configuration, plan, fingerprint))
    return voxels * stored_bytes_per_voxel(len(plan.channels))


def _voxels(configuration: Configuration, plan: Plan, fingerprint: Fingerprint) -> list[tuple[float, float]]:
    """Return voxels of each case before cropping, and after resampling."""
    pairs = []
    for case in fingerprint.cases:
        spacing, shape = permuted(case.spacing, plan.axis_order), permuted(case.shape_after_crop, plan.axis_order)
        target = (spacing[0], *configuration.spacing[1:]) if configuration.planar else configuration.spacing
        pairs.append((float(math.prod(case.shape)), float(math.prod(resampled_shape(shape, spacing, target)))))
    return pairs


def _seconds(configuration: Configuration, epochs: int) -> float | None:
    predicted = configuration.predicted
    return None if predicted is None or predicted.seconds_per_epoch is None else predicted.seconds_per_epoch * epochs
