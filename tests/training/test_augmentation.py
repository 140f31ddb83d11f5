import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg import presets
from autoseg.geometry import Box
from autoseg.planning.mirroring import Mirroring
from autoseg.training import augmentation, batchgenerators_backend
from autoseg.training.augmentation import Spatial, affine_matrix, augment, draw_spatial, source_box, warp
from autoseg.training.sampling import generator_for
from autoseg.training.settings import read_settings

pytestmark = pytest.mark.slow

REFERENCE = read_settings(presets.planner("nnunet").values["training"]).augmentation
NOTHING = replace(batchgenerators_backend.mirroring_only(REFERENCE), rotation=0.0, scaling=0.0, elastic=0.0, mirror=0.0)


@pytest.fixture
def numbers(golden):
    return json.loads((golden / "golden-numerics.json").read_text())


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.normal(size=(3, 2, 6, 9, 7)), dtype=torch.float32)
    label = torch.tensor(rng.integers(0, 4, size=(3, 6, 9, 7)), dtype=torch.int16)
    return image, label


# --- the reference's own numbers ---------------------------------------------------------------------------------------------


def test_affine_matrix_equals_the_reference(numbers):
    expected = numbers["affine"]["3d_angles_.1_.2_.3_scales_1.1"]
    assert affine_matrix([0.1, 0.2, 0.3], [1.1] * 3) == pytest.approx(np.array(expected), abs=1e-12)
    planar = affine_matrix([0.3, 0, 0], [1, 0.8, 0.8])
    assert planar[1:, 1:] == pytest.approx(np.array(numbers["affine"]["2d_angle_.3_scale_.8"]), abs=1e-12)


@pytest.mark.parametrize("planar", [True, False])
def test_warped_image_equals_the_reference(numbers, planar):
    given = numbers["spatial"]
    if planar:
        image, patch = torch.tensor(given["image2d"])[:, None], (1, *given["patch"])
        matrix = affine_matrix([given["angle"], 0, 0], [1, given["scale"], given["scale"]])
        expected = torch.tensor(given["image_out"])[:, None]
    else:
        image, patch = torch.tensor(given["image3d"]), tuple(given["patch3d"])
        matrix = affine_matrix(given["angles3d"], [given["scale3d"]] * 3)
        expected = torch.tensor(given["image3d_out"])
    corner = [-(n - p) / 2 for n, p in zip(image.shape[1:], patch, strict=True)]  # the reference turns about the image's centre
    whole = Box(start=tuple(corner), stop=tuple(a + n for a, n in zip(corner, image.shape[1:], strict=True)))
    grid = augmentation.sampling_grid(patch, whole, Spatial(matrix=matrix), image.device)
    sampled = torch.nn.functional.grid_sample(image[None], grid[None], align_corners=False)[0]
    assert torch.allclose(sampled, expected, atol=2e-6)


def test_blur_kernels_and_blur_equal_the_reference(numbers):
    for sigma, kernel in numbers["blur_kernels"].items():
        assert augmentation.blur_kernel(float(sigma)).tolist() == pytest.approx(kernel, abs=1e-6)
    rows = torch.tensor(numbers["gamma"]["in"])[:, None]
    blurred = augmentation.blur(rows, torch.tensor([[1.0, *numbers["blur_example"]["sigma"]]]))
    assert torch.allclose(blurred[:, 0], torch.tensor(numbers["blur_example"]["out"]), atol=1e-6)


def test_gamma_contrast_and_low_resolution_equal_the_reference(numbers):
    given = numbers["gamma"]
    rows, exponent = torch.tensor(given["in"])[:, None], torch.full((1, 1, 1, 1), given["gamma"])
    assert torch.allclose(augmentation.gamma(rows, exponent)[:, 0], torch.tensor(given["plain"]), atol=1e-6)
    assert torch.allclose(-augmentation.gamma(-rows, exponent)[:, 0], torch.tensor(given["inverted"]), atol=1e-6)
    stretched = augmentation.contrast(rows, torch.full((1, 1, 1, 1), 1.2))[:, 0]
    assert torch.allclose(stretched, torch.tensor(numbers["contrast_1.2_preserve"]), atol=1e-6)
    coarse = augmentation.low_resolution(rows[0], 0.6, in_plane_only=True)
    assert torch.allclose(coarse, torch.tensor(numbers["lowres_0.6"])[0], atol=1e-6)


# --- spatial -----------------------------------------------------------------------------------------------------------------


def slow_warp(image, patch, start, matrix, displacement):
    """Voxel by voxel: the patch's voxel, centred, through the matrix, displaced, looked up in the case."""
    half = (np.array(patch) - 1) / 2
    out = np.zeros((len(image), *patch))
    for voxel in np.ndindex(*patch):
        place = np.array(start) + half + matrix @ (np.array(voxel) - half) + displacement[(slice(None), *voxel)]
        for c, channel in enumerate(image):
            out[(c, *voxel)] = ndimage.map_coordinates(channel, place[:, None], order=1, mode="grid-constant")[0]
    return out


