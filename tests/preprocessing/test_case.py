"""One case in memory: the steps of the reference in their order, whatever the order of the axes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from nibabel import Nifti1Image, orientations

from autoseg import images, schema
from autoseg.errors import PlanMismatch
from autoseg.geometry import affine_from_spacing, permuted
from autoseg.images import Image
from autoseg.planning.configuration import Plan
from autoseg.preprocessing.case import GridTransform, plan_axes, preprocess_case
from autoseg.preprocessing.resampling import resample_image, resample_labels

PlanMaker = Callable[..., Plan]


def scan(seed: int = 0, channels: int = 1, spacing: tuple[float, float, float] = (2.5, 0.9, 1.1)) -> tuple[Image, np.ndarray]:
    rng = np.random.default_rng(seed)
    array = np.zeros((channels, 12, 20, 17), dtype=np.int16)
    array[:, 1:-2, 3:-1, 2:] = rng.integers(50, 300, size=(channels, 9, 16, 15))
    classes = np.zeros((12, 20, 17), dtype=np.uint8)
    classes[4:8, 6:14, 5:12] = 1
    classes[5:7, 8:12, 7:10] = 2
    return Image(array=array, affine=affine_from_spacing(spacing)), classes


def test_crop_comes_first_then_normalisation_then_resampling(make_plan: PlanMaker) -> None:
    image, classes = scan()
    plan = make_plan()
    prepared = preprocess_case(image, classes, plan=plan, configuration=plan.configuration("3d_fullres"))
    cropped = image.array[:, 1:-2, 3:-1, 2:].astype(np.float32)
    normalized = (np.clip(cropped, 60, 400) - 180) / 50
    shape = (round(2.5 / 2.0 * 9), round(0.9 / 1.2 * 16), round(1.1 / 1.0 * 15))
    np.testing.assert_allclose(prepared.image, resample_image(normalized, shape, anisotropic_axis=None), atol=1e-5)
    np.testing.assert_array_equal(prepared.label, resample_labels(classes[1:-2, 3:-1, 2:], shape, anisotropic_axis=None))
    assert prepared.geometry.shape == prepared.image.shape[1:] == shape
    assert prepared.geometry.box.start == (1, 3, 2) and prepared.geometry.box.shape == (9, 16, 15)
    assert prepared.mask is None


def test_a_planar_configuration_keeps_the_slices(make_plan: PlanMaker) -> None:
    image, classes = scan()
    plan = make_plan()
    prepared = preprocess_case(image, classes, plan=plan, configuration=plan.configuration("2d"))
    assert prepared.geometry.target_spacing == (2.5, 1.2, 1.0)
    assert prepared.image.shape == (1, 9, 12, 16)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_plan_axes_are_the_canonical_ones_permuted(order: tuple[int, int, int], make_plan: PlanMaker) -> None:
    image, classes = scan(channels=2)
    target = (2.0, 1.2, 1.0)  # canonical
    names = ("ct", "zscore")
    straight = make_plan(spacing=target, normalization=names)
    turned = make_plan(spacing=permuted(target, order), normalization=names, axis_order=order)
    first = preprocess_case(image, classes, plan=straight, configuration=straight.configuration("3d_fullres"))
    second = preprocess_case(image, classes, plan=turned, configuration=turned.configuration("3d_fullres"))
    np.testing.assert_allclose(second.image, first.image.transpose(0, *(1 + a for a in order)), atol=1e-4)
    assert first.label is not None and second.label is not None
    np.testing.assert_array_equal(second.label, first.label.transpose(order))
    assert second.geometry.canonical_spacing == first.geometry.spacing == pytest.approx((2.5, 0.9, 1.1))
    assert second.geometry.canonical_shape == (12, 20, 17)


def test_the_mask_is_kept_where_a_channel_is_normalised_inside_it(make_plan: PlanMaker) -> None:
    image, classes = scan()
    image.array[0, 1:4, 3:8, 2:9] = 0  # a corner of the box: outside, no hole
    plan = make_plan(normalization=("zscore_mask",))
    configuration = plan.configuration("3d_fullres")
    with_label = preprocess_case(image, classes, plan=plan, configuration=configuration)
    without = preprocess_case(image, None, plan=plan, configuration=configuration)
    assert with_label.mask is not None and without.mask is not None and without.label is None
    assert not with_label.mask[0, 0, 0] and with_label.mask[-1, -1, -1]
    assert np.mean(with_label.mask != without.mask) < 0.01
    np.testing.assert_array_equal(with_label.image, without.image)


def test_the_geometry_survives_json(make_plan: PlanMaker) -> None:
    image, _ = scan()
    plan = make_plan(axis_order=(2, 0, 1))
    geometry = preprocess_case(image, None, plan=plan, configuration=plan.configuration("3d_fullres")).geometry
    again = schema.parse(GridTransform, json.loads(json.dumps(schema.dump(geometry))), what="it", fix="")
    assert schema.dump(again) == schema.dump(geometry) and again.box == geometry.box


def test_other_class_maps_follow_the_case_onto_its_grid(make_plan: PlanMaker) -> None:
    image, classes = scan()
    plan = make_plan(axis_order=(1, 2, 0), spacing=(1.2, 1.0, 2.0))
    prepared = preprocess_case(image, classes, plan=plan, configuration=plan.configuration("3d_fullres"))
    np.testing.assert_array_equal(prepared.geometry.preprocess_classes(classes), prepared.label)


def test_another_number_of_channels_is_refused(make_plan: PlanMaker) -> None:
    image, _ = scan(channels=2)
    plan = make_plan()
    with pytest.raises(PlanMismatch, match="channels") as raised:
        preprocess_case(image, None, plan=plan, configuration=plan.configuration("3d_fullres"))
    assert raised.value.found == "2"


@pytest.mark.parametrize("order", ["RAS", "LPS", "SAL", "PIR"])
def test_stored_orientation_is_undone_on_the_way_back(order: str, make_plan: PlanMaker) -> None:
    """A plan that sees scans as stored gets the array of the file, and its result is on the canonical grid again."""
    shape = (5, 6, 7)
    made = Nifti1Image(np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1, np.diag([1.5, 1.0, 2.0, 1.0]))
    turned = made.as_reoriented(orientations.axcodes2ornt(order))
    image = images.from_memory(turned.get_fdata(dtype=np.float32), turned.affine)
    for axis_order in ((0, 1, 2), (2, 0, 1)):
        axes = plan_axes(replace(make_plan(), orientation="stored", axis_order=axis_order), image)
        seen = axes.turned(image.array[0])
        assert np.array_equal(seen, turned.get_fdata(dtype=np.float32).transpose(2, 1, 0).transpose(axis_order))
        assert np.array_equal(axes.turned_back(seen), image.array[0])
