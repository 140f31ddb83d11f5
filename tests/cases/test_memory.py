"""The memory that a case is expected to take bounds what a worker is measured to take, and not by much."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autoseg import images
from autoseg.cases import Case
from autoseg.cases.memory import case_bytes, header_of, reading_bytes
from autoseg.checking import examine
from autoseg.geometry import affine_from_spacing
from autoseg.labels import make_labels
from autoseg.workers import WORKER_BYTES, map_cases

LABELS = make_labels({"background": 0, "blob": 1})


def made_case(folder: Path, shape: tuple[int, int, int], channels: int, *, suffix: str = ".nii.gz") -> Case:
    rng = np.random.default_rng(0)
    affine = affine_from_spacing((1.0, 1.0, 1.0))
    for channel in range(channels):
        images.write_image(folder / f"a_{channel}{suffix}", rng.integers(0, 4, (1, *shape)).astype(np.int16), affine=affine)
    images.write_image(folder / f"label{suffix}", rng.integers(0, 2, (1, *shape)).astype(np.uint8), affine=affine)
    return Case(name="a", images=tuple(folder / f"a_{channel}{suffix}" for channel in range(channels)), label=folder / f"label{suffix}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux only")
@pytest.mark.parametrize(("shape", "channels"), [((160, 200, 200), 1), ((120, 128, 128), 4)])
def test_a_worker_takes_at_most_what_is_expected_and_more_than_half_of_it(
    tmp_path: Path, shape: tuple[int, int, int], channels: int
) -> None:
    case = made_case(tmp_path, shape, channels)
    expected = WORKER_BYTES + reading_bytes(case, channels)
    outcome = next(map_cases(partial(examine, channels=channels, labels=LABELS), [case], names=["a"], stage="s", workers=1))
    assert outcome.peak_bytes is not None and 0.5 * expected < outcome.peak_bytes < expected


def test_small_files_are_not_opened_and_large_or_unreadable_ones_do_not_fail(tmp_path: Path) -> None:
    case = made_case(tmp_path, (8, 8, 8), 1)
    assert header_of(case) is None and 0 < reading_bytes(case, 1) < 100e6
    large = made_case(tmp_path, (80, 64, 64), 1, suffix=".nii")
    header = header_of(large)
    assert header is not None and header.shape == (80, 64, 64)
    assert reading_bytes(large, 1) == case_bytes(80 * 64 * 64, 1, itemsize=2)
    large.images[0].write_bytes(b"x" * 600_000)
    assert header_of(large) is None and header_of(Case(name="b", images=(tmp_path / "nowhere.nii",), label=None)) is None


def test_the_folder_of_a_series_is_not_taken_for_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(images, "read_header", asked.append)
    header_of(Case(name="a", images=(tmp_path,), label=None))
    assert asked == [tmp_path]


def test_resampling_to_a_finer_grid_takes_more_memory_and_more_channels_do_too() -> None:
    assert case_bytes(1e6, 1) < case_bytes(1e6, 1, resampled=1e6) < case_bytes(1e6, 1, resampled=4e6) < case_bytes(1e6, 4, resampled=4e6)
