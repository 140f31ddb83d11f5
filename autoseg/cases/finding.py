"""From a folder to a data set: which recipe describes it, which files belong to which case, what the labels are called."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from autoseg import files, images, presets
from autoseg.cases.lists import broken_link, channels_of_most, is_list, read_list
from autoseg.cases.names import channel_names, channels_from, labels_from
from autoseg.cases.recipes import Pattern, Recipe, fill, glob_of, read_recipe
from autoseg.cases.scheme import check_annotated, scheme_of_masks, scheme_of_values
from autoseg.cases.values import GRID_FIXES, Case, Channel, Dataset, can_name_files, left_out, printable
from autoseg.errors import AutosegError, InputError, LabelError, MissingChannel, MissingLabel, MissingPath, SettingsError, UnknownLayout
from autoseg.labels import Labels

_SHOWN = 3  # examples in a message


def find(
    path: Path,
    *,
    recipe: str | Path | None = None,
    group_regex: str | None = None,
    map_labels: Mapping[int, int] | None = None,
    fix_geometry: str | None = None,
) -> Dataset:
    """The cases of a folder in a known layout, or of a CSV or JSON list.

    Cases that cannot be made whole (a channel or label missing) do not raise: they are in `problems`, for the check to report with
    all other faults. Files are listed and named here; images are not read, and labels only where nobody declared their values.

    Parameters
    ----------
    path : folder, list of cases, or a dataset.json that stands in its folder
    recipe : name or TOML file; by default the one that makes the most cases whole
    group_regex : searched in each case's name; what its groups (or else the whole) match is the case's group
    map_labels : value in the files to the label value it stands for
    fix_geometry : for labels that are not on the grid of their image: "copy-image", the voxels line up and the label's header is wrong;
        "resample-label", the header is right and the label is taken over by position, nearest voxel

    Raises
    ------
    MissingPath : no such folder or file
    UnknownLayout : a folder that no recipe describes; the message says what was looked for
    SettingsError : a recipe, list or regular expression that cannot be used
    LabelError : a declaration of labels that cannot work
    UnreadableFile : dataset.json is not JSON, or a label file that had to be asked for its values cannot be read
    """
    path = Path(os.path.abspath(path))  # without .. and with links as they are
    if not path.exists():
        raise _no_such_path(path)
    if path.is_file() and path.name == "dataset.json" and not is_list(path):
        path = path.parent
    if path.is_file():
        dataset = read_list(path, map_labels=map_labels)
    else:
        dataset = _find_in_folder(path, recipe, map_labels or {})
    if fix_geometry is not None:
        presets.refuse_unknown([fix_geometry], GRID_FIXES, what="fix of the geometry")
        dataset = replace(dataset, cases=tuple(replace(case, grid_fix=fix_geometry) for case in dataset.cases))
    return dataset if group_regex is None else _grouped(dataset, group_regex)


@dataclass
class _Files:
    """The files of one case while they are being collected."""

    parts: dict[str, str] = field(default_factory=dict)  # named parts of its file names
    images: dict[str | int | None, str] = field(default_factory=dict)  # channel (number, token, or None: all in one) -> path
    label: str | None = None
    masks: dict[str, str] = field(default_factory=dict)  # label name -> path
    doubled: list[tuple[str, str]] = field(default_factory=list)  # two files for one place
    ranks: dict[Any, int] = field(default_factory=dict)  # place -> which alternative matched

    @property
    def has_label(self) -> bool:
        """Whether there is a label map, or the mask of any label."""
        return self.label is not None or bool(self.masks)


@dataclass(frozen=True, kw_only=True)
class _Match:
    """What one recipe makes of a folder."""

    recipe: Recipe
    declared: Mapping[str, Any]  # the JSON file of [names], empty where there is none
    cases: Mapping[str, _Files]
    channels: tuple[str, ...]  # names, empty where a single file holds all channels and nobody named them
    paths: Sequence[str]  # all there are

    @cached_property
    def masks(self) -> tuple[str, ...]:
        """Names of all labels that have files of their own in some case."""
        return tuple(sorted({mask for case in self.cases.values() for mask in case.masks}))

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Image files that are in no case; those of a test part, imagesTs, are not meant to be."""
        kept = {path for case in self.cases.values() for path in (*case.images.values(), case.label, *case.masks.values())}
        return tuple(
            path for path in self.paths if not {path, path.rpartition("/")[0]} & kept and "Ts/" not in path and images.suffix_of(path)
        )

    @cached_property
    def whole(self) -> int:
        """Cases with a label and every channel."""
        return sum(case.has_label and not _missing(case, self.channels) for case in self.cases.values())

    @property
    def rank(self) -> tuple[int, int, str]:
        """What decides between recipes that match: the highest is taken."""
        return self.whole, self.recipe.specificity, self.recipe.name


