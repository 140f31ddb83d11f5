"""Why a case that a recipe found cannot be used, with the file that would complete it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from autoseg import images
from autoseg.cases.hints import NearestFiles, some
from autoseg.cases.matching import CaseFiles, Match
from autoseg.cases.recipes import Pattern
from autoseg.cases.values import can_name_files, composed, left_out, printable, unfit_name
from autoseg.errors import AutosegError, InputError, MissingChannel, MissingLabel, MissingPath, SettingsError


def problem_of(root: Path, name: str, case: CaseFiles, match: Match, nearest: NearestFiles) -> InputError | None:
    """Return what is wrong with a case of a folder, `None` where it has its label and every channel.

    Parameters
    ----------
    root : of the data set
    name : of the case
    case, match : its files, and what the recipe makes of the whole folder
    nearest : for the hints
    """
    if case.doubled:
        first, second = case.doubled[0]
        return SettingsError(
            "two files claim the same place in a case",
            case=name,
            file=root / second,
            details={"other": str(root / first)},
            expected="one file per channel and label",
            fix="take one of them away, or state a recipe that distinguishes them",
        )
    if not can_name_files(name):
        return unfit_name(name, root / case.paths[0])
    if case.missing(match.channels):
        return _missing_channel(root, name, case, match, nearest)
    extra = [key for key in case.images if isinstance(key, (str, int)) and key not in range(max(1, len(match.channels)))]
    if extra and match.channels:
        return MissingChannel(
            "the case has more channels than are declared",
            case=name,
            file=root / case.images[extra[0]],
            found=f"{len(case.images)} files",
            expected=f"{len(match.channels)}: {', '.join(match.channels)}",
            fix="declare the further channel, or take its files away",
        )
    for path in case.paths:
        if absent := absent_file(name, root / path, lambda path: _way_to_complete(root, path, nearest)):
            return absent
    if not case.has_label:
        wanted = match.recipe.label[0] if match.recipe.label else None
        expected = _expand(wanted, case.parts) if wanted else "a label"
        return MissingLabel(
            "the image has no label",
            case=name,
            file=root / next(iter(case.images.values())),
            expected=expected,
            fix=f"{_way_to_complete(root, expected, nearest)}; or leave the case out with {left_out(name)}",
        )
    return None


def _missing_channel(root: Path, name: str, case: CaseFiles, match: Match, nearest: NearestFiles) -> MissingChannel:
    number = case.missing(match.channels)[0]
    pattern = match.recipe.images[0] if match.recipe.images else match.recipe.channels[number].files[0]
    expected = _expand(pattern, {**case.parts, "channel": f"{number:04d}", "ext": match.ending})
    if not case.images:
        summary, file = "the label has no image", case.paths[0]
    else:
        called = match.channels[number] if number < len(match.channels) else str(number)
        summary, file = f"channel {number} ({called}) is missing", expected
    return MissingChannel(
        summary,
        case=name,
        file=root / file,
        found=", ".join(Path(path).name for path in case.images.values()) or "no image",
        expected=expected,
        fix=f"{_way_to_complete(root, expected, nearest)}; or leave the case out with {left_out(name)}",
    )


def listed_otherwise(root: Path, match: Match, nearest: NearestFiles) -> tuple[list[AutosegError], list[str]]:
    """Return the cases that dataset.json lists and the folder lacks, or that it pairs against their names; and notes on the list."""
    names = match.recipe.names
    entries = match.declared.get(names.cases) if names and names.cases else None
    if entries is None:
        return [], []
    problems: list[AutosegError] = []
    listed: set[str] = set()
    strange = 0
    for entry in entries if isinstance(entries, list) else [entries]:
        path = entry.get("label") if isinstance(entry, Mapping) else None
        if not isinstance(path, str):
            strange += 1
            continue
        relative = path.removeprefix("./")
        name = _bare(relative)
        listed.add(name)
        image = entry.get("image")
        if name not in match.cases and not file_exists(root / relative):
            problems.append(
                MissingPath(
                    "a case that dataset.json lists is not there",
                    case=name,
                    file=root / relative,
                    fix=f"{_way_to_complete(root, relative, nearest)}; or leave the case out with {left_out(name)}",
                )
            )
        elif isinstance(image, str) and _bare(image) != name and _bare(image) in match.cases:
            listed.add(_bare(image))
            problems.append(
                SettingsError(
                    "dataset.json pairs an image with the label of another name",
                    case=_bare(image),
                    file=root / "dataset.json",
                    found=f"image {image}, label {path}",
                    expected="image and label of one case under one name, as they are paired here",
                    fix=f"correct the list, or the names; or leave the case out with {left_out(_bare(image))}",
                )
            )
    notes = [f"{strange} entries of the list of cases in dataset.json cannot be understood and were left aside"] if strange else []
    further = sorted(name for name, case in match.cases.items() if case.has_label and name not in listed)
    if listed and further:
        notes.append(f"{len(further)} cases are used that dataset.json does not list ({some(further)})")
    return problems, notes


def strayed_labels(root: Path, names: Sequence[str], match: Match) -> Iterator[MissingLabel]:
    """Yield a warning for each case without a label that has a folder to itself, in which one image file belongs to no case.

    Also where one such case and one such file are all there is in the whole data set.
    """
    owners: dict[str, set[str]] = {}
    for name, case in match.cases.items():
        for path in case.paths:
            owners.setdefault(path.rpartition("/")[0], set()).add(name)
    for name in names if match.unused else ():
        case = match.cases[name]
        folders = {path.rpartition("/")[0] for path in case.paths}
        near = [path for path in match.unused if path.rpartition("/")[0] in folders and owners[path.rpartition("/")[0]] == {name}]
        strays = match.unused if len(names) == 1 == len(match.unused) else near
        if len(strays) == 1:
            expected = _expand(match.recipe.label[0], case.parts) if match.recipe.label else "a label"
            yield MissingLabel(
                "the case has no label, and a file that is in no case is probably it",
                case=name,
                file=root / strays[0],
                expected=expected,
                fix=f"if it is the label, rename it; else leave the case out with {left_out(name)}",
            )


def _bare(path: str) -> str:
    """The name of a file without folder and suffix, in the form in which the cases are named."""
    return composed(images.stem_of(path))


def _expand(pattern: Pattern, parts: Mapping[str, str]) -> str:
    text = pattern.text.replace("**/", "")
    return re.sub(
        r"\{([a-z_]+)(?::[^{}]*)?\}", lambda token: parts.get(token[1], ".nii.gz" if token[1] == "ext" else f"<{token[1]}>"), text
    )


def absent_file(name: str, path: Path, way: Callable[[Path], str]) -> MissingPath | None:
    """Return the error for a file of a case that is not there, or a link to one, as git-annex and moved disks leave them.

    Parameters
    ----------
    name : of the case
    path : of the file
    way : from the path to what the user can do
    """
    if not is_text(path):
        return MissingPath(
            "a path that is not valid UTF-8",
            case=name,
            file=printable(str(path)),
            expected="letters, digits and signs",
            fix="rename the file or folder",
        )
    if file_exists(path):
        return None
    if file_exists(path, follow=False):
        return MissingPath(
            "the link leads to no file",
            case=name,
            file=path,
            found=f"a link to {os.readlink(path)}",
            expected="the file itself",
            fix="mount the disk or fetch the file (git annex get, datalad get), or link it again",
        )
    return MissingPath("a listed file is not there", case=name, file=printable(str(path)), fix=way(path))


def is_text(path: Path) -> bool:
    """Return whether a path can be written into a file; bytes that a file system takes need not be UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def file_exists(path: Path, *, follow: bool = True) -> bool:
    """Return whether there is a file or folder; `False` also for a path that none could have: too long, or not text."""
    try:
        return path.exists() if follow else path.is_symlink()
    except OSError:
        return False


def _way_to_complete(root: Path, expected: str | Path, nearest: NearestFiles) -> str:
    close = nearest(root / expected)
    return f"put the file there, or rename the one that is meant (nearest there: {', '.join(close)})" if close else "put the file there"
