"""A figure as the bytes of a PNG."""

from __future__ import annotations

import io
from typing import Any


def png(figure: Any) -> bytes:
    """Return the figure as the bytes of a PNG, on its own background."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return stream.getvalue()
