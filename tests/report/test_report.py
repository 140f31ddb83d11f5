"""The page: what it says, that whatever a name holds stays text, and that nothing is fetched or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from autoseg import report
from autoseg.report import CasePictures, Drawing, Grid, Items, Page, Section, Text, drawings
from autoseg.tables import Table

HOSTILE = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def png() -> bytes:
    import io

    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(packed, format="PNG")
    return packed.getvalue()


def hostile_page() -> str:
    table = Table(text="", columns=(HOSTILE, "n"), rows=((HOSTILE, "1"),), figures=True, remarks=((HOSTILE, (HOSTILE,)),))
    blocks = [
        Text(text=HOSTILE), Text(text=HOSTILE, code=True), Items(items=[HOSTILE], head=HOSTILE),
        Items(items=[HOSTILE], head="x", folded=True),
        Grid(table=table), Drawing(svg=drawings.strips([(HOSTILE, "#fff", [0.5], 0.5, None)]), caption=HOSTILE),
        Drawing(svg=drawings.curves({HOSTILE: [(0, 0.1), (1, 0.4)]}, title=HOSTILE, unit=HOSTILE), caption="c"),
        CasePictures(case=HOSTILE, reasons=[HOSTILE], panels=[(HOSTILE, png())], legend=[("#fff", HOSTILE, "0.5")]),
    ]  # fmt: skip
    return report.render(
        Page(title=HOSTILE, sentence=HOSTILE, cards=[(HOSTILE, HOSTILE)], sections=[Section(name="s", title=HOSTILE, blocks=blocks)],
             made_by=HOSTILE))  # fmt: skip


def test_whatever_a_name_holds_is_shown_as_text():
    found = read(hostile_page())
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "link")]
    assert found.text.count("<script>alert(1)</script>") >= 14
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_nothing_is_fetched():
    found = read(hostile_page())
    policy = next(attributes["content"] for _, attributes in found.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script" not in policy and "http" not in policy
    addresses = [value or "" for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses and all(address.startswith(("data:image/webp;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import", hostile_page())


def case(name: str, **dice: float | None) -> dict:
    return {"case": name, "labels": {label: {"dice": value} for label, value in dice.items()}}


def test_the_cases_shown_are_the_worst_first_then_the_middle_then_the_best():
    cases = [case("a", liver=0.9, spot=0.1), case("b", liver=0.7, spot=None), case("c", liver=0.8, spot=0.0), case("d", liver=0.95)]
    summary = {
        "labels": {
            name: {"dice": {"mean": mean, "std": None, "n": 4, "ci95": None}}
            for name, mean in (("liver", 0.84), ("spot", 0.05), ("none", None))
        },
        "cases": cases,
    }
    found = report.remarkable_cases(summary)
    assert list(found)[:2] == ["c", "b"], "the weakest label first"
    assert (
        found["c"][0] == "worst of spot (Dice 0.000)"
        and "best of spot (Dice 0.100)" in found["a"]
        and found["d"] == ["best of liver (Dice 0.950)"]
    )
    assert list(report.remarkable_cases(summary, most=2)) == ["c", "b"]


@pytest.mark.parametrize("values", [[(0.0, 0.5)], [(0, 0.3), (5, 0.3)], [(float(n), n % 7 / 7) for n in range(5000)]])
def test_curves_of_any_length_stay_small_and_inside_the_drawing(values):
    svg = str(drawings.curves({"fold_0": values}, title="Dice", unit="minutes"))
    (points,) = re.findall(r'<polyline points="([^"]*)"', svg)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert 1 <= len(places) <= drawings.POINTS + 1
    assert all(0 <= x <= 720 and 0 <= y <= 260 for x, y in places)
    assert drawings.curves({}, title="Dice", unit="minutes") == ""
