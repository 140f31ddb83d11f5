"""What is given to `predict`: files or a folder, with or without channel suffixes, become cases without labels."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg import images, presets
from autoseg.cases.channel_order import contradicting, named_apart, order_of_files, order_of_heads, token_of
from autoseg.cases.finding import listing
from autoseg.cases.hints import some
from autoseg.cases.layout_errors import no_such_path
from autoseg.cases.lists import is_list, read_list
from autoseg.cases.matching import Match, match_recipe
from autoseg.cases.names import are_named
from autoseg.cases.recipes import read_recipe
from autoseg.cases.values import Case
from autoseg.errors import AutosegError, FaultyCases, MissingChannel, MissingPath, SettingsError
from autoseg.shards import Shard

_NUMBERED = re.compile(r"(?P<stem>.+)_(?P<channel>\d{4})")
_LABEL = re.compile(r"(?P<case>.+)[_.-](?:seg|segmentation|mask|masks|label|labels|gt|groundtruth)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is to be predicted."""

    cases: tuple[Case, ...]  # sorted by name; the images in the order of the model's channels
    problems: tuple[AutosegError, ...] = ()  # cases of which a file is missing
    notes: tuple[str, ...] = ()  # which file is which channel, and what is not used


def find_inputs(paths: Sequence[Path], *, channels: Sequence[str], shard: Shard | None = None) -> Inputs:
    """Return the cases to predict, their files matched to the model's channels by name.

    The name of a channel is the head of its column in a list, a part of a recipe, or a word in the file's name (`case_flair.nii.gz`).
    A name may also end in `_0000`, `_0001`, ... for its channel. Either is left out of the case's name. Where a name ends in a number
    that is no channel (`amos_0507`), the numbers of all files of that stem belong to the names. The order in which files are
    given counts only where no name says which channel they are. One channel that is missing does not stop the other cases.

    Parameters
    ----------
    paths : image files; folders of image files; folders that hold one DICOM series, or several in folders below; folders in the
        layout of a training set, whose labels are left aside; or one list of cases (CSV, JSON)
    channels : names of the model's channels, in its order
    shard : only the cases of this part; it may be empty. The files of others are listed, never opened

    Raises
    ------
    MissingPath : a path that does not exist (nearest names in the message), or nothing to predict in a folder
    MissingChannel : no case is whole, or names that contradict the model's channels
    SettingsError : two inputs of the same name
    FaultyCases : of each case of a list a file is missing
    """
    if len(paths) == 1 and Path(paths[0]).suffix.casefold() in (".csv", ".tsv", ".json") and is_list(Path(paths[0])):
        return _from_list(Path(os.path.abspath(paths[0])), channels, shard)
    found: dict[Path, None] = {}  # each once, in order
    cases: list[Case] = []
    for path in (Path(os.path.abspath(path)) for path in paths):
        direct = _files_at(path)
        found |= dict.fromkeys(direct)
        cases += [] if direct else _below(path, channels)
    explicit = all(Path(path).is_file() for path in paths)
    cases += _by_channel([*found], channels, explicit=explicit)
    cases, labels = (cases, []) if explicit else _without_labels(cases)
    _refuse_repeated_names(cases)
    if shard is None and not any(all(path.exists() for path in case.images) for case in cases):
        raise _no_whole_case(cases, channels)
    cases.sort(key=lambda case: case.name)
    left = [f"{len(labels)} files look like labels of other inputs and are left aside: {some(labels)}"] if labels else []
    return _of_shard(Inputs(cases=tuple(cases), notes=(*left, *_assignment(cases, channels))), shard)


def _of_shard(found: Inputs, shard: Shard | None) -> Inputs:
    if shard is None:
        return found
    own = tuple(case for case in found.cases if shard.holds(case.name))
    return replace(found, cases=own, problems=tuple(one for one in found.problems if shard.holds(one.case or "")))


def _refuse_repeated_names(cases: Sequence[Case]) -> None:
    counts = Counter(case.name for case in cases)
    doubled = sorted(name for name, count in counts.items() if count > 1)
    if doubled:
        files = [str(path) for case in cases if case.name == doubled[0] for path in case.images]
        raise SettingsError(
            "two inputs have the same name",
            found=f"{doubled[0]}: {', '.join(files)}",
            expected="one name per case",
            fix="predict them apart, or rename one",
        )


