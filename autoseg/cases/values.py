"""A data set as the rest of the program sees it: cases, what their files mean, and what was wrong with the rest."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg import schema
from autoseg.errors import AutosegError, SettingsError
from autoseg.labels import Labels, LabelsRecord

GRID_FIXES = ("copy-image", "resample-label")  # what to do with a label that is not on its image's grid
LONGEST_NAME = 200  # bytes; a file system takes 255, and `.writing-PID-` and `_probabilities.nii.gz` are put around a case's name


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One input channel. `modality` is from the closed list `MODALITIES` and chooses the normalisation; the name does not."""

    name: str
    modality: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient scan: its files, all absolute paths, untouched."""

    name: str
    images: tuple[Path, ...]  # one per channel, in the order of the channels; or one file that holds them all
    label: Path | tuple[tuple[str, Path], ...] | None = None  # a label map, or (label name, mask file) pairs, or none
    group: str | None = None  # patient or site: never split over folds
    annotated: tuple[str, ...] | None = None  # names of the labels annotated in this case; None: all of them
    grid_fix: str | None = None  # one of GRID_FIXES, where the user chose it; None: a label off the image's grid is an error

    @property
    def files(self) -> tuple[Path, ...]:
        """Files, or folders (DICOM, a picture per slice): the images, then the label map or masks."""
        label = self.label or ()
        return (*self.images, *([label] if isinstance(label, Path) else [path for _, path in label]))


def left_out(case: str) -> str:
    """The option that leaves a case out, as a shell takes it.

    >>> left_out("hippocampus_007"), left_out("liver 7")
    ('--exclude hippocampus_007', "--exclude 'liver 7'")
    """
    return f"--exclude {shlex.quote(case)}"


def can_name_files(name: str) -> bool:
    """Whether files can be called by a case's name: not too long, no slashes, control characters, or bytes that are no text.

    Spaces of all kinds are welcome: macOS puts U+202F into the names of screenshots, a Japanese keyboard writes U+3000.
    """
    if name in ("", ".", "..") or any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return False
    return len(name.encode()) <= LONGEST_NAME


def unfit_name(name: str, file: Path) -> SettingsError:
    """Return the error for a case by whose name no file can be called.

    Parameters
    ----------
    name : of the case
    file : that has the name, or the list that holds it
    """
    size = len(name.encode(errors="replace"))
    long = size > LONGEST_NAME
    return SettingsError(
        "the name of the case is too long" if long else "a name that no file could have",
        case=printable(name),
        file=printable(str(file)),
        found=f"{size} bytes" if long else repr(name),
        expected=f"at most {LONGEST_NAME}; a letter beyond A to Z takes two or three" if long else "letters, digits and signs, no slash",
        fix="give the case another name, or rename its files",
    )


def composed(name: str) -> str:
    """Return a name in one form of Unicode: a Mac writes "ü" as two characters where others write one."""
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    """A name with what cannot be printed written out.

    >>> printable("liver\\n7")
    'liver\\\\n7'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the recipe found: the cases and what their files mean."""

    name: str
    root: Path
    recipe: str  # "msd", "nnunet-v2", "list", ...
    channels: tuple[Channel, ...]
    labels: Labels
    cases: tuple[Case, ...]  # with a label, sorted by name
    notes: tuple[str, ...] = ()  # what was assumed or left aside, for the user to read
    problems: tuple[AutosegError, ...] = ()  # cases that could not be made whole: a channel or a label missing; not written to JSON
    warnings: tuple[AutosegError, ...] = ()  # what of the user's is not used, or seems to be forgotten; not written to JSON

    def without(self, names: Sequence[str]) -> Dataset:
        """The data set with some cases left out, whole or not; names are compared in one Unicode form, whichever keyboard wrote them.

        Raises
        ------
        SettingsError : there is no case of such a name
        """
        known = {case.name for case in self.cases} | {problem.case for problem in self.problems if problem.case}
        known_forms = {composed(name) for name in known}
        for name in names:
            if composed(name) not in known_forms:
                close = schema.nearest(name, sorted(known))
                raise SettingsError(
                    f"there is no case '{name}' to leave out",
                    found=name,
                    expected=f"names such as {', '.join(sorted(known)[:3])}",
                    fix=f"did you mean '{close}'?" if close else "check the spelling",
                )
        excluded = {composed(name) for name in names}
        return replace(
            self,
            cases=tuple(case for case in self.cases if composed(case.name) not in excluded),
            problems=tuple(problem for problem in self.problems if composed(problem.case or "") not in excluded),
        )

    def only(self, names: Sequence[str]) -> Dataset:
        """The data set with some of its cases."""
        wanted = set(names)
        return replace(self, cases=tuple(case for case in self.cases if case.name in wanted))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; paths inside the root are kept relative to it."""
        return {
            "name": self.name,
            "root": str(self.root),
            "recipe": self.recipe,
            "channels": schema.dump(self.channels),
            **self.labels.to_json(),
            "cases": [_case_to_json(case, self.root) for case in self.cases],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(value: Any) -> Dataset:
        """Return the inverse of `to_json`.

        Raises
        ------
        SettingsError : a key is missing, unknown or holds something else than it should; every such place is named
        LabelError : labels that cannot work
        """
        fix = "correct these places, or plan again from the images"
        record = schema.parse(_DatasetRecord, value, what="the description of the data set", fix=fix)
        root = Path(record.root)
        return schema.rebuild(Dataset, record, root=root, labels=record.scheme(), cases=tuple(case.within(root) for case in record.cases))


@dataclass(frozen=True, kw_only=True)
class _CaseRecord:
    """A case in dataset.json; paths are relative to the root where they are inside it."""

    case: str
    images: tuple[str, ...]
    label: str | Mapping[str, str] | None
    group: str | None
    annotated: tuple[str, ...] | None
    grid_fix: str | None = None

    def within(self, root: Path) -> Case:
        label = tuple((name, root / path) for name, path in self.label.items()) if isinstance(self.label, Mapping) else None
        return Case(
            name=self.case,
            images=tuple(root / path for path in self.images),
            label=root / self.label if isinstance(self.label, str) else label,
            group=self.group,
            annotated=self.annotated,
            grid_fix=self.grid_fix,
        )


@dataclass(frozen=True, kw_only=True)
class _DatasetRecord(LabelsRecord):
    """dataset.json."""

    name: str
    root: str
    recipe: str
    channels: tuple[Channel, ...]
    cases: tuple[_CaseRecord, ...]
    notes: tuple[str, ...] = ()


def _case_to_json(case: Case, root: Path) -> dict[str, Any]:
    label = _relative(case.label, root) if isinstance(case.label, Path) else case.label
    return {
        "case": case.name,
        "images": [_relative(path, root) for path in case.images],
        "label": {name: _relative(path, root) for name, path in label} if isinstance(label, tuple) else label,
        "group": case.group,
        "annotated": schema.dump(case.annotated),
        **({"grid_fix": case.grid_fix} if case.grid_fix else {}),
    }


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
