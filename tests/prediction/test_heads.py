"""Features summed in place of scores: the same scores, in the memory of the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.labels import make_labels
from autoseg.planning.configuration import Plan
from autoseg.prediction import logits as logits_module
from autoseg.prediction import open_model
from autoseg.prediction.heads import split_heads
from autoseg.prediction.logits import logits_of
from autoseg.tiling import Flips
from autoseg.workspace import Workspace

from .conftest import only


@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
@pytest.mark.parametrize("folds", [1, 2])
def test_scores_of_summed_features_are_the_summed_scores(
    name: str, folds: int, make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = make_labels({f"label {value}": value for value in range(15)})
    plan = only(make_plan(labels, swap_axis=None), name)
    stage = open_model(make_workspace(plan, folds=folds).root, device="cpu").stages[0]
    volume = torch.randn(2, 7, 18, 21, generator=torch.Generator().manual_seed(0))

    def scores() -> Tensor:
        slabs = logits_of(stage.networks, volume, plan=plan, configuration=stage.configuration, device="cpu", tta=True)
        return torch.cat([slab for _, slab in slabs], dim=1)

    monkeypatch.setattr(logits_module, "choose_precision", lambda *_: torch.float32)
    split = split_heads(stage.networks, Flips())
    assert split is not None and split.features == 4 * folds, "fewer than the 15 classes"
    before = [network.body.decoder.heads[-1] for network in stage.networks]
    found = scores()
    assert all(network.body.decoder.heads[-1] is head for network, head in zip(stage.networks, before, strict=True))
    monkeypatch.setattr(logits_module, "split_heads", lambda *_: None)
    torch.testing.assert_close(found, scores(), atol=1e-4, rtol=1e-4)


def test_heads_stay_where_they_save_nothing_or_change_places(
    make_plan: Callable[..., Plan], make_workspace: Callable[..., Workspace]
) -> None:
    plan = only(make_plan(), "3d_fullres")
    networks = open_model(make_workspace(plan, folds=1).root, device="cpu").stages[0].networks
    assert split_heads(networks, Flips()) is None, "four features for four classes"
    many = replace(plan, labels=make_labels({f"label {value}": value for value in range(9)}), swap_axis=None)
    wide = open_model(make_workspace(many, folds=1).root, device="cpu").stages[0].networks
    assert split_heads(wide, Flips()) is not None
    assert split_heads(wide, Flips(axes=(2,), swap_axis=2, pairs=((1, 2),))) is None
    assert split_heads([torch.nn.Identity()], Flips()) is None, "a network of a user's own"
