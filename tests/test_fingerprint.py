"""Fingerprint: the reference's figures, the same whatever the number of workers, and what makes one out of date."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_fill_holes

from autoseg import fingerprint, images
from autoseg.cases import Case, Channel, Dataset
from autoseg.errors import FaultyCases, SettingsError
from autoseg.fingerprint import Fingerprint, extract, outdated, pool_intensities, summarise
from autoseg.geometry import affine_from_spacing, bounding_box, nonzero_box
from autoseg.labels import make_labels

LABELS = make_labels({"background": 0, "liver": 1, "tumour": 2}, ignore=3)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three cases of unequal shapes and spacings with a zero border, one of them without foreground."""
    rng = np.random.default_rng(0)
    cases = []
    for index, (shape, spacing) in enumerate(
        [((8, 12, 10), (3.0, 1.0, 1.5)), ((9, 11, 14), (2.0, 1.0, 1.5)), ((6, 9, 8), (2.5, 1.0, 1.5))]
    ):
        image = np.zeros((1, *shape), dtype=np.int16)
        image[:, 1:-1, 2:-1, 1:-2] = rng.integers(1, 900, (1, shape[0] - 2, shape[1] - 3, shape[2] - 3))
        label = np.zeros(shape, dtype=np.uint8)
        if index < 2:
            label[2:5, 3:7, 2:6] = 1
            label[3, 4, 3:5] = 2
            label[4, 6, 2] = 3  # not annotated
        name = f"case_{index}"
        image_path, label_path = tmp_path / f"{name}_image.nii.gz", tmp_path / f"{name}_label.nii.gz"
        affine = affine_from_spacing(spacing)
        images.write_image(image_path, image, affine=affine)
        images.write_image(label_path, label[None], affine=affine)
        cases.append(Case(name=name, images=(image_path,), label=label_path))
    return Dataset(
        name="small", root=tmp_path, recipe="list", channels=(Channel(name="CT", modality="CT"),), labels=LABELS, cases=tuple(cases)
    )


def test_box_and_mask_of_what_is_not_zero_are_the_references(golden: Path) -> None:
    crop = json.loads((golden / "golden-numerics.json").read_text())["crop"]
    image = np.asarray(crop["image"])
    box, mask = nonzero_box(image)
    assert [[a, b] for a, b in zip(box.start, box.stop, strict=True)] == crop["bbox"]
    seg = np.asarray(crop["seg"])[0]
    marked = np.where((seg == 0) & ~mask, -1, seg)[box.slices]
    assert marked.tolist() == crop["seg_cropped"][0]
    shape = [stop for _, stop in crop["all_zero_bbox"]]
    empty, _ = nonzero_box(np.zeros((1, *shape)))
    assert [[a, b] for a, b in zip(empty.start, empty.stop, strict=True)] == crop["all_zero_bbox"]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 2), *[st.integers(1, 7)] * 3), elements=st.integers(0, 1)))
def test_holes_are_filled_as_in_the_whole_array(array) -> None:
    box, mask = nonzero_box(array)
    whole = binary_fill_holes((array != 0).any(axis=0))
    assert np.array_equal(mask, whole)
    assert box == bounding_box(whole)


def test_intensities_of_one_case_are_the_references(golden: Path) -> None:
    facts = json.loads((golden / "golden-numerics.json").read_text())["fingerprint_intensity"]
    foreground = np.asarray(facts["seg"])[0] > 0
    for channel, expected in zip(np.asarray(facts["images"], dtype=np.float32), facts["stats"], strict=True):
        found = pool_intensities([summarise(channel[foreground])])
        for key, value in expected.items():
            assert getattr(found, key) == pytest.approx(value, rel=1e-6), key


def test_intensities_of_many_cases_are_what_the_references_draws_scatter_around() -> None:
    rng = np.random.default_rng(1)
    cases = [rng.gamma(2 + i, 40, size).astype(np.float32) for i, size in enumerate((200, 50_000, 7_000))]
    found = pool_intensities([summarise(values) for values in cases])
    draws = np.concatenate([np.random.default_rng(2).choice(values, 300_000) for values in cases])  # the reference's rule
    assert found.mean == pytest.approx(draws.mean(), rel=0.005)
    assert found.std == pytest.approx(draws.std(), rel=0.01)
    assert found.median == pytest.approx(np.median(draws), rel=0.005)
    assert found.percentile_00_5 == pytest.approx(np.percentile(draws, 0.5), rel=0.03)
    assert found.percentile_99_5 == pytest.approx(np.percentile(draws, 99.5), rel=0.01)
    assert (found.min, found.max) == (min(v.min() for v in cases), max(v.max() for v in cases))