def _from_list(path: Path, channels: Sequence[str], shard: Shard | None) -> Inputs:
    dataset = read_list(path, labelled=False, shard=shard)
    found, heads = dataset.cases, [channel.name for channel in dataset.channels]
    if not found and shard is not None:
        return Inputs(cases=(), problems=dataset.problems)
    if not found:
        raise dataset.problems[0] if len(dataset.problems) == 1 else FaultyCases(dataset.problems, fix="correct the list")
    in_one_file = len(channels) > 1 and all(len(case.images) == 1 for case in found)
    if in_one_file and _channels_in(found[0].images[0]) == len(channels):
        pass
    elif are_named(heads) or len(heads) != len(channels):
        order = order_of_heads(heads, channels, file=path)
        found = tuple(_ordered(case, order) for case in found)
        for case in found:
            if error := contradicting(case.images, channels):
                error.case, error.file = case.name, str(path)
                raise error
    else:
        found = tuple(_ordered(case, order_of_files(case.images, channels)) for case in found)
    unused = [f"{warning.summary}: {warning.found}" for warning in dataset.warnings]
    return Inputs(cases=found, problems=dataset.problems, notes=(*unused, *_assignment(found, channels)))


def _ordered(case: Case, order: Sequence[int] | None) -> Case:
    return case if order is None or len(case.images) != len(order) else replace(case, images=tuple(case.images[i] for i in order))


def _assignment(cases: Sequence[Case], channels: Sequence[str]) -> tuple[str, ...]:
    """A note on which file is which channel, in the first case of several files."""
    first = next((case for case in cases if len(case.images) == len(channels) > 1), None)
    if first is None:
        return ()
    listed = ", ".join(f"{channel} is {file}" for channel, file in zip(channels, named_apart(first.images), strict=True))
    return (f"channels of {first.name}: {listed}" + (f"; the other {len(cases) - 1} cases likewise" if len(cases) > 1 else ""),)


def _files_at(path: Path) -> list[Path]:
    """Return the images that one argument stands for, empty for a folder without any; a DICOM series is the path of its folder."""
    if path.is_file():
        return [images.header_of(path)]
    if not path.is_dir():
        raise no_such_path(path)
    if images.is_series(path):
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    named = [entry for entry in entries if images.suffix_of(entry)]
    return [entry for entry in named if not entry.is_dir() or not images.is_series(entry)]  # a dead link fails when it is read


