"""Opening a model: which configuration and folds are taken, and what is said when that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoseg import files
from autoseg.checksums import with_checksum
from autoseg.errors import MissingPath, ModelError, ModelFileError, PlanMismatch, SettingsError, UnreadableFile
from autoseg.labels import make_labels
from autoseg.networks import checkpoint
from autoseg.planning.configuration import Plan
from autoseg.prediction import open_model
from autoseg.workspace import Workspace

from .conftest import only


def test_by_default_all_trained_folds_of_the_selected_configuration_are_taken(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    assert open_model(workspace.root, device="cpu").configuration.name == "3d_fullres"
    files.write_json(workspace.selection, {"selected": "2d"})
    model = open_model(workspace.root, device="cpu")
    assert model.configuration.name == "2d" and model.stages[-1].folds == (0, 1)
    assert "mean of folds 0, 1" in model.describe()


def test_one_fold_can_be_asked_for(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    one = open_model(workspace.root, configuration="2d", folds=[1], device="cpu")
    assert one.stages[-1].folds == (1,) and len(one.stages[-1].networks) == 1 and "fold 1" in one.describe()
    assert one.identity != open_model(workspace.root, configuration="2d", device="cpu").identity


def test_the_first_stage_of_a_cascade_uses_all_its_folds(make_workspace: Callable[..., Workspace]) -> None:
    model = open_model(make_workspace().root, configuration="3d_cascade", folds=[0], device="cpu")
    assert [stage.folds for stage in model.stages] == [(0, 1), (0,)]


def test_the_identity_changes_with_the_weights_and_only_with_them(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    plan = only(make_plan(), "2d")
    first, same, more = (make_workspace(plan, folds=folds, root=tmp_path / name).root for name, folds in (("a", 1), ("b", 1), ("c", 2)))
    assert open_model(first, device="cpu").identity == open_model(same, device="cpu").identity != open_model(more, device="cpu").identity


def test_a_missing_fold_is_named_with_those_that_are_there(make_workspace: Callable[..., Workspace]) -> None:
    with pytest.raises(ModelError) as caught:
        open_model(make_workspace().root, configuration="2d", folds=[4], device="cpu")
    message = str(caught.value)
    assert "fold 4" in message and "folds 0, 1" in message and "autoseg train" in message


def test_a_cascade_without_its_first_stage_says_what_to_train(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    files.remove_tree(workspace.configuration("3d_lowres"))
    with pytest.raises(ModelError, match="3d_lowres"):
        open_model(workspace.root, configuration="3d_cascade", device="cpu")


def test_nothing_trained_and_nothing_there_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no fold is trained"):
        open_model(tmp_path, device="cpu")
    with pytest.raises(MissingPath):
        open_model(tmp_path / "nowhere", device="cpu")
    (tmp_path / "model.autoseg").write_bytes(b"")
    with pytest.raises(ModelFileError, match="damaged, or is not one"):
        open_model(tmp_path / "model.autoseg", device="cpu")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="neither a workspace nor a model file"):
        open_model(tmp_path / "model.safetensors", device="cpu")


def test_folds_trained_for_other_labels_are_not_mixed(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    plan = only(make_plan(), "2d")
    workspace = make_workspace(plan, folds=1)
    other = make_workspace(replace(plan, labels=make_labels({"background": 0, "a": 7, "b": 5, "c": 100})), root=workspace.root / "other")
    run = workspace.run("2d", 1)
    run.root.mkdir(parents=True)
    other.run("2d", 1).weights.rename(run.weights)
    with pytest.raises(PlanMismatch, match="labels"):
        open_model(workspace.root, device="cpu")


@pytest.mark.parametrize(
    ("of_plan", "of_configuration"),
    [
        ({}, {"spacing": (3.0, 2.0, 2.2)}),
        ({}, {"normalization": ("zscore", "zscore")}),
        ({}, {"patch_size": (1, 16, 16)}),
        ({}, {"norm": "instance"}),
        ({"swap_axis": None}, {}),
    ],
)
def test_folds_are_not_averaged_where_one_preprocessing_cannot_serve_them_all(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], of_plan: dict[str, Any], of_configuration: dict[str, Any]
) -> None:
    plan = only(make_plan(), "2d")
    workspace = make_workspace(plan, folds=2)
    changed = replace(plan, **of_plan, configurations=tuple(replace(c, **of_configuration) for c in plan.configurations))
    _swap_plan(workspace, "2d", 1, changed)
    (key,) = {**of_plan, **of_configuration}
    with pytest.raises(PlanMismatch) as caught:
        open_model(workspace.root, device="cpu")
    assert caught.value.summary == f"folds of 2d were trained with different {key}"
    assert caught.value.file == str(workspace.run("2d", 1).root)
    assert open_model(workspace.root, folds=[1], device="cpu").plan.to_json() == changed.to_json()  # alone it is a model


def test_folds_are_averaged_over_the_mirror_images_that_all_of_them_have_learned_from(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), "2d")
    assert plan.swap_axis is not None
    workspace = make_workspace(plan, folds=2)
    for mirrored in ((plan.swap_axis,), ()):
        swap = plan.swap_axis if mirrored else None
        _swap_plan(workspace, "2d", 1, replace(plan, mirror_axes=mirrored, swap_axis=swap))
        together = open_model(workspace.root, device="cpu").plan
        assert together.mirror_axes == mirrored and together.swap_axis == swap
        assert open_model(workspace.root, folds=[0], device="cpu").plan.mirror_axes == plan.mirror_axes


def test_folds_whose_plans_differ_in_the_batch_alone_are_averaged(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), "2d")
    workspace = make_workspace(plan, folds=2)
    _swap_plan(workspace, "2d", 1, replace(plan, configurations=tuple(replace(c, batch_size=9) for c in plan.configurations)))
    assert open_model(workspace.root, device="cpu").stages[-1].folds == (0, 1)


def test_a_cascade_refuses_a_first_stage_trained_at_another_spacing(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = make_plan()
    workspace = make_workspace(plan, folds=1)
    coarser = [replace(c, spacing=(5.0, 3.0, 3.3)) if c.name == "3d_lowres" else c for c in plan.configurations]
    _swap_plan(workspace, "3d_lowres", 0, replace(plan, configurations=tuple(coarser)))
    with pytest.raises(PlanMismatch, match="folds of 3d_lowres were trained with different spacing"):
        open_model(workspace.root, configuration="3d_cascade", device="cpu")


def _swap_plan(workspace: Workspace, configuration: str, fold: int, plan: Plan) -> None:
    """The same weights, said to be trained with another plan."""
    run = workspace.run(configuration, fold)
    weights, description = checkpoint.load_model(run)
    checkpoint.save_model(run, weights, {**description, "plan": plan.to_json()})


def test_weights_of_another_network_are_refused(make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace(only(make_plan(), "2d"), folds=1)
    run = workspace.run("2d", 0)
    weights, description = checkpoint.load_model(run)
    name = next(iter(weights))
    checkpoint.save_model(run, {**weights, name: weights[name][:1]}, description)
    with pytest.raises(ModelError, match="do not fit"):
        open_model(workspace.root, device="cpu")


def _swap(workspace: Workspace, one: tuple[str, int], other: tuple[str, int]) -> None:
    """Copy the model of one place to another."""
    for name in ("weights", "description"):
        getattr(workspace.run(*other), name).write_bytes(getattr(workspace.run(*one), name).read_bytes())


@pytest.mark.parametrize("place", [("3d_fullres", 1), ("2d", 0)])
def test_the_model_of_another_fold_or_configuration_is_refused(make_workspace: Callable[..., Workspace], place: tuple[str, int]) -> None:
    workspace = make_workspace()
    _swap(workspace, place, ("3d_fullres", 0))
    with pytest.raises(ModelError, match="another fold, configuration or workspace") as caught:
        open_model(workspace.root, configuration="3d_fullres", device="cpu")
    assert f"{place[0]} fold {place[1]}" in str(caught.value) and "3d_fullres fold 0" in str(caught.value)


def test_the_model_of_another_workspace_is_refused(make_workspace: Callable[..., Workspace], make_plan: Callable[..., Plan]) -> None:
    workspace = make_workspace(only(make_plan(), "2d"), folds=1)
    run = workspace.run("2d", 0)
    weights, description = checkpoint.load_model(run)
    checkpoint.save_model(run, weights, {**description, "training_cases": ["a", "b"]})
    for cases, fits in ((["b", "a"], True), (["c", "d"], False)):
        files.write_json(workspace.splits, [{"train": cases, "validation": ["e"]}])
        if fits:
            open_model(workspace.root, device="cpu")
        else:
            with pytest.raises(ModelError, match="another fold, configuration or workspace"):
                open_model(workspace.root, device="cpu")


def test_the_plan_of_a_model_is_held_to_what_training_asks_of_one(
    make_workspace: Callable[..., Workspace], make_plan: Callable[..., Plan]
) -> None:
    plan = only(make_plan(), "2d")
    workspace = make_workspace(plan, folds=1)
    run = workspace.run("2d", 0)
    weights, description = checkpoint.load_model(run)
    description["plan"]["axis_order"] = [0, 0, 2]
    checkpoint.save_model(run, weights, description)
    with pytest.raises(SettingsError, match="no permutation") as caught:
        open_model(workspace.root, device="cpu")
    assert str(run.weights) in str(caught.value)


def test_a_selection_that_was_changed_is_refused(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    files.write_json(workspace.selection, with_checksum({"selected": "2d", "configurations": {}}))
    assert open_model(workspace.root, device="cpu").configuration.name == "2d"
    workspace.selection.write_text(workspace.selection.read_text().replace("2d", "3d_fullres"))
    with pytest.raises(UnreadableFile, match="changed since it was written"):
        open_model(workspace.root, device="cpu")
