"""The cause of a lost case, by what is left of the process that worked on it."""

from __future__ import annotations

import errno

import pytest

from autoseg.outcomes import REMEDIES, cause_of_death, diagnose


@pytest.mark.parametrize(
    ("code", "said", "greeted", "oom", "cause"),
    [
        (-9, "", True, True, "oom"),
        (-9, "", True, False, "killed"),
        (-7, "Fatal Python error: Bus error", True, False, "shm"),
        (-11, "Fatal Python error: Segmentation fault", True, False, "crash"),
        (1, "OpenBLAS blas_thread_init: Cannot allocate memory", True, False, "oom"),
        (1, "ModuleNotFoundError: No module named 'autoseg'", False, False, "start"),
        (3, "", True, False, "crash"),
    ],
)
def test_the_cause_of_death_follows_from_signal_output_and_kernel(code: int, said: str, greeted: bool, oom: bool, cause: str) -> None:
    found, message = cause_of_death(code, said, greeted=greeted, oom_killed=oom)
    assert found == cause and found in REMEDIES and message


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), "shm"),
        (OSError(errno.ENOSPC, "No space left on device", "data/x"), "disk"),
        (OSError(errno.EIO, "Input/output error", "data/x"), "io"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (MemoryError(), "oom"),
        (KeyError("x"), "defect"),
    ],
)
def test_the_cause_of_an_exception_follows_from_its_kind(error: Exception, cause: str) -> None:
    found, remedy = diagnose(error)
    assert found == cause and remedy
