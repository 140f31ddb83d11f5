"""Segmenting: every axis order of a file, every kind of configuration, and the ways a flip changes sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg import images, prediction
from autoseg.errors import ModelError, NotEnough, PlanMismatch, UnreadableFile
from autoseg.images import Image
from autoseg.planning.configuration import Configuration, Plan
from autoseg.prediction import Model, open_model, segment, segment_preprocessed, segmenting
from autoseg.prediction import logits as logits_module
from autoseg.prediction.logits import flips_of, in_safe_precision
from autoseg.prediction.memory import Layout, Work, bands_of
from autoseg.preprocessing.case import preprocess_case
from autoseg.tiling import Flips, predict_slabs
from autoseg.workspace import Workspace

from .conftest import REGIONS, only

pytestmark = pytest.mark.slow

SHAPE = (22, 25, 9)  # (x, y, z) of the file below; spacings 2.6, 1.2, 0.9 mm
AFFINE = np.array([[2.6, 0, 0, -20], [0, 1.2, 0, 5], [0, 0, 0.9, 11], [0, 0, 0, 1.0]])


def scan(seed: int = 0) -> NDArray[np.float32]:
    """An array `(x, y, z, c)` with a border of zeros that is cropped away."""
    rng = np.random.default_rng(seed)
    array = np.zeros((*SHAPE, 2), dtype=np.float32)
    array[2:, :-3, 1:] = rng.standard_normal((SHAPE[0] - 2, SHAPE[1] - 3, SHAPE[2] - 1, 2))
    return array


def in_memory(array: NDArray[np.float32] | None = None, affine: NDArray[np.float64] = AFFINE) -> Image:
    return images.from_memory(scan() if array is None else array, affine, channels=2)


def orders() -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    return [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)]


def stored_in(
    array: NDArray[Any], affine: NDArray[np.float64], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same scan in another axis order: stored axis i is axis `axes[i]`, reversed where `flips[i]`."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for i, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        turn[axis, i] = -1 if flip else 1
        turn[axis, 3] = array.shape[axis] - 1 if flip else 0
    turned = array.transpose(*axes, *range(3, array.ndim))
    turned = np.flip(turned, [i for i, flip in enumerate(flips) if flip])
    return np.ascontiguousarray(turned), affine @ turn


def test_all_48_axis_orders_of_a_file_give_one_segmentation_on_the_grid_of_each_file(
    tmp_path: Path, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), "3d_fullres")
    model = open_model(make_workspace(plan, folds=1).root, device="cpu")
    expected: NDArray[Any] | None = None
    assert len(orders()) == 48
    for axes, flips in orders():
        array, affine = stored_in(scan(), AFFINE, axes, flips)
        paths = []
        for channel in range(2):
            header = nibabel.Nifti1Image(array[..., channel], affine)
            header.header.set_sform(affine, 1)
            header.header.set_qform(affine, 2)
            paths.append(tmp_path / f"scan_000{channel}.nii.gz")
            nibabel.save(header, paths[-1])
        image = images.read_channels(paths, channels=2)
        result = segment(model, image, tta=False)
        written = tmp_path / "label.nii.gz"
        images.write_label(written, plan.labels.decode(result.classes), like=image)
        label, source = nibabel.load(written), nibabel.load(paths[0])
        assert label.shape == source.shape
        assert np.array_equal(label.affine, source.affine)
        assert (label.header["sform_code"], label.header["qform_code"]) == (1, 2)
        inverse = np.argsort(axes)
        found = np.flip(np.asarray(label.dataobj), [i for i, flip in enumerate(flips) if flip]).transpose(inverse)
        expected = found if expected is None else expected
        assert np.array_equal(found, expected), (axes, flips)
    assert expected is not None and len(np.unique(expected)) > 2, "the random network draws too little to test anything"


def logits_of(networks: Sequence[torch.nn.Module], volume: Tensor, plan: Plan, configuration: Configuration) -> Tensor:
    slabs = predict_slabs(
        in_safe_precision(networks, "cpu"),
        volume,
        patch=configuration.patch_size,
        heads=plan.labels.output_channels,
        flips=flips_of(plan, configuration, tta=True),
    )
    return torch.cat([slab for _, slab in slabs], dim=1)


@pytest.mark.parametrize("name", ["3d_fullres", "2d", "3d_lowres", "3d_cascade"])
def test_every_configuration_segments_on_the_grid_of_the_scan(
    name: str, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), name, "3d_lowres")
    model = open_model(make_workspace(plan, folds=1).root, configuration=name, device="cpu")
    assert [stage.configuration.name for stage in model.stages] == (["3d_lowres", name] if name == "3d_cascade" else [name])
    result = segment(model, in_memory(), tta=False)
    assert result.classes.shape == SHAPE[::-1]
    assert result.classes.max() < plan.labels.class_count and len(np.unique(result.classes)) > 1
    assert not result.classes[0].any() and not result.classes[:, -3:].any() and not result.classes[..., :2].any(), "beyond the crop"
    assert set(result.seconds) == {"preprocess", "network", "resample"} and min(result.seconds.values()) >= 0


def test_the_label_map_is_that_of_resampling_all_scores_at_once(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres")).root, device="cpu")
    image = in_memory()
    prepared = preprocess_case(image, None, plan=model.plan, configuration=model.configuration)
    logits = logits_of(model.stages[0].networks, torch.from_numpy(prepared.image), model.plan, model.configuration)
    size = prepared.geometry.box.shape
    assert prepared.geometry.anisotropic_axis_back is None, "else this slow version is not the same rule"
    dense = torch.nn.functional.interpolate(logits[None].double(), size=size, mode="trilinear", align_corners=False)[0]
    turned = np.zeros(tuple(image.shape[axis] for axis in model.plan.axis_order), dtype=int)
    turned[prepared.geometry.box.slices] = dense.argmax(0).numpy()
    expected = turned.transpose(np.argsort(model.plan.axis_order))
    found = segment(model, image).classes
    assert np.mean(found != expected) < 1e-3, "only ties may be decided by rounding"


@pytest.mark.parametrize("regions", [False, True])
def test_probabilities_lie_on_the_grid_of_the_scan_and_agree_with_the_classes(
    regions: bool, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(REGIONS, swap_axis=None) if regions else make_plan(), "3d_fullres")
    model = open_model(make_workspace(plan, folds=1).root, device="cpu")
    plain = segment(model, in_memory(), tta=False)
    result = segment(model, in_memory(), tta=False, probabilities=True)
    assert plain.probabilities is None and result.probabilities is not None
    assert result.probabilities.shape == (plan.labels.output_channels, *SHAPE[::-1])
    if regions:
        assert np.array_equal(result.classes, plan.labels.paint(result.probabilities > 0.5))
        assert not result.probabilities[:, 0].any(), "beyond the crop"
    else:
        assert np.allclose(result.probabilities.sum(0), 1, atol=1e-5)
        assert np.array_equal(result.classes, result.probabilities.argmax(0))
        assert (result.probabilities[0, 0] == 1).all(), "beyond the crop"
    assert np.array_equal(result.classes, plain.classes)


@pytest.mark.parametrize("regions", [False, True])
def test_every_layout_gives_the_same_classes_and_probabilities(
    regions: bool, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = only(make_plan(REGIONS, swap_axis=None) if regions else make_plan(), "3d_fullres")
    model = open_model(make_workspace(plan, folds=1).root, device="cpu")
    expected = segment(model, in_memory(), tta=False, probabilities=True)
    assert expected.probabilities is not None
    for along, number in [(0, 3), (1, 1), (2, 2)]:

        def layout(work: Work, along: int = along, number: int = number, **_: Any) -> Layout:
            return Layout(along=along, bands=bands_of(work.shape[0 if along else 1], number), at_once=1, needed=0)

        monkeypatch.setattr(segmenting, "layout_within", layout)
        found = segment(model, in_memory(), tta=False, probabilities=True)
        assert found.probabilities is not None
        assert np.allclose(found.probabilities, expected.probabilities, atol=1e-3)
        assert np.mean(found.classes != expected.classes) < 1e-3, "only ties may be decided by rounding"
        assert np.mean(segment(model, in_memory(), tta=False).classes != expected.classes) < 1e-3


def test_a_scan_that_does_not_fit_into_the_memory_allowed_is_refused_before_the_network_runs(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    monkeypatch.setattr(logits_module, "predict_slabs", lambda *_, **__: pytest.fail("the network was run"))
    with pytest.raises(NotEnough, match="--max-memory"):
        segment(model, in_memory(), max_memory=10**7)


def test_a_fold_ensemble_is_the_mean_of_the_logits(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace().root, configuration="2d", device="cpu")
    networks, volume = model.stages[0].networks, torch.randn(2, 3, 12, 16)
    one, other = (logits_of([network], volume, model.plan, model.configuration) for network in networks)
    assert torch.allclose(logits_of(networks, volume, model.plan, model.configuration), (one + other) / 2, atol=1e-5)
    assert not torch.allclose(one, other)


class _Prepared:
    """A preprocessed case in memory."""

    def __init__(self, image: Image, plan: Plan, name: str) -> None:
        prepared = preprocess_case(image, None, plan=plan, configuration=plan.configuration(name))
        self.geometry, self._image = prepared.geometry, prepared.image

    def image(self) -> NDArray[np.float32]:
        return self._image


def test_validation_and_prediction_give_the_same_segmentation(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), "3d_cascade", "3d_lowres")
    model = open_model(make_workspace(plan, folds=1).root, configuration="3d_cascade", device="cpu")
    first, second = model.stages
    image = in_memory()
    low: Any = _Prepared(image, plan, "3d_lowres")
    high: Any = _Prepared(image, plan, "3d_cascade")
    network = first.networks[0].train()
    coarse = segment_preprocessed(network, low, plan=plan, configuration=first.configuration, device="cpu")
    assert network.training, "the network is given back as it was"
    previous = high.geometry.preprocess_classes(coarse)
    fine = segment_preprocessed(second.networks[0], high, plan=plan, configuration=second.configuration, device="cpu", previous=previous)
    network.eval()
    assert np.array_equal(fine, segment(model, image).classes)


def test_the_same_scan_gives_the_same_result_twice_and_reads_nothing(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres")).root, device="cpu")
    first = segment(model, in_memory())
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("a file was opened"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("a file was read"))
    assert np.array_equal(segment(model, in_memory()).classes, first.classes)


def test_a_planar_network_is_not_shown_mirror_images_it_cannot_tell_apart(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(swap_axis=None)
    assert flips_of(plan, plan.configuration("2d"), tta=True).axes == (1, 2)
    assert flips_of(plan, plan.configuration("3d_fullres"), tta=True).axes == (0, 1, 2)
    assert flips_of(plan, plan.configuration("3d_fullres"), tta=False) == Flips()


def test_a_flip_of_the_lateral_axis_exchanges_heads_and_previous_channels(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    a, b = plan.labels.paired_classes[0]
    fine = flips_of(plan, plan.configuration("3d_cascade"), tta=True)
    assert fine.swap_axis == 0 and fine.pairs == ((a, b),)
    assert fine.input_pairs == ((2 + a - 1, 2 + b - 1),), "two image channels, then class 1, class 2, ..."
    assert flips_of(plan, plan.configuration("3d_fullres"), tta=True).input_pairs == ()


def test_regions_are_paired_by_their_members(make_plan: Callable[..., Plan]) -> None:
    from autoseg.labels import make_labels

    values = {"background": 0, "left": 1, "right": 2, "left core": 3, "right core": 4}
    pairs = (("left", "right"), ("left core", "right core"))
    sides = {"l": ((1, 3), 1), "r": ((2, 4), 2), "lc": ((3,), 3), "rc": ((4,), 4)}
    both = {"all": ((1, 2, 3, 4), 1), "r": ((2, 4), 2), "lc": ((3,), 3), "rc": ((4,), 4)}
    plan = make_plan(make_labels(values, regions=sides, pairs=pairs))
    assert flips_of(plan, plan.configurations[0], tta=True).pairs == ((0, 1), (2, 3))
    lopsided = make_plan(make_labels(values, regions=both, pairs=pairs))
    assert flips_of(lopsided, plan.configurations[0], tta=True).axes == (1, 2), "no head stands for the left side: no flip"


def test_a_lateral_phantom_keeps_its_sides_under_flips(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    """A network that calls the low half of axis 0 left: without the exchange, each flip would vote for the other side."""

    class Sided(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 4, *x.shape[2:])
            middle = x.shape[2] // 2
            logits[:, 2, :middle] = 1  # class 2 is left: classes follow the values, 5 before 7
            logits[:, 1, middle:] = 1
            return logits

    plan = make_plan()
    sided = Sided()
    volume = torch.zeros(2, 4, 12, 16)
    logits = logits_of([sided], volume, plan, plan.configuration("3d_fullres"))
    classes = logits.argmax(0)
    assert (classes[:2] == 2).all() and (classes[2:] == 1).all()
    confused = logits_of([sided], volume, replace(plan, swap_axis=None), plan.configuration("3d_fullres"))
    assert torch.allclose(confused[1], confused[2], atol=1e-5), "the oracle: without the exchange the sides are a tie"


def test_another_number_of_channels_is_refused(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    with pytest.raises(PlanMismatch, match="channels"):
        segment(model, images.from_memory(scan()[..., 0], AFFINE, channels=1))


def test_unusual_scans_are_segmented_with_a_warning(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    assert not _about(model, in_memory(), "spacing", "channel")
    assert "along x is 26 mm" in _about(model, in_memory(affine=AFFINE @ np.diag([10, 1, 1, 1])), "spacing")
    far = scan()
    far[..., 0] = np.abs(far[..., 0]) + 500
    assert "'ct'" in _about(model, in_memory(far), "range of the structures")
    positive = np.abs(scan())
    assert "Hounsfield" in _about(model, in_memory(positive), "no negative values")
    flat = scan()
    flat[..., 1] = 3
    assert "'mr'" in _about(model, in_memory(flat), "same value everywhere")


def test_values_that_are_not_numbers_are_refused(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    broken = scan()
    broken[5, 5, 5, 1] = np.nan
    with pytest.raises(UnreadableFile, match="'mr'"):
        segment(model, in_memory(broken))


def test_an_empty_result_is_said_to_be_empty(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    head = model.stages[0].networks[0].body.decoder.heads[-1]
    head.bias.data[0] = 1e4
    result = segment(model, in_memory(), tta=False)
    assert not result.classes.any()
    assert any("nothing was found" in warning for warning in result.warnings)


def test_a_network_of_nan_is_named_instead_of_drawn(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace(only(make_plan(), "3d_fullres"), folds=1).root, device="cpu")
    model.stages[0].networks[0].body.decoder.heads[-1].bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        prediction.segment(model, in_memory(), tta=False)


def _about(model: Model, image: Image, *words: str) -> str:
    found = segment(model, image, tta=False).warnings
    return " ".join(warning for warning in found if any(word in warning for word in words))
