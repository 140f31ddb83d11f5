"""Label files that do not hold what labels hold: smeared, painted, soft, images. Each is an error that says what to do about it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from autoseg import checking, cli, images
from autoseg.cases import Case, find, load_classes, load_label
from autoseg.checking.reading import read_case
from autoseg.errors import LabelError
from autoseg.images.label_values import content_of
from autoseg.labels import make_labels


def smoothed(path: Path, disc: NDArray[np.bool_]) -> None:
    Pillow.fromarray((255 * disc).astype(np.uint8)).resize((75, 60), Pillow.Resampling.BILINEAR).save(path.with_suffix(".png"))


def jpeg(path: Path, disc: NDArray[np.bool_]) -> None:
    Pillow.fromarray((255 * disc).astype(np.uint8)).resize((75, 60), Pillow.Resampling.NEAREST).save(path.with_suffix(".jpg"), quality=85)


def painted(path: Path, disc: NDArray[np.bool_]) -> None:
    array = np.zeros((*disc.shape, 3), np.uint8)
    array[disc], array[disc & (np.arange(disc.shape[1]) > 60)] = (255, 0, 0), (128, 128, 128)
    Pillow.fromarray(array).resize((75, 60), Pillow.Resampling.NEAREST).save(path.with_suffix(".png"))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures of discs and their masks, as `draw` writes them."""

    def make(draw: Callable[[Path, NDArray[np.bool_]], None]) -> Path:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        y, x = np.ogrid[:96, :120]
        for case in range(3):
            rng = np.random.default_rng(case)
            disc = (y - rng.uniform(40, 56)) ** 2 + (x - rng.uniform(50, 70)) ** 2 < 30**2
            grey = (90 + 12 * rng.standard_normal(disc.shape) + 70.0 * disc).clip(0, 255).astype(np.uint8)
            Pillow.fromarray(grey).resize((75, 60)).save(tmp_path / "images" / f"im_{case}.png")
            draw(tmp_path / "masks" / f"im_{case}", disc)
        return tmp_path

    return make


def options_of(fix: str) -> list[str]:
    """The `--map-labels` options of a remedy, as they would be typed."""
    words = shlex.split(fix.replace("; or", " "))
    return [word for index, option in enumerate(words[:-1]) if option == "--map-labels" for word in (option, words[index + 1])]


@pytest.mark.parametrize(
    ("draw", "summary", "named", "values"),
    [(smoothed, "smeared borders", "255 (", (0, 255)), (jpeg, "JPEG has altered", "255 (", (0, 255)),
     (painted, "painted in colours", "ff0000 in 3 of 3", (0, 1, 2))],
)  # fmt: skip
def test_masks_that_are_no_label_maps_are_refused_with_a_remedy_that_works(pictures, draw, summary, named, values, capsys) -> None:
    root = pictures(draw)
    with pytest.raises(LabelError, match=summary) as caught:
        find(root)
    assert named in (caught.value.found or "")
    options = options_of(caught.value.fix or "")
    assert options and cli.main(["check", str(root), *options]) == 0
    found = find(root, map_labels=cli._map(options[1::2]))
    assert found.labels.values == values
    faults = checking.check(found, workers=0)
    assert not [fault for fault in faults if fault.severity == "error" or fault.code == "unused"]
    assert "0 errors" in capsys.readouterr().out


def test_colours_can_be_written_in_three_ways() -> None:
    assert cli._map(["ff0000=1,0x808080=2", "#00FF00=3", "7=0", "100000=5", "20-22=4"]) == {
        (1 << 24) + 0xFF0000: 1, (1 << 24) + 0x808080: 2, (1 << 24) + 0x00FF00: 3, 7: 0, 100000: 5, 20: 4, 21: 4, 22: 4,
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["7", "7=", "9-3=1", "gg0000=1", "1-999999=1", "=1"])
def test_what_is_no_mapping_is_refused(pair: str) -> None:
    assert cli.main(["check", ".", "--map-labels", pair]) == 2


