"""From a folder to a data set: which recipe describes it, which files belong to which case, what the labels are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg import presets, schema
from autoseg.cases.hints import NearestFiles, some
from autoseg.cases.incomplete import file_exists, is_text, listed_otherwise, problem_of, strayed_labels
from autoseg.cases.layout_errors import no_such_path, not_as_described, unknown_layout
from autoseg.cases.lists import channels_of_most, is_list, read_list
from autoseg.cases.matching import CaseFiles, Match, match_recipe
from autoseg.cases.names import channels_from, labels_from
from autoseg.cases.recipes import Recipe, fill, read_recipe
from autoseg.cases.scheme import check_annotated, scheme_of_masks, scheme_of_values
from autoseg.cases.values import GRID_FIXES, Case, Channel, Dataset
from autoseg.errors import AutosegError, LabelError, MissingLabel, SettingsError
from autoseg.labels import Labels


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
    if not file_exists(path) or not is_text(path):
        raise no_such_path(path)
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


def _find_in_folder(root: Path, recipe: str | Path | None, map_labels: Mapping[int, int]) -> Dataset:
    paths = listing(root)
    if recipe is not None:
        chosen = match_recipe(read_recipe(recipe), root, paths)
        if chosen is None or not chosen.cases:
            raise not_as_described(root, paths, read_recipe(recipe))
    else:
        chosen = _detect(root, paths)
    return _dataset(root, chosen, map_labels)


def _detect(root: Path, paths: Sequence[str]) -> Match:
    recipes = [read_recipe(name) for name in presets.recipe_names()]
    tried = [match for recipe in recipes if not recipe.explicit and (match := match_recipe(recipe, root, paths)) is not None]
    best = max(tried, key=lambda match: match.rank, default=None)
    if best is not None and best.whole:
        return best
    described = [match for match in tried if match.recipe.detect and match.cases]  # its JSON file is there: say case by case what lacks
    if described:
        return max(described, key=lambda match: (sum(c.has_label and bool(c.images) for c in match.cases.values()), match.rank))
    raise unknown_layout(root, paths, tried)


def _dataset(root: Path, match: Match, map_labels: Mapping[int, int]) -> Dataset:
    recipe, notes = match.recipe, []
    problems: list[AutosegError] = []
    cases: list[Case] = []
    unlabelled = []
    nearest = NearestFiles()
    listed, listed_notes = listed_otherwise(root, match, nearest)
    for name, collected in match.cases.items():
        problem = problem_of(root, name, collected, match, nearest)
        if problem is None:
            cases.append(_case(root, name, collected, match))
        elif isinstance(problem, MissingLabel) and recipe.unlabelled == "note":
            unlabelled.append(name)
        else:
            problems.append(problem)
    notes += [*listed_notes, *_other_number(match, len(cases) + len(problems))]
    if unlabelled:
        notes.append(f"{len(unlabelled)} cases have no label and are left aside ({some(unlabelled)})")
    if match.unused and len(match.unused) < 10_000:
        notes.append(f"{len(match.unused)} further image files are not used ({some(match.unused)})")
    partly = [case.name for case in cases if case.annotated is not None and isinstance(case.label, tuple)]
    if partly:
        notes.append(f"{len(partly)} cases lack the files of some labels, which are taken as not annotated there ({some(partly)})")
    lonely = [*unlabelled, *(problem.case for problem in problems if isinstance(problem, MissingLabel) and problem.case)]
    channels, channel_notes = _channels(match, cases)
    labels, label_notes = _labels(root, match, cases, map_labels, [*problems, *listed])
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
        warnings=tuple(strayed_labels(root, lonely, match)),
    )


def _case(root: Path, name: str, collected: CaseFiles, match: Match) -> Case:
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


def _channels(match: Match, cases: Sequence[Case]) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    stated: list[str | None] | None = None
    names = match.channels
    if match.recipe.channels and [channel.name for channel in match.recipe.channels] == list(names):
        stated = [channel.modality for channel in match.recipe.channels]
    if not names:
        return channels_of_most(cases)
    return channels_from(names, stated=stated)


def _labels(
    root: Path, match: Match, cases: Sequence[Case], map_labels: Mapping[int, int], problems: Sequence[AutosegError]
) -> tuple[Labels, tuple[str, ...]]:
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
    return scheme_of_values(cases, map_labels, problems=problems)


def _labels_of_recipe(recipe: Recipe, map_labels: Mapping[int, int]) -> tuple[Labels, tuple[str, ...]]:
    file = Path(f"{recipe.name}.toml")
    labels, notes = labels_from(dict(recipe.labels), file=file, ignore=recipe.ignore, merge=map_labels)
    if not recipe.regions:
        return labels, notes
    unknown = [name for region in recipe.regions for name in (*region.members, region.writes) if name not in recipe.labels]
    if unknown:
        close = schema.nearest(unknown[0], list(recipe.labels))
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


def _other_number(match: Match, found: int) -> list[str]:
    """A remark where dataset.json counts other cases than there are; the Decathlon and nnU-Net call it numTraining."""
    said = match.declared.get("numTraining")
    if not isinstance(said, int) or said == found:
        return []
    return [f"dataset.json says that there are {said} training cases, and {found} were found"]


def groups_by_name(names: Iterable[str], expression: str, *, option: str = "--group-regex") -> dict[str, str]:
    """Return the patient, site or scanner that each name says.

    Parameters
    ----------
    names : of cases
    expression : regular expression, searched in each name; what its groups (or else the whole) match is the case's group
    option : of the command, for the messages

    Returns
    -------
    name -> group, without the names that the expression does not match

    Raises
    ------
    SettingsError : not a regular expression, or it matches no name
    """
    try:
        regex = re.compile(expression)
    except re.error as error:
        raise SettingsError(f"{option} is not a regular expression", found=expression, expected=str(error),
                            fix=rf"for example {option} '^(sub-\d+)'") from None  # fmt: skip
    known = list(names)
    found = {name: match for name in known if (match := regex.search(name))}
    groups = {name: "-".join(part for part in match.groups() if part) or match[0] for name, match in found.items()}
    groups = {name: group for name, group in groups.items() if group}
    if known and not groups:
        raise SettingsError(
            f"{option} matches no case",
            found=expression,
            expected=f"names such as {some(known)}",
            fix="correct the expression; its first group is the patient or site",
        )
    return groups


def _grouped(dataset: Dataset, group_regex: str) -> Dataset:
    groups = groups_by_name((case.name for case in dataset.cases), group_regex)
    without = [case.name for case in dataset.cases if case.name not in groups]
    notes = (f"{len(without)} cases are in no group: --group-regex does not match them ({some(without)})",) if without else ()
    return replace(
        dataset, cases=tuple(replace(case, group=groups.get(case.name)) for case in dataset.cases), notes=(*dataset.notes, *notes)
    )


def listing(root: Path) -> list[str]:
    """Return all files and folders below `root`, relative, sorted; hidden ones left out, links followed once."""
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
