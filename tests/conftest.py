"""Fixtures for all tests: where the real data and the reference's figures lie, skipped with a reason where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("MPLBACKEND", "Agg")  # no window, and no search for one


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data: the environment variable AUTOSEG_TEST_DATA, else ../shared/data beside the repository."""
    return _folder("AUTOSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data", "real test data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with golden-numerics.json: the environment variable AUTOSEG_REFERENCE, else ../shared/reference."""
    return _folder("AUTOSEG_REFERENCE", REPOSITORY.parent / "shared" / "reference", "figures of the reference method")


@pytest.fixture(scope="session")
def golden_plans() -> Path:
    """The folder of the reference's plans: the environment variable AUTOSEG_GOLDEN_PLANS, else ../shared/reference/golden-plans."""
    return _folder("AUTOSEG_GOLDEN_PLANS", REPOSITORY.parent / "shared" / "reference" / "golden-plans", "plans of the reference method")


def _folder(variable: str, usual: Path, what: str) -> Path:
    place = Path(os.environ.get(variable, usual))
    if not place.is_dir():
        pytest.skip(f"no {what}: {place} is no folder (name one with {variable})")
    return place
