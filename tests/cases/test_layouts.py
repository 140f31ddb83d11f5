"""Each recipe of `datasets/` on a small tree with the names that the data set has as its authors publish it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg import presets
from autoseg.cases import MODALITIES, Dataset, find, find_inputs
from autoseg.cases.recipes import read_recipe
from autoseg.errors import LabelError, MissingChannel, MissingLabel, UnknownLayout

Touch = Callable[..., Path]


def files_of(dataset: Dataset) -> dict[str, list[str]]:
    """Case name to its files, images first, relative to the data set."""
    found = {}
    for case in dataset.cases:
        label = case.label
        paths = [*case.images, *([label] if isinstance(label, Path) else [path for _, path in label or ()])]
        found[case.name] = [path.relative_to(dataset.root).as_posix() for path in paths]
    return found


def declare(root: Path, **keys: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(keys))


def test_every_recipe_that_is_shipped_can_be_read_and_names_its_source() -> None:
    assert len(presets.recipe_names()) >= 18
    for name in presets.recipe_names():
        recipe = read_recipe(name)
        assert recipe.title and recipe.source and recipe.about, name
        assert all(channel.modality in MODALITIES for channel in recipe.channels), name


def test_decathlon(touch: Touch) -> None:
    root = touch(
        "imagesTr/la_003.nii.gz", "imagesTr/._la_003.nii.gz", "labelsTr/la_003.nii.gz", "imagesTs/la_001.nii.gz", root="Task02_Heart"
    )
    declare(
        root,
        modality={"0": "MRI"},
        labels={"0": "background", "1": "left atrium"},
        training=[
            {"image": "./imagesTr/la_003.nii.gz", "label": "./labelsTr/la_003.nii.gz"},
            {"image": "./imagesTr/la_004.nii.gz", "label": "./labelsTr/la_004.nii.gz"},
        ],
    )
    dataset = find(root)
    assert (dataset.name, dataset.recipe) == ("Task02_Heart", "msd")
    assert files_of(dataset) == {"la_003": ["imagesTr/la_003.nii.gz", "labelsTr/la_003.nii.gz"]}
    assert [(c.name, c.modality) for c in dataset.channels] == [("MRI", "MR")]
    assert dataset.labels.to_json()["labels"] == {"background": 0, "left atrium": 1}
    assert [problem.case for problem in dataset.problems] == ["la_004"], "a case that is listed and not there"
    assert any("MRI is MR" in note for note in dataset.notes), "the assumption is told"


def test_decathlon_with_several_channels_in_one_file(touch: Touch) -> None:
    root = touch("imagesTr/p_00.nii.gz", "labelsTr/p_00.nii.gz")
    declare(root, modality={"0": "T2", "1": "ADC"}, labels={"0": "background", "1": "PZ", "2": "TZ"})
    dataset = find(root)
    assert files_of(dataset) == {"p_00": ["imagesTr/p_00.nii.gz", "labelsTr/p_00.nii.gz"]}
    assert [c.name for c in dataset.channels] == ["T2", "ADC"]


def test_nnunet_v1(touch: Touch) -> None:
    root = touch("imagesTr/p_00_0000.nii.gz", "imagesTr/p_00_0001.nii.gz", "labelsTr/p_00.nii.gz")
    declare(
        root,
        modality={"0": "T2", "1": "ADC"},
        labels={"0": "background", "1": "PZ"},
        training=[{"image": "./imagesTr/p_00.nii.gz", "label": "./labelsTr/p_00.nii.gz"}],
    )
    dataset = find(root)
    assert dataset.recipe == "nnunet-v1" and not dataset.problems
    assert files_of(dataset) == {"p_00": ["imagesTr/p_00_0000.nii.gz", "imagesTr/p_00_0001.nii.gz", "labelsTr/p_00.nii.gz"]}


def test_nnunet_v2_keeps_to_its_file_ending(touch: Touch) -> None:
    root = touch("imagesTr/c1_0000.nii.gz", "labelsTr/c1.nii.gz", "imagesTr/c1_0000.png", "labelsTr/c1.png")
    declare(root, channel_names={"0": "CT"}, labels={"background": 0, "liver": 1, "ignore": 2}, numTraining=1, file_ending=".nii.gz")
    dataset = find(root)
    assert dataset.recipe == "nnunet-v2"
    assert files_of(dataset) == {"c1": ["imagesTr/c1_0000.nii.gz", "labelsTr/c1.nii.gz"]}
    assert dataset.labels.ignore == 2 and dataset.labels.names == ("background", "liver")


def test_nnunet_v2_regions_are_painted_in_their_order(touch: Touch) -> None:
    root = touch("imagesTr/c1_0000.nii.gz", "labelsTr/c1.nii.gz")
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2}
    declare(root, channel_names={"0": "CT"}, labels=labels, regions_class_order=[1, 3, 2], file_ending=".nii.gz")
    scheme = find(root).labels
    assert [(r.name, r.members, r.writes) for r in scheme.regions] == [("kidney", (1, 2, 3), 1), ("masses", (2, 3), 3), ("tumour", (2,), 2)]
    assert scheme.names == ("background", "label_1", "tumour", "label_3")


def test_nnunet_v2_regions_that_lose_a_label_are_refused(touch: Touch) -> None:
    root = touch("imagesTr/c1_0000.nii.gz", "labelsTr/c1.nii.gz")
    declare(
        root,
        channel_names={"0": "CT"},
        labels={"background": 0, "whole": [1, 2], "core": [2]},
        regions_class_order=[2, 1],
        file_ending=".nii.gz",
    )
    with pytest.raises(LabelError, match="cannot be recovered from the regions"):
        find(root)


def test_nnunet_v2_table_of_cases(touch: Touch, tmp_path: Path) -> None:
    elsewhere = touch("t1.nii.gz", "ct.nii.gz", root="elsewhere")
    root = touch("labels/a.nii.gz")
    declare(
        root,
        channel_names={"0": "T1", "1": "CT"},
        labels={"background": 0, "x": 1},
        file_ending=".nii.gz",
        dataset={
            "a": {"images": [str(elsewhere / "t1.nii.gz"), "../elsewhere/ct.nii.gz"], "label": "labels/a.nii.gz"},
            "b": {"images": ["t1.nii.gz", "ct.nii.gz"], "label": "labels/b.nii.gz"},
        },
    )
    dataset = find(root)
    assert [case.name for case in dataset.cases] == ["a"]
    assert [path.resolve() for path in dataset.cases[0].images] == [elsewhere / "t1.nii.gz", elsewhere / "ct.nii.gz"]
    assert [problem.case for problem in dataset.problems] == ["b"]


def test_brats_2018_to_2021(touch: Touch) -> None:
    case = "BraTS2021_00005"
    root = touch(
        *(f"{case}/{case}_{part}.nii.gz" for part in ("flair", "t1", "t1ce", "t2", "seg")), "BraTS2021_00099/BraTS2021_00099_flair.nii.gz"
    )
    dataset = find(root)
    assert dataset.recipe == "brats"
    assert files_of(dataset) == {case: [f"{case}/{case}_{part}.nii.gz" for part in ("flair", "t1", "t1ce", "t2", "seg")]}
    assert [r.name for r in dataset.labels.regions] == ["whole_tumour", "tumour_core", "enhancing_tumour"]
    assert dataset.labels.values == (0, 1, 2, 4)
    assert [type(problem) for problem in dataset.problems] == [MissingChannel]


def test_brats_2018_in_grades(touch: Touch) -> None:
    case = "HGG/Brats18_2013_11_1/Brats18_2013_11_1"
    dataset = find(touch(*(f"{case}_{part}.nii.gz" for part in ("flair", "t1", "t1ce", "t2", "seg"))))
    assert [c.name for c in dataset.cases] == ["Brats18_2013_11_1"] and dataset.recipe == "brats"


@pytest.mark.parametrize(
    ("case", "recipe", "values"),
    [
        ("BraTS-GLI-00005-001", "brats-2023", (0, 1, 2, 3)),
        ("BraTS-MET-00012-000", "brats-2023", (0, 1, 2, 3)),
        ("BraTS-GLI-02062-100", "brats-2024", (0, 1, 2, 3, 4)),
    ],
)
def test_brats_2023_and_later_group_by_patient(touch: Touch, case: str, recipe: str, values: tuple[int, ...]) -> None:
    dataset = find(touch(*(f"train/{case}/{case}-{part}.nii.gz" for part in ("t2f", "t1n", "t1c", "t2w", "seg"))))
    assert dataset.recipe == recipe
    assert dataset.cases[0].name == case and dataset.cases[0].group == case[:-4]
    assert [path.name[len(case) + 1 : -7] for path in dataset.cases[0].images] == ["t2f", "t1n", "t1c", "t2w"]
    assert dataset.labels.values == values


def test_kits(touch: Touch) -> None:
    root = touch(
        "case_00000/imaging.nii.gz",
        "case_00000/segmentation.nii.gz",
        "case_00001/imaging.nii.gz",
        "case_00001/aggregated_MAJ_seg.nii.gz",
        "case_00001/aggregated_OR_seg.nii.gz",
        "case_00210/imaging.nii.gz",
    )
    dataset = find(root)
    assert dataset.recipe == "kits" and not dataset.problems
    assert files_of(dataset)["case_00001"] == ["case_00001/imaging.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz"]
    assert any("1 cases have no label" in note and "case_00210" in note for note in dataset.notes)
    assert dataset.channels[0].modality == "CT"
    assert find(root, recipe="kits-2019").labels.names == ("background", "kidney", "tumour")


def test_lits(touch: Touch) -> None:
    dataset = find(
        touch(
            "Training Batch 1/volume-0.nii",
            "Training Batch 1/segmentation-0.nii",
            "Training Batch 2/volume-28.nii",
            "Training Batch 2/segmentation-28.nii",
        )
    )
    assert dataset.recipe == "lits"
    assert files_of(dataset)["volume-28"] == ["Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii"]


def test_acdc(touch: Touch) -> None:
    names = [f"training/patient001/patient001_{part}.nii.gz" for part in ("4d", "frame01", "frame01_gt", "frame12", "frame12_gt")]
    dataset = find(touch(*names))
    assert dataset.recipe == "acdc"
    assert [(case.name, case.group) for case in dataset.cases] == [
        ("patient001_frame01", "patient001"),
        ("patient001_frame12", "patient001"),
    ]
    assert files_of(dataset)["patient001_frame12"] == [names[3], names[4]]


def test_amos(touch: Touch) -> None:
    root = touch(
        "imagesTr/amos_0001.nii.gz",
        "labelsTr/amos_0001.nii.gz",
        "imagesVa/amos_0507.nii.gz",
        "labelsVa/amos_0507.nii.gz",
        "imagesTs/amos_0002.nii.gz",
    )
    declare(root, modality={"0": "CT"}, labels={"0": "background", "1": "spleen"})
    dataset = find(root)
    assert dataset.recipe == "amos" and dataset.channels[0].modality == "other"
    assert [case.name for case in dataset.cases] == ["amos_0001", "amos_0507"]
    assert dataset.labels.pairs == (("left_kidney", "right_kidney"), ("left_adrenal_gland", "right_adrenal_gland"))
    ct = find(root, recipe="amos-ct")
    assert [case.name for case in ct.cases] == ["amos_0001"] and ct.channels[0].modality == "CT"


def test_btcv(touch: Touch) -> None:
    dataset = find(
        touch("RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz", "RawData/Testing/img/img0061.nii.gz")
    )
    assert dataset.recipe == "btcv"
    assert files_of(dataset) == {"img0001": ["RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz"]}
    assert len(dataset.labels.foreground) == 13


def test_chaos(touch: Touch) -> None:
    slices = [
        "MR/1/T1DUAL/DICOM_anon/InPhase/IMG-1.dcm",
        "MR/1/T1DUAL/DICOM_anon/OutPhase/IMG-2.dcm",
        "MR/1/T1DUAL/Ground/IMG-1.png",
        "MR/1/T2SPIR/DICOM_anon/IMG-1.dcm",
        "MR/1/T2SPIR/Ground/IMG-1.png",
        "CT/1/DICOM_anon/i0000,0000b.dcm",
        "CT/1/Ground/liver_GT_000.png",
    ]
    root = touch(*(f"Train_Sets/{name}" for name in slices))
    assert find(root).recipe == "chaos-ct"
    assert files_of(find(root)) == {"CT_1": ["Train_Sets/CT/1/DICOM_anon", "Train_Sets/CT/1/Ground"]}
    dual = find(root, recipe="chaos-t1")
    assert files_of(dual) == {
        "MR_1": [f"Train_Sets/MR/1/T1DUAL/{part}" for part in ("DICOM_anon/InPhase", "DICOM_anon/OutPhase", "Ground")]
    }
    assert dual.labels.values == (0, 63, 126, 189, 252) and dual.labels.pairs == (("left_kidney", "right_kidney"),)
    assert files_of(find(root, recipe="chaos-t2")) == {"MR_1": ["Train_Sets/MR/1/T2SPIR/DICOM_anon", "Train_Sets/MR/1/T2SPIR/Ground"]}


def test_totalsegmentator_has_one_file_per_label(touch: Touch) -> None:
    masks = ("spleen", "kidney_left", "kidney_right")
    root = touch(
        "s0001/ct.nii.gz",
        *(f"s0001/segmentations/{mask}.nii.gz" for mask in masks),
        "s0002/ct.nii.gz",
        "s0002/segmentations/spleen.nii.gz",
        "meta.csv",
    )
    dataset = find(root)
    assert dataset.recipe == "totalsegmentator"
    assert dataset.labels.to_json()["labels"] == {"background": 0, "kidney_left": 1, "kidney_right": 2, "spleen": 3}
    assert dataset.labels.pairs == (("kidney_left", "kidney_right"),)
    assert [name for name, _ in dataset.cases[0].label or ()] == ["kidney_left", "kidney_right", "spleen"]
    assert dataset.cases[0].annotated is None and dataset.cases[1].annotated == ("spleen",), "a label without a file was not annotated"
    assert Dataset.from_json(dataset.to_json()) == dataset


@pytest.mark.parametrize("above", ["", "ISLES-2022/"])
def test_isles_2022(touch: Touch, above: str) -> None:
    stem = "sub-strokecase0001_ses-0001"
    folder = f"{above}sub-strokecase0001/ses-0001"
    names = [f"{folder}/dwi/{stem}_dwi.nii.gz", f"{folder}/dwi/{stem}_adc.nii.gz", f"{folder}/anat/{stem}_FLAIR.nii.gz"]
    dataset = find(touch(*names, f"{above}derivatives/sub-strokecase0001/ses-0001/{stem}_msk.nii.gz"))
    assert dataset.recipe == "isles"
    assert [path.name for path in dataset.cases[0].images] == [f"{stem}_dwi.nii.gz", f"{stem}_adc.nii.gz"]
    assert any("FLAIR" in note for note in dataset.notes), "what is not used is told"


def test_wmh_of_several_sites(touch: Touch) -> None:
    folders = ("training/Utrecht/0", "training/Singapore/0", "training/Amsterdam/GE3T/100")
    dataset = find(touch(*(f"{folder}/{name}.nii.gz" for folder in folders for name in ("pre/FLAIR", "pre/T1", "wmh", "orig/FLAIR"))))
    assert dataset.recipe == "wmh"
    assert [case.name for case in dataset.cases] == ["Amsterdam_GE3T_100", "Singapore_0", "Utrecht_0"]
    assert dataset.labels.ignore == 2


def test_promise12(touch: Touch) -> None:
    dataset = find(touch("Case00.nii.gz", "Case00_segmentation.nii.gz", "Case01.nii.gz", "Case01_segmentation.nii.gz"))
    assert dataset.recipe == "promise12"
    assert files_of(dataset)["Case01"] == ["Case01.nii.gz", "Case01_segmentation.nii.gz"]


def test_bids_with_derivatives(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for subject, session in (("01", "A"), ("01", "B"), ("02", "A")):
        stem = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
        for part in ("T1w", "T2w"):
            volume(tmp_path / f"{stem}_{part}.nii.gz")
        volume(tmp_path / "derivatives" / "manual" / f"{stem}_desc-expert_dseg.nii.gz", [0, 1, 4])
    volume(tmp_path / "sub-02/ses-A/anat/sub-02_ses-A_FLAIR.nii.gz")
    dataset = find(tmp_path)
    assert dataset.recipe == "bids"
    assert [(case.name, case.group) for case in dataset.cases] == [
        ("sub-01_ses-A", "sub-01"),
        ("sub-01_ses-B", "sub-01"),
        ("sub-02_ses-A", "sub-02"),
    ]
    assert [(c.name, c.modality) for c in dataset.channels] == [("T1w", "MR"), ("T2w", "MR")], "FLAIR is in one case of three"
    assert dataset.labels.values == (0, 1, 4)


def test_two_folders_with_equal_names(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for name in ("b", "a"):
        volume(tmp_path / "images" / f"{name}.nii.gz", [5, 6])
        volume(tmp_path / "masks" / f"{name}_mask.nii.gz", [0, 7, 7, 3])
    dataset = find(tmp_path)
    assert dataset.recipe == "images-labels"
    assert dataset.labels.to_json()["labels"] == {"background": 0, "label_3": 3, "label_7": 7}
    assert files_of(dataset)["a"] == ["images/a.nii.gz", "masks/a_mask.nii.gz"]


def test_a_recipe_of_ones_own(touch: Touch, tmp_path: Path) -> None:
    root = touch("ward 3/p01/t1.nii.gz", "ward 3/p01/truth.nii.gz", "ward 4/p02/t1.nii.gz", "ward 4/p02/truth.nii.gz")
    own = tmp_path / "ours.toml"
    own.write_text("""
        [case]
        name = "{patient}"
        group = "{ward}"
        label = "ward {ward}/{patient:p##}/truth{ext}"
        [[channels]]
        name = "T1"
        modality = "MR"
        files = "ward {ward}/{patient:p##}/t1{ext}"
        [labels]
        nothing = 0
        lesion = 9
        rim = 5
        [[annotated]]
        case = "p02"
        labels = ["lesion"]
    """)
    dataset = find(root, recipe=own)
    assert [(case.name, case.group, case.annotated) for case in dataset.cases] == [("p01", "3", None), ("p02", "4", ("lesion",))]
    assert dataset.labels.names == ("nothing", "rim", "lesion")


def test_an_unknown_folder_names_the_nearest_recipe_and_what_did_not_match(touch: Touch) -> None:
    with pytest.raises(UnknownLayout) as caught:
        find(touch("case_00000/imaging.nii.gz", "case_00001/imaging.nii.gz", "case_00001/more/other.nii.gz"))
    text = str(caught.value)
    assert "recipe 'kits'" in text and "case_00001/more/other.nii.gz" in text and "CSV" in text
    assert "<case>/segmentation.* matches 0" in text and "<case>/imaging.* matches 2" in text


def test_a_folder_that_is_not_as_the_wanted_recipe_describes(touch: Touch) -> None:
    with pytest.raises(UnknownLayout, match="recipe 'acdc'"):
        find(touch("volume-0.nii", "segmentation-0.nii"), recipe="acdc")


def test_images_without_label_and_labels_without_image_are_told_case_by_case(touch: Touch) -> None:
    root = touch("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/c.nii.gz")
    declare(root, channel_names={"0": "CT"}, labels={"background": 0, "x": 1}, file_ending=".nii.gz")
    dataset = find(root)
    assert [case.name for case in dataset.cases] == ["a"]
    assert [(problem.case, type(problem)) for problem in dataset.problems] == [("b", MissingLabel), ("c", MissingChannel)]


def test_a_set_whose_cases_are_all_faulty_is_still_described(touch: Touch) -> None:
    root = touch("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    declare(root, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "x": 1}, file_ending=".nii.gz")
    dataset = find(root)
    assert dataset.recipe == "nnunet-v2" and not dataset.cases
    assert "channel 1 (T2) is missing" in dataset.problems[0].summary


def test_two_files_for_one_place_are_a_fault(touch: Touch) -> None:
    root = touch("images/a.nii.gz", "images/a.png", "labels/a.nii.gz")
    declare(root, labels={"background": 0, "x": 1}, channel_names={"0": "CT"})
    dataset = find(root)
    assert not dataset.cases and "two files" in dataset.problems[0].summary


def test_a_file_of_another_name_is_offered_as_the_missing_label(touch: Touch) -> None:
    """As case 355 of BraTS 2020, whose reference is called W39_1998.09.19_Segm.nii."""
    names = [f"B_{k:03d}/B_{k:03d}_{kind}.nii" for k in range(4) for kind in ("t1", "t1ce", "t2", "flair", "seg")]
    names[4] = "B_000/W39_1998.09.19_Segm.nii"
    dataset = find(touch(*names))
    assert [case.name for case in dataset.cases] == ["B_001", "B_002", "B_003"]
    (warning,) = dataset.warnings
    assert (warning.case, Path(str(warning.file)).name) == ("B_000", "W39_1998.09.19_Segm.nii")
    names[4] = "B_001/W39_1998.09.19_Segm.nii"
    assert len(find(touch(*names, root="one")).warnings) == 1, "the only file left over, and the only case without a label"
    assert not find(touch(*names, "B_002/x.nii", root="two")).warnings, "which of the two it is cannot be known"


@pytest.mark.parametrize(
    ("recipe", "image", "labels"),
    [
        ("file-pairs", "{}.nii.gz", {None: "{}_seg.nii.gz"}),
        ("file-pairs", "{}.nrrd", {None: "{}-label.nrrd"}),
        ("file-pairs", "{}_image.nii.gz", {None: "{}_mask.nii.gz"}),
        ("file-pairs", "{0}/{0}_t1.nii.gz", {None: "{0}/{0}_t1_seg.nii.gz"}),
        ("case-folders", "{}/image.nii.gz", {None: "{}/label.nii.gz"}),
        ("case-folders", "set/{}/ct.nii.gz", {None: "set/{}/segmentation.nii.gz"}),
        ("masks", "images/{}.nii.gz", {"liver": "masks/{}_liver.nii.gz", "lung_left": "masks/{}_lung_left.nii.gz"}),
        ("mask-folders", "images/{}.nii.gz", {"liver": "masks/{}/liver.nii.gz", "tumour": "masks/{}/tumour.nii.gz"}),
        ("label-folders", "images/{}.nii.gz", {"liver": "liver/{}.nii.gz", "tumour": "tumour/{}.nii.gz"}),
        ("label-subfolders", "images/{}.nii.gz", {"liver": "labels/liver/{}.nii.gz", "tumour": "labels/tumour/{}.nii.gz"}),
        ("case-masks", "{}/scan.nii.gz", {"liver": "{}/liver.nii.gz", "tumour": "{}/tumour.nii.gz"}),
    ],
)
def test_everyday_layouts(tmp_path: Path, volume: Callable[..., Path], recipe: str, image: str, labels: dict[str | None, str]) -> None:
    names = ["pat_1", "pat_2", "pat_10"]
    for name in names:
        volume(tmp_path / image.format(name))
        for label in labels.values():
            volume(tmp_path / label.format(name), [0, 1])
    dataset = find(tmp_path)
    stem = "{}_t1" if "_t1" in image else "{}"
    assert dataset.recipe == recipe and not dataset.problems and not any("not used" in note for note in dataset.notes)
    assert {case.name: case.files for case in dataset.cases} == {
        stem.format(name): tuple(tmp_path / path.format(name) for path in (image, *labels.values())) for name in names
    }
    if None not in labels:
        assert {label.name for label in dataset.labels.foreground} == set(labels)
    found = find_inputs([tmp_path], channels=[channel.name for channel in dataset.channels])
    if "_image" not in image:
        assert {case.name: case.images for case in found.cases} == {case.name: case.images for case in dataset.cases}, (
            "labels are left aside"
        )


def test_everyday_layouts_with_several_channels(tmp_path: Path, volume: Callable[..., Path]) -> None:
    for recipe, image in (("file-groups", "{0}_{1}.nii.gz"), ("case-folders", "{0}/{1}.nii.gz")):
        root = tmp_path / recipe
        for name in ("p_1", "p_2"):
            for word in ("T1", "flair", "seg"):
                volume(root / image.format(name, word), [0, 1])
        dataset = find(root)
        assert dataset.recipe == recipe and [channel.name for channel in dataset.channels] == ["T1", "flair"]
        assert [case.images for case in dataset.cases] == [
            tuple(root / image.format(name, word) for word in ("T1", "flair")) for name in ("p_1", "p_2")
        ]
        found = find_inputs([root], channels=["FLAIR", "T1"])
        assert {case.name: case.images for case in found.cases} == {case.name: case.images[::-1] for case in dataset.cases}
