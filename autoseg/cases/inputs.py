"""What is given to `predict`: files or a folder, with or without channel suffixes, become cases without labels."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from autoseg import images
from autoseg.cases.layout_errors import no_such_path
from autoseg.cases.lists import is_list, read_list
from autoseg.cases.values import Case
from autoseg.errors import AutosegError, MissingChannel, MissingPath, SettingsError

_NUMBERED = re.compile(r"(?P<stem>.+)_(?P<channel>\d{4})")


def find_inputs(paths: Sequence[Path], *, channels: int) -> tuple[Case, ...]:
    """Return the cases to predict.

    A name may end in `_0000`, `_0001`, ... for its channel; it is left out of the case's name. Where a name ends in a number that is
    no channel (`amos_0507`), the numbers of all files of that stem belong to the names. One channel that is missing does not
    stop the others: the case is returned with the path where its file should be, and fails on reading.

    Parameters
    ----------
    paths : image files; folders of image files; folders that hold one DICOM series, or one in each subfolder; or one list of
        cases (CSV, JSON)
    channels : that the model was trained with

    Returns
    -------
    cases sorted by name, each with one path per channel, or one file that holds all channels

    Raises
    ------
    MissingPath : a path that does not exist (nearest names in the message), or nothing to predict in a folder
    MissingChannel : no case is whole
    SettingsError : two inputs of the same name
    """
    if len(paths) == 1 and Path(paths[0]).suffix.casefold() in (".csv", ".tsv", ".json") and is_list(Path(paths[0])):
        return read_list(Path(os.path.abspath(paths[0])), labelled=False).cases
    found: list[Path] = []
    for path in map(Path, paths):
        found += _files_at(Path(os.path.abspath(path)))
    explicit = all(Path(path).is_file() for path in paths)
    cases = _by_channel(found, channels, explicit=explicit)
    names = [case.name for case in cases]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        files = [str(path) for case in cases if case.name == doubled[0] for path in case.images]
        raise SettingsError(
            "two inputs have the same name",
            found=f"{doubled[0]}: {', '.join(files)}",
            expected="one name per case",
            fix="predict them apart, or rename one",
        )
    whole = [case for case in cases if all(path.exists() for path in case.images)]
    if not whole:
        raise _no_whole_case(cases, channels)
    return tuple(sorted(cases, key=lambda case: case.name))


def _files_at(path: Path) -> list[Path]:
    """Return the images that one argument stands for; a DICOM series is the path of its folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise no_such_path(path)
    if images.is_series(path):
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    named = [entry for entry in entries if images.suffix_of(entry)]
    found = [entry for entry in named if not entry.is_dir() or not images.is_series(entry)]  # a dead link fails when it is read
    found = found or [entry for entry in entries if entry.is_dir() and images.is_series(entry)]
    if not found:
        raise MissingPath(
            "there is no image in this folder",
            file=path,
            found=", ".join(entry.name for entry in entries[:3]) or "an empty folder",
            expected=f"files that end in {', '.join(images.SUFFIXES)}, or folders of DICOM slices",
            fix="give the images or their folder",
        )
    return found


def _by_channel(found: Sequence[Path], channels: int, *, explicit: bool) -> list[Case]:
    groups: dict[tuple[Path, str, str], dict[int, Path]] = {}
    plain: list[Path] = []
    for path in found:
        match = _NUMBERED.fullmatch(_stem(path))
        if match is None:
            plain.append(path)
        else:
            groups.setdefault((path.parent, match["stem"], images.suffix_of(path)), {})[int(match["channel"])] = path
    cases = []
    for (folder, stem, suffix), numbered in groups.items():
        if max(numbered) >= channels:  # numbers of cases, not of channels
            plain += numbered.values()
        elif channels > 1 and list(numbered) == [0] and _channels_in(numbered[0]) == channels:
            cases.append(Case(name=stem, images=(numbered[0],)))
        else:
            expected = tuple(numbered.get(index, folder / f"{stem}_{index:04d}{suffix}") for index in range(channels))
            cases.append(Case(name=stem, images=expected))
    if explicit and not cases and len(plain) == channels > 1 and all(_channels_in(path) == 1 for path in plain):
        return [Case(name=_stem(plain[0]), images=tuple(plain))]  # the channels of one case, in their order
    return cases + [Case(name=_stem(path), images=(path,)) for path in plain]


def _channels_in(path: Path) -> int | None:
    """`None` for a file that cannot be read: its case fails alone, when its turn comes."""
    try:
        return images.read_header(path).channels
    except AutosegError:
        return None


def _no_whole_case(cases: Sequence[Case], channels: int) -> MissingChannel:
    lacking = next(path for case in cases for path in case.images if not path.exists())
    there = sorted(entry.name for entry in lacking.parent.iterdir())
    close = difflib.get_close_matches(lacking.name, there, n=3, cutoff=0.5)
    return MissingChannel(
        "no case has all channels that the model needs",
        file=lacking,
        found=f"nearest there: {', '.join(close)}" if close else None,
        expected=f"{channels} files per case, ending in {', '.join(f'_{index:04d}' for index in range(channels))}",
        fix="add the channels that are missing, or use a model that was trained without them",
    )


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else images.stem_of(path)