def _find_in_folder(root: Path, recipe: str | Path | None, map_labels: Mapping[int, int]) -> Dataset:
    paths = _listing(root)
    if recipe is not None:
        chosen = _try(read_recipe(recipe), root, paths)
        if chosen is None or not chosen.cases:
            raise _not_as_described(root, paths, read_recipe(recipe))
    else:
        chosen = _detect(root, paths)
    return _dataset(root, chosen, map_labels)


def _detect(root: Path, paths: Sequence[str]) -> _Match:
    recipes = [read_recipe(name) for name in presets.recipe_names()]
    tried = [match for recipe in recipes if not recipe.explicit and (match := _try(recipe, root, paths)) is not None]
    best = max(tried, key=lambda match: match.rank, default=None)
    if best is not None and best.whole:
        return best
    described = [match for match in tried if match.recipe.detect and match.cases]  # its JSON file is there: say case by case what lacks
    if described:
        return max(described, key=lambda match: (sum(c.has_label and bool(c.images) for c in match.cases.values()), match.rank))
    raise _unknown_layout(root, paths, tried)


def _try(recipe: Recipe, root: Path, paths: Sequence[str]) -> _Match | None:
    """What the recipe makes of the folder; `None` where the JSON file that it needs is not there or lacks its keys."""
    declared: Mapping[str, Any] = {}
    wanted = recipe.detect.file if recipe.detect else recipe.names.file if recipe.names else None
    if wanted is not None and (root / wanted).is_file():
        value = files.read_json(root / wanted)
        declared = value if isinstance(value, Mapping) else {}
    if recipe.detect:
        keys = recipe.detect.keys
        if not declared or any(key not in declared for key in keys):
            return None
        if recipe.detect.any_of and not any(key in declared for key in recipe.detect.any_of):
            return None
    names = recipe.names
    ending = str(declared.get(names.file_ending, "")) if names and names.file_ending else ""
    offered = [path for path in paths if path.casefold().endswith(ending.casefold())] or paths
    if names and names.table and isinstance(declared.get(names.table), Mapping):
        cases = _from_table(declared[names.table], root, file=root / names.file)
    else:
        cases = _collect(recipe, offered)
    channels = _channel_names_of(recipe, declared, cases, file=root / (names.file if names else "dataset.json"))
    return _Match(recipe=recipe, declared=declared, cases=dict(sorted(cases.items())), channels=channels, paths=paths)


def _collect(recipe: Recipe, paths: Sequence[str]) -> dict[str, _Files]:
    """Each path to its place in its case. A path that one alternative takes is not offered to the later ones."""
    cases: dict[str, _Files] = {}
    places: list[tuple[str, int | None, tuple[Pattern, ...]]] = [("image", None, recipe.images), ("label", None, recipe.label)]
    places += [("image", index, channel.files) for index, channel in enumerate(recipe.channels)]
    for kind, index, alternatives in places:
        taken: set[str] = set()
        for rank, pattern in enumerate(alternatives):
            for path in [path for path in paths if pattern.needle in path]:  # most paths of a large folder end here
                parts = None if path in taken else pattern.match(path)
                if parts is None:
                    continue
                taken.add(path)
                filled = fill(recipe.case_names, parts)
                assert filled is not None, "parse_recipe holds each pattern against the templates"
                name = unicodedata.normalize("NFC", filled)  # a Mac writes "ü" as two characters where others write one
                place: tuple[str, Any] = (kind, parts.get("label") if kind == "label" else parts.get("channel", index))
                _put(cases.setdefault(name, _Files()), place, path, rank, parts)
    return cases


def _put(case: _Files, place: tuple[str, Any], path: str, rank: int, parts: Mapping[str, str]) -> None:
    """One file into its place of the case; of several alternatives the first one stays, two files of one rank are a fault."""
    kind, key = place
    taken = case.ranks.get(place)
    if taken is not None and taken < rank:
        return
    if taken == rank:
        earlier = case.masks[key] if kind == "label" and key else case.label if kind == "label" else case.images[key]
        case.doubled.append((str(earlier), path))
        return
    case.ranks[place] = rank
    case.parts.update({name: part for name, part in parts.items() if name not in ("ext", "channel", "label")})
    if kind == "image":
        case.images[key] = path
    elif key:
        case.masks[key] = path
    else:
        case.label = path