def test_a_smeared_mask_of_declared_labels_names_the_borders_and_maps_them(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:96, :120]
    Pillow.fromarray(rng.integers(0, 255, (60, 75), dtype=np.uint8)).save(tmp_path / "imagesTr" / "a_0000.png")
    smoothed(tmp_path / "labelsTr" / "a.png", (y - 48) ** 2 + (x - 60) ** 2 < 900)
    declared = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(declared))
    (error,) = [fault for fault in checking.check(find(tmp_path), workers=0) if fault.severity == "error"]
    assert "smeared borders" in (error.remedy or "")
    options = options_of((error.remedy or "").partition("--exclude")[0].removesuffix("; or "))
    faults = checking.check(find(tmp_path, map_labels=cli._map(options[1::2])), workers=0)
    assert not [fault for fault in faults if fault.severity == "error"]


def test_a_painted_mask_with_soft_borders_is_refused(tmp_path: Path) -> None:
    y, x = np.ogrid[:60, :80]
    array = np.zeros((60, 80, 3), np.uint8)
    array[(y - 30) ** 2 + (x - 40) ** 2 < 400] = (255, 0, 0)
    array[(y - 30) ** 2 + (x - 40) ** 2 < 100] = (0, 0, 255)
    Pillow.fromarray(array).resize((53, 43), Pillow.Resampling.BICUBIC).save(tmp_path / "soft.png")
    with pytest.raises(LabelError, match="in colours") as caught:
        load_label(Case(name="a", images=(), label=tmp_path / "soft.png"), tmp_path / "soft.png")
    assert "ff0000" in (caught.value.found or "") and "smoothing" in (caught.value.fix or "")


def test_images_in_place_of_labels_are_named(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for case in range(3):
            ct = (-1000 + 60 * np.random.default_rng(case).standard_normal((8, 20, 20))).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(ct, np.eye(4)), tmp_path / folder / f"s{case}.nii.gz")
    with pytest.raises(LabelError, match="look like images") as caught:
        find(tmp_path)
    assert "3 of 3 files" in (caught.value.found or "")


@pytest.mark.parametrize("structures", [1, 12, 60, 200])
def test_label_maps_of_any_size_are_label_maps(structures: int) -> None:
    rng = np.random.default_rng(structures)
    label = np.zeros((20, 64, 64), np.uint16)
    for value in range(1, structures + 1):
        z, y, x = rng.integers(0, (16, 58, 58))
        label[z : z + 3, y : y + rng.integers(3, 8), x : x + rng.integers(3, 8)] = value
    assert content_of(label).kind == "labels"


def test_a_few_voxels_of_many_values_are_no_image() -> None:
    """Strays of a lossy editor, or single-voxel marks: other messages name them."""
    label = np.zeros((4, 40, 40), np.uint8)
    label[:, 10:30, 10:30] = 1
    label[0, 0, :7] = np.arange(10, 17)
    assert content_of(label).kind == "labels"


