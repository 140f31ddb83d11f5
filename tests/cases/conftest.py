"""Small data sets on disk, made by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg import images
from autoseg.geometry import affine_from_spacing

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Make empty files below a fresh folder, which is returned: enough for all that only looks at names."""

    def make(*names: str, root: str = "set") -> Path:
        folder = tmp_path / root
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return folder

    return make


@pytest.fixture
def volume() -> Callable[..., Path]:
    """Write a small volume (3, 4, 5) with given values, spacing (3, 1, 2) mm."""

    def make(path: Path, values: Any = 0, dtype: Any = np.uint8) -> Path:
        array: NDArray[Any] = np.zeros((1, 3, 4, 5), dtype=dtype)
        array[0].flat[: np.size(values)] = values
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, array, affine=affine_from_spacing((3, 1, 2)))
        return path

    return make
