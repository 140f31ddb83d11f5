"""NRRD and MetaImage: every orientation, every damage; SimpleITK is the oracle of what a file means."""

from __future__ import annotations

import itertools
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg import images
from autoseg.errors import AutosegError, MissingPath, UnreadableFile
from autoseg.images import itk

sitk = pytest.importorskip("SimpleITK")

ORIENTATIONS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


def patient() -> tuple[np.ndarray, np.ndarray]:
    """A volume (x, y, z) with unequal axes and spacings and its oblique RAS+ affine."""
    a, b = np.radians((7, -4))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 0.9, 2.5)
    affine[:3, 3] = (-31, 12, 5.5)
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), affine


def itk_image(array: np.ndarray, affine: np.ndarray):
    """The array (x, y, z) with its RAS+ affine as a SimpleITK image (LPS)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def stored_as(axes: tuple[int, ...], flips: tuple[int, ...]):
    array, affine = patient()
    codes = np.array([[axes.index(axis), flips[axis]] for axis in range(3)])
    turned = nib.Nifti1Image(array, affine).as_reoriented(codes)
    return np.ascontiguousarray(np.asarray(turned.dataobj)), turned.affine


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("axes, flips", ORIENTATIONS)
def test_all_48_orientations_read_alike_and_are_written_back_exactly(tmp_path: Path, axes, flips, suffix) -> None:
    array, affine = patient()
    stored, stored_affine = stored_as(axes, flips)
    source = tmp_path / f"scan{suffix}"
    sitk.WriteImage(itk_image(stored, stored_affine), source, useCompression=bool(flips[0] > 0))

    image = images.read(source)

    assert np.array_equal(image.array[0], array.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine[:, [2, 1, 0, 3]], affine, atol=1e-12)
    label = (image.array[0] % 7).astype(np.uint8)
    images.write_label(tmp_path / f"label{suffix}", label, like=image)
    before, after = sitk.ReadImage(source), sitk.ReadImage(tmp_path / f"label{suffix}")
    assert np.array_equal(sitk.GetArrayFromImage(after), stored.T % 7)
    assert after.GetOrigin() == before.GetOrigin() and after.GetSpacing() == before.GetSpacing()
    assert after.GetDirection() == before.GetDirection()
    back = images.read_label(tmp_path / f"label{suffix}", like=image)
    assert np.array_equal(back.array[0], label)
    assert np.array_equal(images.read(tmp_path / f"label{suffix}").affine, image.affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_image_without_an_input_is_written_for_other_tools(tmp_path: Path, suffix, channels) -> None:
    array, affine = patient()
    ours = affine[:, [2, 1, 0, 3]]
    values = np.stack([array.T + k for k in range(channels)]).astype(np.float32)
    images.write_image(tmp_path / f"a{suffix}", values, affine=ours)
    back, theirs = images.read(tmp_path / f"a{suffix}"), sitk.ReadImage(tmp_path / f"a{suffix}")
    assert np.array_equal(back.array, values)
    np.testing.assert_allclose(back.affine, ours, atol=1e-5)
    if channels == 1:
        assert np.array_equal(sitk.GetArrayFromImage(theirs), values[0])
        np.testing.assert_allclose(theirs.GetOrigin(), np.array([-1, -1, 1]) * affine[:3, 3], atol=1e-5)
        np.testing.assert_allclose(theirs.GetSpacing(), (0.7, 0.9, 2.5), atol=1e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_is_read_as_simpleitk_reads_it(tmp_path: Path, suffix, kind, packed) -> None:
    array = (np.arange(4 * 5 * 6).reshape(6, 5, 4) % 120).astype(kind)
    source = sitk.GetImageFromArray(array)
    source.SetSpacing((0.5, 1.5, 2.5))
    source.SetOrigin((1, 2, 3))
    sitk.WriteImage(source, tmp_path / f"a{suffix}", useCompression=packed)
    image = images.read(tmp_path / f"a{suffix}")
    assert image.array.dtype == (np.float32 if kind == np.float64 else kind)
    assert np.array_equal(image.array[0], array[:, ::-1, ::-1])  # LPS to RAS
    np.testing.assert_allclose(image.spacing, (2.5, 1.5, 0.5), atol=1e-6)
    assert images.read_header(tmp_path / f"a{suffix}").dtype == image.array.dtype


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_interleaved_channels_and_planes_are_read(tmp_path: Path, suffix) -> None:
    array = np.arange(3 * 4 * 5 * 2, dtype=np.int16).reshape(3, 4, 5, 2)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), tmp_path / f"a{suffix}")
    image = images.read(tmp_path / f"a{suffix}")
    assert np.array_equal(image.array, np.moveaxis(array, -1, 0)[:, :, ::-1, ::-1])
    plane = sitk.GetImageFromArray(array[0, :, :, 0])
    plane.SetSpacing((0.3, 0.4))
    sitk.WriteImage(plane, tmp_path / f"b{suffix}")
    flat = images.read(tmp_path / f"b{suffix}")
    assert flat.array.shape == (1, 1, 4, 5) and flat.spacing == (1, 0.4, 0.3)
    images.write_label(tmp_path / f"c{suffix}", flat.array[0], like=flat)
    assert sitk.ReadImage(tmp_path / f"c{suffix}").GetSize() == (5, 4)
    assert sitk.ReadImage(tmp_path / f"c{suffix}").GetSpacing() == (0.3, 0.4)


def written(folder: Path, suffix: str, *, packed: bool = True) -> Path:
    array = np.random.default_rng(0).integers(0, 50, (12, 13, 14)).astype(np.int16)
    path = folder / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), path, useCompression=packed)
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_a_truncated_file_is_always_detected(tmp_path: Path, suffix, packed, cut) -> None:
    path = written(tmp_path, suffix, packed=packed)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UnreadableFile, match="early|shorter"):
        images.read(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("decoder", ["isal", "standard library"])
def test_flipped_bytes_in_a_packed_body_are_always_detected(tmp_path: Path, monkeypatch, suffix, decoder) -> None:
    if decoder == "standard library":
        monkeypatch.setattr(itk, "_zlib", zlib)
    path = written(tmp_path, suffix)
    data = path.read_bytes()
    begin = {".mha": data.find(b"LOCAL") + 6, ".nrrd": data.find(b"\n\n") + 2}[suffix]
    begin += 0 if suffix == ".mha" else 10  # behind the time stamp in gzip's header, which means nothing
    for place in (*range(begin, len(data), 17), len(data) - 1, len(data) - 3):
        broken = bytearray(data)
        broken[place] ^= 0x40
        path.write_bytes(broken)
        with pytest.raises(UnreadableFile):
            images.read(path)


def test_damaged_text_headers_end_in_a_named_error_or_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for suffix in (".nrrd", ".mha"):
        path = written(tmp_path, suffix)
        data = path.read_bytes()
        for _ in range(300):
            broken = bytearray(data)
            for place in rng.integers(0, 300, rng.integers(1, 4)):
                broken[place] = rng.integers(32, 127)
            path.write_bytes(broken)
            try:
                assert images.read(path).array.ndim == 4
            except AutosegError as error:
                assert error.exit_code == 3 and str(path) in str(error)


def test_a_declared_shape_far_beyond_the_file_is_refused(tmp_path: Path) -> None:
    for suffix, old, new in (
        (".nrrd", b"sizes: 14 13 12", b"sizes: 14000 13000 12000"),
        (".mha", b"DimSize = 14 13 12", b"DimSize = 14000 13000 12000"),
    ):
        path = written(tmp_path, suffix)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(UnreadableFile, match="shorter"):
            images.read(path)


def test_a_header_without_its_data_file_says_which_is_missing(tmp_path: Path) -> None:
    for suffix, data in ((".mhd", "a.raw"), (".nhdr", "a.raw")):
        path = written(tmp_path, suffix, packed=False)
        (tmp_path / data).unlink()
        with pytest.raises(MissingPath, match="voxels") as caught:
            images.read(path)
        assert data in str(caught.value)


def test_no_header_may_name_a_file_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path, ".mhd", packed=False)
    path.write_text(path.read_text().replace("a.raw", "../a.raw"))
    with pytest.raises(UnreadableFile, match="another folder"):
        images.read(path)


def test_a_label_can_be_written_in_another_format_than_its_image(tmp_path: Path) -> None:
    array, affine = patient()
    stored, stored_affine = stored_as((2, 0, 1), (1, -1, 1))
    sitk.WriteImage(itk_image(stored, stored_affine), tmp_path / "a.nrrd")
    image = images.read(tmp_path / "a.nrrd")
    for name in ("b.nii.gz", "b.mha"):
        images.write_label(tmp_path / name, image.array[0] % 9, like=image)
        back = images.read_label(tmp_path / name, like=image)
        assert np.array_equal(back.array[0], image.array[0] % 9)
        assert back.stored.orientation == image.stored.orientation


def test_a_label_and_an_image_without_position_are_paired_voxel_by_voxel(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    affine = np.array([[0, 0, -1.0, 4], [0, -1.0, 0, 3], [2.0, 0, 0, 0], [0, 0, 0, 1]])  # stored x to the left, y to the back
    for name in ("image.nrrd", "label.nrrd"):
        images.write_image(tmp_path / name, array, affine=affine)
    data = (tmp_path / "image.nrrd").read_bytes()
    head, body = data.split(b"\n\n", 1)
    head = re.sub(rb"\nspace[^\n]*", b"", head)
    (tmp_path / "image.nrrd").write_bytes(head + b"\n\n" + body)
    image = images.read(tmp_path / "image.nrrd")
    assert image.stored is not None and not image.stored.has_position
    label = images.read_label(tmp_path / "label.nrrd", like=image)
    assert np.array_equal(label.array, image.array), "as stored, whatever the label's header says of its place"


NRRD = "NRRD0004\ntype: short\ndimension: 4\nsizes: {sizes}\nendian: {endian}\nencoding: raw\n{place}kinds: {kinds}\n\n"


@pytest.mark.parametrize(
    "sizes, place, kinds",
    [
        ("2 6 5 4", "space: RAS\nspace directions: none (1,0,0) (0,2,0) (0,0,3)\n", "list domain domain domain"),
        ("6 2 5 4", "space: RAS\nspace directions: (1,0,0) none (0,2,0) (0,0,3)\n", "domain list domain domain"),
        ("6 5 4 2", "space: LAS\nspace directions: (-1,0,0) (0,2,0) (0,0,3) none\n", "domain domain domain list"),
        ("2 6 5 4", "space: RAS\nspace directions: (nan,nan,nan) (1,0,0) (0,2,0) (0,0,3)\n", "vector domain domain domain"),
        ("6 5 4 2", "spacings: 1 2 3 nan\n", "domain domain domain vector"),
    ],
)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_channels_are_found_on_whatever_axis_of_an_nrrd(tmp_path: Path, sizes: str, place: str, kinds: str, endian: str) -> None:
    array = np.arange(240).reshape([int(n) for n in sizes.split()][::-1])
    channels = sizes.split()[::-1].index("2")
    header = NRRD.format(sizes=sizes, place=place, kinds=kinds, endian=endian)
    (tmp_path / "A.NRRD").write_bytes(header.encode() + array.astype("<i2" if endian == "little" else ">i2").tobytes())
    image = images.read(tmp_path / "A.NRRD")
    expected = np.moveaxis(array, channels, 0)
    assert np.array_equal(image.array, expected if "space:" in place else expected[..., ::-1, ::-1])
    assert image.spacing == (3, 2, 1)
    images.write_image(tmp_path / "b.nrrd", image.array, affine=image.affine, like=image)
    back = images.read(tmp_path / "b.nrrd")
    assert np.array_equal(back.array, image.array) and np.array_equal(back.affine, image.affine)


@pytest.mark.parametrize(
    "old, new",
    [
        ("NDims = 3", "NDims = 9"),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1"),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 x 1"),
        ("Offset = 0 0 0", "Offset = 0 0 zero"),
        ("DimSize = 14 13 12", "DimSize = 14 13 0"),
        ("ElementType = MET_SHORT", "ElementType = MET_SHIRT"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 0 1 0 0 0"),
        ("CompressedData = True", "CompressedData = True\nBinaryData = False"),
    ],
)
def test_a_wrong_metaimage_header_is_named_in_one_error(tmp_path: Path, capfd, old: str, new: str) -> None:
    path = written(tmp_path, ".mha")
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))
    with pytest.raises(UnreadableFile, match="header cannot be used"):
        images.read(path)
    assert capfd.readouterr() == ("", ""), "nothing of MetaIO's own"


@pytest.mark.parametrize("decoder", ["isal", "standard library"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_stream_that_unpacks_to_much_more_than_its_bytes_is_read_whole(tmp_path: Path, monkeypatch, suffix: str, decoder: str) -> None:
    if decoder == "standard library":
        monkeypatch.setattr(itk, "_zlib", zlib)
    array = np.zeros((1, 40, 300, 301), np.uint8)
    array[0, -1, -1, -1] = 7
    images.write_image(tmp_path / f"a{suffix}", array, affine=np.eye(4)[:, [2, 1, 0, 3]])
    assert (tmp_path / f"a{suffix}").stat().st_size < array.size / 100
    assert np.array_equal(images.read(tmp_path / f"a{suffix}").array, array)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"a{suffix}")), array[0])
