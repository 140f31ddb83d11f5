"""Errors for a path or folder in which no data set is found: what was looked for, and what comes nearest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg import files, images, presets
from autoseg.cases.hints import NearestFiles, some
from autoseg.cases.incomplete import is_text
from autoseg.cases.matching import Match
from autoseg.cases.recipes import Recipe, glob_of, read_recipe
from autoseg.cases.values import printable
from autoseg.errors import MissingPath, UnknownLayout


def no_such_path(path: Path) -> MissingPath:
    """Return the error for a path that does not exist, with the nearest names in its folder; or for one whose bytes are no text."""
    if not is_text(path):
        return MissingPath("a path that is not valid UTF-8", file=printable(str(path)), fix="rename the file or folder")
    close = NearestFiles()(path)
    return MissingPath("no such folder or file", file=path, fix=f"did you mean {' or '.join(close)}?" if close else "check the spelling")


def unknown_layout(root: Path, paths: Sequence[str], tried: Sequence[Match]) -> UnknownLayout:
    """Return the error for a folder that no recipe describes; it says what the nearest recipe found and lacks."""
    nearest = max((match for match in tried if match.cases), key=lambda m: (len(m.cases), m.recipe.specificity), default=None)
    seen = [path for path in paths if images.suffix_of(path)]
    nearest = nearest or max(tried, key=lambda match: _likeness(match.recipe, seen), default=None)
    details = {"nearest": _shortfall(nearest)} if nearest else {}
    if lacking := _lacking_keys(root):
        details["dataset.json"] = lacking
    return UnknownLayout(
        "no known layout describes this folder",
        file=root,
        found=f"{len(seen)} image files, such as {some(seen)}"
        if seen
        else f"{len(paths)} files and folders, none of them a readable image",
        expected="one of: " + ", ".join(presets.recipe_names()),
        fix="write a CSV list with the columns case, channels, label (and group), or a recipe of your own and give it with --recipe",
        details=details,
    )


def not_as_described(root: Path, paths: Sequence[str], recipe: Recipe) -> UnknownLayout:
    """Return the error for a folder in which the recipe that the user chose finds no case."""
    lacking = f"a {recipe.detect.file} with {', '.join((*recipe.detect.keys, *recipe.detect.any_of))}; " if recipe.detect else ""
    seen = [path for path in paths if images.suffix_of(path)]
    return UnknownLayout(
        f"the folder is not as the recipe '{recipe.name}' describes",
        file=root,
        found=f"{len(seen)} image files, such as {some(seen)}" if seen else "no readable image",
        expected=lacking + ", ".join(glob_of(pattern) for pattern in recipe.patterns),
        fix="correct the recipe, or leave --recipe out",
    )


def _lacking_keys(root: Path) -> str:
    """What a dataset.json that is there would need for the recipes that ask for one; empty if no recipe asks for one."""
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


def _likeness(recipe: Recipe, seen: Sequence[str]) -> float:
    """How much the paths of a folder look like a recipe's patterns, where not one of them matches."""
    sample = seen[:: 1 + len(seen) // 20]
    globs = [glob_of(pattern) for pattern in recipe.patterns]
    return max((difflib.SequenceMatcher(None, glob, path).ratio() for glob in globs for path in sample), default=0.0)


def _shortfall(match: Match) -> str:
    """What a recipe found and what it lacks, by pattern."""
    counts: dict[str, int] = {}
    every = [path for case in match.cases.values() for path in case.paths]
    for pattern in match.recipe.patterns:
        counts[glob_of(pattern)] = sum(pattern.match(path) is not None for path in every)
    return f"recipe '{match.recipe.name}': " + "; ".join(f"{glob} matches {count}" for glob, count in counts.items())
