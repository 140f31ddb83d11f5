"""PNG, BMP, JPEG and TIFF: modes, palettes, alpha, damage."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from autoseg import images
from autoseg.errors import AutosegError, GeometryError, LabelError, UnreadableFile

GREY = (np.arange(42).reshape(6, 7) * 6).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def test_grey_and_colour_pictures_are_planes_of_one_and_three_channels(tmp_path: Path) -> None:
    for suffix in (".png", ".bmp", ".tif"):
        Pillow.fromarray(GREY).save(tmp_path / f"g{suffix}")
        Pillow.fromarray(COLOUR).save(tmp_path / f"c{suffix}")
        grey, colour = images.read(tmp_path / f"g{suffix}"), images.read_channels([tmp_path / f"c{suffix}"], channels=3)
        assert np.array_equal(grey.array, GREY[None, None]) and grey.spacing == (1, 1, 1)
        assert np.array_equal(colour.array, np.moveaxis(COLOUR, -1, 0)[:, None])
        for name in (f"g{suffix}", f"c{suffix}"):
            header, image = images.read_header(tmp_path / name), images.read(tmp_path / name)
            assert (header.channels, *header.shape) == image.array.shape and header.dtype == image.array.dtype
    Pillow.fromarray(COLOUR).save(tmp_path / "c.jpg", quality=95)
    assert images.read(tmp_path / "c.jpg").array.shape == (3, 1, 6, 7)


def test_alpha_is_dropped_with_a_note(tmp_path: Path) -> None:
    alpha = np.full((6, 7, 1), 200, np.uint8)
    Pillow.fromarray(np.concatenate([COLOUR, alpha], axis=-1)).save(tmp_path / "rgba.png")
    Pillow.fromarray(np.concatenate([GREY[..., None], alpha], axis=-1)).save(tmp_path / "la.png")
    for name, channels in (("rgba.png", 3), ("la.png", 1)):
        image = images.read_channels([tmp_path / name], channels=channels)
        assert image.array.shape == (channels, 1, 6, 7)
        assert any("alpha" in note for note in image.notes)
    assert np.array_equal(images.read_label(tmp_path / "la.png").array, GREY[None, None])


def test_a_palette_is_colours_in_an_image_and_indices_in_a_label(tmp_path: Path) -> None:
    picture = Pillow.fromarray(GREY % 3, mode=None).convert("L")
    indexed = Pillow.fromarray((GREY % 3).astype(np.uint8)).convert("P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90] + [0] * 759)
    indexed.save(tmp_path / "p.png")
    assert np.array_equal(images.read_label(tmp_path / "p.png").array[0, 0], np.asarray(picture))
    image = images.read(tmp_path / "p.png")
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    assert np.array_equal(np.moveaxis(image.array[:, 0], 0, -1), palette[GREY % 3])
    assert images.read_header(tmp_path / "p.png").channels == 3


def test_deep_and_shallow_pngs_keep_their_stored_values(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    Pillow.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(images.read(tmp_path / "deep.png").array[0, 0], deep)
    Pillow.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert np.array_equal(images.read_label(tmp_path / "bits.png").array[0, 0], GREY > 100)
    for depth in (2, 4):
        values = GREY % (1 << depth)
        write_shallow_png(tmp_path / "shallow.png", values, depth)
        assert np.array_equal(images.read_label(tmp_path / "shallow.png").array[0, 0], values)
    colours = np.moveaxis(np.stack([deep, deep[::-1], deep + 1]), 0, -1)
    write_deep_rgb_png(tmp_path / "deep_rgb.png", colours)
    assert np.array_equal(np.moveaxis(images.read(tmp_path / "deep_rgb.png").array[:, 0], 0, -1), colours)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes]) -> bytes:
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def write_shallow_png(path: Path, values: np.ndarray, depth: int) -> None:
    bits = ((values[..., None] >> np.arange(depth)[::-1]) & 1).reshape(len(values), -1)
    path.write_bytes(png(values.shape[1], values.shape[0], depth, 0, [np.packbits(row).tobytes() for row in bits]))


def write_deep_rgb_png(path: Path, values: np.ndarray) -> None:
    path.write_bytes(png(values.shape[1], values.shape[0], 16, 2, [row.astype(">u2").tobytes() for row in values]))


def test_a_label_of_equal_colours_is_one_channel_and_real_colours_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(np.stack([GREY] * 3, axis=-1)).save(tmp_path / "same.png")
    Pillow.fromarray(COLOUR).save(tmp_path / "colours.png")
    assert np.array_equal(images.read_label(tmp_path / "same.png").array[0, 0], GREY)
    with pytest.raises(LabelError, match="colours"):
        images.read_label(tmp_path / "colours.png")
    assert np.array_equal(images.read_channels([tmp_path / "same.png"], channels=1).array[0, 0], GREY)
    with pytest.raises(GeometryError, match="a picture in colours"):
        images.read_channels([tmp_path / "colours.png"], channels=1)


def test_labels_are_written_as_they_were_read(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.tif"):
        Pillow.fromarray(GREY).save(tmp_path / name)
        image = images.read(tmp_path / name)
        images.write_label(tmp_path / f"label_{name}", image.array[0], like=image)
        assert np.array_equal(np.asarray(Pillow.open(tmp_path / f"label_{name}")), GREY)
    images.write_label(tmp_path / "many.png", image.array[0].astype(np.int32) + 300, like=image)
    assert images.read_label(tmp_path / "many.png").array.max() == int(GREY.max()) + 300
    with pytest.raises(LabelError, match="cannot hold"):
        images.write_label(tmp_path / "negative.png", image.array[0].astype(np.int16) - 300, like=image)
    with pytest.raises(LabelError, match="JPEG"):
        images.write_label(tmp_path / "a.jpg", image.array[0], like=image)
    with pytest.raises(UnreadableFile, match="one slice"):
        images.write_image(tmp_path / "volume.png", np.zeros((1, 2, 3, 4), np.uint8), affine=np.eye(4))
    assert images.label_suffix("a.jpg") == ".png"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_truncated_pictures_are_detected(tmp_path: Path, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (60, 70, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for cut in (0.2, 0.5, 0.97):
        path.write_bytes(data[: int(len(data) * cut)])
        with pytest.raises(UnreadableFile):
            images.read(path)


def test_every_flipped_byte_of_a_png_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (16, 17), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(UnreadableFile):
            images.read(path)


def test_a_picture_that_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 2, [b"\0" * 10]))
    with pytest.raises(UnreadableFile, match="more than it can hold"):
        images.read(path)


def test_damaged_pictures_end_in_a_named_error_or_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for suffix in (".png", ".bmp", ".jpg", ".tif"):
        path = tmp_path / f"a{suffix}"
        Pillow.fromarray(rng.integers(0, 255, (20, 21), dtype=np.uint8)).save(path)
        data = path.read_bytes()
        for _ in range(150):
            broken = bytearray(data)
            for place in rng.integers(0, len(data) if suffix == ".tif" else 100, 2):
                broken[place] = rng.integers(0, 256)
            path.write_bytes(broken)
            try:
                assert images.read(path).array.ndim == 4
            except AutosegError as error:
                assert error.exit_code == 3


def test_a_stack_of_tiff_pages_is_a_volume_with_the_spacing_beside_it(tmp_path: Path) -> None:
    stack = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
    tifffile.imwrite(tmp_path / "a_0000.tif", stack, photometric="minisblack", compression="zlib")
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3.0, 0.5, 0.25]}))
    image = images.read_channels([tmp_path / "a_0000.tif"], channels=1)
    assert np.array_equal(image.array[0], stack) and image.spacing == (3, 0.5, 0.25)
    images.write_label(tmp_path / "out" / "label.tif", stack % 5, like=image)
    label = images.read_label(tmp_path / "out" / "label.tif", like=image)
    assert np.array_equal(label.array[0], stack % 5) and images.read(tmp_path / "out" / "label.tif").spacing == (3, 0.5, 0.25)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3.0, 0, 0.25]}))
    with pytest.raises(GeometryError, match="spacing next to"):
        images.read(tmp_path / "a_0000.tif")
    (tmp_path / "a.json").unlink()
    bare = images.read(tmp_path / "a_0000.tif")
    assert bare.spacing == (1, 1, 1) and any("1 mm" in note for note in bare.notes)
    assert images.read_label(tmp_path / "a_0000.tif", like=image).spacing == (3, 0.5, 0.25)  # a label without spacing takes the image's


@pytest.mark.parametrize(("unit", "mm"), [("um", 1e-3), ("micron", 1e-3), ("mm", 1.0), ("cm", 10.0)])
def test_the_spacing_in_the_tags_of_imagej_is_taken(tmp_path: Path, unit: str, mm: float) -> None:
    """Fiji writes pixels per unit into the resolution, and the distance of the slices into its own text."""
    metadata = {"axes": "ZYX", "spacing": 0.3, "unit": unit}
    stack = np.zeros((4, 6, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(10.0, 5.0), metadata=metadata)
    assert images.read(tmp_path / "a.tif").spacing == pytest.approx((0.3 * mm, 0.2 * mm, 0.1 * mm), rel=1e-6)
    assert images.read_header(tmp_path / "a.tif").stored.has_position
    (tmp_path / "a.json").write_text(json.dumps({"spacing": "3 x 1 x 1 mm"}))
    assert images.read(tmp_path / "a.tif").spacing == (3, 1, 1), "the file next to it was written on purpose"


@pytest.mark.parametrize(
    "tags",
    [{"resolution": (72, 72)}, {"imagej": True}, {"imagej": True, "resolution": (10, 10), "metadata": {"unit": "pixel"}},
     {"resolution": (10, 10), "resolutionunit": "INCH"}],
)  # fmt: skip
def test_a_resolution_for_printing_is_no_spacing(tmp_path: Path, tags: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 5), np.uint8), **tags)
    image = images.read(tmp_path / "a.tif")
    assert image.spacing == (1, 1, 1) and any("1 mm was taken" in note for note in image.notes)


def test_the_spacing_of_ome_is_taken_whatever_its_units(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 100.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.003, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 6, 5), np.uint16), metadata={"axes": "ZYX", **sizes})
    assert images.read(tmp_path / "a.ome.tif").spacing == pytest.approx((3e-3, 2e-4, 1e-4), rel=1e-6)


def test_tiff_channels_and_compressions_are_read(tmp_path: Path) -> None:
    volume = np.arange(2 * 5 * 6 * 7, dtype=np.uint8).reshape(2, 5, 6, 7)
    tifffile.imwrite(tmp_path / "c.tif", volume, photometric="minisblack", metadata={"axes": "CZYX"})
    assert np.array_equal(images.read_channels([tmp_path / "c.tif"], channels=2).array, volume)
    pages = [Pillow.fromarray(GREY + k) for k in range(4)]
    pages[0].save(tmp_path / "lzw.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    assert np.array_equal(images.read(tmp_path / "lzw.tif").array[0], np.stack([GREY + k for k in range(4)]))
    images.write_image(tmp_path / "w.tif", volume.astype(np.float32), affine=np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    assert np.array_equal(images.read(tmp_path / "w.tif").array, volume)
