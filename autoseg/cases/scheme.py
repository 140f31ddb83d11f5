"""Label schemes that nobody declared: from the values in the label files, or from the names of one file per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from autoseg import workers
from autoseg.cases.loading import load_label
from autoseg.cases.names import labels_from_values
from autoseg.cases.stacks import is_stack
from autoseg.cases.values import Case
from autoseg.errors import AutosegError, LabelError
from autoseg.labels import Labels, left_right_pairs, make_labels
from autoseg.presets import refuse_unknown

_MOST_VALUES = 1000  # more different values than any atlas has structures: the file is an image
_PICTURES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")  # formats whose masks people paint in grey levels
_GREY_STEP = 16  # values of a mask painted in grey levels lie at least so far apart
_SPECK = 0.001  # of a picture; what takes up more of one is painted on purpose
_MOST_BETWEEN = 5  # values of one case between the grey levels of all cases; more are blurred borders and no labels
_WORTH_WORKERS = 4_000_000  # bytes of label files; fewer are read before a worker has started
_LISTED = 8


def scheme_of_masks(names: Sequence[str], map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    """One label per mask file, by name: 1, 2, 3, ... in alphabetical order.

    Raises
    ------
    LabelError : `map_labels` is given, which speaks of values in label maps
    """
    if map_labels:
        raise LabelError(
            "--map-labels cannot be used with one file per label",
            found=str(dict(map_labels)),
            expected="label maps that hold several values",
            fix="leave it out",
        )
    ordered = sorted(names)
    labels = make_labels({"background": 0, **{name: index for index, name in enumerate(ordered, start=1)}}, pairs=left_right_pairs(ordered))
    return labels, (f"one file per label: the {len(ordered)} labels were given the values 1 to {len(ordered)} by name",)


def scheme_of_values(cases: Sequence[Case], map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    """One label per value found in the label files of all cases.

    Pictures of masks painted in grey levels (0, 127, 255) that went through a lossy editor hold strays near a level in a few cases.
    Where all levels lie `_GREY_STEP` apart, a value that most cases lack stands for the level near it: one within `_GREY_STEP`, or of
    specks only and nearer than a quarter of the step between levels; this is told in a note. All other values are labels of their own,
    and so is every value of a volume: an atlas numbers its structures 17, 53, 54 and means each of them.

    Returns
    -------
    the scheme, and notes on how it was found

    Raises
    ------
    LabelError : no foreground value anywhere, or so many that the files must be images
    UnreadableFile, GeometryError, ... : not one label file can be read
    """
    paths = [case.label for case in cases if isinstance(case.label, Path)]
    labelled = [case for case in cases if isinstance(case.label, Path)]
    found: list[frozenset[int]] = []
    shares: dict[int, float] = {}  # value -> the largest part of a file that it takes up
    first_error: AutosegError | None = None
    size = sum(path.stat().st_size for path in paths if path.is_file())
    count = 0 if size < _WORTH_WORKERS else None
    for outcome in workers.run_cases(
        _values_of, labelled, names=[str(path) for path in paths], stage="reading label values", workers=count
    ):
        if outcome.value is not None:
            found.append(frozenset(outcome.value))
            for value, share in outcome.value.items():
                shares[value] = max(share, shares.get(value, 0.0))
        elif outcome.failure is not None and first_error is None:
            first_error = outcome.failure.as_error()
    if not found and first_error is not None:
        raise first_error
    counts = Counter(value for values in found for value in values if value not in map_labels)
    if len(counts) > _MOST_VALUES:
        raise LabelError(
            "the label files look like images",
            file=paths[0] if paths else None,
            found=f"{len(counts)} different values",
            expected="label maps with some values each",
            fix="check which files are the labels",
        )
    painted = all(path.suffix.casefold() in _PICTURES or is_stack(path) for path in paths)
    aliases = {**(_strays(found, shares, map_labels) if painted else {}), **map_labels}
    odd = _odd_values(found, {*aliases}) if painted else set()
    values = [value for value in counts if value not in aliases and value not in odd]
    if len(values) < 2:
        raise LabelError(
            "there is no labelled voxel in the whole data set",
            file=paths[0] if paths else None,
            found=f"values {sorted(counts)} in {len(found)} label files",
            expected="a background and at least one label value",
            fix="check which files are the labels",
        )
    labels = labels_from_values(values, aliases=aliases)
    notes = [f"label values found by reading: {_listed(labels.values)}; {labels.labels[0].value} is taken as background, and names "
             "can be declared in a dataset.json"]  # fmt: skip
    strays = {alias: value for alias, value in aliases.items() if alias not in map_labels}
    if odd:
        notes.append(
            f"{len(odd)} values occur only in label files that look painted over or scaled, and are no labels: {_listed(sorted(odd))}"
        )
    if strays:
        notes.append(
            "stray grey levels stand for the level near them: "
            + ", ".join(f"{alias} for {value} ({counts[alias]} of {len(found)} cases)" for alias, value in strays.items())
        )
    return labels, tuple(notes)


def check_annotated(cases: Sequence[Case], labels: Labels, *, file: Path) -> None:
    """Refuse names of annotated labels that are not declared.

    Raises
    ------
    SettingsError : with the nearest declared name
    """
    named = {name for case in cases for name in case.annotated or ()}
    refuse_unknown(sorted(named), labels.names, what="label among those annotated,", file=file)


def _values_of(case: Case) -> dict[int, float]:
    """The values of a label file, and the part of it that each takes up."""
    assert isinstance(case.label, Path)
    array = load_label(case, case.label).array
    if array.dtype == np.uint8:  # counting is several times faster than sorting
        every = np.bincount(array.ravel(), minlength=256)
        values = np.flatnonzero(every)
        counts = every[values]
    else:
        values, counts = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), (counts / max(1, array.size)).tolist(), strict=True))


def _levels(found: Sequence[frozenset[int]]) -> list[int]:
    """The grey levels of masks painted in them: values of at least half of the cases, far apart; empty for other label maps."""
    counts = Counter(value for values in found for value in values)
    levels = sorted(value for value, count in counts.items() if 2 * count >= len(found))
    return levels if len(levels) >= 2 and min(b - a for a, b in pairwise(levels)) >= _GREY_STEP else []


def _strays(found: Sequence[frozenset[int]], shares: Mapping[int, float], map_labels: Mapping[int, int]) -> dict[int, int]:
    """Values that stand for a grey level near them. A clean mask without two of the levels is painted otherwise: its values stay."""
    found = [values - {*map_labels} for values in found]
    levels = _levels(found)
    if not levels:
        return {}
    reach = min(b - a for a, b in pairwise(levels)) / 4
    kept = {value for values in found if len(values & {*levels}) < 2 and len(values) <= len(levels) for value in values}
    strays = {}
    for value in sorted({value for values in found for value in values} - {*levels} - kept):
        nearest = min(levels, key=lambda level: abs(level - value))
        if abs(nearest - value) < (reach if shares[value] < _SPECK else min(reach, _GREY_STEP)):
            strays[value] = nearest
    return strays


def _odd_values(found: Sequence[frozenset[int]], known: set[int]) -> set[int]:
    """Values of a few cases beside the grey levels of all others: borders blurred by an editor, or a mask of 0 and 1 among those of 255.

    They become no labels; the check then names them case by case, as undeclared. Of a mask without two of the levels they are odd
    only if each lies within `_GREY_STEP` of a level: {0, 1} among {0, 255} was scaled, {0, 128} is another class.
    """
    levels = _levels(found)
    if len(found) < 3 or not levels:
        return set()
    rest = [values - {*levels} - known for values in found]
    near = {value for more in rest for value in more if min(abs(value - level) for level in levels) < _GREY_STEP}
    strange = [
        len(more) > _MOST_BETWEEN or (len(more) > 0 and len(values & {*levels}) < 2 and more <= near)
        for more, values in zip(rest, found, strict=True)
    ]
    if 2 * sum(strange) >= len(found):
        return set()
    sound = {value for more, is_strange in zip(rest, strange, strict=True) if not is_strange for value in more}
    return {value for more in rest for value in more} - sound


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_LISTED])) + (", ..." if len(values) > _LISTED else "")
