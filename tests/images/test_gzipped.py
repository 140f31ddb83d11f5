"""gzip streams by either decoder: whole and checked, or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import MissingPath, UnreadableFile
from autoseg.images import gzipped

CONTENT = np.random.default_rng(0).integers(0, 30, 3000, dtype=np.uint8).tobytes()


@pytest.fixture(params=["isal", "standard library"])
def decoder(request, monkeypatch) -> None:
    """Both decoders, so that a processor without isal is as safe."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(gzipped, "_OPEN", gzip.open)
        monkeypatch.setattr(gzipped, "_WRITER", gzip.GzipFile)


def whole(path: Path, size: int = len(CONTENT), spare: int = 0) -> bytes:
    with gzipped.opened(path) as stream:
        return gzipped.take(stream, path, size=size, spare=spare).tobytes()


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path, decoder) -> None:
    path = tmp_path / "a.gz"
    data = gzip.compress(CONTENT, mtime=0)
    refused = 0
    for place in range(10, len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        try:
            assert whole(path) == CONTENT
        except UnreadableFile:
            refused += 1
    assert refused > 0.98 * (len(data) - 10)


def test_a_stream_that_unpacks_to_more_than_wanted_is_refused_although_the_start_is_there(tmp_path: Path, decoder) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(CONTENT))
    with pytest.raises(UnreadableFile, match="more than"):
        whole(path, size=len(CONTENT) - 10)
    assert whole(path, size=len(CONTENT) - 10, spare=10) == CONTENT[:-10]
    with pytest.raises(UnreadableFile, match="ends early"):
        whole(path, size=len(CONTENT) + 1)


def test_the_length_is_counted_where_the_trailer_cannot_be_believed(tmp_path: Path, decoder) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]))
    for expected in (1, 2000, len(CONTENT), 1 << 40):
        assert gzipped.unpacked_length(path, expected=expected) in (len(CONTENT), 2000 if expected == 2000 else len(CONTENT))
    assert whole(path) == CONTENT
    path.write_bytes(CONTENT)
    assert gzipped.unpacked_length(path, expected=1) == len(CONTENT)


def test_what_is_written_is_reproducible_and_readable_by_others(tmp_path: Path, decoder) -> None:
    for name in ("a.gz", "b.gz"):
        with gzipped.writing(tmp_path / name, packed=True) as file:
            file.write(CONTENT)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == CONTENT
    gzipped.verify(tmp_path / "a.gz")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPath):
        gzipped.is_packed(tmp_path / "none.gz")
    with pytest.raises(UnreadableFile, match="cannot be read"):
        gzipped.is_packed(tmp_path)