def _without_labels(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Return the cases but for those that are called as the label of another, and the names of their files."""
    names = {case.name for case in cases}
    is_label = [(match := _LABEL.fullmatch(case.name)) is not None and match["case"] in names for case in cases]
    scans, labels = ([case for case, one in zip(cases, is_label, strict=True) if one is wanted] for wanted in (False, True))
    return scans, sorted(case.images[0].name for case in labels)


def _below(folder: Path, channels: Sequence[str]) -> list[Case]:
    """Return the cases in the folders below one that holds no images itself: in the layout of a training set, or DICOM series."""
    paths = listing(folder)
    named = [folder / path for path in paths if images.suffix_of(path) and (folder / path).is_file()]
    by_word = [case for case in _by_word(named, channels)[0] if len(case.images) == len(channels)] if len(channels) > 1 else []
    found = _by_recipe(folder, paths, channels) or by_word or _series_below(folder, paths)
    if found:
        return found
    raise MissingPath(
        "there is no image in this folder" if not named else "no known layout describes the images below this folder",
        file=folder,
        found=", ".join([*(str(path.relative_to(folder)) for path in named), *paths][:3]) or "an empty folder",
        expected=f"files that end in {', '.join(images.SUFFIXES)}, or folders of DICOM slices",
        fix=f"give the images or their folder; or a CSV list with the columns case, {', '.join(channels)}",
    )


def _by_recipe(folder: Path, paths: Sequence[str], channels: Sequence[str]) -> list[Case]:
    """Return the images of the layout that makes most cases whole; of one patient's folder, too. Labels are not needed."""
    for root, below in ((folder, paths), (folder.parent, [f"{folder.name}/{path}" for path in paths])):
        recipes = (recipe for recipe in map(read_recipe, presets.recipe_names()) if not recipe.explicit)
        matches = [match for recipe in recipes if (match := match_recipe(recipe, root, below)) is not None]
        likely = [match for match in matches if match.whole or match.recipe.specificity]  # without labels, any name would match "{case}"
        ranked = [(match.whole, len(cases), match.rank, cases) for match in likely if (cases := _cases_of(match, root, channels))]
        if ranked:
            return max(ranked, key=lambda one: one[:3])[3]
    return []


def _cases_of(match: Match, root: Path, channels: Sequence[str]) -> list[Case]:
    """Return the cases of a layout that have each channel of the model."""
    try:
        order = order_of_heads(match.channels or ["image"], channels, file=root) if match.channels or len(channels) == 1 else None
    except MissingChannel:
        return []
    found = []
    for name, case in match.cases.items():
        paths = [case.images[None]] if None in case.images else [case.images.get(index, "") for index in range(len(channels))]
        files = [root / path for path in paths]
        if len(files) < len(channels) and _channels_in(files[0]) != len(channels):
            continue
        if not case.doubled and all(paths) and all(images.is_series(file) if file.is_dir() else images.suffix_of(file) for file in files):
            found.append(_ordered(Case(name=name, images=tuple(files)), order))
    return found


def _series_below(folder: Path, paths: Sequence[str]) -> list[Case]:
    """Return the folders of DICOM slices, called by their path: archives give PATIENT/STUDY/SERIES."""
    found = [path for path in paths if (folder / path).is_dir() and images.is_series(folder / path)]
    return [Case(name=path.replace("/", "_"), images=(folder / path,)) for path in found]


def _by_channel(found: Sequence[Path], channels: Sequence[str], *, explicit: bool) -> list[Case]:
    """Return the cases that files of one or several channels make up: by numbers, by words, or as they were given."""
    count = len(channels)
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
        if max(numbered) >= count:  # numbers of cases, not of channels
            plain += numbered.values()
        elif count > 1 and list(numbered) == [0] and _channels_in(numbered[0]) == count:
            cases.append(Case(name=stem, images=(numbered[0],)))
        else:
            expected = tuple(numbered.get(index, folder / f"{stem}_{index:04d}{suffix}") for index in range(count))
            cases.append(Case(name=stem, images=expected))
    if count > 1:
        by_word, plain = _by_word(plain, channels)
        cases += by_word
    if explicit and not cases and len(plain) == count > 1 and all(_channels_in(path) == 1 for path in plain):
        return [_ordered(Case(name=_stem(plain[0]), images=tuple(plain)), order_of_files(plain, channels))]
    return cases + [Case(name=_stem(path), images=(path,)) for path in plain]


def _by_word(plain: Sequence[Path], channels: Sequence[str]) -> tuple[list[Case], list[Path]]:
    """Return the cases whose files differ in the name of a channel, and the files that are left.

    Where other cases are whole, one that lacks channels has the paths where they should be, and fails on reading.
    """
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for path in plain if are_named(channels) else ():
        token = token_of(_stem(path), channels)
        if token is not None:
            group = groups.setdefault((path.parent, token.rest), {})
            if token.channel in group:
                return [], [*plain]  # the word is no channel's here
            group[token.channel] = path
    if not any(len(group) == len(channels) for group in groups.values()):
        return [], [*plain]
    cases = []
    for (folder, rest), group in groups.items():
        if len(group) == 1 and _channels_in(next(iter(group.values()))) == len(channels):
            continue
        expected = (group.get(i, folder / f"{rest}_{name}{images.suffix_of([*group.values()][0])}") for i, name in enumerate(channels))
        cases.append(Case(name=rest or folder.name, images=tuple(expected)))
    taken = {path for case in cases for path in case.images}
    return cases, [path for path in plain if path not in taken]


def _channels_in(path: Path) -> int | None:
    """`None` for a file that cannot be read: its case fails alone, when its turn comes."""
    try:
        return images.read_header(path).channels
    except AutosegError:
        return None


def _no_whole_case(cases: Sequence[Case], channels: Sequence[str]) -> MissingChannel:
    lacking = next(path for case in cases for path in case.images if not path.exists())
    there = sorted(entry.name for entry in lacking.parent.iterdir())
    close = difflib.get_close_matches(lacking.name, there, n=3, cutoff=0.5)
    return MissingChannel(
        "no case has all channels that the model needs",
        file=lacking,
        found=f"nearest there: {', '.join(close)}" if close else None,
        expected=f"{len(channels)} files per case, ending in {', '.join(f'_{i:04d} ({name})' for i, name in enumerate(channels))}",
        fix="add the channels that are missing, or use a model that was trained without them",
    )


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else images.stem_of(path)
