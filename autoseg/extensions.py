"""Networks and losses of a user's own, named as "module:callable" wherever one of ours can be named.

The module must be importable wherever the name is used, also on the machine that predicts: installed, or in a folder on PYTHONPATH.
The current folder is not searched (`workers.python_command`): it is often the data folder, and nothing in it may replace a module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from autoseg.errors import SettingsError


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
