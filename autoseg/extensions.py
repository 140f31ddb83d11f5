"""Networks and losses of a user's own, named as "module:callable" wherever one of ours can be named.

The module must be importable wherever the name is used, also on the machine that predicts: installed, or in a folder on PYTHONPATH.
The current folder is not searched (`workers.python_command`): it is often the data folder, and nothing in it may replace a module.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoseg.errors import ModelError, SettingsError

_GROUP = "autoseg.networks"  # of entry points, by which an installed package offers networks under names of their own
_SHIPPED = ("monai.networks.nets:",)  # named by presets that come with autoseg
_allowed: set[str] = set()


def registered() -> dict[str, str]:
    """Return the networks that installed packages offer: name -> "module:callable"."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=_GROUP)}


def allow(*names: str) -> None:
    """Let models name this code, "module:callable" each, from now on in this process."""
    _allowed.update(names)


def require_allowed(name: str, *, file: Path) -> None:
    """Raise unless a model may name this code: it is installed as a network, comes with autoseg's presets, or was allowed by name.

    Opening a model never imports code only because the model says so.

    Raises
    ------
    ModelError : nobody allowed it; nothing was imported
    """
    if name in _allowed or name.startswith(_SHIPPED) or name in registered().values():
        return
    raise ModelError(
        "the model names a network that is not part of autoseg",
        file=file,
        found=name,
        expected="code that you know and allow by name: it will run on this machine",
        fix=f"--allow-network {name}; in Python autoseg.load(..., allow_network={name!r})",
    )


def is_own(name: str) -> bool:
    """Return whether a name is that of a user's own code, and not one of ours."""
    return ":" in name


def load(name: str, *, what: str) -> Callable[..., Any]:
    """Return what "module:callable" names; this imports the module.

    Parameters
    ----------
    what : what it is, for the message: "network"

    Raises
    ------
    SettingsError : there is no such module on this machine, one that it imports is missing, or it has no such callable
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"the {what} '{name}' cannot be imported",
            found=str(error),
            expected="module:callable, in a module that is installed or in a folder on PYTHONPATH; the current folder is not searched",
            fix=f"install the module '{module}' on this machine, or name its folder: PYTHONPATH=FOLDER autoseg ...",
        ) from error
    if not callable(found):
        raise SettingsError(f"the {what} '{name}' cannot be called", found=type(found).__name__, fix="name a class or a function")
    loaded: Callable[..., Any] = found
    return loaded
