"""A result as one HTML page: sections of text, tables, drawings and pictures, rendered by jinja2 with everything escaped.

The page holds all it shows, runs no script and fetches nothing: its content security policy forbids both. What is shown is gathered
by `pipeline.reporting`; drawings are made in `drawings`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from autoseg.evaluation import scores_in, statistics_of_labels
from autoseg.tables import Table

MOST_CASES = 12  # shown with pictures: of four pictures each, about 1.5 MB


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; of several lines, each is a line of its own where `code` is true."""

    text: str
    code: bool = False
    kind: str = "text"


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of sentences, with a head where there is one; `folded` ones are shown on a click."""

    items: Sequence[str]
    head: str = ""
    folded: bool = False
    kind: str = "items"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table, scrolled sideways on narrow screens."""

    table: Table
    kind: str = "grid"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An SVG drawing made by `drawings`, and what it shows."""

    svg: Markup
    caption: str
    kind: str = "drawing"


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """Slices through one case, and why this case is shown."""

    case: str
    reasons: Sequence[str]
    panels: Sequence[tuple[str, bytes]]  # plane, bytes of a PNG
    legend: Sequence[tuple[str, str, str]]  # colour, label, its Dice
    kind: str = "pictures"

    @property
    def images(self) -> list[tuple[str, str]]:
        """Return the planes with their pictures as data addresses."""
        return [(plane, webp_address(png)) for plane, png in self.panels]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page."""

    name: str  # for links within the page
    title: str
    blocks: Sequence[Text | Items | Grid | Drawing | CasePictures]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that is shown."""

    title: str
    sentence: str  # the figure that matters, in one sentence
    cards: Sequence[tuple[str, str]]  # a figure, and what it is
    sections: Sequence[Section]
    made_by: str


def render(page: Page) -> str:
    """Return the page as HTML; names of cases and labels are escaped, whatever they hold."""
    from jinja2 import Environment, StrictUndefined

    source = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(page=page)


def remarkable_cases(summary: Mapping[str, Any], *, most: int = MOST_CASES) -> dict[str, list[str]]:
    """Return the cases worth looking at: of each label the worst, the best and the one in the middle, the weakest labels first.

    Parameters
    ----------
    summary : as `evaluation.summarise` returns it
    most : cases to return

    Returns
    -------
    case -> the reasons for which it is shown, such as "worst of liver (Dice 0.312)"
    """
    means = {name: dice.mean for name, dice in statistics_of_labels(summary).items() if dice.mean is not None}
    ranked = {}
    for name in sorted(means, key=means.__getitem__):
        scored = [(labels[name]["dice"], case) for case, labels in scores_in(summary).items() if name in labels]
        ranked[name] = sorted((dice, case) for dice, case in scored if dice is not None)
    chosen: dict[str, list[str]] = {}
    for word in ("worst", "median", "best"):
        for name, cases in ranked.items():
            dice, case = cases[{"worst": 0, "median": len(cases) // 2, "best": -1}[word]]
            if case in chosen or len(chosen) < most:
                chosen.setdefault(case, []).append(f"{word} of {name} (Dice {dice:.3f})")
    return chosen


def webp_address(png: bytes, *, quality: int = 80) -> str:
    """Return a picture as WebP in a data address, about a ninth of the size of the PNG."""
    from PIL import Image

    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(packed, format="WEBP", quality=quality, method=5)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode("ascii")