@pytest.mark.parametrize("elastic", [False, True])
def test_warp_equals_the_voxel_by_voxel_look_up_in_the_case(elastic):
    rng = np.random.default_rng(3)
    case, patch, start = rng.normal(size=(2, 14, 17, 15)), (4, 7, 6), (5, 4, 6)
    matrix = affine_matrix([0.4, -0.3, 0.2], [1.2, 0.8, 1.1])
    field = torch.tensor(rng.normal(size=(3, *patch)), dtype=torch.float32) if elastic else None
    spatial = Spatial(matrix=matrix, displacement=field)
    box = source_box(patch, spatial)
    padded = np.pad(case, ((0, 0), *[(20, 20)] * 3))
    where = tuple(slice(20 + a + b, 20 + a + c) for a, b, c in zip(start, box.start, box.stop, strict=True))
    source = torch.tensor(padded[(slice(None), *where)], dtype=torch.float32)
    shifts = np.zeros((3, *patch)) if field is None else field.numpy()  # as dense as the patch: not interpolated
    warped, _ = warp(source, [], spatial, patch=patch, linear_labels=False)
    assert np.allclose(warped.numpy(), slow_warp(case, patch, start, matrix, shifts), atol=1e-4)


def test_labels_take_the_class_of_the_nearest_voxel_or_of_the_largest_share():
    rng = np.random.default_rng(5)
    label = torch.tensor(rng.integers(0, 4, size=(1, 12, 11)), dtype=torch.int16)
    matrix = affine_matrix([0.5, 0, 0], [1, 0.9, 0.9])
    patch = (1, 5, 6)
    box = source_box(patch, Spatial(matrix=matrix))
    source = label[:, : box.shape[1], : box.shape[2]]
    image = torch.zeros(1, *box.shape)
    nearest = warp(image, [source], Spatial(matrix=matrix), patch=patch, linear_labels=False)[1][0]
    linear = warp(image, [source], Spatial(matrix=matrix), patch=patch, linear_labels=True)[1][0]
    half, disagreements = (np.array(patch) - 1) / 2, 0
    for voxel in np.ndindex(*patch):
        place = half + matrix @ (np.array(voxel) - half) - np.array(box.start)
        assert nearest[voxel] == source[tuple(np.rint(place).astype(int))]
        shares = [ndimage.map_coordinates((source.numpy() == c).astype(float), place[:, None], order=1)[0] for c in range(4)]
        assert shares[int(linear[voxel])] == pytest.approx(max(shares), abs=1e-5)
        disagreements += int(linear[voxel] != nearest[voxel])
    assert disagreements > 0


def test_rotation_and_scaling_are_drawn_as_often_and_as_far_as_set():
    patch, generator = (16, 20, 18), generator_for(1)
    settings = replace(REFERENCE, rotation=0.2, scaling=0.2)
    drawn = [draw_spatial(patch, settings=settings, generator=generator) for _ in range(1500)]
    assert 0.32 < np.mean([d is not None for d in drawn]) < 0.40  # 1 - 0.8 * 0.8
    matrices = [d.matrix for d in drawn if d is not None]
    scales = np.array([np.cbrt(np.linalg.det(m)) for m in matrices])
    scaled = scales[np.abs(scales - 1) > 1e-9]
    assert 0.7 <= scaled.min() < 0.75 and 1.35 < scaled.max() <= 1.4
    angles = [np.degrees(np.arccos(np.clip((np.trace(m / s) - 1) / 2, -1, 1))) for m, s in zip(matrices, scales, strict=True)]
    assert 30 < max(angles) < 55  # of three turns of up to 30 degrees each


@pytest.mark.parametrize(
    ("patch", "planar", "limit"),
    [((1, 40, 40), True, 180), ((1, 40, 64), True, 15), ((8, 40, 40), True, 180), ((20, 40, 40), False, 30)],
)
def test_slices_of_planar_and_anisotropic_patches_stay_in_their_plane(patch, planar, limit):
    assert augmentation.rotation_limit(patch, REFERENCE) == limit
    settings = replace(REFERENCE, rotation=1.0, scaling=1.0, elastic=1.0)
    generator = generator_for(2)
    for _ in range(20):
        spatial = draw_spatial(patch, settings=settings, generator=generator)
        in_plane = np.allclose(spatial.matrix[0], [1, 0, 0]) and np.allclose(spatial.matrix[:, 0], [1, 0, 0])
        assert in_plane == planar and bool((spatial.displacement[0] == 0).all()) == planar
        if planar:
            assert source_box(patch, spatial).shape[0] <= patch[0] + 2


