"""What all configurations of a plan are planned from: the data set, the planner's constants, the machine, and what follows at once."""

from __future__ import annotations

from dataclasses import dataclass

from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Axes, Spacing, permuted
from autoseg.machine import Machine
from autoseg.normalization import NORMALIZATIONS
from autoseg.planning.constants import PlannerConstants
from autoseg.planning.spacing import SpacingChoice, axis_order, choose_spacing, median_resampled_shape
from autoseg.planning.timing import steps_within

AXES = ("z", "y", "x")


@dataclass(frozen=True, kw_only=True)
class PlanningContext:
    """The basis of every decision, and of the reasons for it."""

    fingerprint: Fingerprint
    constants: PlannerConstants
    machine: Machine
    time_budget: float | None  # seconds one fold may train
    choice: SpacingChoice
    order: Axes
    spacing: Spacing  # of the full resolution, plan axes
    median_shape: tuple[float, float, float]  # at that spacing, plan axes
    normalization: tuple[str, ...]

    @property
    def planar(self) -> bool:
        """Whether the images are single slices."""
        return self.median_shape[0] == 1

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the plan axes."""
        return permuted(AXES, self.order)

    @property
    def paired_axis(self) -> int | None:
        """The plan axis from left to right, where labels come in left/right pairs and patches are made to see both."""
        paired = self.fingerprint.labels.pairs and self.constants.sizing == "machine" and self.constants.paired_elongation
        return self.order.index(2) if paired else None

    @property
    def timed(self) -> bool:
        """Whether the time budget affects the networks."""
        known = self.machine.cpu or self.machine.conv_flops is not None
        return self.constants.sizing == "machine" and self.time_budget is not None and known

    @property
    def step_limit(self) -> float | None:
        """Seconds that one step may take; None without a time budget."""
        return None if self.time_budget is None else self.time_budget / steps_within(self.time_budget, self.constants)


def make_context(
    fingerprint: Fingerprint, constants: PlannerConstants, machine: Machine, time_budget: float | None = None
) -> PlanningContext:
    """Derive spacing, axis order, median shape and normalisation from the fingerprint.

    Parameters
    ----------
    time_budget : seconds one fold may train; None: as the constants say for a processor, no limit for a graphics card
    """
    spacings, shapes = [c.spacing for c in fingerprint.cases], [c.shape_after_crop for c in fingerprint.cases]
    choice = choose_spacing(
        spacings, shapes, anisotropy=constants.anisotropy, percentile=constants.coarse_percentile, fixed=constants.target_spacing
    )
    order = axis_order(choice.spacing, choice.median_shape) if constants.coarsest_first else (0, 1, 2)
    if time_budget is None and machine.cpu and constants.sizing == "machine":
        time_budget = constants.cpu_seconds
    return PlanningContext(
        fingerprint=fingerprint,
        constants=constants,
        machine=machine,
        time_budget=time_budget,
        choice=choice,
        order=order,
        spacing=permuted(choice.spacing, order),
        median_shape=median_resampled_shape(spacings, shapes, target=choice.spacing, order=order),
        normalization=_normalization(fingerprint, constants),
    )


def _normalization(fingerprint: Fingerprint, constants: PlannerConstants) -> tuple[str, ...]:
    """Return the intensity normalisation of every channel, by its modality; masked z-score where the crop removed much.

    Source: nnU-Net 2.8.1, determine_normalization_scheme_and_whether_mask_is_used_for_norm.
    """
    schemes = [constants.schemes.get(channel.modality, constants.schemes["other"]) for channel in fingerprint.channels]
    masked = fingerprint.relative_size_after_crop < constants.mask_below
    return tuple(NORMALIZATIONS[scheme].inside_mask or scheme if masked else scheme for scheme in schemes)
