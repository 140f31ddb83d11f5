"""Networks from elsewhere, a user's own or a library's: called with what is planned, and held to the one convention for logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoseg import extensions
from autoseg.architectures import Architecture, NetworkRequest
from autoseg.errors import SettingsError


class ForeignBody(nn.Module):
    """A network from elsewhere. Called as `networks.unet.UNet` is.

    Raises
    ------
    SettingsError : it cannot be imported, cannot be made for the planned patch, or makes something else than a torch module
    """

    def __init__(self, foreign: Architecture, request: NetworkRequest) -> None:
        super().__init__()
        self.entry, self.heads, self.patch = foreign.entry, request.heads, request.patch_size
        make = extensions.load(foreign.entry, what="network")
        arguments: dict[str, Any] = request.filled(foreign.arguments)
        try:
            with torch.device("cpu"):  # many constructors compute with their weights, which fails on meta tensors
                found = make(**arguments) if foreign.arguments else make(request)
        except Exception as error:  # whatever a stranger's code raises
            raise self._fault(f"{type(error).__name__}: {error}") from error
        if not isinstance(found, nn.Module):
            raise self._fault(f"it returned {type(found).__name__}", expected="a torch.nn.Module")
        self.network = found.to(torch.get_default_device())

    def forward(self, x: Tensor, *, all_resolutions: bool) -> list[Tensor]:
        """Return logits `(n, heads, *shape)`, the highest resolution first."""
        found = self.network(x)
        logits: list[Tensor] = list(found) if isinstance(found, list | tuple) else [found]
        if not logits or logits[0].shape != (len(x), self.heads, *x.shape[2:]):
            shape = tuple(logits[0].shape) if logits else "nothing"
            raise self._fault(f"its first output is {shape}", expected=f"logits {(len(x), self.heads, *x.shape[2:])}")
        return logits if all_resolutions else logits[:1]

    def _fault(self, found: str, *, expected: str | None = None) -> SettingsError:
        shape = " x ".join(map(str, self.patch))
        return SettingsError(
            f"the network '{self.entry}' cannot be used",
            found=f"{found}, for a patch of {shape}",
            expected=expected,
            fix="correct the network or its arguments, or plan with another one (--network)",
        )
