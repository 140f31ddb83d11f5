"""What a plan needs against what there is, before anything expensive."""

from __future__ import annotations

import pytest

from autoseg.planning.plan import make_plan
from autoseg.planning.preflight import preflight, stored_bytes
from tests.planning.fingerprints import CPU, make_fingerprint, preset

FACTS = make_fingerprint([(60, 100, 80)] * 10, [(2.0, 1.0, 1.0)] * 10)
PLAN = make_plan(FACTS, preset=preset(), machine=CPU)


def fly(**changes):
    return preflight(PLAN, FACTS, **{"folds": 5, "epochs": 10, "disk_free": 1e12, "memory_free": 16e9, **changes})


def test_stored_bytes_follow_the_resampled_voxels():
    one = stored_bytes(PLAN.configuration("3d_fullres"), PLAN, FACTS)
    assert one == pytest.approx(10 * 60 * 100 * 80 * 1.3)
    finer = make_plan(FACTS, preset=preset("nnunet", "spacing.target=[1.0, 1.0, 1.0]"), machine=CPU)
    assert stored_bytes(finer.configuration("3d_fullres"), finer, FACTS) == pytest.approx(2 * one)
    assert stored_bytes(finer.configuration("2d"), finer, FACTS) == pytest.approx(one)  # slices are not resampled across


def test_all_is_well_where_there_is_room():
    found = fly()
    assert found.problem is None
    assert ("cases", "10", "5 folds") in found.rows


def test_hours_are_those_of_the_epochs_or_of_the_budget():
    c = PLAN.configuration("3d_fullres")
    assert c.predicted is not None and c.predicted.seconds_per_epoch is not None
    assert fly().seconds["3d_fullres"] == pytest.approx(10 * c.predicted.seconds_per_epoch)
    assert fly(time_budget=600).seconds["3d_fullres"] == 600


def test_a_full_disk_is_said_with_figures_and_remedy():
    problem = fly(disk_free=1e6).problem
    assert problem is not None
    assert "disk" in str(problem) and "1 MB free" in str(problem) and "-o" in str(problem)


def test_a_case_too_large_for_the_memory_is_said():
    problem = fly(memory_free=1e8).problem
    assert problem is not None and "largest case" in str(problem)
    assert problem.case is not None and f"--exclude {problem.case}" in str(problem)
