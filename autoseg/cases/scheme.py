"""Label schemes that nobody declared: one label per mask file, or one per value in the label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from autoseg import images, workers
from autoseg.cases.loading import load_label
from autoseg.cases.names import labels_from_values
from autoseg.cases.stacks import is_stack
from autoseg.cases.values import Case
from autoseg.errors import AutosegError, FaultyCases, LabelError
from autoseg.images.label_values import Content, content_of, value_text
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
    contents = _contents(cases)
    _refuse_other_content(contents, map_labels)
    if (named := _scheme_of_names(contents, map_labels)) is not None:
        return named
    files_of: dict[int, list[Path]] = {}
    for path, content in sorted(contents.items()):
        for value in content.counts.keys() - map_labels.keys():
            files_of.setdefault(value, []).append(path)
    files_of = dict(sorted(files_of.items()))
    _refuse_colours(files_of, len(contents))
    if len({*files_of, *map_labels.values()}) < 2:
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
    labels = labels_from_values({*files_of, *map_labels.values()}, aliases=map_labels)
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


def _contents(cases: Sequence[Case]) -> dict[Path, Content]:
    """Return what each label file holds. An unreadable file is left to the check, unless no file can be read."""
    labelled = {str(case.label): case for case in cases if isinstance(case.label, Path)}
    size = sum(path.stat().st_size for path in map(Path, labelled) if path.is_file())
    found: dict[Path, Content] = {}
    errors: list[AutosegError] = []
    count = 0 if size < _WORTH_WORKERS else None
    for outcome in workers.map_cases(_content_of, [*labelled.values()], names=[*labelled], stage="reading label values", workers=count):
        if outcome.failure is not None:
            errors.append(outcome.failure.as_error())
        if outcome.value is not None:
            found[Path(outcome.name)] = outcome.value
    if errors and not found:
        raise errors[0]
    return found


def _content_of(case: Case) -> Content:
    assert isinstance(case.label, Path)
    label = load_label(case, case.label)
    return replace(content_of(label.array), names=() if label.stored is None else label.stored.names)


def _scheme_of_names(contents: Mapping[Path, Content], map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]] | None:
    """Return the labels that all files name in their headers, or `None`; where files number them differently, names decide."""
    values: dict[str, dict[int, list[str]]] = {}  # of each name, and the files that use it
    shown: dict[str, str] = {}
    for path, content in sorted(contents.items()):
        names = dict(content.names)
        if map_labels or {*content.counts} - {0} - names.keys():
            return None
        for value in sorted({*content.counts} - {0}):
            name = shown.setdefault(names[value].casefold(), names[value])
            values.setdefault(name, {}).setdefault(value, []).append(path.name)
    if not values:
        return None
    usual = {name: max(found, key=lambda value: len(found[value])) for name, found in values.items()}
    if len({*usual.values()}) < len(usual):
        usual = {name: number for number, name in enumerate(values, start=1)}
    other = sorted({file for name, found in values.items() for value, files in found.items() if value != usual[name] for file in files})
    notes = [f"labels are named in the files: {', '.join(f'{name} {value}' for name, value in list(usual.items())[:_LISTED])}"]
    if other:
        listed = ", ".join(other[:_LISTED]) + (", ..." if len(other) > _LISTED else "")
        notes.append(f"{len(other)} label files number their segments otherwise and are mapped by name ({listed})")
    return make_labels({"background": 0, **usual}, pairs=left_right_pairs(usual)), tuple(notes)


def _refuse_other_content(contents: Mapping[Path, Content], map_labels: Mapping[int, int]) -> None:
    """Raise where files are images, or masks with smeared borders whose values are not mapped."""
    wrong = {path: content for path, content in contents.items() if content.kind != "labels"}
    wrong = {path: content for path, content in wrong.items() if {*content.counts} - {*content.peaks} - map_labels.keys()}
    if not wrong:
        if len({value for content in contents.values() for value in content.counts} - map_labels.keys()) <= _MOST_VALUES:
            return
        wrong = dict(contents)
    path, content = max(wrong.items(), key=lambda item: len(item[1].counts))
    smeared = all(content.kind == "smeared" for content in wrong.values())
    lossy = smeared and all(images.suffix_of(path) in (".jpg", ".jpeg") for path in wrong)
    listed = ", ".join(path.name for path in sorted(wrong)[:_LISTED]) + (", ..." if len(wrong) > _LISTED else "")
    raise LabelError(
        ("JPEG has altered the label values" if lossy else "the label maps have smeared borders") if smeared
        else "the label files look like images" if len(wrong) == len(contents) else "label files that look like images, or were smoothed",
        file=path,
        found=f"{content.found}\n{len(wrong)} of {len(contents)} files: {listed}",
        expected="label maps with a few values each, every voxel one of them",
        fix=content.remedy() if smeared else "check which files are the labels",
    )  # fmt: skip


def _refuse_colours(files_of: Mapping[int, Sequence[Path]], number: int) -> None:
    """Raise for colours of pictures that are not mapped to label values."""
    pictures = {value: len(paths) for value, paths in files_of.items() if images.suffix_of(paths[0]) in images.PICTURES}
    colours = {value: count for value, count in pictures.items() if value_text(value) != str(value)}
    if not colours:
        return
    first = max([0, *(value for value in files_of if value not in colours)]) + 1
    options = [f"--map-labels {value_text(value)}={label}" for label, value in enumerate(colours, start=first)]
    raise LabelError(
        "the label maps are painted in colours",
        file=files_of[next(iter(colours))][0].parent,
        found=", ".join(f"{value_text(value)} in {count} of {number} files" for value, count in colours.items()),
        expected="a label value for each colour; black is 0",
        fix=f"map them, as you number your labels: {' '.join(options)}",
    )


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
