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
from autoseg.geometry import Axes, Spacing, triple
from autoseg.machine import Machine
from autoseg.planning import reasons
from autoseg.planning.configuration import Configuration, Plan, Predicted, input_channels
from autoseg.planning.constants import PlannerConstants, read_constants
from autoseg.planning.context import PlanningContext, make_context
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.mirroring import Mirroring, choose_mirroring
from autoseg.planning.preflight import stored_bytes
from autoseg.planning.sizing import Correction, SizingRequest, SizingResult, size_by_cost, size_by_feature_maps
from autoseg.planning.spacing import coarser_spacing
from autoseg.planning.timing import seconds_per_step
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
    context = make_context(fingerprint, read_constants(preset.values), machine, time_budget)
    planner = _Planner.of(context, footprint)
    sized = [planner.plan_2d()]
    if not context.planar:
        full = planner.plan_fullres()
        low = planner.plan_lowres(full)
        sized += [full] if low is None else [low, full.with_batch_dice(), planner.plan_cascade(full.with_batch_dice())]
    wanted = preset.values.get("training", {}).get("augmentation", {}).get("mirror_axes", "all")
    brief = context.time_budget is not None
    mirroring = choose_mirroring(fingerprint.labels, context.order, planar=context.planar, wanted=wanted, brief=brief)
    return assemble_plan(
        fingerprint,
        preset,
        machine,
        planner=preset.name,
        time_budget=context.time_budget,
        order=context.order,
        mirroring=mirroring,
        configurations=[planner.finished(one) for one in sized],
        why=reasons.of_plan(context, [one.configuration for one in sized], mirroring),
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
class _Planner:
    """Plans single configurations."""

    context: PlanningContext
    model: FootprintOf  # by arithmetic; used while searching
    footprint: FootprintOf  # as good as can be had; used for what was found

    @staticmethod
    def of(context: PlanningContext, footprint: FootprintOf | None) -> _Planner:
        machine = context.machine
        model = partial(modelled_footprint, value_bytes=2 if machine.bf16 or machine.device.startswith("cuda") else 4)
        return _Planner(context=context, model=model, footprint=footprint or model)

    def plan_2d(self) -> SizingResult:
        """Plan for slices one by one, at the in-plane spacing of the full resolution."""
        return self._sized("2d").with_batch_dice()

    def plan_fullres(self) -> SizingResult:
        """Plan for volumes at the full resolution."""
        return self._sized("3d_fullres")

    def plan_lowres(self, full: SizingResult) -> SizingResult | None:
        """Plan a coarser stage that covers enough of the median case at once; None where the full resolution does, or nearly does.

        Source: nnU-Net 2.8.1, ExperimentPlanner.plan_experiment.
        """
        context, constants = self.context, self.context.constants
        full_voxels = float(np.prod(context.median_shape))
        low, spacing = None, context.spacing
        patch, voxels = math.prod(full.configuration.patch_size), full_voxels
        while patch / voxels < constants.coverage(timed=context.timed):
            spacing = coarser_spacing(spacing, step=constants.low_resolution_step)
            edges = np.asarray(context.spacing) / np.asarray(spacing) * np.asarray(context.median_shape)
            voxels = float(np.prod(edges))
            request = self._request("3d_lowres", spacing, triple(float(max(round(edge), 1)) for edge in edges), edges)
            low = self._size(request, corrected=False)
            patch = math.prod(low.configuration.patch_size)
        if low is None or full_voxels / voxels < constants.low_resolution_reduction:
            return None
        return self._size(request)

    def plan_cascade(self, full: SizingResult) -> SizingResult:
        """Plan for the full resolution again, with the low-resolution segmentation as further channels."""
        cascade = replace(full.configuration, name="3d_cascade", previous_stage="3d_lowres")
        if self.context.constants.sizing == "machine" and self._limit(cascade, self._correction(cascade)) is not None:
            return self._sized("3d_cascade").with_batch_dice()
        return replace(full, configuration=cascade)

    def finished(self, sized: SizingResult) -> Configuration:
        """Return the configuration with what it will cost here, and the reasons for its size."""
        c = sized.configuration
        cost = self._cost(c, self.footprint)
        if self.context.constants.sizing == "machine" and cost.training_bytes > self.context.machine.memory_bytes:
            raise NotEnough(
                f"even the smallest {c.name} network does not fit into the memory",
                found=f"{format_bytes(self.context.machine.memory_bytes)} on {self.context.machine.name}",
                expected=f"{format_bytes(cost.training_bytes)} for patch {c.patch_size}, batch {c.batch_size}",
                fix="give it more memory (--memory), or another device (--device)",
            )
        step = seconds_per_step(cost, self.context.machine, self.context.constants)
        predicted = predict_cost(cost, step, self.context.constants)
        why = reasons.of_configuration(sized, self.context, step=step, cost=cost, reference=self._reference(c))
        return replace(c, predicted=predicted, reasons=why)

    def _sized(self, name: str) -> SizingResult:
        """Size a configuration of the full resolution."""
        context = self.context
        return self._size(self._request(name, context.spacing, context.median_shape, context.median_shape))

    def _size(self, request: SizingRequest, *, corrected: bool = True) -> SizingResult:
        constants = self.context.constants
        if constants.sizing == "feature-maps":
            return size_by_feature_maps(request, constants)
        exact = corrected and self.footprint is not self.model
        return size_by_cost(request, constants, self._limit, timed=self.context.timed, correction=self._correction if exact else None)

    def _request(self, name: str, spacing: Spacing, median_shape: tuple[float, float, float], counted: Sequence[float]) -> SizingRequest:
        labels = self.context.fingerprint.labels
        return SizingRequest(
            name=name,
            spacing=spacing,
            median_shape=(1.0, *median_shape[1:]) if name == "2d" else median_shape,
            dataset_voxels=float(np.prod(counted)) * len(self.context.fingerprint.cases),
            counted_labels=(1 + len(labels.regions) if labels.regions else labels.class_count) + (labels.ignore is not None),
            normalization=self.context.normalization,
            previous_stage="3d_lowres" if name == "3d_cascade" else None,
            paired_axis=self.context.paired_axis,
        )

    def _reference(self, configuration: Configuration) -> Configuration | None:
        """Return what the reference planner would have taken at the same spacing; None for a planner that is the reference."""
        if self.context.constants.sizing == "feature-maps" or configuration.name == "3d_cascade":
            return None
        counted = configuration.median_shape if configuration.name == "3d_lowres" else self.context.median_shape
        request = self._request(configuration.name, configuration.spacing, configuration.median_shape, counted)
        return size_by_feature_maps(request, self.context.constants).configuration

    def _cost(self, configuration: Configuration, of: FootprintOf) -> Footprint:
        fingerprint = self.context.fingerprint
        return of(configuration, input_channels(fingerprint, configuration), fingerprint.labels.output_channels)

    def _correction(self, configuration: Configuration) -> Correction:
        """Return memory and time of the real network over those of the model."""
        real, model = self._cost(configuration, self.footprint), self._cost(configuration, self.model)
        seconds = [seconds_per_step(cost, self.context.machine, self.context.constants) for cost in (real, model)]
        time = seconds[0] / seconds[1] if seconds[0] and seconds[1] else 1.0
        return Correction(memory=real.training_bytes / model.training_bytes, time=time)

    def _limit(self, configuration: Configuration, correction: Correction) -> str | None:
        """Return what training a configuration exceeds on the machine, in words; None: nothing."""
        cost = self._cost(configuration, self.model)
        needed, allowed = correction.memory * cost.training_bytes, self.context.constants.memory_share * self.context.machine.memory_bytes
        if needed > allowed:
            return f"{format_bytes(needed)}, more than the {format_bytes(allowed)} that may be used"
        step, limit = seconds_per_step(cost, self.context.machine, self.context.constants), self.context.step_limit
        if limit is not None and step is not None and correction.time * step > limit:
            return f"{correction.time * step:.2f} s per step, more than the {limit:.2f} s that the time budget allows"
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
