"""One small model file, its members, and the weights in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from autoseg.pipeline import exporting
from tests.prediction.conftest import make_plan, make_workspace, only

Members = dict[str, bytes]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one small fold."""
    root = tmp_path_factory.mktemp("model")
    plan = only(_made(make_plan)()(), "2d")
    _made(make_workspace)(root, _made(make_plan)())(plan, folds=1, root=root / "workspace")
    exporting.export(root / "workspace", root / "model.autoseg")
    return root / "model.autoseg"


@pytest.fixture(scope="session")
def members(model_file: Path) -> Members:
    """The content of each of its members but the manifest."""
    with zipfile.ZipFile(model_file) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


def _made(fixture: Any) -> Any:
    """The function behind a fixture."""
    return fixture.__wrapped__