def _from_table(table: Mapping[str, Any], root: Path, *, file: Path) -> dict[str, _Files]:
    """nnU-Net v2's `dataset` table: paths relative to the folder, or absolute, with environment variables."""
    cases = {}
    for name, entry in table.items():
        if not isinstance(entry, Mapping) or "images" not in entry:
            raise SettingsError(
                "an entry of the table of cases lacks its images",
                file=file,
                found=f"{name}: {entry!r}",
                expected='{"images": [paths], "label": path}',
                fix="complete the entry",
            )
        listed = [entry["images"]] if isinstance(entry["images"], str) else entry["images"]
        numbered: dict[str | int | None, str] = {index: os.path.expandvars(str(path)) for index, path in enumerate(listed)}
        label = entry.get("label")
        cases[str(name)] = _Files(parts={"case": str(name)}, images=numbered, label=label and os.path.expandvars(str(label)))
    return cases


def _channel_names_of(recipe: Recipe, declared: Mapping[str, Any], cases: Mapping[str, _Files], *, file: Path) -> tuple[str, ...]:
    """Names of the channels: declared in JSON, by the recipe, or the tokens in the file names; tokens become numbers on the way."""
    key = next((key for key in recipe.names.channels if key in declared), None) if recipe.names else None
    if key is not None:
        names = channel_names(declared[key], file=file)
    elif recipe.channels:
        names = tuple(channel.name for channel in recipe.channels)
    else:
        names = ()
    tokens = sorted({token for case in cases.values() for token in case.images if isinstance(token, str)})
    if tokens and not names:
        labelled = [case for case in cases.values() if case.has_label]
        often = [token for token in tokens if 2 * sum(token in case.images for case in labelled) >= len(labelled)]
        names = tuple(f"channel {int(token)}" if token.isdigit() else token for token in often)
        number = {token: index for index, token in enumerate(often)}
    else:
        number = {token: int(token) if token.isdigit() else _index_of(token, names) for token in tokens}
    for case in cases.values():
        case.images = {
            number[token] if isinstance(token, str) else token: path
            for token, path in case.images.items()
            if not isinstance(token, str) or token in number
        }
    return names


def _index_of(token: str, names: Sequence[str]) -> int:
    folded = [name.casefold() for name in names]
    return folded.index(token.casefold()) if token.casefold() in folded else len(names)