def test_the_source_box_of_a_patch_that_is_not_warped_is_the_patch():
    assert source_box((4, 5, 6), None) == Box(start=(0, 0, 0), stop=(4, 5, 6))


# --- batch -------------------------------------------------------------------------------------------------------------------


def test_the_same_generator_state_gives_the_same_batch_and_another_a_different_one(batch):
    image, label = batch
    settings = replace(REFERENCE, noise=0.5, blur=0.5, gamma=0.5)

    def augmented(seed):
        return augment(image, [label], settings=settings, generator=generator_for(seed), mirroring=Mirroring(axes=(0, 1, 2)))

    first, again, other = augmented(1), augmented(1), augmented(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1][0], again[1][0])
    assert not torch.equal(first[0], other[0])


def test_nothing_drawn_leaves_the_batch_as_it_is_and_the_input_is_never_changed(batch):
    image, label = batch
    before = image.clone(), label.clone()
    out, maps, _ = augment(image, [label], settings=NOTHING, generator=generator_for(0), mirroring=Mirroring(axes=(0, 1, 2)))
    assert torch.equal(out, image) and torch.equal(maps[0], label)
    augment(
        image,
        [label],
        settings=replace(REFERENCE, noise=1.0, brightness=1.0),
        generator=generator_for(0),
        mirroring=Mirroring(axes=(0, 1, 2)),
    )
    assert torch.equal(image, before[0]) and torch.equal(label, before[1])


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted"])
def test_each_transform_touches_the_samples_it_is_drawn_for_and_no_label(batch, name):
    image, label = batch

    def augmented(probability, seed):
        settings = replace(NOTHING, **{name: probability}, channel=1.0, low_resolution_range=(0.5, 0.7))
        return augment(image, [label], settings=settings, generator=generator_for(seed))

    never, always = augmented(0.0, 4), augmented(1.0, 4)
    assert torch.equal(never[0], image)
    assert all(bool((always[0][i, c] != image[i, c]).any()) for i in range(3) for c in range(2))
    assert torch.equal(always[1][0], label)
    touched = [bool((augmented(0.3, seed)[0][0] != image[0]).any()) for seed in range(150)]
    assert 0.18 < np.mean(touched) < 0.42


def test_noise_has_the_drawn_standard_deviation_in_all_channels():
    image = torch.zeros(2, 2, 16, 20, 18)
    noisy, *_ = augment(image, [], settings=replace(NOTHING, noise=1.0, noise_sigma=(0.08, 0.08)), generator=generator_for(0))
    assert noisy.std(dim=(2, 3, 4)).tolist() == [pytest.approx([0.08, 0.08], rel=0.05)] * 2


def test_brightness_and_exponents_lie_below_one_as_often_as_above():
    drawn = augmentation._around_one(4000, (0.7, 1.5), generator_for(1))
    assert 0.46 < float((drawn < 1).float().mean()) < 0.54 and float(drawn.min()) >= 0.7 and float(drawn.max()) <= 1.5


