"""What a recipe makes of a folder: which files belong to which case, and in which place of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from autoseg import files, images, schema
from autoseg.cases.names import channel_names
from autoseg.cases.recipes import Pattern, Recipe, fill
from autoseg.cases.values import composed


@dataclass
class CaseFiles:
    """The files of one case."""

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

    @property
    def paths(self) -> tuple[str, ...]:
        """All files: images, label map, masks."""
        return (*self.images.values(), *([] if self.label is None else [self.label]), *self.masks.values())

    def missing(self, channels: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of the channels that the case lacks. One file for all of them lacks none."""
        if None in self.images:
            return ()
        return tuple(index for index in range(max(1, len(channels))) if index not in self.images)


@dataclass(frozen=True, kw_only=True)
class Match:
    """What one recipe makes of a folder."""

    recipe: Recipe
    declared: Mapping[str, Any]  # the JSON file of [names]; empty if the recipe names no file
    cases: Mapping[str, CaseFiles]
    channels: tuple[str, ...]  # names, empty where a single file holds all channels and nobody named them
    paths: Sequence[str]  # of all files in the folder

    @cached_property
    def masks(self) -> tuple[str, ...]:
        """Names of all labels that have files of their own in some case."""
        return tuple(sorted({mask for case in self.cases.values() for mask in case.masks}))

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Image files that are in no case; those of a test part, imagesTs, are not meant to be."""
        kept = {path for case in self.cases.values() for path in case.paths}
        return tuple(
            path for path in self.paths if not {path, path.rpartition("/")[0]} & kept and "Ts/" not in path and images.suffix_of(path)
        )

    @cached_property
    def whole(self) -> int:
        """Cases with a label and every channel."""
        return sum(case.has_label and not case.missing(self.channels) for case in self.cases.values())

    @cached_property
    def ending(self) -> str:
        """The suffix of the images: as declared, or that of the first one."""
        names = self.recipe.names
        declared = str(self.declared.get(names.file_ending, "")) if names and names.file_ending else ""
        endings = (images.suffix_of(path) for case in self.cases.values() for path in case.images.values())
        return declared or next((ending for ending in endings if ending), ".nii.gz")

    @property
    def rank(self) -> tuple[int, int, str]:
        """What decides between recipes that match: the highest wins."""
        return self.whole, self.recipe.specificity, self.recipe.name


def match_recipe(recipe: Recipe, root: Path, paths: Sequence[str]) -> Match | None:
    """Return what the recipe makes of a folder with these paths; `None` where the JSON file that it needs is missing or lacks its keys.

    Raises
    ------
    SettingsError : the JSON file declares channels or a table of cases that cannot be understood
    UnreadableFile : not JSON
    """
    declared = _declarations(recipe, root)
    if declared is None:
        return None
    names = recipe.names
    ending = str(declared.get(names.file_ending, "")) if names and names.file_ending else ""
    offered = [path for path in paths if path.casefold().endswith(ending.casefold())] or paths
    if names and names.table and isinstance(declared.get(names.table), Mapping):
        cases = _from_table(declared[names.table], file=root / names.file)
    else:
        cases = _collect(recipe, offered)
    channels = _declared_channels(recipe, declared, file=root / (names.file if names else "dataset.json"))
    numbers = _numbers_of_tokens(cases, channels)
    if not channels:
        channels = tuple(f"channel {int(token)}" if token.isdigit() else token for token in numbers)
    numbered = {name: _numbered(case, numbers) for name, case in sorted(cases.items())}
    return Match(recipe=recipe, declared=declared, cases=numbered, channels=channels, paths=paths)


def _declarations(recipe: Recipe, root: Path) -> Mapping[str, Any] | None:
    """Return the JSON file that the recipe reads; empty if it reads none, `None` if the file or a needed key is missing."""
    wanted = recipe.detect.file if recipe.detect else recipe.names.file if recipe.names else None
    value = files.read_json(root / wanted) if wanted is not None and (root / wanted).is_file() else {}
    declared: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if recipe.detect is None:
        return declared
    complete = declared and all(key in declared for key in recipe.detect.keys)
    any_of = recipe.detect.any_of
    return declared if complete and (not any_of or any(key in declared for key in any_of)) else None


def _collect(recipe: Recipe, paths: Sequence[str]) -> dict[str, CaseFiles]:
    """Each path to its place in its case. A path that one alternative takes is not offered to the later ones.

    Where patterns of images and of labels match one path, those that say more about it take it.
    """
    claims: dict[str, list[_Claim]] = {}
    places: list[tuple[str, int | None, tuple[Pattern, ...]]] = [("image", None, recipe.images), ("label", None, recipe.label)]
    places += [("image", index, channel.files) for index, channel in enumerate(recipe.channels)]
    for kind, index, alternatives in places:
        taken: set[str] = set()
        for rank, pattern in enumerate(alternatives):
            for path in [path for path in paths if pattern.needle in path]:  # most paths of a large folder end here
                if path not in taken and (captured := pattern.match(path)) is not None:
                    taken.add(path)
                    claims.setdefault(path, []).append(_Claim(kind, index, rank, pattern, captured))
    cases: dict[str, CaseFiles] = {}
    kept = [(claim, path) for path, claimed in claims.items() for claim in _heaviest(claimed)]
    for claim, path in sorted(kept, key=lambda one: (one[0].kind, one[0].rank)):  # images first: they name the cases
        parts = _split_at_case(claim.parts, path, cases) if claim.kind == "label" and "label" in claim.parts else claim.parts
        filled = fill(recipe.case_names, parts)
        assert filled is not None, "parse_recipe holds each pattern against the templates"
        place: tuple[str, Any] = (claim.kind, parts.get("label") if claim.kind == "label" else parts.get("channel", claim.index))
        _put(cases.setdefault(composed(filled), CaseFiles()), place, path, claim.rank, parts)
    return cases


@dataclass(frozen=True)
class _Claim:
    """A path that a pattern matches."""

    kind: str  # "image" or "label"
    index: int | None  # of the channel
    rank: int  # which alternative
    pattern: Pattern
    parts: Mapping[str, str]


def _heaviest(claims: Sequence[_Claim]) -> Sequence[_Claim]:
    if len({claim.kind for claim in claims}) == 1:
        return claims
    most = max(claim.pattern.weight for claim in claims)
    return [claim for claim in claims if claim.pattern.weight == most]


def _split_at_case(parts: Mapping[str, str], path: str, cases: Mapping[str, CaseFiles]) -> Mapping[str, str]:
    """Split CASE_LABEL where the longest name of a case ends: both may have the sign in them."""
    text = images.stem_of(path)
    case, label = parts.get("case", ""), parts["label"]
    if composed(case) in cases and not any(sign in label for sign in "_-") or len(case) + 1 + len(label) != len(text):
        return parts
    ends = [index for index, sign in enumerate(text) if sign in "_-" and composed(text[:index]) in cases]
    return {**parts, "case": text[: ends[-1]], "label": text[ends[-1] + 1 :]} if ends else parts


def _put(case: CaseFiles, place: tuple[str, Any], path: str, rank: int, parts: Mapping[str, str]) -> None:
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


@dataclass(frozen=True, kw_only=True)
class _TableEntry:
    images: Annotated[tuple[str, ...], schema.OneOrMany()]
    label: str | None = None


def _from_table(table: Mapping[str, Any], *, file: Path) -> dict[str, CaseFiles]:
    """nnU-Net v2's `dataset` table: paths relative to the folder, or absolute, with environment variables."""
    picked = {str(name): schema.pick(_TableEntry, entry) for name, entry in table.items()}
    entries = schema.parse(dict[str, _TableEntry], picked, what="the table of cases", fix="complete these entries", file=file)
    cases = {}
    for name, entry in entries.items():
        numbered: dict[str | int | None, str] = {index: os.path.expandvars(path) for index, path in enumerate(entry.images)}
        cases[name] = CaseFiles(parts={"case": name}, images=numbered, label=entry.label and os.path.expandvars(entry.label))
    return cases


