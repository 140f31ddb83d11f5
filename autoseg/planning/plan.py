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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from autoseg.errors import NotEnough, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Axes, Spacing, permuted
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning import reasons
from autoseg.planning.configuration import Configuration, Plan, Predicted
from autoseg.planning.memory import Footprint, modelled_footprint
from autoseg.planning.mirroring import NO_MIRRORING, Mirroring, choose_mirroring
from autoseg.planning.preflight import stored_bytes
from autoseg.planning.rules import Rules, read_rules
from autoseg.planning.sizing import Sized, Wanted, size_by_cost, size_by_feature_maps
from autoseg.planning.spacing import SpacingChoice, axis_order, choose_spacing, coarser_spacing, median_resampled_shape
from autoseg.planning.timing import seconds_per_step, steps_within
from autoseg.presets import Preset
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
    footprint : what training a configuration takes; None: a model by arithmetic alone. `networks.footprint` traces the real network.

    Raises
    ------
    NotEnough : even the smallest network needs more than the memory there is
    SettingsError : a data set without cases, or a preset that cannot be used
    """
    if not fingerprint.cases:
        raise SettingsError("a data set without cases cannot be planned", found="0 cases", fix="give at least one labelled case")
    rules = read_rules(preset.values)
    task = _Task.of(fingerprint, rules, machine, time_budget, footprint)
    sized = [task.plan_2d()]
    if not task.planar:
        full = task.plan_fullres()
        low = task.plan_lowres(full)
        sized += [full] if low is None else [low, full.with_batch_dice(), task.plan_cascade(full.with_batch_dice())]
    wanted = preset.values.get("training", {}).get("augmentation", {}).get("mirror_axes", "all")
    brief = task.time_budget is not None
    mirroring = choose_mirroring(fingerprint.labels, task.order, planar=task.planar, wanted=wanted, brief=brief)
    plan = Plan(
        planner=preset.name,
        planner_values=preset.documented,
        device={**machine.to_json(), "time_budget": task.time_budget},
        name=fingerprint.name,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
        axis_order=task.order,
        mirror_axes=mirroring.axes,
        swap_axis=mirroring.swap_axis,
        configurations=tuple(task.finished(one) for one in sized),
        settings=dict(preset.values.get("training", {})),
        fingerprint=hash_fingerprint(fingerprint),
        reasons=reasons.of_plan(task.facts(sized, mirroring)),
        version=__version__,
    )
    return replace(plan, configurations=tuple(with_disk(c, plan, fingerprint) for c in plan.configurations))


def hash_fingerprint(fingerprint: Fingerprint) -> str:
    """SHA-256 of the fingerprint's JSON: two plans with the same one saw the same data."""
    text = json.dumps(fingerprint.to_json(), sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Everything the single configurations are planned from."""

    fingerprint: Fingerprint
    rules: Rules
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
    def of(fingerprint: Fingerprint, rules: Rules, machine: Machine, time_budget: float | None, footprint: FootprintOf | None) -> _Task:
        """Spacing, axis order, median shape and normalisation follow from the fingerprint."""
        spacings, shapes = [c.spacing for c in fingerprint.cases], [c.shape_after_crop for c in fingerprint.cases]
        choice = choose_spacing(
            spacings, shapes, anisotropy=rules.anisotropy, percentile=rules.coarse_percentile, fixed=rules.target_spacing
        )
        order = axis_order(choice.spacing, choice.median_shape) if rules.coarsest_first else (0, 1, 2)
        median = median_resampled_shape(spacings, shapes, target=choice.spacing, order=order)
        if time_budget is None and machine.cpu and rules.sizing == "machine":
            time_budget = rules.cpu_seconds
        value_bytes = 2 if machine.bf16 or machine.device.startswith("cuda") else 4
        model = partial(modelled_footprint, value_bytes=value_bytes)
        return _Task(
            fingerprint=fingerprint,
            rules=rules,
            machine=machine,
            time_budget=time_budget,
            model=model,
            footprint=footprint or model,
            choice=choice,
            order=order,
            spacing=permuted(choice.spacing, order),
            median_shape=median,
            normalization=normalization(fingerprint, rules),
            planar=median[0] == 1,
        )

    @property
    def timed(self) -> bool:
        """Whether the time budget shapes the networks."""
        known = self.machine.cpu or self.machine.conv_flops is not None
        return self.rules.sizing == "machine" and self.time_budget is not None and known

    @property
    def step_limit(self) -> float | None:
        """Seconds that one step may take; None without a time budget."""
        return None if self.time_budget is None else self.time_budget / steps_within(self.time_budget, self.rules)

    def plan_2d(self) -> Sized:
        """Slices one by one, at the in-plane spacing of the full resolution."""
        return self._sized("2d", self.spacing, self.median_shape, self.median_shape).with_batch_dice()

    def plan_fullres(self) -> Sized:
        """Volumes at the full resolution."""
        return self._sized("3d_fullres", self.spacing, self.median_shape, self.median_shape)

    def plan_lowres(self, full: Sized) -> Sized | None:
        """A coarser stage that sees enough of the median case at once; None where the full resolution does, or nearly does.

        Source: nnU-Net 2.8.1, ExperimentPlanner.plan_experiment.
        """
        full_voxels, rules = float(np.prod(self.median_shape)), self.rules
        low, spacing = None, self.spacing
        patch, voxels = math.prod(full.configuration.patch_size), full_voxels
        while patch / voxels < rules.coverage(timed=self.timed):
            spacing = coarser_spacing(spacing, step=rules.low_resolution_step)
            edges = np.asarray(self.spacing) / np.asarray(spacing) * np.asarray(self.median_shape)
            voxels = float(np.prod(edges))
            rounded = tuple(float(max(round(edge), 1)) for edge in edges)
            low = self._sized("3d_lowres", spacing, rounded, edges, corrected=False)  # type: ignore[arg-type]
            patch = math.prod(low.configuration.patch_size)
        if low is None or full_voxels / voxels < rules.low_resolution_reduction:
            return None
        return self._sized("3d_lowres", spacing, low.configuration.median_shape, edges, corrected=True)

    def plan_cascade(self, full: Sized) -> Sized:
        """The full resolution again, with the low-resolution segmentation as further channels."""
        cascade = replace(full.configuration, name="3d_cascade", previous_stage="3d_lowres")
        if self.rules.sizing == "machine" and self._obstacle(cascade, self._correction(cascade)) is not None:
            again = self._sized("3d_cascade", self.spacing, self.median_shape, self.median_shape)
            return replace(again, configuration=replace(again.configuration, batch_dice=True))
        return replace(full, configuration=cascade)

    def finished(self, sized: Sized) -> Configuration:
        """The configuration with what it will cost here, and the reasons for its size."""
        c = sized.configuration
        cost = self._cost(c, self.footprint)
        if self.rules.sizing == "machine" and cost.training_bytes > self.machine.memory_bytes:
            raise NotEnough(
                f"even the smallest {c.name} network does not fit into the memory",
                found=f"{self.machine.memory_bytes / 1e6:,.0f} MB on {self.machine.name}",
                expected=f"{cost.training_bytes / 1e6:,.0f} MB for patch {c.patch_size}, batch {c.batch_size}",
                fix="give it more memory (--memory), or another device (--device)",
            )
        step = seconds_per_step(cost, self.machine, self.rules)
        predicted = Predicted(
            parameters=cost.parameters,
            training_memory_bytes=cost.training_bytes,
            seconds_per_epoch=None if step is None else step * self.rules.steps_per_epoch,
            forward_flops=cost.forward_flops,
        )
        told = reasons.of_configuration(sized, self.facts([]), step=step, cost=cost, reference=self._reference(c))
        return replace(c, predicted=predicted, reasons=told)

    def facts(self, sized: Sequence[Sized], mirroring: Mirroring = NO_MIRRORING) -> reasons.Facts:
        """What the reasons are told from."""
        return reasons.Facts(
            fingerprint=self.fingerprint,
            rules=self.rules,
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
    ) -> Sized:
        wanted = self._wanted(name, spacing, median_shape, counted)
        if self.rules.sizing == "feature-maps":
            return size_by_feature_maps(wanted, self.rules)
        exact = corrected and self.footprint is not self.model
        return size_by_cost(wanted, self.rules, self._obstacle, timed=self.timed, correction=self._correction if exact else None)

    def _wanted(self, name: str, spacing: Spacing, median_shape: tuple[float, float, float], counted: Sequence[float]) -> Wanted:
        labels = self.fingerprint.labels
        return Wanted(
            name=name,
            spacing=spacing,
            median_shape=(1.0, *median_shape[1:]) if name == "2d" else median_shape,
            dataset_voxels=float(np.prod(counted)) * len(self.fingerprint.cases),
            counted_labels=(1 + len(labels.regions) if labels.regions else labels.class_count) + (labels.ignore is not None),
            normalization=self.normalization,
            previous_stage="3d_lowres" if name == "3d_cascade" else None,
        )

    def _reference(self, configuration: Configuration) -> Configuration | None:
        """What the reference planner would have taken at the same spacing; None for a planner that is the reference."""
        if self.rules.sizing == "feature-maps" or configuration.name == "3d_cascade":
            return None
        counted = configuration.median_shape if configuration.name == "3d_lowres" else self.median_shape
        wanted = self._wanted(configuration.name, configuration.spacing, configuration.median_shape, counted)
        return size_by_feature_maps(wanted, self.rules).configuration

    def _cost(self, configuration: Configuration, of: FootprintOf) -> Footprint:
        previous = len(self.fingerprint.labels.foreground) if configuration.previous_stage else 0
        return of(configuration, len(self.fingerprint.channels) + previous, self.fingerprint.labels.output_channels)

    def _correction(self, configuration: Configuration) -> float:
        """Memory of the real network over that of the model."""
        return self._cost(configuration, self.footprint).training_bytes / self._cost(configuration, self.model).training_bytes

    def _obstacle(self, configuration: Configuration, correction: float) -> str | None:
        """What stands against training a configuration on the machine; None if nothing does."""
        cost = self._cost(configuration, self.model)
        needed, allowed = correction * cost.training_bytes, self.rules.memory_share * self.machine.memory_bytes
        if needed > allowed:
            return f"{needed / 1e9:.2g} GB, and {allowed / 1e9:.2g} GB may be used"
        step, limit = seconds_per_step(cost, self.machine, self.rules), self.step_limit
        if limit is not None and step is not None and step > limit:
            return f"{step:.2f} s per step, and {limit:.2f} s are left for each"
        return None


def with_disk(configuration: Configuration, plan: Plan, fingerprint: Fingerprint) -> Configuration:
    """With the bytes that its preprocessed cases will take; those of the cascade are those of the full resolution."""
    assert configuration.predicted is not None
    disk = int(stored_bytes(configuration, plan, fingerprint))
    return replace(configuration, predicted=replace(configuration.predicted, disk_bytes=disk))


def normalization(fingerprint: Fingerprint, rules: Rules) -> tuple[str, ...]:
    """The intensity normalisation of every channel, by its modality; masked z-score where the crop removed much.

    Source: nnU-Net 2.8.1, determine_normalization_scheme_and_whether_mask_is_used_for_norm.
    """
    schemes = [rules.schemes.get(channel.modality, rules.schemes["other"]) for channel in fingerprint.channels]
    masked = fingerprint.relative_size_after_crop < rules.mask_below
    return tuple(NORMALIZATIONS[scheme].inside_mask or scheme if masked else scheme for scheme in schemes)