def _missing(case: _Files, channels: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the channels that the case lacks. One file for all of them lacks none."""
    if None in case.images:
        return ()
    return tuple(index for index in range(max(1, len(channels))) if index not in case.images)


def _dataset(root: Path, match: _Match, map_labels: Mapping[int, int]) -> Dataset:
    recipe, notes = match.recipe, []
    problems: list[AutosegError] = []
    cases: list[Case] = []
    unlabelled = []
    listed, listed_notes = _listed_otherwise(root, match)
    for name, collected in match.cases.items():
        problem = _problem_of(root, name, collected, match)
        if problem is None:
            cases.append(_case(root, name, collected, match))
        elif isinstance(problem, MissingLabel) and recipe.unlabelled == "note":
            unlabelled.append(name)
        else:
            problems.append(problem)
    notes += [*listed_notes, *_other_number(match, len(cases) + len(problems))]
    if unlabelled:
        notes.append(f"{len(unlabelled)} cases have no label and are left aside ({_some(unlabelled)})")
    if match.unused and len(match.unused) < 10_000:
        notes.append(f"{len(match.unused)} further image files are not used ({_some(match.unused)})")
    partly = [case.name for case in cases if case.annotated is not None and isinstance(case.label, tuple)]
    if partly:
        notes.append(f"{len(partly)} cases lack the files of some labels, which are taken as not annotated there ({_some(partly)})")
    channels, channel_notes = _channels(match, cases)
    labels, label_notes = _labels(root, match, cases, map_labels)
    check_annotated(cases, labels, file=Path(f"{recipe.name}.toml"))
    return Dataset(
        name=root.name,
        root=root,
        recipe=recipe.name,
        channels=channels,
        labels=labels,
        cases=tuple(cases),
        notes=(*notes, *channel_notes, *label_notes),
        problems=(*problems, *listed),
    )


def _case(root: Path, name: str, collected: _Files, match: _Match) -> Case:
    paths: tuple[Path, ...]
    if None in collected.images:
        paths = (root / collected.images[None],)
    else:
        paths = tuple(root / collected.images[index] for index in range(max(1, len(match.channels))))
    label: Any = root / collected.label if collected.label is not None else None
    if collected.masks:
        label = tuple((mask, root / path) for mask, path in sorted(collected.masks.items()))
    annotated = next((names for pattern, names in match.recipe.annotated if pattern.match(name) is not None), None)
    if annotated is None and collected.masks and len(collected.masks) < len(match.masks):
        annotated = tuple(sorted(collected.masks))
    return Case(name=name, images=paths, label=label, group=fill(match.recipe.groups, collected.parts), annotated=annotated)


def _problem_of(root: Path, name: str, collected: _Files, match: _Match) -> InputError | None:
    if collected.doubled:
        first, second = collected.doubled[0]
        return SettingsError(
            "two files claim the same place in a case",
            case=name,
            file=root / second,
            details={"other": str(root / first)},
            expected="one file per channel and label",
            fix="take one of them away, or state a recipe that tells them apart",
        )
    if not can_name_files(name):
        return SettingsError(
            "the name of a case holds characters that no file name should have",
            case=printable(name),
            file=printable(str(root / next(p for p in (*collected.images.values(), collected.label, *collected.masks.values()) if p))),
            expected="letters, digits and signs that can be printed",
            fix="rename the files of the case",
        )
    missing = _missing(collected, match.channels)
    if missing:
        return _missing_channel(root, name, collected, match, missing)
    extra = [key for key in collected.images if isinstance(key, (str, int)) and key not in range(max(1, len(match.channels)))]
    if extra and match.channels:
        return MissingChannel(
            "the case has more channels than are declared",
            case=name,
            file=root / collected.images[extra[0]],
            found=f"{len(collected.images)} files",
            expected=f"{len(match.channels)}: {', '.join(match.channels)}",
            fix="declare the further channel, or take its files away",
        )
    for path in (*collected.images.values(), *(p for p in (collected.label, *collected.masks.values()) if p)):
        if (root / path).is_symlink() and not (root / path).exists():
            return broken_link(name, root / path)
        if not (root / path).exists():
            return MissingPath("a listed file is not there", case=name, file=root / path, fix=_nearest_files(root, path))
    if not collected.has_label:
        wanted = match.recipe.label[0] if match.recipe.label else None
        expected = _expand(wanted, collected.parts) if wanted else "a label"
        return MissingLabel(
            "the image has no label",
            case=name,
            file=root / next(iter(collected.images.values())),
            expected=expected,
            fix=f"{_nearest_files(root, expected)}; or leave the case out with {left_out(name)}",
        )
    return None


def _missing_channel(root: Path, name: str, collected: _Files, match: _Match, missing: Sequence[int]) -> MissingChannel:
    number = missing[0]
    pattern = match.recipe.images[0] if match.recipe.images else match.recipe.channels[number].files[0]
    expected = _expand(pattern, {**collected.parts, "channel": f"{number:04d}", "ext": _ending(match)})
    if not collected.images:
        summary, file = "the label has no image", collected.label or next(iter(collected.masks.values()))
    else:
        called = match.channels[number] if number < len(match.channels) else str(number)
        summary, file = f"channel {number} ({called}) is missing", expected
    return MissingChannel(
        summary,
        case=name,
        file=root / file,
        found=", ".join(Path(path).name for path in collected.images.values()) or "no image",
        expected=expected,
        fix=f"{_nearest_files(root, expected)}; or leave the case out with {left_out(name)}",
    )


def _channels(match: _Match, cases: Sequence[Case]) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    stated: list[str | None] | None = None
    names = match.channels
    if match.recipe.channels and [channel.name for channel in match.recipe.channels] == list(names):
        stated = [channel.modality for channel in match.recipe.channels]
    if not names:
        return channels_of_most(cases)
    return channels_from(names, stated=stated)


def _labels(root: Path, match: _Match, cases: Sequence[Case], map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    recipe, names = match.recipe, match.recipe.names
    if names and names.labels and names.labels in match.declared:
        declared = match.declared
        return labels_from(
            declared[names.labels],
            file=root / names.file,
            regions=declared.get(names.regions) if names.regions else None,
            order=declared.get(names.regions_order) if names.regions_order else None,
            ignore=declared.get(names.ignore) if names.ignore else recipe.ignore,
            merge=map_labels,
        )
    if recipe.labels:
        return _labels_of_recipe(recipe, map_labels)
    if match.masks:
        return scheme_of_masks(match.masks, map_labels)
    return scheme_of_values(cases, map_labels)


def _labels_of_recipe(recipe: Recipe, map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    file = Path(f"{recipe.name}.toml")
    labels, notes = labels_from(dict(recipe.labels), file=file, ignore=recipe.ignore, merge=map_labels)
    if not recipe.regions:
        return labels, notes
    unknown = [name for region in recipe.regions for name in (*region.members, region.writes) if name not in recipe.labels]
    if unknown:
        close = presets.nearest(unknown[0], list(recipe.labels))
        raise LabelError(
            "a region names an unknown label",
            file=file,
            found=unknown[0],
            expected=", ".join(recipe.labels),
            fix=f"did you mean '{close}'?",
        )
    regions = {
        region.name: (tuple(map_labels.get(v, v) for v in (recipe.labels[m] for m in region.members)), recipe.labels[region.writes])
        for region in recipe.regions
    }
    value = {**labels.to_json(), "regions": {name: {"of": members, "writes": writes} for name, (members, writes) in regions.items()}}
    try:
        return Labels.from_json(value), notes
    except LabelError as error:
        error.file = error.file or str(file)
        raise


def _listed_otherwise(root: Path, match: _Match) -> tuple[list[AutosegError], list[str]]:
    """Cases that dataset.json lists and the folder does not hold, or that it pairs otherwise than the names do; and remarks on the list."""
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
        if name not in match.cases and not (root / relative).exists():
            problems.append(
                MissingPath(
                    "a case that dataset.json lists is not there",
                    case=name,
                    file=root / relative,
                    fix=f"{_nearest_files(root, relative)}; or leave the case out with {left_out(name)}",
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
        notes.append(f"{len(further)} cases are used that dataset.json does not list ({_some(further)})")
    return problems, notes


def _bare(path: str) -> str:
    """The name of a file without folder and suffix, in the form in which the cases are named."""
    name = Path(path).name
    return unicodedata.normalize("NFC", name.removesuffix(images.suffix_of(name) or ""))


def _other_number(match: _Match, found: int) -> list[str]:
    """A remark where dataset.json counts other cases than there are; the Decathlon and nnU-Net call it numTraining."""
    said = match.declared.get("numTraining")
    if not isinstance(said, int) or said == found:
        return []
    return [f"dataset.json says that there are {said} training cases, and {found} were found"]


def _grouped(dataset: Dataset, group_regex: str) -> Dataset:
    try:
        regex = re.compile(group_regex)
    except re.error as error:
        raise SettingsError("--group-regex is not a regular expression", found=group_regex, expected=str(error),
                            fix=r"for example --group-regex '^(sub-\d+)'") from None  # fmt: skip
    grouped, without = [], []
    for case in dataset.cases:
        found = regex.search(case.name)
        group = None if found is None else "-".join(part for part in found.groups() if part) or found[0]
        if not group:
            without.append(case.name)
        grouped.append(replace(case, group=group or None))
    if len(without) == len(grouped) and grouped:
        raise SettingsError(
            "--group-regex matches no case",
            found=group_regex,
            expected=f"names such as {_some(without)}",
            fix="correct the expression; its first group is the patient or site",
        )
    notes = (f"{len(without)} cases are in no group: --group-regex does not match them ({_some(without)})",) if without else ()
    return replace(dataset, cases=tuple(grouped), notes=(*dataset.notes, *notes))


def _listing(root: Path) -> list[str]:
    """All files and folders below `root`, relative, sorted; hidden ones left out, links followed once."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        found += [prefix + name for name in (*folders, *names) if not name.startswith(".")]
    return sorted(found)


def _ending(match: _Match) -> str:
    names = match.recipe.names
    declared = str(match.declared.get(names.file_ending, "")) if names and names.file_ending else ""
    endings = [images.suffix_of(path) for case in match.cases.values() for path in case.images.values()]
    return declared or next((ending for ending in endings if ending), ".nii.gz")


def _expand(pattern: Pattern, parts: Mapping[str, str]) -> str:
    text = pattern.text.replace("**/", "")
    return re.sub(
        r"\{([a-z_]+)(?::[^{}]*)?\}", lambda token: parts.get(token[1], ".nii.gz" if token[1] == "ext" else f"<{token[1]}>"), text
    )


def _nearest_files(root: Path, expected: str) -> str:
    """A hint: the files in that folder whose names come nearest."""
    folder = (root / expected).parent
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    folded: dict[str, list[str]] = {}
    for name in there:
        folded.setdefault(name.casefold(), []).append(name)
    alike = difflib.get_close_matches(Path(expected).name.casefold(), list(folded), n=_SHOWN, cutoff=0.5)
    close = [name for key in alike for name in folded[key]][:_SHOWN]
    return f"put the file there, or rename the one that is meant (nearest there: {', '.join(close)})" if close else "put the file there"


def _no_such_path(path: Path) -> MissingPath:
    siblings = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=_SHOWN)
    return MissingPath("no such folder or file", file=path, fix=f"did you mean {' or '.join(close)}?" if close else "check the spelling")


