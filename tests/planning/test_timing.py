"""Seconds per step: the constants against measured processor time, and what a device whose rate is unknown gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoseg.machine import Machine
from autoseg.planning.constants import read_constants
from autoseg.planning.memory import Footprint
from autoseg.planning.timing import seconds_per_step, steps_within
from tests.planning.fingerprints import CPU, card, preset

RULES = read_constants(preset().values)
ONE_CORE = Machine(device="cpu", name="one core", memory_bytes=10**10, cores=1, bf16=True, conv_flops=194.5e9)

# processor seconds of one core for one step of the real trainer, measured on an AMD EPYC (Zen 4); counts in millions
MEASURED = {
    "hippocampus": (0.425, 19.26, 15.14, 0.60, 1.40, 20),
    "hippocampus wide": (1.447, 76.6, 30.28, 0.60, 5.60, 20),
    "anisotropic": (0.904, 41.0, 34.30, 0.77, 4.03, 26),
    "2d": (0.494, 14.8, 16.40, 0.35, 8.37, 38),
    "2d batch": (0.493, 20.7, 17.10, 0.28, 1.93, 20),
    "residual": (0.590, 20.9, 13.98, 0.43, 6.48, 41),
    "very anisotropic": (0.923, 36.9, 31.83, 0.70, 7.22, 32),
    "8 channels": (0.541, 25.1, 18.69, 0.50, 1.41, 20),
    "100 labels": (0.549, 14.3, 10.82, 14.40, 1.41, 20),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_model_of_time_is_near_what_was_measured(name):
    seconds, gflop, values, scores, weights, layers = MEASURED[name]
    counts = Footprint(
        parameters=int(weights * 1e6),
        forward_flops=gflop * 1e9,
        values=int(values * 1e6),
        scores=int(scores * 1e6),
        layers=layers,
        inputs=0,  # the batches were ready
        training_bytes=0,
    )
    assert seconds_per_step(counts, ONE_CORE, RULES) == pytest.approx(seconds, rel=0.1)


COUNTS = Footprint(parameters=10**6, forward_flops=1e10, values=10**7, scores=10**6, layers=20, inputs=10**6, training_bytes=0)


def test_two_cores_divide_all_but_the_start_of_the_operations():
    double = replace(ONE_CORE, cores=2, conv_flops=2 * 194.5e9)
    start = COUNTS.layers * RULES.cpu_layer_seconds
    one, two = (seconds_per_step(COUNTS, machine, RULES) for machine in (ONE_CORE, double))
    assert one is not None and two is not None
    assert two - start == pytest.approx((one - start) / 2)


def test_a_card_whose_rate_is_unknown_has_no_seconds():
    assert seconds_per_step(COUNTS, card(24e9), RULES) is None
    assert seconds_per_step(COUNTS, replace(CPU, conv_flops=None), RULES) is not None


def test_more_time_gives_more_steps_and_more_time_for_each():
    assert steps_within(600, RULES) == RULES.steps
    assert steps_within(60_000, RULES) == pytest.approx(10 * RULES.steps)
