"""Where the results of `predict` go, and what they never replace without being asked to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autoseg import images
from autoseg.cases import Case
from autoseg.errors import UsageError
from autoseg.pipeline.records import Record


def is_one_file(output: Path, found: Sequence[Case]) -> bool:
    """Return whether the output is the name of one label map."""
    suffix = "" if output.is_dir() else images.suffix_of(output)
    if suffix and len(found) > 1:
        raise UsageError(
            "several inputs cannot go into one file",
            file=output,
            found=f"{len(found)} inputs",
            expected="a folder",
            fix="give a folder with -o",
        )
    return bool(suffix)


def targets_of(found: Sequence[Case], output: Path, *, single: bool, dicom: bool = False) -> dict[str, Path]:
    """Return where each result goes; refuse before any work where that cannot be. `dicom`: results in a folder are DICOM objects."""
    if dicom or (single and images.suffix_of(output) == ".dcm"):
        _require_series(found, output, single=single)
    if single:
        for case in found:
            _require_label_format(output, case)
        targets = {case.name: output for case in found}
    else:
        targets = {case.name: output / f"{case.name}{'.dcm' if dicom else images.label_suffix(case.images[0])}" for case in found}
    taken = set(_resolved(path for case in found for path in case.images))
    clash = [str(path) for path, place in zip(targets.values(), _resolved(targets.values()), strict=True) if place in taken]
    if clash:
        raise UsageError("a result would replace its own input", file=clash[0], fix="give another place with -o")
    folder = output.parent if single else output
    for place in (folder, *folder.absolute().parents):
        if place.exists() and not place.is_dir():
            raise UsageError("results need a folder, and there is a file of that name", file=place, fix="give another place with -o")
    return targets


def _resolved(paths: Iterable[Path]) -> list[Path]:
    """Return paths without links; each folder is asked once, however many files it has."""
    folders: dict[Path, Path] = {}
    found = []
    for path in paths:
        folder = folders.get(path.parent) or folders.setdefault(path.parent, path.parent.resolve())
        found.append(path.resolve() if path.is_symlink() else folder / path.name)
    return found


def _require_series(found: Sequence[Case], output: Path, *, single: bool) -> None:
    """Raise unless all scans are DICOM, the result is to be, and can be written."""
    images.require_highdicom()
    other = [case.images[0] for case in found if not (case.images[0].is_dir() or images.suffix_of(case.images[0]) in ("", ".dcm"))]
    if other:
        raise UsageError(
            "a DICOM object is on the grid of a DICOM series", file=other[0], found="a scan of another format",
            expected="a folder of DICOM slices", fix="give -o another suffix, such as .nii.gz",
        )  # fmt: skip
    if single and images.suffix_of(output) != ".dcm":
        raise UsageError("a DICOM object has the suffix .dcm", file=output, fix=f"-o {output.with_name(images.stem_of(output) + '.dcm')}")


def _require_label_format(output: Path, case: Case) -> None:
    suffix = images.suffix_of(output)
    holds_labels = images.label_suffix(output) == suffix or suffix == ".dcm"
    if holds_labels and suffix in (".png", ".bmp"):
        holds_labels = images.suffix_of(case.images[0]) == suffix or images.read_header(case.images[0]).shape[0] == 1
    if not holds_labels:
        raise UsageError("this label map cannot be written in that format", file=output, found=suffix, expected="such as .nii.gz",
                         fix="give the output another suffix")  # fmt: skip


def refuse_to_replace(targets: Mapping[str, Path], record: Record) -> None:
    """Raise if a result would replace a file that no earlier prediction made, or one of another model: they may still be wanted."""
    names = {entry.name for entry in os.scandir(record.folder)} if record.folder.is_dir() else set()
    there = [path for path in targets.values() if path.name in names]
    made_by = {path: record.results.get(path.name) for path in there}
    for whose, taken in (
        ("files that no earlier prediction made", [path for path in there if made_by[path] is None]),
        ("results of another model", [path for path in there if made_by[path] not in (None, record.settings["model"])]),
    ):
        if taken:
            raise UsageError(
                f"{len(taken)} of the results' names are taken by {whose}",
                file=taken[0],
                expected="a new place, or results of an earlier prediction with this model",
                fix="give another place with -o, or --overwrite to replace them",
            )
