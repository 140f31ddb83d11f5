"""Boxes come out of files as they went in, from many files and many threads, and a damaged file is told."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.errors import UnreadableFile
from autoseg.preprocessing import blocks
from autoseg.preprocessing.codes import compress


def written(path: Path, array: NDArray[np.uint16]) -> dict[str, object]:
    path.write_bytes(compress(array, planar=False))
    return {"path": path, "size": path.stat().st_size, "version": "a"}


@pytest.fixture
def array() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 999, size=(30, 61, 100)).astype(np.uint16)


def test_any_box_is_what_the_array_has_there(tmp_path: Path, array: NDArray[np.uint16]) -> None:
    file = written(tmp_path / "x.b2nd", array)
    rng = np.random.default_rng(1)
    for _ in range(50):
        where = tuple(slice(*sorted(rng.integers(0, n + 1, size=2).tolist())) for n in array.shape)
        np.testing.assert_array_equal(blocks.read_box(where=where, **file), array[where])  # type: ignore[arg-type]
    np.testing.assert_array_equal(blocks.read_box(where=(), **file), array)  # type: ignore[arg-type]


def test_threads_read_the_same_files_at_once(tmp_path: Path, array: NDArray[np.uint16]) -> None:
    all_files = [written(tmp_path / f"{i}.b2nd", array + np.uint16(i)) for i in range(3)]

    def read(number: int) -> bool:
        where = tuple(slice(number % (n // 2), number % (n // 2) + n // 2) for n in array.shape)
        found = blocks.read_box(where=where, **all_files[number % 3])  # type: ignore[arg-type]
        return np.array_equal(found, array[where] + np.uint16(number % 3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_no_more_files_stay_open_than_a_process_may_have(
    tmp_path: Path, array: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blocks.MOST_OPEN <= 1024 // 2  # what most systems give a process
    monkeypatch.setattr(blocks, "_open_files", blocks._OpenFiles(4))
    before = len(os.listdir("/proc/self/fd"))
    for round_ in range(2):
        for i in range(20):
            file = written(tmp_path / f"{i}.b2nd", array) if round_ == 0 else {
                "path": tmp_path / f"{i}.b2nd", "size": (tmp_path / f"{i}.b2nd").stat().st_size, "version": "a"}  # fmt: skip
            blocks.read_box(where=(slice(0, 2),) * 3, **file)  # type: ignore[arg-type]
    assert len(blocks._open_files) == 4 and len(os.listdir("/proc/self/fd")) <= before + 4


def test_a_file_cut_while_it_is_open_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, array: NDArray[np.uint16]) -> None:
    file = written(tmp_path / "x.b2nd", array)
    blocks.read_box(where=(), **file)  # type: ignore[arg-type]
    os.truncate(tmp_path / "x.b2nd", 1000)
    with pytest.raises(UnreadableFile, match="1000 bytes instead of"):
        blocks.read_box(where=(), **file)  # type: ignore[arg-type]


def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path: Path, array: NDArray[np.uint16]) -> None:
    """It ended in an AttributeError of the library; damage that only changes voxels is found before training, by the digest."""
    whole = written(tmp_path / "x.b2nd", array)
    data = (tmp_path / "x.b2nd").read_bytes()
    refused = 0
    for place in range(200):
        path = tmp_path / f"{place}.b2nd"
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            blocks.read_box(where=(), **{**whole, "path": path})  # type: ignore[arg-type]
        except UnreadableFile as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_another_version_of_a_file_is_not_read_from_the_old_one(tmp_path: Path, array: NDArray[np.uint16]) -> None:
    blocks.read_box(where=(), **written(tmp_path / "x.b2nd", array))  # type: ignore[arg-type]
    (tmp_path / "x.b2nd").unlink()
    file = written(tmp_path / "x.b2nd", array + np.uint16(1))
    np.testing.assert_array_equal(blocks.read_box(where=(), **{**file, "version": "b"}), array + 1)  # type: ignore[arg-type]


def test_a_limit_on_address_space_is_not_spent_on_whole_files(
    tmp_path: Path, array: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (3_000_000_000, 3_000_000_000))
    monkeypatch.setattr(blocks, "_open_files", blocks._OpenFiles(4))
    file = written(tmp_path / "x.b2nd", array)
    np.testing.assert_array_equal(blocks.read_box(where=(), **file), array)  # type: ignore[arg-type]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