def test_a_soft_mask_is_named_with_its_range_and_a_threshold(tmp_path: Path) -> None:
    soft = np.linspace(0, 1, 5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    nibabel.save(nibabel.Nifti1Image(soft, np.eye(4)), tmp_path / "a b.nii.gz")
    with pytest.raises(LabelError, match="between integers") as caught:
        images.read_label(tmp_path / "a b.nii.gz")
    assert (
        "from 0 to 1" in (caught.value.found or "")
        and "-thr 0.5" in (caught.value.fix or "")
        and "'a b.nii.gz'" in (caught.value.fix or "")
    )


def seg_nrrd(path: Path, layers: NDArray[np.uint8], segments: list[tuple[str, int, int]]) -> None:
    """Write layers (l, z, y, x) with (name, layer, value) of each segment, as 3D Slicer does."""
    layered = len(layers) > 1
    sizes = " ".join(map(str, ([len(layers)] if layered else []) + list(layers.shape[:0:-1])))
    lines = ["NRRD0004", "type: unsigned char", f"dimension: {4 if layered else 3}", "space: left-posterior-superior", f"sizes: {sizes}"]
    lines += ["space directions: " + ("none " if layered else "") + "(-1,0,0) (0,-1,0) (0,0,1)"]
    lines += ["kinds: " + ("list " if layered else "") + "domain domain domain", "encoding: raw", "space origin: (0,0,0)"]
    for index, (name, layer, value) in enumerate(segments):
        lines += [f"Segment{index}_Name:={name}", f"Segment{index}_LabelValue:={value}", f"Segment{index}_Layer:={layer}"]
    body = layers.transpose(1, 2, 3, 0) if layered else layers[0]
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + np.ascontiguousarray(body).tobytes())


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Four cases of a liver with a tumour, the second half of which numbers them the other way round."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    rows = ["case,MR,label"]
    for case in range(4):
        label = np.zeros((1, 10, 12, 14), np.uint8)
        liver, tumour = (1, 2) if case < 2 else (2, 1)
        label[0, 2:8, 2:8, 2 : 9 + case] = liver
        label[0, 4:6, 4:6, 4:6] = tumour
        names = [("liver", 0, 1), ("Tumour", 0, 2)] if case < 2 else [("tumour", 0, 1), ("liver", 0, 2)]
        seg_nrrd(tmp_path / "labels" / f"p{case}.seg.nrrd", label, names)
        image = np.random.default_rng(case).normal(size=(14, 12, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "images" / f"p{case}.nii.gz")
        rows.append(f"p{case},images/p{case}.nii.gz,labels/p{case}.seg.nrrd")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_segments_that_scenes_number_differently_are_mapped_by_name(scenes: Path) -> None:
    dataset = find(scenes / "list.csv")
    assert {label.name: label.value for label in dataset.labels.all} == {"background": 0, "liver": 1, "Tumour": 2}
    assert any("p2.seg.nrrd, p3.seg.nrrd" in note for note in dataset.notes)
    for case in dataset.cases:
        assert np.count_nonzero(load_classes(case, dataset.labels) == 2) == 8, "the tumour, whatever its number"
        data = read_case(case, channels=1, labels=dataset.labels)
        assert data.voxels and data.voxels[2] == 8 and not data.undeclared


def test_segments_without_a_declared_name_keep_their_values(scenes: Path) -> None:
    case = find(scenes / "list.csv").cases[2]
    classes = load_classes(case, make_labels({"background": 0, "lesion": 1, "organ": 2}))
    assert np.count_nonzero(classes == 1) == 8


def test_layers_of_segments_are_read_as_masks(tmp_path: Path) -> None:
    layers = np.zeros((2, 10, 12, 14), np.uint8)
    layers[0, 2:8, 2:8, 2:8] = 1  # the organ
    layers[0, 0, 0, 0] = 2  # another one in the same layer
    layers[1, 4:6, 4:6, 4:6] = 1  # a lesion inside it: the same value, in the next layer
    seg_nrrd(tmp_path / "a.seg.nrrd", layers, [("organ", 0, 1), ("mark", 0, 2), ("lesion", 1, 1)])
    label = images.read_label(tmp_path / "a.seg.nrrd")
    assert label.stored and label.stored.names == ((1, "organ"), (2, "mark"), (3, "lesion"))
    assert np.bincount(label.array.ravel()).tolist()[1:] == [6**3 - 8, 1, 8]
    assert any("8 voxels belong to several" in note for note in label.notes)


@pytest.mark.parametrize(("keep", "reported"), [(4, True), (2, True), (1, False)])
def test_labels_drawn_at_intervals_are_reported_once(tmp_path: Path, keep: int, reported: bool) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    grid = np.indices((16, 18, 24))
    for case in range(3):
        label = (((grid - np.array([8, 8 + case, 11])[:, None, None, None]) ** 2).sum(0) < 64).astype(np.uint8)
        label[:, :, np.arange(24) % keep != case % keep] = 0
        image = np.random.default_rng(case).normal(size=label.shape).astype(np.float32)
        for folder, array in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"s{case}.nii.gz")
    found = [fault for fault in checking.check(find(tmp_path), workers=0) if fault.code == "intervals"]
    assert len(found) == reported
    if reported:
        assert f"every {keep} slices in 3 of 3" in (found[0].found or "") and "ignore" in (found[0].remedy or "")
