"""What a label value means: named labels, regions, the ignore value, left/right pairs.

*Values* are the integers in the user's files, any integers. *Classes* are the consecutive integers 0, 1, 2, ... used inside, in
the order of the values; class 0 is background. The ignore value becomes the class after the last, `Labels.ignore_class`.
Readers and writers know values only; everything between knows classes only; `encode` and `decode` convert them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import schema
from autoseg.errors import LabelError


@dataclass(frozen=True, kw_only=True)
class Label:
    """One structure: its name and the value it has in the files."""

    name: str
    value: int


@dataclass(frozen=True, kw_only=True)
class Region:
    """A union of labels that is trained as one target, and the value painted where it is predicted."""

    name: str
    members: tuple[int, ...]  # label values
    writes: int  # label value painted where the region is predicted; later regions paint over earlier ones


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The label scheme of a data set.

    `all` holds the background first, then the foreground by ascending value: one label per class. `pairs` names left/right pairs.
    `aliases` are values that mean a declared one in some files; they are read as that one and never written.
    """

    all: tuple[Label, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[int, int], ...] = ()  # (value in a file, declared value or the ignore value)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all labels, background first."""
        return tuple(label.name for label in self.all)

    @property
    def values(self) -> tuple[int, ...]:
        """The value of each class, background first."""
        return tuple(label.value for label in self.all)

    @property
    def foreground(self) -> tuple[Label, ...]:
        """All labels but the background; class i + 1 is `foreground[i]`."""
        return self.all[1:]

    @property
    def class_count(self) -> int:
        """Number of classes, the background included and the ignore class not."""
        return len(self.all)

    @property
    def ignore_class(self) -> int | None:
        """The class of voxels that were not annotated, `None` where the data set has no ignore value."""
        return None if self.ignore is None else len(self.all)

    @property
    def output_channels(self) -> int:
        """Output channels of a network: one per class, or one per region."""
        return len(self.regions) or len(self.all)

    @property
    def scored(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What is scored: name and classes of every foreground label, or of every region where regions are declared."""
        if self.regions:
            return tuple((region.name, self.classes_of(region.members)) for region in self.regions)
        return tuple((label.name, (index,)) for index, label in enumerate(self.all) if index > 0)

    @property
    def paired_classes(self) -> tuple[tuple[int, int], ...]:
        """The left/right pairs as classes."""
        return tuple((self.names.index(left), self.names.index(right)) for left, right in self.pairs)

    def classes_of(self, values: Iterable[int]) -> tuple[int, ...]:
        """Return the classes of label values."""
        return tuple(self.values.index(value) for value in values)

    def encode(self, array: NDArray[Any]) -> NDArray[np.integer[Any]]:
        """Return label values as classes, same shape; uint8 where the classes fit, else int16.

        Raises
        ------
        LabelError : the array holds a value that was not declared (values and counts are in the message)
        """
        classes, undeclared = self.classify(array)
        if undeclared:
            raise LabelError(
                "label values that were not declared",
                found=", ".join(f"{value} ({count} voxels)" for value, count in list(undeclared.items())[:10]),
                expected=", ".join(f"{label.value} {label.name}" for label in self.all),
                fix="declare the value among the labels, or map it to a declared one",
            )
        return classes

    def classify(self, array: NDArray[Any]) -> tuple[NDArray[np.integer[Any]], dict[int, int]]:
        """Return label values as classes, and how often each undeclared value occurs; its voxels become background."""
        declared = list(self.values) + ([] if self.ignore is None else [self.ignore])
        small = np.uint8 if len(declared) <= 256 else np.int16
        class_of = np.asarray([*range(len(declared)), *(declared.index(value) for _, value in self.aliases)])
        declared += [alias for alias, _ in self.aliases]
        order = np.argsort(declared)
        known = np.asarray(declared)[order]
        table = None
        if array.dtype.kind in "ui" and array.size and 0 <= int(array.min()) and int(array.max()) < 1 << 16:
            table = np.full(1 << 16, -1, dtype=np.int32)
            for value, index in zip(declared, class_of.tolist(), strict=True):
                if 0 <= value < 1 << 16:
                    table[value] = index
        classes, unknown = np.empty(array.shape, dtype=small), list[NDArray[Any]]()
        for out, part in _slices(classes, array):
            if table is not None:
                indices = table[part]
            else:
                place = np.clip(np.searchsorted(known, part), 0, len(known) - 1)
                indices = np.where(known[place] == part, class_of[order][place], -1)
            wrong = indices < 0
            if wrong.any():
                unknown.append(part[wrong])
                indices[wrong] = 0
            out[...] = indices
        if not unknown:
            return classes, {}
        values, counts = np.unique(np.concatenate(unknown), return_counts=True)
        return classes, dict(zip(values.tolist(), counts.tolist(), strict=True))

    def decode(self, classes: NDArray[Any]) -> NDArray[np.integer[Any]]:
        """Return classes as label values, in the smallest integer type that holds them all."""
        values = np.asarray([*self.values, *([] if self.ignore is None else [self.ignore])], dtype=np.int64)
        kinds = (np.uint8, np.int16, np.uint16, np.int32, np.int64)
        kind = next(k for k in kinds if np.iinfo(k).min <= values.min() and values.max() <= np.iinfo(k).max)
        decoded = np.empty(classes.shape, dtype=kind)
        for out, part in _slices(decoded, classes):
            out[...] = values[part]
        return decoded

    def paint(self, active: NDArray[np.bool_]) -> NDArray[np.integer[Any]]:
        """Return region masks `(regions, ...)` as classes `(...)`: painted in the declared order, later over earlier.

        Source: nnU-Net 2.8.1, regions_class_order.
        """
        classes = np.zeros(active.shape[1:], dtype=np.uint8 if len(self.all) <= 256 else np.int16)
        for region, mask in zip(self.regions, active, strict=True):
            classes[mask] = self.classes_of([region.writes])[0]
        return classes

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            "labels": {label.name: label.value for label in self.all},
            "regions": {r.name: {"of": list(r.members), "writes": r.writes} for r in self.regions},
            "ignore": self.ignore,
            "pairs": [list(pair) for pair in self.pairs],
            **({"aliases": {str(alias): value for alias, value in self.aliases}} if self.aliases else {}),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Labels:
        """Return the inverse of `to_json`; further keys are left alone.

        Raises
        ------
        SettingsError : a value is of the wrong type
        LabelError : labels that cannot work
        """
        return schema.parse(LabelsRecord, schema.pick(LabelsRecord, value), what="the labels", fix="correct these places").scheme()


@dataclass(frozen=True, kw_only=True)
class RegionRecord:
    """A region in a file, under its name."""

    members: tuple[int, ...] = schema.key("of")
    writes: int


@dataclass(frozen=True, kw_only=True)
class LabelsRecord:
    """The label scheme as files hold it, among other keys."""

    labels: Mapping[str, int]
    regions: Mapping[str, RegionRecord] = field(default_factory=dict)
    ignore: int | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    aliases: Mapping[int, int] = field(default_factory=dict)

    def scheme(self) -> Labels:
        """Return the labels, checked by `make_labels`."""
        regions = {name: (region.members, region.writes) for name, region in self.regions.items()}
        return make_labels(dict(self.labels), regions=regions, ignore=self.ignore, pairs=self.pairs, aliases=dict(self.aliases))


def make_labels(
    values: dict[str, int],
    *,
    regions: dict[str, tuple[tuple[int, ...], int]] | None = None,
    ignore: int | None = None,
    pairs: tuple[tuple[str, str], ...] = (),
    aliases: dict[int, int] | None = None,
) -> Labels:
    """Return a checked label scheme.

    Parameters
    ----------
    values : label name to value in the files; exactly one is the background: the one named so, or the one of value 0
    regions : region name to (member values, value it writes), in the order in which they are painted
    ignore : value of voxels that were not annotated
    pairs : names of left/right pairs
    aliases : further values found in files, to the declared value (or ignore value) that each one means

    Raises
    ------
    LabelError : no background, a value used twice, an ignore value that is also a label, an alias that is declared or means
        an undeclared value, a region with unknown members, or regions from which the labels cannot be recovered:
        painting the regions of a label must give that label back.
    """
    ordered = _background_first(values)
    _check_values(list(ordered.values()), ignore)
    scheme = Labels(
        all=tuple(Label(name=name, value=int(value)) for name, value in ordered.items()),
        regions=tuple(Region(name=n, members=tuple(map(int, m)), writes=int(w)) for n, (m, w) in (regions or {}).items()),
        ignore=ignore,
        pairs=pairs,
        aliases=tuple(sorted((int(alias), int(value)) for alias, value in (aliases or {}).items())),
    )
    _check_aliases(scheme)
    _check_regions(scheme)
    unknown = [name for pair in pairs for name in pair if name not in scheme.names]
    if unknown:
        raise LabelError(
            "a left/right pair names an unknown label",
            found=", ".join(unknown),
            expected=", ".join(scheme.names),
            fix="use the names of the labels",
        )
    return scheme


def regions_that_write(members: dict[str, tuple[int, ...]], values: Iterable[int]) -> dict[str, tuple[tuple[int, ...], int]] | None:
    """Find the value each region writes, where only its members were declared: the one left when later regions have painted theirs.

    The declared order is tried first, then the larger regions before the smaller ones.

    Parameters
    ----------
    members : region name to the label values it is the union of
    values : all foreground values; each must be given back by painting

    Returns
    -------
    regions as `make_labels` takes them, in painting order, or `None` where it is ambiguous or a label would be lost

    >>> regions_that_write({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, [1, 2, 3])
    {'whole': ((1, 2, 3), 1), 'core': ((2, 3), 2), 'enhancing': ((3,), 3)}
    >>> regions_that_write({"whole": (1, 2, 3), "core": (2, 3)}, [1, 2, 3]) is None
    True
    """
    for order in (list(members), sorted(members, key=lambda name: -len(members[name]))):
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        painted: set[int] = set()
        for name in reversed(order):
            own = set(members[name]) - painted
            if len(own) != 1:
                break
            painted |= own
            found[name] = (members[name], own.pop())
        if painted and len(found) == len(members) and painted == set(values):
            return {name: found[name] for name in order}
    return None


def _slices(first: NDArray[Any], second: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield two volumes slice by slice: looking up a table for all voxels at once would take eight bytes of index for each."""
    if first.ndim < 2:
        yield first, second
    else:
        yield from zip(first, second, strict=True)


def left_right_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the names that differ only in left/right, L/R, sin/dex: the pairs that mirroring would mix up.

    Halves of an organ that are not mirror images of each other do not count: a mirrored left ventricle of the heart does not look
    like a right one. (The lateral ventricles of the brain do.)

    >>> left_right_pairs(["background", "kidney_left", "kidney_right", "liver"])
    (('kidney_left', 'kidney_right'),)
    """
    by_key: dict[tuple[str, ...], dict[bool, str]] = {}
    for name in names:
        words = _words(name)
        if _ONE_SIDED & {*words} or ("ventricle" in words and not {"lateral", "lat"} & {*words}):
            continue
        for position, word in enumerate(words):
            if word in _LEFT | _RIGHT:
                key = (*words[:position], "*", *words[position + 1 :])
                by_key.setdefault(key, {})[word in _LEFT] = name
                break
    return tuple((sides[True], sides[False]) for sides in by_key.values() if len(sides) == 2)


_LEFT = frozenset({"left", "l", "lh", "lt", "sin", "links"})
_RIGHT = frozenset({"right", "r", "rh", "rt", "dex", "rechts"})
_ONE_SIDED = frozenset({"heart", "cardiac", "atrium", "atrial", "auricle", "coronary", "liver", "hepatic"})


def _words(name: str) -> tuple[str, ...]:
    spaced = "".join(f" {c}" if c.isupper() and i and name[i - 1].islower() else c for i, c in enumerate(name))
    return tuple("".join(c if c.isalnum() else " " for c in spaced).casefold().split())


def _free_value(values: dict[str, int]) -> int:
    return 0 if 0 not in values.values() else min(values.values()) - 1


def _background_first(values: dict[str, int]) -> dict[str, int]:
    """Return the labels with the background first, added where it is missing, and the others by ascending value."""
    if not values:
        raise LabelError("no labels declared", expected="at least one foreground label", fix="declare name and value of each label")
    candidates = [n for n in values if n.casefold() == "background"] or [n for n, v in values.items() if v == 0]
    if not candidates:
        values, candidates = {"background": _free_value(values), **values}, ["background"]
    return dict(sorted(values.items(), key=lambda item: (item[0] != candidates[0], item[1])))


def _check_values(values: list[int], ignore: int | None) -> None:
    doubled = sorted({value for value in values if values.count(value) > 1})
    if doubled:
        raise LabelError(
            "two labels share a value", found=str(doubled), expected="one value per label", fix="give each label its own value"
        )
    if len(values) < 2:
        raise LabelError(
            "no foreground label declared",
            found="only the background",
            expected="at least one label besides the background",
            fix="declare name and value of each label",
        )
    if ignore in values:
        raise LabelError("the ignore value is also a label", found=str(ignore), expected="a value of its own", fix="declare it only once")


def _check_aliases(scheme: Labels) -> None:
    known = {*scheme.values, *([] if scheme.ignore is None else [scheme.ignore])}
    for alias, value in scheme.aliases:
        if alias in known or value not in known:
            raise LabelError(
                f"the value {alias} cannot mean {value}",
                found=f"{alias} is declared itself" if alias in known else f"{value} is not declared",
                expected=f"an undeclared value that means one of {sorted(known)}",
                fix="correct the mapping of label values",
            )


def _check_regions(scheme: Labels) -> None:
    known = set(scheme.values)
    for region in scheme.regions:
        unknown = [v for v in (*region.members, region.writes) if v not in known]
        if unknown or not region.members or region.writes == scheme.values[0]:
            raise LabelError(
                f"region '{region.name}' cannot be used",
                found=f"of {list(region.members)}, writes {region.writes}",
                expected=f"foreground values among {sorted(known)}",
                fix="correct the region in the declaration of the labels",
            )
    if not scheme.regions:
        return
    for label in scheme.all:
        active = np.array([[label.value in region.members] for region in scheme.regions])
        painted = scheme.values[int(scheme.paint(active)[0])]
        if painted != label.value:
            raise LabelError(
                f"the label '{label.name}' cannot be recovered from the regions",
                found=f"a voxel of value {label.value} is painted {painted}",
                expected="each label is painted by the regions it belongs to, in their order",
                fix="correct the order of the regions, or the value that each one writes",
            )
