"""Every fault comes out by name, all at once, and sound data raises none."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg import checking, images
from autoseg.cases import find, load_classes, load_image
from autoseg.checking import Fault, near_duplicates
from autoseg.checking.statistics import thumbnail
from autoseg.errors import FaultyCases, GridMismatch, SettingsError, UnreadableFile
from autoseg.geometry import affine_from_spacing

pytestmark = pytest.mark.slow

Write = Callable[..., None]
Declare = Callable[..., Path]

# What the README of broken-cases asks for: folder, case, severity, code, what the message must name.
BROKEN = [
    ("01-image-without-label", "hippocampus_118", "error", "missing-label", ["hippocampus_118"]),
    ("02-label-of-another-scan", "hippocampus_019", "error", "grid", ["imagesTr/hippocampus_019_0000", "labelsTr/hippocampus_019", "512"]),
    ("03-truncated-image", "hippocampus_025", "error", "unreadable", ["hippocampus_025_0000.nii.gz", "ends early"]),
    ("04-label-origin-shifted", "hippocampus_035", "error", "grid", ["13.89 mm", "--fix-geometry copy-image", "resample-label"]),
    ("05-label-axes-swapped", "hippocampus_039", "error", "grid", ["shape", "(34, 53, 34)", "(34, 34, 53)"]),
    ("06-nan-and-inf-voxels", "hippocampus_044", "error", "non-finite", ["40 NaN", "3 +Inf", "2 -Inf"]),
    ("07-label-value-not-declared", "hippocampus_049", "error", "labels", ["labelsTr/hippocampus_049", "7 (12 voxels)", "--map-labels"]),
    ("08-float-labels-nearly-integer", "hippocampus_053", "", "", []),
    ("09-image-4d", "hippocampus_060", "error", "geometry", ["4D", "_0001"]),
    ("10-missing-channel", "STS_041", "error", "missing-channel", ["STS_041_0001.nii.gz"]),
    ("11-zero-spacing", "hippocampus_077", "error", "geometry", ["spacing must be positive"]),
    ("12-duplicated-case", "hippocampus_900", "warning", "duplicate", ["hippocampus_088", "hippocampus_900"]),
    ("13-label-stored-lps", "hippocampus_092", "note", "orientation", ["turned to one orientation"]),
    ("14-channels-on-different-grids", "STS_019", "error", "grid", ["(47, 110, 112)", "(47, 134, 136)", "0.9766"]),
    ("15-empty-label", "hippocampus_101", "warning", "empty-label", ["hippocampus_101"]),
    ("16-oblique-affine", "hippocampus_106", "", "", []),
]  # fmt: skip


def telling(faults: tuple[Fault, ...]) -> list[Fault]:
    """Without the remark that a set of three cases has three folds."""
    return [fault for fault in faults if fault.code != "few-cases"]


def codes(root: Path, **keys: Any) -> list[tuple[str | None, str, str]]:
    return [(f.case, f.severity, f.code) for f in telling(checking.check(find(root, **keys), workers=0))]


@pytest.mark.parametrize(("folder", "case", "severity", "code", "named"), BROKEN, ids=[row[0] for row in BROKEN])
def test_each_broken_set_gets_what_it_asks_for(data: Path, folder: str, case: str, severity: str, code: str, named: list[str]) -> None:
    faults = telling(checking.check(find(data / "broken-cases" / folder), workers=0))
    assert {(f.case, f.severity, f.code) for f in faults} == ({(case, severity, code)} if code else set())
    text = str(checking.table(faults))
    for words in named:
        assert words in text, text
    if severity == "error":
        assert all(fault.file and fault.remedy for fault in faults), "file and remedy are named"


@pytest.mark.parametrize("name", ["msd-hippocampus", "sts-mrct", "sts-pet", "isbi-em"])
def test_real_sets_are_sound(data: Path, name: str) -> None:
    assert not [fault for fault in checking.check(find(data / name)) if fault.severity != "note"]


def test_patients_that_come_twice_in_a_real_set_are_told_with_an_expression_that_groups_them(data: Path) -> None:
    (fault,) = telling(checking.check(find(data / "sc-gm"), workers=0))
    assert fault.code == "repeated-patient" and fault.remedy == r"--group-regex '^(.*?\d+)'"
    groups = [case.group for case in find(data / "sc-gm", group_regex=r"^(.*?\d+)").cases]
    assert groups == ["sc_10062", "sc_10062", "sc_9584", "sc_9604", "sc_9709", "sc_9709"]


def test_what_workers_find_is_what_one_process_finds(data: Path) -> None:
    dataset = find(data / "broken-cases" / "07-label-value-not-declared")
    assert checking.check(dataset, workers=2) == checking.check(dataset, workers=0)


def test_sound_cases_have_no_fault(write: Write, declare: Declare) -> None:
    for name in "abcde":
        write(name)
    assert codes(declare()) == []


def test_all_faults_of_all_cases_are_reported_at_once(write: Write, declare: Declare) -> None:
    shifted = affine_from_spacing((3, 1, 2))
    shifted[0, 3] = 5
    strange = np.full((12, 14, 16), 9, dtype=np.uint8)
    spoilt = np.zeros((12, 14, 16), dtype=np.float32)
    spoilt[0, 0, :3] = np.nan
    spoilt[5] = 1
    write("a")
    write("b", label=strange, label_affine=shifted)
    write("c", image=spoilt, label=np.zeros((12, 14, 16), dtype=np.uint8))
    root = declare()
    path = root / "imagesTr" / "a_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    found = codes(root)
    assert ("a", "error", "unreadable") in found
    assert ("b", "error", "grid") in found and ("b", "error", "labels") in found, "the values are examined though the grid is wrong"
    assert ("c", "error", "non-finite") in found and ("c", "warning", "empty-label") in found
    assert [severity for _, severity, _ in found] == sorted((s for _, s, _ in found), key=["error", "warning", "note"].index)


def test_a_flipped_byte_inside_a_compressed_file_is_found(write: Write, declare: Declare) -> None:
    write("a")
    write("b")
    root = declare()
    path = root / "labelsTr" / "b.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    packed = bytearray(gzip.compress(bytes(content)))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(bytes(packed))
    assert codes(root) == [("b", "error", "unreadable")]


def test_an_image_without_content_is_an_error(write: Write, declare: Declare) -> None:
    write("a")
    write("b", image=np.full((12, 14, 16), 7, dtype=np.int16))
    assert codes(declare()) == [("b", "error", "constant")]


def test_channels_in_files_of_their_own_are_told_apart(tmp_path: Path, smooth: Callable[[int], NDArray[Any]]) -> None:
    affine = affine_from_spacing((3, 1, 2))
    moved = affine_from_spacing((3, 1, 2.5))
    spoilt = smooth(8)
    spoilt[0, 0, 0] = np.inf
    label = np.zeros((1, 12, 14, 16), dtype=np.uint8)
    for number, case in enumerate(("broken", "empty", "moved", "spoilt")):
        label[0, 2 + number : 5 + number, 3:6, 3:6] = 1
        images.write_image(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", smooth(number)[None], affine=affine)
        second = {"empty": np.zeros_like(spoilt), "spoilt": spoilt, "broken": spoilt}.get(case, smooth(9))
        images.write_image(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", second[None], affine=moved if case == "moved" else affine)
        images.write_image(tmp_path / "labelsTr" / f"{case}.nii.gz", label, affine=affine)
    (tmp_path / "imagesTr" / "broken_0000.nii.gz").write_bytes(b"")
    value = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    found = {(f.case, f.severity, f.code, Path(f.file or "").name) for f in telling(checking.check(find(tmp_path), workers=0))}
    assert found == {
        ("broken", "error", "unreadable", "broken_0000.nii.gz"),
        ("broken", "error", "non-finite", "broken_0001.nii.gz"),
        ("empty", "warning", "constant", "empty_0001.nii.gz"),
        ("moved", "error", "grid", "moved_0001.nii.gz"),
        ("spoilt", "error", "non-finite", "spoilt_0001.nii.gz"),
    }


def test_geometry_within_a_fiftieth_of_a_voxel_is_taken_from_the_image(write: Write, declare: Declare) -> None:
    for name, shift in (("silent", 0.03), ("noted", 0.08), ("refused", 0.12)):  # mm, along an axis of 2 mm
        affine = affine_from_spacing((3, 1, 2))
        affine[0, 3] += shift
        write(name, label_affine=affine)
    assert codes(declare()) == [("refused", "error", "grid"), ("noted", "note", "corrected")]


def test_a_label_off_the_grid_is_mended_as_the_user_chooses(write: Write, declare: Declare) -> None:
    shifted = affine_from_spacing((3, 1, 2))
    shifted[0, 3] = 4  # two voxels along x
    write("a")
    write("b", label_affine=shifted)
    root = declare()
    assert codes(root) == [("b", "error", "grid")]
    for fix, moved in (("copy-image", 0), ("resample-label", 2)):
        dataset = find(root, fix_geometry=fix)
        assert codes(root, fix_geometry=fix) == [("b", "warning", "grid")]
        case = dataset.cases[1]
        written = images.read(root / "labelsTr" / "b.nii.gz").array[0]
        expected = np.roll(written, moved, axis=2)
        expected[:, :, :moved] = 0
        np.testing.assert_array_equal(load_classes(case, dataset.labels, like=load_image(case, channels=1)), expected)
        assert find(root).cases[1] != case == type(dataset).from_json(dataset.to_json()).cases[1]
    with pytest.raises(SettingsError, match="did you mean 'copy-image'"):
        find(root, fix_geometry="copy")


def test_copying_the_geometry_follows_the_voxels_as_they_are_stored(write: Write, declare: Declare) -> None:
    """The image is stored from left to right, the label from right to left, and its header lies."""
    write("a")
    root = declare()
    image = images.read(root / "imagesTr" / "a_0000.nii.gz")
    label = nibabel.load(root / "labelsTr" / "a.nii.gz")
    mirrored = np.diag([-1.0, 1, 1, 1]) @ label.affine
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), mirrored), root / "labelsTr" / "a.nii.gz")
    dataset = find(root, fix_geometry="copy-image")
    classes = load_classes(dataset.cases[0], dataset.labels, like=image)
    np.testing.assert_array_equal(classes, np.asarray(label.dataobj).T, "voxel by voxel as the files hold them")


def test_a_label_of_another_place_cannot_be_mended(write: Write, declare: Declare) -> None:
    far = affine_from_spacing((3, 1, 2))
    far[2, 3] = 500
    write("a")
    write("b", label_affine=far)
    assert codes(declare(), fix_geometry="resample-label") == [("b", "error", "grid")]


def test_undeclared_values_come_with_counts_and_can_be_mapped(write: Write, declare: Declare) -> None:
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    label[0, 0, :4], label[1, 0, :2] = 1, 3
    write("a", label=label)
    write("b")
    root = declare()
    (fault,) = telling(checking.check(find(root), workers=0))
    assert fault.found == "3 (2 voxels)" and "--map-labels 3=0" in (fault.remedy or "")
    assert codes(root, map_labels={3: 1}) == []


def test_equal_images_are_told_with_both_names_unless_one_group_holds_them(write: Write, declare: Declare) -> None:
    write("p1x", seed=5)
    write("p2y", seed=5)
    write("p2z", seed=6)
    root = declare()
    (fault,) = telling(checking.check(find(root), workers=0))
    assert (fault.severity, fault.code) == ("warning", "duplicate")
    assert "p1x" in (fault.found or "") and "p2y" in (fault.found or "") and "equal labels" in (fault.found or "")
    grouped = find(root, group_regex="^p")
    assert [(f.severity, f.code) for f in checking.check(grouped, workers=0) if f.code == "duplicate"] == [("note", "duplicate")]


def test_near_duplicates_are_found_and_different_images_are_not(
    write: Write, declare: Declare, smooth: Callable[[int], NDArray[Any]]
) -> None:
    rng = np.random.default_rng(0)
    write("a", image=smooth(1))
    write("b", image=(smooth(1) * 1.1 + rng.normal(0, 2, (12, 14, 16)) + 7).astype(np.float32))
    write("c", image=smooth(2))
    (fault,) = telling(checking.check(find(declare()), workers=0))
    assert (fault.severity, fault.code, fault.case) == ("warning", "near-duplicate", "b")


def test_the_frames_of_a_film_are_one_remark(write: Write, declare: Declare, smooth: Callable[[int], NDArray[Any]]) -> None:
    rng = np.random.default_rng(0)
    for number in range(9):
        write(f"film{number}x", image=smooth(5) + rng.normal(size=(12, 14, 16)).astype(np.float32))
    for name in ("other", "another"):
        write(name)
    (fault,) = [fault for fault in telling(checking.check(find(declare()), workers=0)) if fault.code == "near-duplicate"]
    assert fault.case == "film8x" and "film0x, film1x" in str(fault.found) and "(9 in all)" in str(fault.found)


@pytest.mark.parametrize("flips", [[()], [(), (3,), (1, 2)]])
def test_families_of_thumbnails_are_those_of_all_pairs(flips: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(1)
    bases = rng.normal(size=(9, 3, 4, 5))
    stacked, hashes = [], []
    for index in rng.permutation(40):
        array = bases[index % 9] if index % 4 else rng.normal(size=(3, 4, 5))
        array = np.flip(array, [axis - 1 for axis in flips[index % len(flips)]]) if flips[index % len(flips)] else array
        array = array + rng.normal(size=array.shape) * 0.01
        stacked.append((array / np.linalg.norm(array)).astype(np.float32))
        hashes.append(str(index % 20) if index in (1, 21) else f"unlike {index}")  # two of one hash are told as equal
    parent = list(range(40))
    for a in range(40):
        for b in range(a + 1, 40):
            like = max(float(np.sum(stacked[a] * (np.flip(stacked[b], [x - 1 for x in axes]) if axes else stacked[b]))) for axes in flips)
            if like > 0.998 and hashes[a] != hashes[b]:
                old, new = parent[b], parent[a]
                parent = [new if root == old else root for root in parent]
    expected = sorted([index for index in range(40) if parent[index] == root] for root in {*parent} if parent.count(root) > 1)
    families, nearest, _ = near_duplicates._families(np.stack(stacked), hashes, flips)
    assert families == expected and len(families) > 4
    assert all(nearest[family[0]] == 0 and nearest[family[-1]] > 0.998 for family in families)


def test_a_mirrored_copy_is_a_near_duplicate(write: Write, declare: Declare, smooth: Callable[[int], NDArray[Any]]) -> None:
    write("a")
    write("b", image=smooth(1))
    write("c", image=np.ascontiguousarray(smooth(1)[:, ::-1]))
    (fault,) = telling(checking.check(find(declare()), workers=0))
    assert (fault.code, fault.case) == ("near-duplicate", "c") and "mirrored along y" in (fault.found or "")


def test_a_label_in_place_of_the_image_is_an_error(write: Write, declare: Declare) -> None:
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    label[3:6, 3:6, 3:6] = 1
    write("a")
    write("b", image=label, label=label)
    assert codes(declare()) == [("b", "error", "same-file")]


def test_a_label_without_background_is_told(write: Write, declare: Declare) -> None:
    write("a")
    write("b", label=np.ones((12, 14, 16), dtype=np.uint8))
    assert codes(declare()) == [("b", "warning", "no-background")]


def test_an_image_in_place_of_the_label_is_not_offered_to_be_mapped(write: Write, declare: Declare) -> None:
    write("a")
    write("b", label=np.arange(12 * 14 * 16, dtype=np.int16).reshape(12, 14, 16))
    (fault,) = [fault for fault in checking.check(find(declare()), workers=0) if fault.severity == "error"]
    assert fault.code == "labels" and "look like an image" in (fault.remedy or "")


@pytest.mark.parametrize("shape", [(24, 36, 12), (1, 80, 41), (5, 7, 30)])
def test_thumbnails_are_block_means_and_mirror_with_the_image(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    small = thumbnail(array)
    np.testing.assert_allclose(small.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(thumbnail(array[:, ::-1]), small[:, ::-1], atol=1e-6)
    if shape == (24, 36, 12):  # blocks of whole voxels: the slow, obvious way
        means = array.reshape(12, 2, 12, 3, 12, 1).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(small, (means - means.mean()) / np.linalg.norm(means - means.mean()), atol=1e-6)


def test_the_same_label_under_different_images_is_told(write: Write, declare: Declare) -> None:
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    label[3:5, 3:7, 2:4] = 1
    other = np.roll(label, 2, axis=1)
    write("a", label=label)
    write("b", label=label)
    write("c", label=other)
    assert ("b", "warning", "duplicate-label") in codes(declare())


@pytest.mark.parametrize(("names", "told"), [
    (["p08_t0", "p08_t1", "p09_t0"], True),
    (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], True),
    (["patient012_1", "patient012_2", "patient013_1"], True),
    (["hippocampus_001", "hippocampus_003", "hippocampus_004"], False),
    (["BRATS_001", "BRATS_002", "case7"], False),
    (["s1_left", "s1_right", "s2_left"], True),
    (["sc_10062Ses1", "sc_10062Ses2", "sc_9584"], True),
    (["scan12a", "scan12b", "scan13a"], True),
    (["TCGA_CS_4941_19960909", "TCGA_CS_4941_19970101", "TCGA_CS_4942_19970222"], True),
    (["BraTS2021_00005", "BraTS2021_00006", "BraTS2021_00008"], False),
    (["fetal_GA21_operated", "fetal_GA22_operated", "fetal_GA22_notoperated"], False),
])  # fmt: skip
def test_names_that_look_like_repeated_patients_ask_for_a_group(write: Write, declare: Declare, names: list[str], told: bool) -> None:
    for name in names:
        write(name)
    root = declare()
    assert codes(root) == ([(None, "warning", "repeated-patient")] if told else [])


def test_a_spacing_far_from_the_others_is_told(write: Write, declare: Declare) -> None:
    for name in "abcd":
        write(name)
    write("e", affine=affine_from_spacing((3, 10, 2)))
    (fault,) = telling(checking.check(find(declare()), workers=0))
    assert (fault.case, fault.severity, fault.code) == ("e", "warning", "spacing")


def test_a_modality_that_the_intensities_contradict(write: Write, declare: Declare, smooth: Callable[[int], NDArray[Any]]) -> None:
    for number, name in enumerate("abc"):
        write(name, image=(smooth(number) + 1000).clip(0, 4000).astype(np.int16))
    assert codes(declare("CT")) == [(None, "warning", "modality")]
    assert codes(declare("T1")) == []
    write("c", image=(smooth(2) - 900).astype(np.int16))
    assert codes(declare("CT")) == [("a", "warning", "modality"), ("b", "warning", "modality")], "one case has what CT should have"


def test_left_and_right_that_are_exchanged_in_one_case(write: Write, declare: Declare) -> None:
    for number, name in enumerate("abcd"):
        label = np.zeros((12, 14, 16), dtype=np.uint8)
        label[2 + number : 6 + number, 3:8, 1:4] = 1
        label[2 + number : 6 + number, 3:8, 11:14] = 2
        write(name, label=label if name != "c" else label[:, :, ::-1])
    assert codes(declare(kidney_left=1, kidney_right=2)) == [("c", "error", "sides")]
    assert codes(declare(kidney_right=1, kidney_left=2)) == [("c", "error", "sides"), (None, "warning", "sides")], "names of the other side"


SIDES = {"kidney_left": 1, "kidney_right": 2, "lung_left": 3, "lung_right": 4, "hip_left": 5, "hip_right": 6}


def sided(*, turned: Sequence[str] = (), without: Sequence[str] = (), speck: str = "") -> NDArray[Any]:
    """A label of three pairs (`SIDES`), some exchanged or left out; `speck`: of this right one a voxel is left, at the left edge."""
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    for name, value in SIDES.items():
        organ, side = name.split("_")
        top, at_left = 4 * ((value - 1) // 2), (side == "left") != (organ in turned)
        box = (slice(top, top + 3), slice(4, 9), slice(1, 5) if at_left else slice(11, 15))
        if organ in without:
            continue
        if name == speck:
            label[top, 6, 0] = value
        else:
            label[box] = value
    return label


@pytest.mark.parametrize(
    ("odd", "severity"),
    [
        (sided(turned=["kidney", "lung", "hip"]), "error"),
        (sided(turned=["kidney", "lung"], without=["hip"]), "error"),
        (sided(turned=["kidney"]), "warning"),  # the other pairs are sound
        (sided(turned=["kidney"], without=["lung", "hip"]), "warning"),  # one pair of three is not enough
        (sided(speck="kidney_right", without=["lung", "hip"]), "warning"),
        (sided(speck="kidney_right"), "warning"),
    ],
    ids=["all", "two of two", "one of three", "one of one", "a fragment", "a fragment among sound ones"],
)
def test_sides_are_an_error_only_where_all_that_can_be_judged_is_reversed(
    write: Write, declare: Declare, odd: NDArray[Any], severity: str
) -> None:
    for name in "abcde":
        write(name, label=odd if name == "e" else np.roll(sided(), ord(name) % 3, axis=1))
    found = [fault for fault in checking.check(find(declare(**SIDES)), workers=0) if fault.code == "sides"]
    assert [(fault.case, fault.severity) for fault in found] == [("e", severity)], "one remark per case"
    assert "'kidney_left' and 'kidney_right'" in str(found[0].found) and "--exclude e" in str(found[0].remedy)


def test_structures_at_the_midline_or_above_each_other_are_no_error(write: Write, declare: Declare) -> None:
    for name in "abcde":
        label = np.zeros((12, 14, 16), dtype=np.uint8)
        label[1:4, 4:9, 6:9], label[7:10, 4:9, 7:10] = 1, 2  # 2 mm to the right, 18 mm above
        write(name, label=label[:, :, ::-1] if name == "e" else label)
    assert [row for row in codes(declare(gland_left=1, gland_right=2)) if row[2] == "sides"] == [("e", "warning", "sides")]


def test_labels_that_occur_in_no_case_are_told(write: Write, declare: Declare) -> None:
    write("a")
    write("b", label=np.pad(np.ones((2, 2, 2), dtype=np.uint8), ((0, 10), (0, 12), (0, 14))))
    assert codes(declare(lesion=1, cyst=2)) == [(None, "warning", "unused-label")]
    blank = np.zeros((12, 14, 16), dtype=np.uint8)
    write("a", label=blank)
    write("b", label=blank)
    assert (None, "error", "empty-label") in codes(declare())


def test_one_file_per_label_is_checked_as_one_label(tmp_path: Path, smooth: Callable[[int], NDArray[Any]]) -> None:
    affine = affine_from_spacing((3, 1, 2))
    for number, name in enumerate(["s0001", "s0002"]):
        masks = np.zeros((2, 12, 14, 16), dtype=np.uint8)
        masks[0, 2 + number : 6, 2:6, 2:6] = 1
        masks[1, 5:8, 5:9, 5:9] = 1
        images.write_image(tmp_path / name / "ct.nii.gz", (smooth(number) - 50)[None], affine=affine)
        for mask, organ in zip(masks, ("liver", "spleen"), strict=True):
            images.write_image(tmp_path / name / "segmentations" / f"{organ}.nii.gz", mask[None], affine=affine)
    assert set(codes(tmp_path)) == {("s0001", "warning", "overlap"), ("s0002", "warning", "overlap")}


def test_errors_become_one_error_with_a_ready_option(write: Write, declare: Declare) -> None:
    moved = affine_from_spacing((3, 1, 2))
    moved[1, 3] = 9
    write("a", label_affine=moved)
    write("b")
    root = declare()
    (root / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no gzip")
    error = checking.faulty(checking.check(find(root), workers=0))
    assert isinstance(error, FaultyCases) and error.exit_code == 3
    assert {type(single) for single in error.errors} == {GridMismatch, UnreadableFile}
    assert "--exclude a --exclude b" in str(error)
    assert checking.faulty([]) is None


def test_cases_that_are_left_out_take_their_faults_along(write: Write, declare: Declare) -> None:
    write("a")
    write("b")
    root = declare()
    (root / "labelsTr" / "b.nii.gz").unlink()
    dataset = find(root)
    assert [fault.case for fault in telling(checking.check(dataset, workers=0))] == ["b"]
    assert telling(checking.check(dataset.without(["b"]), workers=0)) == []
    with pytest.raises(Exception, match="there is no case 'c'"):
        dataset.without(["c"])


def test_a_value_that_is_mapped_and_occurs_nowhere_is_named(write: Write, declare: Declare) -> None:
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    label[3:6, 3:6, 3:6] = 1
    label[3, 3, 3] = 3
    write("a", label=label)
    write("b")
    root = declare()
    assert codes(root, map_labels={3: 1}) == []
    (fault,) = telling(checking.check(find(root, map_labels={3: 1, 30: 1}), workers=0))
    assert (fault.severity, fault.code, fault.found) == ("warning", "unused", "--map-labels 30=1")
