"""Whether labels hold declared values, a structure and a background."""

from __future__ import annotations

from collections.abc import Iterator

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, error, some, warning
from autoseg.checking.reading import CaseData
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds
from autoseg.images import PICTURES, suffix_of
from autoseg.images.label_values import content_of, value_text

_LIMITS = thresholds("label_values")
_LISTED = 10


def undeclared_values(data: CaseData) -> Iterator[Fault]:
    """Report values of a label that were not declared, with their counts."""
    labels, strange = data.labels, data.undeclared
    if not strange:
        return
    picture = data.label_file is not None and suffix_of(data.label_file) in PICTURES
    text = value_text if picture else str
    listed = ", ".join(f"{text(value)} ({count} voxels)" for value, count in list(strange.items())[:_LISTED])
    content = None if data.label is None else content_of(data.label.array)
    if content and content.kind == "smeared":
        remedy = f"smeared borders: {content.remedy(labels.values)}; or {left_out(data.case.name)}"
    elif len(strange) > _LIMITS.image_like or (content and content.kind == "image"):
        remedy = f"so many values look like an image: check that this file is the label, or {left_out(data.case.name)}"
    else:
        options = " ".join(f"--map-labels {text(value)}={labels.values[0]}" for value in list(strange)[:3])
        remedy = f"declare them; or map them onto the declared ones they stand for, for example {options}; or {left_out(data.case.name)}"
    yield error(
        "labels",
        "label values that were not declared",
        case=data.case.name,
        file=data.label_file,
        found=listed + (f", and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""),
        expected=", ".join(f"{label.value} {label.name}" for label in labels.all[:_LISTED]),
        remedy=remedy,
    )


def empty_label(data: CaseData) -> Iterator[Fault]:
    """Report a label without any structure, and one without background."""
    if data.voxels is None or data.undeclared:
        return
    background, *foreground = data.voxels[: data.labels.class_count]
    ignored = data.voxels[data.labels.class_count :]
    if not any(foreground):
        yield warning(
            "empty-label",
            "the label is empty",
            case=data.case.name,
            file=data.label_file,
            found="only the ignore value" if any(ignored) else "only background",
            remedy="it counts as a case without any of the structures; leave it out if it was never annotated",
        )
    if not background and not any(ignored):
        yield warning(
            "no-background",
            "the label has no background",
            case=data.case.name,
            file=data.label_file,
            found="every voxel belongs to a structure",
            remedy="check that the background was not lost; Dice on such a case says little",
        )


def unused_mappings(cohort: Cohort) -> Iterator[Fault]:
    """Report values that are mapped to others and occur in no label file."""
    labels = cohort.dataset.labels
    occurring = {value for case in cohort.cases for value in case.mapped}
    ranges: list[list[tuple[int, int]]] = []  # of consecutive values with one meaning, as a range of --map-labels gives them
    for value, target in labels.aliases:
        if not ranges or ranges[-1][-1] != (value - 1, target):
            ranges.append([])
        ranges[-1].append((value, target))
    absent = [known for known in ranges if not any(value in occurring for value, _ in known)]
    if absent:
        texts = [value_text(known[0][0]) + (f"-{known[-1][0]}" if len(known) > 1 else "") + f"={known[0][1]}" for known in absent]
        found = " ".join(f"--map-labels {text}" for text in texts)
        yield warning(
            "unused",
            "values that are mapped occur in no label file",
            found=found,
            expected=f"values of the files; declared are {some(map(str, labels.values))}",
            remedy="check the spelling: --map-labels VALUE_IN_THE_FILES=VALUE_IT_STANDS_FOR; or leave it out",
        )


def unused_labels(cohort: Cohort) -> Iterator[Fault]:
    """Report declared labels that occur in no case."""
    read = [case.voxels for case in cohort.cases if case.voxels is not None]
    names = cohort.dataset.labels.names
    absent = [name for index, name in enumerate(names) if index and not any(voxels[index] for voxels in read)]
    if not read or not absent:
        return
    if len(absent) == len(names) - 1:
        remedy = "check which files are the labels"
        yield error("empty-label", "no case holds any labelled voxel", expected=some(absent), remedy=remedy)
    else:
        remedy = "they cannot be learnt; take them out of the declaration"
        yield warning("unused-label", "labels that occur in no case", found=some(absent), remedy=remedy)
