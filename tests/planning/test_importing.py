"""Plans files of the reference: the newer form (held to the golden plans elsewhere), the older one, and foreign ones."""

from __future__ import annotations

import pytest

from autoseg import presets
from autoseg.errors import PlanMismatch, SettingsError
from autoseg.planning.importing import import_plan
from tests.planning.fingerprints import CPU, make_fingerprint

FACTS = make_fingerprint([(80, 60, 20)] * 4, [(1.0, 1.1, 5.0)] * 4)  # slices are stacked along the canonical x axis
OLD_FORM = {  # as nnU-Net 2.0 to 2.3 wrote it
    "dataset_name": "Dataset007_Old",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [5.0, 1.0, 1.1],
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "3d_fullres": {
            "batch_size": 2,
            "patch_size": [20, 80, 64],
            "median_image_size_in_voxels": [20.0, 80.0, 60.0],
            "spacing": [5.0, 1.0, 1.1],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [True],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 1],
            "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "batch_dice": False,
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "batch_size": 3},
    },
}


def read(file, facts=FACTS):
    return import_plan(file, facts, preset=presets.planner("nnunet"), machine=CPU)


def test_the_form_before_2_4_is_understood():
    plan = read(OLD_FORM)
    c = plan.configuration("3d_fullres")
    assert c.features_per_stage == (32, 64, 128)
    assert c.decoder_blocks_per_stage == (1, 2)  # the reference begins at the bottom, we at the full resolution
    assert c.normalization == ("zscore_mask",)
    assert c.norm == "instance"
    assert plan.configuration("3d_cascade").batch_size == 3
    assert plan.settings and plan.settings["optimizer"]["name"] == "sgd"


def test_axes_are_matched_by_the_spacing_the_file_notes():
    assert read(OLD_FORM).axis_order == (2, 0, 1)


def test_a_file_for_other_data_is_refused():
    with pytest.raises(PlanMismatch, match="other data"):
        read(OLD_FORM, make_fingerprint([(80, 60, 20)] * 4, [(1.0, 1.0, 3.0)] * 4))
    with pytest.raises(PlanMismatch, match="other data"):
        read(OLD_FORM, make_fingerprint([(80, 60, 20)] * 4, [(1.0, 1.1, 5.0)] * 4, modalities=["MR", "CT"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"UNet_class_name": "SwinUNETR"}, "architecture"),
        ({"normalization_schemes": ["MyOwn"]}, "normalisation"),
        ({"patch_size": [20, 81, 64]}, "81 is not divisible"),
        ({"pool_op_kernel_sizes": None}, "cannot be understood"),
    ],
)
def test_what_cannot_be_trained_here_is_refused_by_name(change, said):
    table = {**OLD_FORM["configurations"]["3d_fullres"], **change}
    with pytest.raises(SettingsError) as error:
        read({**OLD_FORM, "configurations": {"3d_fullres": table}})
    assert said in str(error.value)


def test_another_json_file_is_no_plans_file():
    with pytest.raises(SettingsError, match="not a plans file"):
        read({"cases": []})


def test_configurations_that_inherit_in_a_circle_are_refused():
    with pytest.raises(SettingsError, match="circle"):
        read({**OLD_FORM, "configurations": {"2d": {"inherits_from": "3d_fullres"}, "3d_fullres": {"inherits_from": "2d"}}})


def test_an_imported_plan_says_what_it_will_take() -> None:
    plan = import_plan(OLD_FORM, FACTS, preset=presets.planner("nnunet"), machine=CPU)
    for c in plan.configurations:
        assert c.predicted is not None
        assert c.predicted.training_memory_bytes and c.predicted.disk_bytes and c.predicted.seconds_per_epoch