def _unknown_layout(root: Path, paths: Sequence[str], tried: Sequence[_Match]) -> UnknownLayout:
    nearest = max((match for match in tried if match.cases), key=lambda m: (len(m.cases), m.recipe.specificity), default=None)
    seen = [path for path in paths if images.suffix_of(path)]
    nearest = nearest or max(tried, key=lambda match: _likeness(match.recipe, seen), default=None)
    details = {"nearest": _shortfall(nearest)} if nearest else {}
    if lacking := _lacking_keys(root):
        details["dataset.json"] = lacking
    return UnknownLayout(
        "no known layout describes this folder",
        file=root,
        found=f"{len(seen)} image files, such as {_some(seen)}"
        if seen
        else f"{len(paths)} files and folders, none of them a readable image",
        expected="one of: " + ", ".join(presets.recipe_names()),
        fix="write a CSV list with the columns case, channels, label (and group), or a recipe of your own and give it with --recipe",
        details=details,
    )


def _lacking_keys(root: Path) -> str:
    """What a dataset.json that is there would need for the recipes that ask for one; empty where there is none."""
    if not (root / "dataset.json").is_file():
        return ""
    value = files.read_json(root / "dataset.json")
    if not isinstance(value, Mapping):
        return "is there, and holds no object {...}"
    rows = []
    for recipe in map(read_recipe, presets.recipe_names()):
        detect = recipe.detect
        if detect is None or detect.file != "dataset.json":
            continue
        lacking = [f'"{key}"' for key in detect.keys if key not in value]
        if detect.any_of and not any(key in value for key in detect.any_of):
            lacking.append(" or ".join(f'"{key}"' for key in detect.any_of))
        rows += [f"is there, and lacks {' and '.join(lacking)} for '{recipe.name}'"] if lacking else []
    return "\n".join(dict.fromkeys(rows))