def _declared_channels(recipe: Recipe, declared: Mapping[str, Any], *, file: Path) -> tuple[str, ...]:
    """The names of the channels, from the JSON file or the recipe; empty where neither has them."""
    key = next((key for key in recipe.names.channels if key in declared), None) if recipe.names else None
    if key is not None:
        return channel_names(declared[key], file=file)
    return tuple(channel.name for channel in recipe.channels)


def _numbers_of_tokens(cases: Mapping[str, CaseFiles], channels: Sequence[str]) -> dict[str, int]:
    """Which channel each token in the file names stands for; without names of channels, the tokens that most cases have are numbered."""
    tokens = sorted({token for case in cases.values() for token in case.images if isinstance(token, str)})
    if channels:
        folded = [name.casefold() for name in channels]
        place = {name: index for index, name in reversed([*enumerate(folded)])}
        return {token: int(token) if token.isdigit() else place.get(token.casefold(), len(channels)) for token in tokens}
    labelled = [case for case in cases.values() if case.has_label]
    often = [token for token in tokens if 2 * sum(token in case.images for case in labelled) >= len(labelled)]
    return {token: index for index, token in enumerate(often)}


def _numbered(case: CaseFiles, numbers: Mapping[str, int]) -> CaseFiles:
    """The case with channel numbers in place of tokens; files of tokens without a number are left aside."""
    numbered: dict[str | int | None, str] = {}
    for token, path in case.images.items():
        if not isinstance(token, str):
            numbered[token] = path
        elif token in numbers:
            numbered[numbers[token]] = path
    return replace(case, images=numbered)