def test_blur_is_that_of_scipy_with_its_own_sigma_per_row_and_axis():
    rows = torch.tensor(np.random.default_rng(2).normal(size=(2, 9, 8, 10)), dtype=torch.float32)
    sigmas = torch.tensor([[0.6, 0.9, 0.7], [1.0, 0.5, 0.8]])
    blurred = augmentation.blur(rows, sigmas)
    for row, sigma, out in zip(rows, sigmas, blurred, strict=True):
        reach = [len(augmentation.blur_kernel(float(s))) // 2 for s in sigma]
        expected = ndimage.gaussian_filter(row.numpy(), sigma.numpy(), mode="mirror", radius=reach)
        assert np.allclose(out.numpy(), expected, atol=1e-5)


def test_blur_of_an_axis_shorter_than_its_kernel_is_reflected_again_and_again():
    row = torch.tensor([[[[1.0, 2.0]]]])
    assert torch.isfinite(augmentation.blur(row, torch.tensor([[1.0, 1.0, 1.0]]))).all()


def test_mirroring_flips_image_and_labels_together(batch):
    image, label = batch
    image = label[:, None].float().repeat(1, 2, 1, 1, 1)
    seen = set()
    for seed in range(30):
        out, (flipped,), _ = augment(
            image, [label], settings=replace(NOTHING, mirror=0.5), generator=generator_for(seed), mirroring=Mirroring(axes=(0, 2))
        )
        assert torch.equal(out[:, 0].to(torch.int16), flipped)
        for i in range(3):
            seen |= {axes for axes in ((), (0,), (2,), (0, 2), (1,)) if torch.equal(flipped[i], label[i].flip(axes))}
    assert seen == {(), (0,), (2,), (0, 2)}


def test_flipping_the_left_right_axis_swaps_the_paired_labels_and_no_other_axis_does():
    label = torch.zeros(1, 2, 2, 6, dtype=torch.int16)
    label[..., 0], label[..., 5], label[..., 2] = 1, 2, 3  # left, right, and something in the middle
    settings = replace(NOTHING, mirror=1.0)
    image = torch.zeros(1, 1, 2, 2, 6)
    sided = Mirroring(axes=(2,), swap_axis=2, pairs=((1, 2),))
    _, (flipped,), _ = augment(image, [label], settings=settings, generator=generator_for(0), mirroring=sided)
    assert flipped[0, 0, 0].tolist() == [1, 0, 0, 3, 0, 2]  # class 1 stays on its side
    _, (flipped,), _ = augment(image, [label], settings=settings, generator=generator_for(0), mirroring=replace(sided, axes=(1,)))
    assert flipped[0, 0, 0].tolist() == [1, 0, 3, 0, 0, 2]


def test_a_flipped_sample_of_a_case_with_one_side_annotated_has_the_other_side_annotated():
    label = torch.zeros(6, 2, 2, 6, dtype=torch.int16)
    label[..., 0], label[..., 5] = 1, 3  # left; the side of 2, right, was not annotated; 3 is in the middle
    annotated, given = torch.tensor([[True, True, False, True]] * 6), torch.tensor([[True, True, False, True]] * 6)
    seen = set()
    for axis, swap_axis in ((2, 2), (1, 2)):
        _, (flipped,), known = augment(
            torch.zeros(6, 1, 2, 2, 6),
            [label],
            settings=replace(NOTHING, mirror=0.5),
            generator=generator_for(1),
            mirroring=Mirroring(axes=(axis,), swap_axis=swap_axis, pairs=((1, 2),)),
            annotated=annotated,
        )
        for sample, row in zip(flipped, known.tolist(), strict=True):
            assert row == [True, not (sample == 2).any(), bool((sample == 2).any()), True]
            seen.add((axis, *row))
    assert seen == {(2, True, True, False, True), (2, True, False, True, True), (1, True, True, False, True)}
    assert torch.equal(annotated, given)


def test_batchgenerators_as_backend_draws_from_our_generator_alone(batch):
    image, _ = batch
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = (batchgenerators_backend.augment(image, settings=REFERENCE, generator=generator_for(s)) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == image.shape
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("shape", [(1, 15, 21), (4, 15, 21), (9, 15, 13)])  # planar, thick slices, neither
def test_low_resolution_of_batchgenerators_is_ours(shape):
    image = torch.tensor(np.random.default_rng(4).normal(size=(2, 2, *shape)), dtype=torch.float32)
    settings = replace(NOTHING, low_resolution=1.0, channel=1.0, low_resolution_range=(0.59, 0.59))
    ours, *_ = augment(image, [], settings=settings, generator=generator_for(0))
    theirs = batchgenerators_backend.augment(image, settings=settings, generator=generator_for(0))
    assert not torch.equal(ours, image) and torch.allclose(ours, theirs, atol=1e-5)


def test_blur_of_batchgenerators_has_its_own_sigma_per_axis():
    image = torch.zeros(8, 1, 9, 9, 9)
    image[:, 0, 4, 4, 4] = 1
    settings = replace(NOTHING, blur=1.0, channel=1.0)
    for blurred in batchgenerators_backend.augment(image, settings=settings, generator=generator_for(0))[:, 0]:
        beside = (float(blurred[5, 4, 4]), float(blurred[4, 5, 4]), float(blurred[4, 4, 5]))
        assert max(beside) > 1.001 * min(beside)


def test_intensity_transforms_change_images_as_much_as_those_of_batchgenerators():
    """Mean, spread and smoothness of many augmented images agree between the two backends, transform by transform."""
    rng = np.random.default_rng(1)
    image = torch.tensor(ndimage.gaussian_filter(rng.normal(size=(40, 1, 10, 12, 14)), (0, 0, 1, 1, 1)) * 4, dtype=torch.float32)

    def facts(x):
        return torch.stack([x.mean(dim=(1, 2, 3, 4)), x.std(dim=(1, 2, 3, 4)), x.diff(dim=-1).abs().mean(dim=(1, 2, 3, 4))]).mean(dim=1)

    for name in ("blur", "brightness", "contrast", "gamma", "gamma_inverted"):
        settings = replace(NOTHING, **{name: 1.0}, channel=1.0)
        ours, *_ = augment(image, [], settings=settings, generator=generator_for(0))
        theirs = batchgenerators_backend.augment(image, settings=settings, generator=generator_for(0))
        change, reference = facts(ours) - facts(image), facts(theirs) - facts(image)
        assert torch.allclose(change, reference, atol=0.06), name
        assert float((ours - image).abs().mean()) == pytest.approx(float((theirs - image).abs().mean()), rel=0.35), name