def _not_as_described(root: Path, paths: Sequence[str], recipe: Recipe) -> UnknownLayout:
    lacking = f"a {recipe.detect.file} with {', '.join((*recipe.detect.keys, *recipe.detect.any_of))}; " if recipe.detect else ""
    seen = [path for path in paths if images.suffix_of(path)]
    return UnknownLayout(
        f"the folder is not as the recipe '{recipe.name}' describes",
        file=root,
        found=f"{len(seen)} image files, such as {_some(seen)}" if seen else "no readable image",
        expected=lacking + ", ".join(glob_of(pattern) for pattern in recipe.patterns),
        fix="correct the recipe, or leave --recipe out",
    )


def _likeness(recipe: Recipe, seen: Sequence[str]) -> float:
    """How much the paths of a folder look like a recipe's patterns, where not one of them matches."""
    some = seen[:: 1 + len(seen) // 20]
    return max((difflib.SequenceMatcher(None, glob_of(pattern), path).ratio() for pattern in recipe.patterns for path in some), default=0.0)


def _shortfall(match: _Match) -> str:
    """What a recipe found and what it lacks, by pattern."""
    counts: dict[str, int] = {}
    every = [path for case in match.cases.values() for path in (*case.images.values(), case.label or "", *case.masks.values())]
    for pattern in match.recipe.patterns:
        counts[glob_of(pattern)] = sum(pattern.match(path) is not None for path in every)
    return f"recipe '{match.recipe.name}': " + "; ".join(f"{glob} matches {count}" for glob, count in counts.items())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
