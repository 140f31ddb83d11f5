"""Predicts how long training takes on a machine, from what it computes and the measured rate of the machine's convolutions."""

from __future__ import annotations

from autoseg.machine import Machine
from autoseg.planning.constants import PlannerConstants
from autoseg.planning.memory import Footprint

TRAINING_PASSES = 3.0  # a backward pass computes twice what the forward pass does: gradients of inputs and of weights


def steps_within(time_budget: float, constants: PlannerConstants) -> float:
    """Return the optimisation steps that a training run of `time_budget` seconds should have.

    Of more time, one half (in the exponent) goes into more steps and one into a larger network: with a hundred times the time,
    ten times the steps of a network that costs ten times as much.
    """
    return constants.steps * (time_budget / constants.cpu_seconds) ** 0.5


def seconds_per_step(footprint: Footprint, machine: Machine, constants: PlannerConstants) -> float | None:
    """Return the seconds of one optimisation step; None for a device whose rate is not known.

    On a processor: the convolutions at its measured rate; what norms and activations, loss, optimizer and augmentation need besides
    them, which is bound by memory and divided among the cores; and what starting the operations of a layer costs, which is not
    divided. Only the first is measured on the machine itself; the others are constants of the preset, fitted to the processor
    time of nine plans (2D, 3D, anisotropic, residual, 8 channels, 100 labels) within 4 %. On a card: the convolutions at a share
    of the measured rate.
    """
    flops = TRAINING_PASSES * (footprint.forward_flops + (constants.depthwise_factor - 1) * footprint.depthwise_flops)
    if not machine.cpu:
        return None if machine.conv_flops is None else flops / (machine.conv_flops * constants.card_efficiency)
    rate = machine.conv_flops or machine.cores * constants.cpu_flops_per_core
    others = (
        footprint.values * constants.cpu_value_seconds
        + footprint.scores * constants.cpu_score_seconds
        + footprint.parameters * constants.cpu_weight_seconds
        + footprint.inputs * constants.cpu_input_seconds
    )
    return flops / rate + others / machine.cores + footprint.layers * constants.cpu_layer_seconds
