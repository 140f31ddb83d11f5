"""Several configurations as one model: the mean of their probabilities on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoseg.errors import PlanMismatch
from autoseg.labels import Labels
from autoseg.planning.configuration import Plan
from autoseg.prediction import Member, combine, open_model, segment
from autoseg.workspace import Workspace

from .conftest import LABELS, REGIONS, only
from .test_segmenting import in_memory

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_an_ensemble_is_the_mean_of_the_probabilities_of_its_configurations(
    labels: Labels, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    names = ("2d", "3d_fullres", "3d_lowres", "3d_cascade")
    plan = make_plan(labels=labels, swap_axis=None, mirror_axes=(1,))
    root = make_workspace(plan).root
    image = in_memory()
    parts = [segment(open_model(root, configuration=name, device="cpu"), image, probabilities=True) for name in names]
    for chosen in ((0, 1), (1, 3), (0, 1, 2, 3)):
        model = open_model(root, configuration="+".join(names[i] for i in chosen), device="cpu")
        found = segment(model, image, probabilities=True)
        expected = np.mean([parts[i].probabilities for i in chosen], axis=0)
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
        classes = labels.paint(expected > 0.5) if labels.regions else expected.argmax(0)
        assert np.mean(found.classes != classes) < 1e-3, "only ties may be decided by rounding"
        assert np.array_equal(segment(model, image).classes, found.classes)
        assert any(np.mean(found.classes != parts[i].classes) > 0.01 for i in chosen), "else the mean is not tested"
        assert set(found.seconds) == {"preprocess", "network", "resample"}


def test_each_network_runs_once_for_all_pairs_and_only_a_slab_is_held(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    root = make_workspace(make_plan(), folds=1).root
    image = in_memory()
    models = [open_model(root, configuration=name, device="cpu") for name in ("2d", "3d_fullres", "3d_lowres")]
    calls = [0, 0, 0]

    def counted(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[index] += 1

        return hook

    for index, model in enumerate(models):
        model.stages[0].networks[0].register_forward_hook(counted(index))
        segment(model, image, tta=False)
    once, calls[:] = list(calls), [0, 0, 0]
    members = [Member(plan=model.plan, stage=model.stages[-1]) for model in models]
    groups = [(0, 1), (0, 2), (1, 2), (1,)]
    found, _ = combine(members, image, groups=groups, device="cpu", tta=False)
    assert calls == once and min(once) > 0
    for classes, group in zip(found, groups, strict=True):
        alone = open_model(root, configuration="+".join(models[i].name for i in group), device="cpu")
        assert np.mean(segment(alone, image, tta=False).classes != classes) < 1e-3


def test_a_network_is_asked_only_as_far_as_the_next_slice_needs(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoseg.prediction import ensembles

    plan = only(make_plan(), "2d", "3d_fullres")
    model = open_model(make_workspace(plan, folds=1).root, configuration="2d+3d_fullres", device="cpu")
    order: list[str] = []
    original = ensembles.probabilities_on_grid

    def watched(slabs, **given):  # type: ignore[no-untyped-def]
        def asked():  # type: ignore[no-untyped-def]
            for start, slab in slabs:
                order.append(f"computed {start}")
                yield start, slab

        for index, plane in enumerate(original(asked(), **given)):
            order.append(f"slice {index}")
            yield plane

    monkeypatch.setattr(ensembles, "probabilities_on_grid", watched)
    segment(model, in_memory(), tta=False)
    computed = [place for place, what in enumerate(order) if what.startswith("computed")]
    assert order.index("slice 0") < computed[-1], "the last slabs are computed after the first slices were decided"


def test_the_name_the_identity_and_the_description_are_of_all_its_configurations(make_workspace: Callable[..., Workspace]) -> None:
    root = make_workspace().root
    pair = open_model(root, configuration="2d+3d_cascade", device="cpu")
    alone = open_model(root, configuration="2d", device="cpu")
    assert pair.name == "2d+3d_cascade" and alone.name == "2d" and [m.name for m in pair.members] == ["2d", "3d_cascade"]
    assert pair.identity not in (alone.identity, open_model(root, configuration="3d_cascade", device="cpu").identity)
    assert pair.describe() == (
        "toy: the mean of 2d (the mean of folds 0, 1) and of 3d_lowres, then 3d_cascade (the mean of folds 0, 1), on cpu"
    )
    assert open_model(root, configuration="2d+2d", device="cpu").partners == ()


def test_configurations_that_mean_something_else_are_not_averaged(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    workspace = make_workspace(only(make_plan(), "2d"))
    make_workspace(only(make_plan(axis_order=(0, 1, 2), swap_axis=2), "3d_fullres"), root=workspace.root)
    with pytest.raises(PlanMismatch, match="different axis_order"):
        open_model(workspace.root, configuration="2d+3d_fullres", device="cpu")
