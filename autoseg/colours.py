"""One colour for each label, the same in pictures, reports and the tables that viewers read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoseg.labels import Labels

COLOURS = (
    "#ff6b6b",
    "#4dabf7",
    "#ffd43b",
    "#51cf66",
    "#da77f2",
    "#ff922b",
    "#22d3ee",
    "#f783ac",
    "#a9e34b",
    "#9775fa",
    "#e8b48a",
    "#8ce0c4",
)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A label value with what a viewer shows for it."""

    value: int
    name: str
    colour: str  # "#rrggbb"

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:], 16)


def colour_of(index: int) -> str:
    """Return the colour of a class; after the last colour the first one follows.

    >>> colour_of(1), colour_of(13)
    ('#ff6b6b', '#ff6b6b')
    """
    return COLOURS[(index - 1) % len(COLOURS)]


def segments_of(labels: Labels) -> tuple[Segment, ...]:
    """Return value, name and colour of every foreground label."""
    return tuple(
        Segment(value=label.value, name=" ".join(label.name.split()), colour=colour_of(index))
        for index, label in enumerate(labels.foreground, start=1)
    )


def colour_tables(labels: Labels) -> dict[str, str]:
    """Return the text of the tables that ITK-SNAP, FSLeyes and FreeSurfer read, by file name.

    ITK-SNAP: Segmentation > Import Label Descriptions. FSLeyes: `--lut labels.lut`. FreeSurfer and MRtrix: as a colour lookup table.
    """
    segments = segments_of(labels)
    snap = ['0 0 0 0 0 0 0 "Clear Label"', *(f'{s.value} {_spaced(s.rgb)} 1 1 1 "{s.name.replace(chr(34), chr(39))}"' for s in segments)]
    fsleyes = [f"{s.value} {_spaced(f'{part / 255:.4f}' for part in s.rgb)} {s.name}" for s in segments]
    freesurfer = ["0 Unknown 0 0 0 0", *(f"{s.value} {s.name.replace(' ', '_')} {_spaced(s.rgb)} 0" for s in segments)]
    tables = {"labels.itksnap.txt": snap, "labels.lut": fsleyes, "labels.freesurfer.txt": freesurfer}
    return {name: "\n".join(lines) + "\n" for name, lines in tables.items()}


def _spaced(parts: Iterable[object]) -> str:
    return " ".join(map(str, parts))
