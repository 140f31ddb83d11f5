"""`Fingerprint` and planner preset become a `Plan`. Pure: no torch, no files.

The one algorithm, for every preset:

    1  spacing of the full resolution, axis order, median shape      spacing.py
    2  2d, and for volumes 3d_fullres: patch, batch, width           sizing.py, topology.py
    3  3d_lowres and 3d_cascade where a patch sees too little        here
    4  what each will cost on the machine                            memory.py, timing.py
    5  the reasons for all of it, in sentences                       reasons.py
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from autoseg.errors import NotEnough, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Axes, Spacing, permuted, triple
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning import reasons
from autoseg.planning.configuration import Configuration, Plan, Predicted
from autoseg.planning.constants import PlannerConstants, read_constants
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.mirroring import NO_MIRRORING, Mirroring, choose_mirroring
from autoseg.planning.preflight import stored_bytes
from autoseg.planning.sizing import SizingRequest, SizingResult, size_by_cost, size_by_feature_maps
from autoseg.planning.spacing import SpacingChoice, axis_order, choose_spacing, coarser_spacing, median_resampled_shape
from autoseg.planning.timing import seconds_per_step, steps_within
from autoseg.presets import Preset
from autoseg.quantities import format_bytes
from autoseg.version import __version__

FootprintOf = Callable[[Configuration, int, int], Footprint]  # configuration, input channels, heads


def make_plan(
    fingerprint: Fingerprint,
    *,
    preset: Preset,
    machine: Machine,
    time_budget: float | None = None,
    footprint: FootprintOf | None = None,
) -> Plan:
    """Plan every configuration that makes sense for a data set, for a machine.

    Parameters
    ----------
    preset : the planner's constants
    machine : what training may use
    time_budget : seconds one fold may train; None: as the preset says for a processor, no limit for a graphics card
    footprint : what training a configuration takes; None: a model by arithmetic alone. `networks.memory_estimate` traces the real network.

    Raises
    ------
    NotEnough : even the smallest network needs more than the memory there is
    SettingsError : a data set without cases, or a preset that cannot be used
    """
    if not fingerprint.cases:
        raise SettingsError("a data set without cases cannot be planned", found="0 cases", fix="give at least one labelled case")
    constants = read_constants(preset.values)
    task = _Task.of(fingerprint, constants, machine, time_budget, footprint)
    sized = [task.plan_2d()]
    if not task.planar:
        full = task.plan_fullres()
        low = task.plan_lowres(full)
        sized += [full] if low is None else [low, full.with_batch_dice(), task.plan_cascade(full.with_batch_dice())]
    wanted = preset.values.get("training", {}).get("augmentation", {}).get("mirror_axes", "all")
    brief = task.time_budget is not None
    mirroring = choose_mirroring(fingerprint.labels, task.order, planar=task.planar, wanted=wanted, brief=brief)
    return assemble_plan(
        fingerprint,
        preset,
        machine,
        planner=preset.name,
        time_budget=task.time_budget,
        order=task.order,
        mirroring=mirroring,
        configurations=[task.finished(one) for one in sized],
        why=reasons.of_plan(task.reason_context(sized, mirroring)),
    )


def assemble_plan(
    fingerprint: Fingerprint,
    preset: Preset,
    machine: Machine,
    *,
    planner: str,
    time_budget: float | None,
    order: Axes,
    mirroring: Mirroring,
    configurations: Iterable[Configuration],
    why: tuple[str, ...],
) -> Plan:
    """Return the plan of these configurations, with the disk space that each one takes."""
    plan = Plan(
        planner=planner,
        planner_values=preset.documented,
        device={**machine.to_json(), "time_budget": time_budget},
        name=fingerprint.name,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
        axis_order=order,
        mirror_axes=mirroring.axes,
        swap_axis=mirroring.swap_axis,
        configurations=tuple(configurations),
        settings=dict(preset.values.get("training", {})),
        fingerprint=hash_fingerprint(fingerprint),
        reasons=why,
        version=__version__,
    )
    return replace(plan, configurations=tuple(_with_disk(c, plan, fingerprint) for c in plan.configurations))


def hash_fingerprint(fingerprint: Fingerprint) -> str:
    """Return the SHA-256 of the fingerprint's JSON: two plans with the same one saw the same data."""
    text = json.dumps(fingerprint.to_json(), sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Everything the single configurations are planned from."""

    fingerprint: Fingerprint
    constants: PlannerConstants
    machine: Machine
    time_budget: float | None  # seconds
    model: FootprintOf  # by arithmetic; used while searching
    footprint: FootprintOf  # as good as can be had; used for what was found
    choice: SpacingChoice
    order: Axes
    spacing: Spacing  # of the full resolution, plan axes
    median_shape: tuple[float, float, float]  # at that spacing, plan axes
    normalization: tuple[str, ...]
    planar: bool

    @staticmethod
    def of(
        fingerprint: Fingerprint, constants: PlannerConstants, machine: Machine, time_budget: float | None, footprint: FootprintOf | None
    ) -> _Task:
        """Derive spacing, axis order, median shape and normalisation from the fingerprint."""
        spacings, shapes = [c.spacing for c in fingerprint.cases], [c.shape_after_crop for c in fingerprint.cases]
        choice = choose_spacing(
            spacings, shapes, anisotropy=constants.anisotropy, percentile=constants.coarse_percentile, fixed=constants.target_spacing
        )
        order = axis_order(choice.spacing, choice.median_shape) if constants.coarsest_first else (0, 1, 2)
        median = median_resampled_shape(spacings, shapes, target=choice.spacing, order=order)
        if time_budget is None and machine.cpu and constants.sizing == "machine":
            time_budget = constants.cpu_seconds
        value_bytes = 2 if machine.bf16 or machine.device.startswith("cuda") else 4
        model = partial(modelled_footprint, value_bytes=value_bytes)
        return _Task(
            fingerprint=fingerprint,
            constants=constants,
            machine=machine,
            time_budget=time_budget,
            model=model,
            footprint=footprint or model,
            choice=choice,
            order=order,
            spacing=permuted(choice.spacing, order),
            median_shape=median,
            normalization=normalization(fingerprint, constants),
            planar=median[0] == 1,
        )

    @property
    def timed(self) -> bool:
        """Whether the time budget shapes the networks."""
        known = self.machine.cpu or self.machine.conv_flops is not None
        return self.constants.sizing == "machine" and self.time_budget is not None and known

    @property
    def step_limit(self) -> float | None:
        """Seconds that one step may take; None without a time budget."""
        return None if self.time_budget is None else self.time_budget / steps_within(self.time_budget, self.constants)

    def plan_2d(self) -> SizingResult:
        """Plan for slices one by one, at the in-plane spacing of the full resolution."""
        return self._sized("2d", self.spacing, self.median_shape, self.median_shape).with_batch_dice()

    def plan_fullres(self) -> SizingResult:
        """Plan for volumes at the full resolution."""
        return self._sized("3d_fullres", self.spacing, self.median_shape, self.median_shape)

    def plan_lowres(self, full: SizingResult) -> SizingResult | None:
        """Plan a coarser stage that covers enough of the median case at once; None where the full resolution does, or nearly does.

        Source: nnU-Net 2.8.1, ExperimentPlanner.plan_experiment.
        """
        full_voxels, constants = float(np.prod(self.median_shape)), self.constants
        low, spacing = None, self.spacing
        patch, voxels = math.prod(full.configuration.patch_size), full_voxels
        while patch / voxels < constants.coverage(timed=self.timed):
            spacing = coarser_spacing(spacing, step=constants.low_resolution_step)
            edges = np.asarray(self.spacing) / np.asarray(spacing) * np.asarray(self.median_shape)
            voxels = float(np.prod(edges))
            low = self._sized("3d_lowres", spacing, triple(float(max(round(edge), 1)) for edge in edges), edges, corrected=False)
            patch = math.prod(low.configuration.patch_size)
        if low is None or full_voxels / voxels < constants.low_resolution_reduction:
            return None
        return self._sized("3d_lowres", spacing, low.configuration.median_shape, edges, corrected=True)

    def plan_cascade(self, full: SizingResult) -> SizingResult:
        """Plan for the full resolution again, with the low-resolution segmentation as further channels."""
        cascade = replace(full.configuration, name="3d_cascade", previous_stage="3d_lowres")
        if self.constants.sizing == "machine" and self._limit(cascade, self._correction(cascade)) is not None:
            return self._sized("3d_cascade", self.spacing, self.median_shape, self.median_shape).with_batch_dice()
        return replace(full, configuration=cascade)

    def finished(self, sized: SizingResult) -> Configuration:
        """Return the configuration with what it will cost here, and the reasons for its size."""
        c = sized.configuration
        cost = self._cost(c, self.footprint)
        if self.constants.sizing == "machine" and cost.training_bytes > self.machine.memory_bytes:
            raise NotEnough(
                f"even the smallest {c.name} network does not fit into the memory",
                found=f"{format_bytes(self.machine.memory_bytes)} on {self.machine.name}",
                expected=f"{format_bytes(cost.training_bytes)} for patch {c.patch_size}, batch {c.batch_size}",
                fix="give it more memory (--memory), or another device (--device)",
            )
        step = seconds_per_step(cost, self.machine, self.constants)
        predicted = predict_cost(cost, step, self.constants)
        why = reasons.of_configuration(sized, self.reason_context([]), step=step, cost=cost, reference=self._reference(c))
        return replace(c, predicted=predicted, reasons=why)

    def reason_context(self, sized: Sequence[SizingResult], mirroring: Mirroring = NO_MIRRORING) -> reasons.ReasonContext:
        """Return what the reasons are written from."""
        return reasons.ReasonContext(
            fingerprint=self.fingerprint,
            constants=self.constants,
            machine=self.machine,
            time_budget=self.time_budget,
            timed=self.timed,
            choice=self.choice,
            order=self.order,
            spacing=self.spacing,
            median_shape=self.median_shape,
            normalization=self.normalization,
            configurations=tuple(one.configuration for one in sized),
            mirroring=mirroring,
        )

    def _sized(
        self, name: str, spacing: Spacing, median_shape: tuple[float, float, float], counted: Sequence[float], *, corrected: bool = True
    ) -> SizingResult:
        request = self._request(name, spacing, median_shape, counted)
        if self.constants.sizing == "feature-maps":
            return size_by_feature_maps(request, self.constants)
        exact = corrected and self.footprint is not self.model
        return size_by_cost(request, self.constants, self._limit, timed=self.timed, correction=self._correction if exact else None)

    def _request(self, name: str, spacing: Spacing, median_shape: tuple[float, float, float], counted: Sequence[float]) -> SizingRequest:
        labels = self.fingerprint.labels
        return SizingRequest(
            name=name,
            spacing=spacing,
            median_shape=(1.0, *median_shape[1:]) if name == "2d" else median_shape,
            dataset_voxels=float(np.prod(counted)) * len(self.fingerprint.cases),
            counted_labels=(1 + len(labels.regions) if labels.regions else labels.class_count) + (labels.ignore is not None),
            normalization=self.normalization,
            previous_stage="3d_lowres" if name == "3d_cascade" else None,
        )

    def _reference(self, configuration: Configuration) -> Configuration | None:
        """Return what the reference planner would have taken at the same spacing; None for a planner that is the reference."""
        if self.constants.sizing == "feature-maps" or configuration.name == "3d_cascade":
            return None
        counted = configuration.median_shape if configuration.name == "3d_lowres" else self.median_shape
        request = self._request(configuration.name, configuration.spacing, configuration.median_shape, counted)
        return size_by_feature_maps(request, self.constants).configuration

    def _cost(self, configuration: Configuration, of: FootprintOf) -> Footprint:
        previous = len(self.fingerprint.labels.foreground) if configuration.previous_stage else 0
        return of(configuration, len(self.fingerprint.channels) + previous, self.fingerprint.labels.output_channels)

    def _correction(self, configuration: Configuration) -> float:
        """Return the memory of the real network over that of the model."""
        return self._cost(configuration, self.footprint).training_bytes / self._cost(configuration, self.model).training_bytes

    def _limit(self, configuration: Configuration, correction: float) -> str | None:
        """Return what training a configuration exceeds on the machine, in words; None: nothing."""
        cost = self._cost(configuration, self.model)
        needed, allowed = correction * cost.training_bytes, self.constants.memory_share * self.machine.memory_bytes
        if needed > allowed:
            return f"{format_bytes(needed)}, more than the {format_bytes(allowed)} that may be used"
        step, limit = seconds_per_step(cost, self.machine, self.constants), self.step_limit
        if limit is not None and step is not None and step > limit:
            return f"{step:.2f} s per step, more than the {limit:.2f} s that the time budget allows"
        return None


def predict_cost(cost: Footprint, step: float | None, constants: PlannerConstants) -> Predicted:
    """Return what is expected of a configuration, from what it computes and the seconds of one step, where these are known."""
    return Predicted(
        parameters=cost.parameters,
        training_memory_bytes=cost.training_bytes,
        seconds_per_epoch=None if step is None else step * constants.steps_per_epoch,
        forward_flops=cost.forward_flops,
    )


def _with_disk(configuration: Configuration, plan: Plan, fingerprint: Fingerprint) -> Configuration:
    """Return the configuration with the bytes of its preprocessed cases; those of the cascade are those of the full resolution."""
    assert configuration.predicted is not None
    disk = int(stored_bytes(configuration, plan, fingerprint))
    return replace(configuration, predicted=replace(configuration.predicted, disk_bytes=disk))


def normalization(fingerprint: Fingerprint, constants: PlannerConstants) -> tuple[str, ...]:
    """Return the intensity normalisation of every channel, by its modality; masked z-score where the crop removed much.

    Source: nnU-Net 2.8.1, determine_normalization_scheme_and_whether_mask_is_used_for_norm.
    """
    schemes = [constants.schemes.get(channel.modality, constants.schemes["other"]) for channel in fingerprint.channels]
    masked = fingerprint.relative_size_after_crop < constants.mask_below
    return tuple(NORMALIZATIONS[scheme].inside_mask or scheme if masked else scheme for scheme in schemes)
