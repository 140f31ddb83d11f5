"""NIfTI headers as they come: a corpus of variants, each read right or refused by name; and damaged bytes, always noticed."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autoseg import images
from autoseg.errors import AutosegError, GeometryError, GridMismatch, UnreadableFile

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # (x, y, z)
AFFINE = np.array([[-0.7, 0, 0, 31], [0, 0.9, 0, -12], [0, 0, 2.5, 5.5], [0, 0, 0, 1]])  # stored LAS
SEEN = VOLUME[::-1].transpose(2, 1, 0)  # canonical (z, y, x)


def scan(array: np.ndarray = VOLUME, affine: np.ndarray | None = AFFINE, *, two: bool = False) -> Any:
    """A sound image with sform and qform."""
    image = (nib.Nifti2Image if two else nib.Nifti1Image)(array, affine, dtype=array.dtype if array.dtype.itemsize == 8 else None)
    if affine is not None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    return image


def save(path: Path, image: Any, *, big: bool = False, **fields: Any) -> Path:
    """Write an image byte by byte with some header fields overwritten; nothing is mended on the way."""
    header = image.header.copy()
    data = np.asarray(image.dataobj)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4
    for name, value in fields.items():
        if name.endswith("]"):
            field, index = name[:-1].split("[")
            header[field][int(index)] = value
        else:
            header[name] = value
    header = header.as_byteswapped(">" if big else "<")
    order = ">" if big else "<"
    kind = data.dtype if data.dtype.fields else data.dtype.newbyteorder(order)
    content = header.binaryblock + bytes(4) + data.astype(kind).tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.endswith(".gz") else content)
    return path


def turned(degrees: float) -> np.ndarray:
    """The second column leans by so many degrees towards the first: shear."""
    affine = AFFINE.copy()
    lean = math.radians(degrees)
    affine[:3, 1] = 0.9 * np.array([math.sin(lean), math.cos(lean), 0])
    return affine


def fields_of(rows: np.ndarray) -> dict[str, Any]:
    return {"srow_x": rows[0], "srow_y": rows[1], "srow_z": rows[2]}


BIG = AFFINE.copy()
BIG[0, 3] += 40
RGB = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
RGB["R"], RGB["G"], RGB["B"] = VOLUME, VOLUME + 1, VOLUME + 2
RGBA = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
RGBA["R"], RGBA["G"], RGBA["B"], RGBA["A"] = VOLUME, VOLUME + 1, VOLUME + 2, 255
BASE = np.diag([-0.7, 0.9, 2.5, 1.0])
BASE[:3, 3] = [0.7 * 1.5, -0.9 * 2, -2.5 * 2.5]
BAD = np.array([0.0, 0, 0, 0])

READ: dict[str, tuple[Callable[[Path], Path], np.ndarray, np.ndarray | None, str]] = {
    # name: how it is written, canonical array expected, stored affine expected (None: AFFINE), word of the note expected
    "plain": (lambda p: save(p, scan()), SEEN, None, ""),
    "big-endian": (lambda p: save(p, scan(), big=True), SEEN, None, ""),
    "nifti-2": (lambda p: save(p, scan(two=True)), SEEN, None, ""),
    "nifti-2 big-endian": (lambda p: save(p, scan(two=True), big=True), SEEN, None, ""),
    **{
        f"type {kind}": (lambda p, kind=kind: save(p, scan(VOLUME.astype(kind))), SEEN.astype(kind), None, "")
        for kind in ("u1", "i1", "u2", "i4", "u4", "f4")
    },
    "int64": (lambda p: save(p, scan(np.int64(VOLUME) << 33, two=True)), np.int64(SEEN) << 33, None, ""),
    "uint64": (lambda p: save(p, scan(np.uint64(VOLUME) << np.uint64(33), two=True)), np.uint64(SEEN) << np.uint64(33), None, ""),
    "float64": (lambda p: save(p, scan(VOLUME / 3)), (SEEN / 3).astype(np.float32), None, ""),
    "float64 big-endian": (lambda p: save(p, scan(VOLUME / 3), big=True), (SEEN / 3).astype(np.float32), None, ""),
    "slope NaN": (lambda p: save(p, scan(), scl_slope=np.nan, scl_inter=np.nan), SEEN, None, ""),
    "slope 0": (lambda p: save(p, scan(), scl_slope=0, scl_inter=7), SEEN, None, ""),
    "slope infinite": (lambda p: save(p, scan(), scl_slope=np.inf), SEEN, None, "scl_slope"),
    "slope 2, inter -1024": (lambda p: save(p, scan(), scl_slope=2, scl_inter=-1024), np.float32(SEEN) * 2 - 1024, None, ""),
    "slope of int32": (lambda p: save(p, scan(VOLUME.astype("i4")), scl_slope=0.5, scl_inter=1), np.float32(SEEN) / 2 + 1, None, ""),
    "slope of uint8": (lambda p: save(p, scan(VOLUME.astype("u1")), scl_slope=0.5, scl_inter=1), np.float32(SEEN) / 2 + 1, None, ""),
    "slope of float32": (lambda p: save(p, scan(VOLUME.astype("f4")), scl_slope=4), np.float32(SEEN) * 4, None, ""),
    "inter NaN": (lambda p: save(p, scan(), scl_slope=2, scl_inter=np.nan), np.float32(SEEN) * 2, None, "scl_inter"),
    "4D of one frame": (lambda p: save(p, scan(VOLUME[..., None])), SEEN, None, ""),
    "4D of two": (lambda p: save(p, scan(np.stack([VOLUME, VOLUME + 1], -1))), np.stack([SEEN, SEEN + 1]), None, ""),
    "vector image of ITK": (
        lambda p: save(p, scan(np.stack([VOLUME, VOLUME + 1], -1)[:, :, :, None])),
        np.stack([SEEN, SEEN + 1]),
        None,
        "",
    ),
    "RGB": (lambda p: save(p, scan(RGB)), np.stack([SEEN, SEEN + 1, SEEN + 2]).astype("u1"), None, ""),
    "RGBA": (lambda p: save(p, scan(RGBA)), np.stack([SEEN, SEEN + 1, SEEN + 2]).astype("u1"), None, "alpha"),
    "two axes": (lambda p: save(p, scan(VOLUME[:, :, :1]), **{"dim[0]": 2}), SEEN[:1], None, ""),
    "one slice without a spacing": (
        lambda p: save(p, scan(VOLUME[:, :, :1]), **fields_of(AFFINE * [1, 1, 0, 1]), **{"pixdim[3]": 0}, qform_code=0),
        SEEN[:1],
        AFFINE * [1, 1, 0.4, 1],
        "1 mm",
    ),
    "qform alone": (lambda p: save(p, scan(), sform_code=0, **fields_of(np.zeros((3, 4)))), SEEN, None, ""),
    "sform alone": (lambda p: save(p, scan(), qform_code=0, quatern_b=0, quatern_c=9), SEEN, None, ""),
    "neither": (lambda p: save(p, scan(), qform_code=0, sform_code=0), SEEN, BASE, "no position"),
    "sform of zeros": (lambda p: save(p, scan(), **fields_of(np.zeros((3, 4)))), SEEN, None, "qform was taken"),
    "sform of NaN": (lambda p: save(p, scan(), srow_y=np.full(4, np.nan)), SEEN, None, "qform was taken"),
    "sform against qform": (lambda p: save(p, scan(), qoffset_x=-9), SEEN, None, "disagree"),
    "quaternion of NaN": (lambda p: save(p, scan(), quatern_c=np.nan), SEEN, None, ""),
    "qfac 0": (
        lambda p: save(p, scan(affine=AFFINE * [[-1], [1], [1], [1]]), sform_code=0, **{"pixdim[0]": 0}),
        VOLUME.transpose(2, 1, 0),
        AFFINE * [[-1], [1], [1], [1]],
        "",
    ),
    "negative pixdim": (lambda p: save(p, scan(), sform_code=0, **{"pixdim[2]": -0.9}), SEEN, None, ""),
    "quaternion longer than 1": (lambda p: save(p, scan(), sform_code=0, quatern_c=1.0001), SEEN, None, ""),
    "pixdim against sform": (lambda p: save(p, scan(), qform_code=0, **{"pixdim[3]": 99}), SEEN, None, ""),
    "a hair off the right angle": (lambda p: save(p, scan(), **fields_of(turned(0.3)), qform_code=0), SEEN, turned(0.15), "orthogonal"),
    "vox_offset 0": (lambda p: save(p, scan(), vox_offset=0), SEEN, None, "vox_offset"),
    "bitpix wrong": (lambda p: save(p, scan(), bitpix=32), SEEN, None, "bits per voxel"),
    "header length wrong": (lambda p: save(p, scan(), sizeof_hdr=77), SEEN, None, "own length"),
    "micrometres": (
        lambda p: save(p, scan(affine=AFFINE * [[1000], [1000], [1000], [1]]), xyzt_units=3, qform_code=0),
        SEEN,
        None,
        "micrometres",
    ),
    "rubbish in unused axes": (lambda p: save(p, scan(), **{"dim[5]": -7, "dim[6]": 0, "pixdim[6]": np.nan}), SEEN, None, ""),
    "unknown codes": (lambda p: save(p, scan(), intent_code=999, qform_code=77, xyzt_units=255 & ~7, slice_code=200), SEEN, None, ""),
}

REFUSED: dict[str, tuple[Callable[[Path], Path], type[AutosegError], str]] = {
    "a pair's header": (lambda p: save(p, scan(), magic=b"ni1"), UnreadableFile, "two files"),
    "no magic": (lambda p: save(p, scan(), magic=b"xyz"), UnreadableFile, "not a NIfTI"),
    "line ends translated": (lambda p: save(p, scan(two=True), eol_check=[13, 10, 26, 13]), UnreadableFile, "not a NIfTI"),
    "no axes": (lambda p: save(p, scan(), **{"dim[0]": 0}), UnreadableFile, "impossible shape"),
    "nine axes": (lambda p: save(p, scan(), **{"dim[0]": 9}), UnreadableFile, "impossible shape"),
    "a negative axis": (lambda p: save(p, scan(), **{"dim[2]": -5}), UnreadableFile, "impossible shape"),
    "an empty axis": (lambda p: save(p, scan(), **{"dim[2]": 0}), UnreadableFile, "impossible shape"),
    "far too large": (lambda p: save(p, scan(), **{"dim[1]": 32000, "dim[2]": 32000, "dim[3]": 32000}), UnreadableFile, "shorter"),
    "far too large for 64 bits": (lambda p: save(p, scan(two=True), **{f"dim[{k}]": 2**60 for k in (1, 2, 3)}), UnreadableFile, "shorter"),
    "one slice more": (lambda p: save(p, scan(), **{"dim[3]": 7}), UnreadableFile, "shorter"),
    "one slice less": (lambda p: save(p, scan(), **{"dim[3]": 5}), UnreadableFile, "longer"),
    "one row less": (lambda p: save(p, scan(), **{"dim[2]": 4}), UnreadableFile, "longer"),
    "half the type": (lambda p: save(p, scan(), datatype=2), UnreadableFile, "longer"),
    "twice the type": (lambda p: save(p, scan(), datatype=8), UnreadableFile, "shorter"),
    "unknown type": (lambda p: save(p, scan(), datatype=99), UnreadableFile, "unknown voxel type"),
    "complex": (lambda p: save(p, scan(VOLUME.astype("c8"))), UnreadableFile, "unsupported voxel type"),
    "bits": (lambda p: save(p, scan(), datatype=1), UnreadableFile, "unsupported voxel type"),
    "zero spacing": (
        lambda p: save(p, scan(), **{"pixdim[3]": 0}, **fields_of(AFFINE * [1, 1, 0, 1])),
        GeometryError,
        "spacing must be positive",
    ),
    "no finite affine": (lambda p: save(p, scan(), srow_x=np.full(4, np.nan), quatern_b=np.nan), GeometryError, "not finite"),
    "absurd spacing": (lambda p: save(p, scan(), srow_x=[1e30, 0, 0, 0]), GeometryError, "absurdly large"),
    "absurd place": (lambda p: save(p, scan(), srow_x=[-0.7, 0, 0, 1e20]), GeometryError, "implausibly far"),
    "sheared": (lambda p: save(p, scan(), **fields_of(turned(12)), qform_code=0), GeometryError, "sheared"),
    "two equal axes": (lambda p: save(p, scan(), srow_x=[1, 1, 0, 0], srow_y=[0, 0, 0, 0], srow_z=[0, 0, 1, 0]), GeometryError, "sheared"),
    "huge slope": (lambda p: save(p, scan(), scl_slope=3e38), UnreadableFile, "too large"),
    "huge slope of float32": (lambda p: save(p, scan(VOLUME.astype("f4")), scl_slope=3e38), UnreadableFile, "too large"),
    "voxels behind the end": (lambda p: save(p, scan(), vox_offset=10000), UnreadableFile, "shorter"),
    "voxels nowhere": (lambda p: save(p, scan(), vox_offset=np.nan), UnreadableFile, "where the voxels begin"),
    "channels twice": (lambda p: save(p, scan(np.zeros((4, 5, 6, 2, 2), "i2"))), GeometryError, "more than one axis"),
    "RGB volumes": (lambda p: save(p, scan(np.stack([RGB, RGB], -1))), GeometryError, "RGB"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", READ)
def test_header_variants_are_read_right(tmp_path: Path, name, suffix) -> None:
    write, array, affine, note = READ[name]
    path = write(tmp_path / f"a{suffix}")
    image = images.read(path)
    expected = array if array.ndim == 4 else array[None]
    assert image.array.dtype == expected.dtype and image.array.dtype.isnative and image.array.flags.writeable
    assert np.array_equal(image.array, expected)
    stored = AFFINE if affine is None else affine
    np.testing.assert_allclose(image.stored.affine[:, [2, 1, 0, 3]], stored, atol=2e-3 if "hair" in name else 2e-5)
    assert note in " ".join(image.notes)
    if not note:
        assert not image.notes
    header = images.read_header(path)
    assert header.shape == image.shape and header.channels == len(image.array) and header.dtype == image.array.dtype
    assert np.array_equal(header.affine, image.affine)
    if image.array.dtype.kind in "iu" and len(image.array) == 1:
        label = (image.array[0] % 5).astype(np.uint8)
        images.write_label(tmp_path / "label.nii.gz", label, like=image)
        back = images.read_label(tmp_path / "label.nii.gz", like=image)
        assert np.array_equal(back.array[0], label)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", REFUSED)
def test_header_variants_that_make_no_sense_are_refused_by_name(tmp_path: Path, name, suffix) -> None:
    write, kind, words = REFUSED[name]
    path = write(tmp_path / f"a{suffix}")
    with pytest.raises(kind, match=words) as caught:
        images.read(path)
    assert str(path) in str(caught.value) and "fix" in str(caught.value)


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(READ) >= 30 and len(REFUSED) >= 20


UNLIKE_NIBABEL = {  # what nibabel stumbles over, or hands out as the header says it, sane or not
    "inter NaN", "quaternion longer than 1", "micrometres", "vox_offset 0", "sform of zeros", "sform of NaN", "RGB", "RGBA",
    "one slice without a spacing",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(READ) - UNLIKE_NIBABEL))
def test_values_and_places_agree_with_nibabel(tmp_path: Path, name) -> None:
    path = READ[name][0](tmp_path / "a.nii")
    theirs = nib.load(path)
    image = images.read(path)
    np.testing.assert_allclose(image.stored.affine[:, [2, 1, 0, 3]], theirs.affine, atol=3e-3 if "hair" in name else 2e-5)
    values = theirs.get_fdata().reshape(*theirs.shape[:3], -1) if theirs.ndim > 3 else np.atleast_3d(theirs.get_fdata())[..., None]
    stored = np.ascontiguousarray(images.to_memory(image.array[0], like=image))
    assert np.array_equal(stored, values[..., 0].astype(np.float32))
    assert values.shape[-1] == len(image.array)


def test_a_wrong_name_does_not_matter(tmp_path: Path) -> None:
    packed, plain = save(tmp_path / "a.nii.gz", scan()), save(tmp_path / "b.nii", scan())
    packed.rename(tmp_path / "c.nii")
    plain.rename(tmp_path / "d.nii.gz")
    assert np.array_equal(images.read(tmp_path / "c.nii").array, images.read(tmp_path / "d.nii.gz").array)


def test_streams_of_several_members_and_padding_are_read(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii", scan()).read_bytes()
    parts = [gzip.compress(content[:100]), gzip.compress(content[100:400]), gzip.compress(content[400:])]
    (tmp_path / "b.nii.gz").write_bytes(b"".join(parts))
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(content) + bytes(64))
    for name in ("b.nii.gz", "c.nii.gz"):
        assert np.array_equal(images.read(tmp_path / name).array[0], SEEN)
    (tmp_path / "d.nii.gz").write_bytes(b"".join(parts[:2]))
    with pytest.raises(UnreadableFile, match="shorter"):
        images.read(tmp_path / "d.nii.gz")


def noisy(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    return save(path, scan(rng.integers(0, 99, (9, 10, 11)).astype(np.int16))).read_bytes()


def test_a_gzipped_file_cut_anywhere_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    data = noisy(path)
    for length in (*range(1, len(data), 13), len(data) - 1, len(data) - 4, len(data) - 8, len(data) - 9):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableFile):
            images.read(path)


def test_a_byte_flipped_anywhere_behind_the_time_stamp_is_detected_or_harmless(tmp_path: Path) -> None:
    """A few flips in a thousand unpack to the very same bytes: another copy of a repeated phrase. All others are refused."""
    path = tmp_path / "a.nii.gz"
    data = noisy(path)
    sound = images.read(path)
    harmless = count = 0
    for place in (0, 1, 2, *range(10, len(data), 5), *range(len(data) - 8, len(data))):
        for bit in (0x01, 0x20, 0x80):
            broken = bytearray(data)
            broken[place] ^= bit
            path.write_bytes(broken)
            count += 1
            try:
                image = images.read(path)
            except UnreadableFile:
                continue
            harmless += 1
            assert np.array_equal(image.array, sound.array) and np.array_equal(image.affine, sound.affine)
            assert gzip.decompress(bytes(broken)) == gzip.decompress(data)
    assert harmless < count / 100


def test_a_plain_file_cut_anywhere_is_detected(tmp_path: Path) -> None:
    data = save(tmp_path / "a.nii", scan()).read_bytes()
    for length in range(1, len(data), 5):
        (tmp_path / "a.nii").write_bytes(data[:length])
        with pytest.raises(UnreadableFile):
            images.read(tmp_path / "a.nii")


def test_a_header_that_lies_about_a_large_volume_takes_no_memory(tmp_path: Path) -> None:
    """512 x 512 x 512 float64 voxels declared (1 GB) in a stream that could unpack to them by its length alone."""
    import tracemalloc

    content = save(tmp_path / "a.nii", scan()).read_bytes()
    header = bytearray(content)
    struct.pack_into("<4h", header, 40, 3, 512, 512, 512)
    struct.pack_into("<2h", header, 70, 64, 64)
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + bytes(2_000_000)) + gzip.compress(np.random.default_rng(0).bytes(1_100_000)))
    tracemalloc.start()
    with pytest.raises(UnreadableFile, match="shorter"):
        images.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_random_damage_ends_in_a_named_error_or_an_array(tmp_path: Path) -> None:
    """A quick part of `benchmarks/fuzzing.py`, which does this 10 000 times and more kinds of it."""
    rng = np.random.default_rng(3)
    sources = {".nii": save(tmp_path / "s.nii", scan()).read_bytes(), ".nii.gz": save(tmp_path / "s.nii.gz", scan()).read_bytes()}
    for number in range(600):
        suffix = (".nii", ".nii.gz")[number % 3 == 0]
        data = bytearray(sources[suffix])
        for place in rng.integers(0, min(len(data), 352), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data[: rng.integers(1, len(data))] if number % 10 == 0 else data)
        for door in (images.read, images.read_label, images.read_header):
            try:
                door(path)
            except AutosegError as error:
                assert error.exit_code == 3 and error.file == str(path)


def test_a_label_keeps_the_shape_and_codes_of_odd_inputs(tmp_path: Path) -> None:
    odd = {
        "4D": save(tmp_path / "a.nii.gz", scan(VOLUME[..., None])),
        "2D": save(tmp_path / "b.nii.gz", scan(VOLUME[:, :, 0])),
        "two": save(tmp_path / "c.nii.gz", scan(two=True), qform_code=2, sform_code=4),
        "big": save(tmp_path / "d.nii.gz", scan(), big=True, qform_code=3, sform_code=0),
        "corrected": save(tmp_path / "e.nii.gz", scan(), **fields_of(turned(0.3)), qform_code=0),
    }
    for path in odd.values():
        image = images.read(path)
        images.write_label(tmp_path / "label.nii.gz", image.array[0] % 3, like=image)
        before, after = nib.load(path), nib.load(tmp_path / "label.nii.gz")
        assert after.shape == before.shape and type(after) is type(before)
        assert np.array_equal(after.affine, before.affine)
        for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b", "quatern_c", "qoffset_x"):
            assert np.array_equal(after.header[field], before.header[field]), field
    image = images.read(save(tmp_path / "f.nii.gz", scan(np.stack([VOLUME, VOLUME], -1))))
    images.write_label(tmp_path / "label.nii.gz", image.array[0] % 3, like=image)
    assert nib.load(tmp_path / "label.nii.gz").shape == VOLUME.shape


def test_writing_is_reproducible_and_leaves_nothing_behind(tmp_path: Path) -> None:
    image = images.read(save(tmp_path / "a.nii.gz", scan()))
    for name in ("b.nii.gz", "c.nii.gz"):
        images.write_label(tmp_path / "out" / name, image.array[0], like=image)
    assert (tmp_path / "out" / "b.nii.gz").read_bytes() == (tmp_path / "out" / "c.nii.gz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.nii.gz", "c.nii.gz"]


def test_a_quaternion_longer_than_one_is_refused_where_nothing_else_tells_the_place(tmp_path: Path) -> None:
    image = scan()
    bad = {"quatern_b": 5, "quatern_c": 5, "quatern_d": 5}
    with pytest.raises(GeometryError, match="quaternion 5, 5, 5"):
        images.read(save(tmp_path / "a.nii", image, sform_code=0, qform_code=1, **bad))
    read = images.read(save(tmp_path / "b.nii", image, qform_code=1, **bad))
    assert np.array_equal(read.array[0], SEEN), "the sform tells it"


def test_values_that_float32_would_turn_into_infinity_are_counted(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.float64)
    volume[0, 0, :2] = 1e300, -1e300
    with pytest.raises(UnreadableFile, match="2 of 120 voxels"):
        images.read(save(tmp_path / "a.nii", scan(volume)))
    volume[0, 0, :2] = np.inf, np.nan
    assert np.isinf(images.read(save(tmp_path / "b.nii", scan(volume))).array).sum() == 1, "what was no number before stays for the check"


def test_a_mask_divided_by_its_largest_value_is_no_empty_label(tmp_path: Path) -> None:
    label = (VOLUME > 50).astype(np.float32)
    assert images.read_label(save(tmp_path / "a.nii", scan(label * np.float32(0.9999)))).array.sum() == (VOLUME > 50).sum()
    with pytest.raises(AutosegError, match="between integers"):
        images.read_label(save(tmp_path / "b.nii", scan(label / 255)))


def test_a_label_that_agrees_with_the_other_form_is_said_to_do_so(tmp_path: Path) -> None:
    array, old, new = np.zeros((4, 5, 6), np.uint8), np.eye(4), np.eye(4)
    new[:3, 3] = 3, 4, -2
    for name, sform in (("moved", new), ("plain", old)):
        made = nib.Nifti1Image(array, old)
        made.set_qform(old, code=1)
        made.set_sform(sform, code=2)
        nib.save(made, tmp_path / f"{name}.nii")
    moved, plain = tmp_path / "moved.nii", tmp_path / "plain.nii"
    with pytest.raises(GridMismatch, match="the label agrees with the image's qform, and disagrees with its sform") as caught:
        images.read_label(plain, like=images.read(moved))
    assert "--fix-geometry copy-image" in caught.value.details["agrees"]
    with pytest.raises(GridMismatch, match="the image agrees with the label's qform"):
        images.read_label(moved, like=images.read(plain))
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 1, 1, 1])), tmp_path / "other.nii")
    with pytest.raises(GridMismatch) as caught:
        images.read_label(tmp_path / "other.nii", like=images.read(plain))
    assert "agrees" not in caught.value.details
