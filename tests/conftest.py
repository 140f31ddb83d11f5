"""Fixtures for all tests: where the real data and the reference's figures lie, skipped with a reason where they are absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("MPLBACKEND", "Agg")  # no window, and no search for one


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache folder, and what they know of this machine apart from what the user's plans know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _same_threads() -> Iterator[None]:
    """Keep the number of threads: tests that run at the same time are other work for each other."""
    from autoseg import threads

    with threads.choosing(lambda text: None, keep=True):
        yield


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