def test_many_values_are_reduced_to_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "MOST_SORTED", 10_000)
    values = np.random.default_rng(3).normal(100, 20, 300_000).astype(np.float32)
    curve = summarise(values)
    assert curve.points.size == fingerprint.POINTS
    assert curve.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
    assert np.interp(0.5, np.linspace(0, 1, curve.points.size), curve.points) == pytest.approx(np.median(values), rel=0.01)


def test_without_any_foreground_there_are_no_intensities() -> None:
    assert pool_intensities([]).std == 1


def test_extract_measures_shapes_spacings_crop_and_labels(dataset: Dataset) -> None:
    found = extract(dataset, workers=0)
    first = found.cases[0]
    assert first.shape == (8, 12, 10)
    assert first.spacing == pytest.approx((3.0, 1.0, 1.5))
    assert first.shape_after_crop == (6, 9, 7)
    assert first.label_voxels == {"background": 8 * 12 * 10 - 48, "liver": 45, "tumour": 2}  # 48 in the block, 1 of them not annotated
    assert found.label_voxels["tumour"] == 4
    assert found.presence == {"case_0": {"liver", "tumour"}, "case_1": {"liver", "tumour"}, "case_2": frozenset()}
    assert found.relative_size_after_crop == pytest.approx(np.median([6 * 9 * 7 / 960, 7 * 8 * 11 / 1386, 4 * 6 * 5 / 432]))


def test_the_number_of_workers_changes_nothing(dataset: Dataset) -> None:
    assert extract(dataset, workers=2) == extract(dataset, workers=0)


def test_the_fingerprint_survives_json(dataset: Dataset) -> None:
    found = extract(dataset, workers=0)
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intensities": []}, "intensities of 0 channels"),
        ({"intensities": None}, r"intensities: null instead of \[\{...\}, ...\]"),
        ({"cases": [{}]}, r"cases\[0\].spacing: is missing"),
        ({"relative_size_after_crop": "all"}, 'relative_size_after_crop: "all" instead of a number'),
        ({"format": 99}, "format 99"),
    ],
)
def test_a_fingerprint_that_cannot_be_understood_names_the_place(dataset: Dataset, changes: dict[str, Any], said: str) -> None:
    value = extract(dataset, workers=0).to_json()
    with pytest.raises(SettingsError, match=said):
        Fingerprint.from_json({**value, **changes})


@pytest.mark.parametrize("value", [[], {}, None, "text"])
def test_what_is_no_fingerprint_at_all_is_no_traceback(value: Any) -> None:
    with pytest.raises(SettingsError):
        Fingerprint.from_json(value)


def test_all_faulty_cases_are_told_at_once(dataset: Dataset) -> None:
    for case in dataset.cases[:2]:
        case.images[0].write_bytes(case.images[0].read_bytes()[:-40])
    with pytest.raises(FaultyCases) as error:
        extract(dataset, workers=0)
    assert [e.case for e in error.value.errors] == ["case_0", "case_1"]


def test_a_fingerprint_holds_until_a_file_a_case_or_a_label_changes(dataset: Dataset, tmp_path: Path) -> None:
    found = extract(dataset, workers=0)
    assert outdated(found, dataset) == ()
    assert outdated(found, dataset.only(["case_0", "case_1"])) == ("case 'case_2' is gone",)
    assert outdated(found, replace(dataset, labels=make_labels({"background": 0, "liver": 1}))) == ("the labels have changed",)
    changed = dataset.cases[1].label
    assert isinstance(changed, Path)
    image = images.read_label(changed)
    image.array[0, 0, 0, 0] = 1
    images.write_image(changed, image.array, affine=image.affine)
    assert outdated(found, dataset) == ("the files of case 'case_1' have changed",)
