"""Label schemes that nobody declared: one label per mask file, or one per value in the label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from autoseg import images, workers
from autoseg.cases.loading import load_label
from autoseg.cases.names import labels_from_values
from autoseg.cases.stacks import is_stack
from autoseg.cases.values import Case
from autoseg.errors import AutosegError, FaultyCases, LabelError
from autoseg.labels import Labels, left_right_pairs, make_labels
from autoseg.presets import refuse_unknown

_MOST_VALUES = 1000  # more different values than any atlas has structures: the file is an image
_CLASS_NUMBERS = 64  # classes numbered 0, 1, 2, ... stay below
_GREY_STEP = 16  # values of masks painted in grey levels differ by at least this much
_WORTH_WORKERS = 4_000_000  # bytes of label files; fewer are read before a worker has started
_LISTED = 8


def scheme_of_masks(names: Sequence[str], map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    """Return one label per mask file, by name: 1, 2, 3, ... in alphabetical order.

    Raises
    ------
    LabelError : `map_labels` is given, which concerns values in label maps
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


def scheme_of_values(
    cases: Sequence[Case], map_labels: Mapping[int, int], *, problems: Sequence[AutosegError] = ()
) -> tuple[Labels, tuple[str, ...]]:
    """Return one label per value found in the label files of all cases, and a note that lists them.

    Parameters
    ----------
    cases : with label maps
    map_labels : value in the files to the label value it stands for
    problems : cases that are incomplete; reported first where no label is found, since they are the likely reason

    Raises
    ------
    FaultyCases : no foreground value anywhere, and some cases are incomplete
    LabelError : no foreground value anywhere; so many that the files must be images; or pictures whose values may be stray grey levels
    UnreadableFile, GeometryError, ... : not one label file can be read
    """
    files_of = _files_of_values(cases)
    files_of = {value: paths for value, paths in sorted(files_of.items()) if value not in map_labels}
    if len(files_of) > _MOST_VALUES:
        raise LabelError(
            "the label files look like images",
            file=next(iter(files_of.values()))[0],
            found=f"{len(files_of)} different values",
            expected="label maps with a few values each",
            fix="check which files are the labels",
        )
    if len(files_of) < 2:
        error = LabelError(
            "there is no labelled voxel in the whole data set",
            file=next((case.label for case in cases if isinstance(case.label, Path)), None),
            found=f"values {[*files_of]} in {len(cases)} label files",
            expected="a background and at least one label value",
            fix="check which files are the labels",
        )
        raise FaultyCases([*problems, *([error] if cases else [])], fix="correct these cases, or leave them out") if problems else error
    if all(images.suffix_of(path) in images.PICTURES or is_stack(path) for paths in files_of.values() for path in paths):
        _refuse_stray_levels(files_of)
    labels = labels_from_values(files_of, aliases=map_labels)
    listed = ", ".join(map(str, labels.values[:_LISTED])) + (", ..." if len(labels.values) > _LISTED else "")
    return labels, (
        f"label values found by reading: {listed}; {labels.values[0]} is taken as background, and names can be declared in a dataset.json",
    )


def check_annotated(cases: Sequence[Case], labels: Labels, *, file: Path) -> None:
    """Raise unless all labels that are listed as annotated are declared.

    Raises
    ------
    SettingsError : with the nearest declared name
    """
    named = {name for case in cases for name in case.annotated or ()}
    refuse_unknown(sorted(named), labels.names, what="label among those annotated,", file=file)


def _files_of_values(cases: Sequence[Case]) -> dict[int, list[Path]]:
    """Value to the label files that hold it. An unreadable file is left to the check, unless no file can be read."""
    labelled = {str(case.label): case for case in cases if isinstance(case.label, Path)}
    size = sum(path.stat().st_size for path in map(Path, labelled) if path.is_file())
    found: dict[int, list[Path]] = {}
    errors: list[AutosegError] = []
    count = 0 if size < _WORTH_WORKERS else None
    for outcome in workers.map_cases(_values_of, [*labelled.values()], names=[*labelled], stage="reading label values", workers=count):
        if outcome.failure is not None:
            errors.append(outcome.failure.as_error())
        for value in outcome.value or ():
            found.setdefault(value, []).append(Path(outcome.name))
    if errors and not found:
        raise errors[0]
    return {value: sorted(found[value]) for value in sorted(found)}


def _values_of(case: Case) -> list[int]:
    assert isinstance(case.label, Path)
    array = load_label(case, case.label).array
    if array.dtype == np.uint8:  # counting is several times faster than sorting
        return np.flatnonzero(np.bincount(array.ravel())).tolist()
    return np.unique(array).tolist()


def _refuse_stray_levels(files_of: Mapping[int, Sequence[Path]]) -> None:
    """Raise unless the values are class numbers (0, 1, 2) or levels far apart (0, 127, 255): others may be strays of a lossy editor."""
    if max(files_of) < _CLASS_NUMBERS or min(b - a for a, b in pairwise(files_of)) >= _GREY_STEP:
        return
    most = max(map(len, files_of.values()))
    usual = [value for value, paths in files_of.items() if 2 * len(paths) >= most]
    rare = [value for value in files_of if value not in usual]
    listed = [f"{value} in {len(files_of[value])} file(s), such as {files_of[value][0].name}" for value in rare[:_LISTED]]
    mapped = " ".join(f"--map-labels {value}={min(usual, key=lambda level: abs(level - value))}" for value in rare[:_LISTED])
    declared = ", ".join(f'"{"background" if value == usual[0] else f"label_{value}"}": {value}' for value in usual[:_LISTED])
    raise LabelError(
        "the label values are not declared, and cannot be distinguished from stray grey levels",
        file=files_of[(rare or usual)[0]][0].parent,
        found="\n".join([f"{', '.join(map(str, usual[:_LISTED]))} in most files", *listed, *(["..."] if len(rare) > _LISTED else [])]),
        expected=f"declared labels, class numbers below {_CLASS_NUMBERS}, or grey levels at least {_GREY_STEP} apart",
        fix=f'declare your labels in a dataset.json: {{"labels": {{{declared}}}}}'
        + (f"; if the others are strays, map them to the labels they stand for, for example {mapped}" if rare else ""),
    )
