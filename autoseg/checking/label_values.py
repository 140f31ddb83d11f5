"""Whether labels hold declared values, a structure and a background."""

from __future__ import annotations

from collections.abc import Iterator

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, error, some, warning
from autoseg.checking.reading import CaseData
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("label_values")
_LISTED = 10


def undeclared_values(data: CaseData) -> Iterator[Fault]:
    """Report values of a label that were not declared, with their counts."""
    labels, strange = data.labels, data.undeclared
    if not strange:
        return
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:_LISTED])
    if len(strange) > _LIMITS.image_like:
        remedy = f"so many values look like an image: check that this file is the label, or {left_out(data.case.name)}"
    else:
        options = " ".join(f"--map-labels {value}={labels.values[0]}" for value in list(strange)[:3])
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
    if absent := [f"{value}={target}" for value, target in labels.aliases if value not in occurring]:
        found = " ".join(f"--map-labels {pair}" for pair in absent)
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
