"""The language of `datasets/*.toml`: which files of a folder are the channels and labels of which case.

A recipe is data: glob patterns with named parts. Nothing here touches a file; paths are texts relative to the data set's
folder, with `/`. See the README of `datasets/` for every key.

Patterns::

    {case}          any text without "/", kept under the name "case"; the same name twice must be the same text
    {case:####}     the same, but only what the glob after the colon allows: # is a digit, a|b are alternatives
    {channel}       number or name of the channel        {label}   name of the label: one file per label
    {ext}           a suffix of a readable image
    *  ?  [abc]     within one name, as in a shell       **/       any number of folders, also none
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg import presets
from autoseg.errors import SettingsError
from autoseg.images import SUFFIXES

MODALITIES = (  # the closed list; it chooses the normalisation
    "CT",  # Hounsfield units
    "MR",
    "PET",
    "RGB",  # one of the three channels of a colour picture
    "microscopy",
    "ultrasound",
    "xray",
    "rescaled",  # to be rescaled to 0..1, image by image
    "unchanged",  # used as it is, normalised already
    "other",
)
UNLABELLED = ("error", "note")  # what an image without a label means: a fault, or the part of the set that was published without

_TABLES = ("detect", "names", "case", "labels")  # the others with keys of their own are lists of tables
_KEYS: dict[str, tuple[str, ...]] = {
    "": ("title", "source", "about", "explicit", "detect", "names", "case", "channels", "labels", "regions", "ignore", "annotated"),
    "detect": ("json", "keys", "any_of"),
    "names": ("file", "channels", "labels", "regions", "regions_order", "ignore", "cases", "table", "file_ending"),
    "case": ("name", "group", "images", "label", "unlabelled"),
    "channels": ("name", "modality", "files"),
    "regions": ("name", "of", "writes"),
    "annotated": ("case", "labels"),
}
_TOKEN = re.compile(r"\{(?P<name>[a-z_]+)(?::(?P<glob>[^{}]*))?\}|(?P<deep>\*\*/)|(?P<star>\*)|(?P<any>\?)|(?P<set>\[[^\]]+\])")


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One glob pattern with named parts, ready to match."""

    text: str
    regex: re.Pattern[str]
    specificity: int  # characters that are written out: the more, the less a match can be chance
    needle: str = ""  # a text that every match contains; looking for it first is much faster

    def match(self, path: str) -> dict[str, str] | None:
        """The named parts of a path `/`-separated and relative to the data set, or `None` where it does not match."""
        if self.needle not in path:
            return None
        found = self.regex.fullmatch(path)
        return None if found is None else {name: part for name, part in found.groupdict().items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class RecipeChannel:
    """One channel that the recipe names; `files` are alternatives, the first that exists is taken."""

    name: str
    modality: str | None
    files: tuple[Pattern, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecipeRegion:
    """A union of labels, by name."""

    name: str
    members: tuple[str, ...]
    writes: str


@dataclass(frozen=True, kw_only=True)
class Detect:
    """A JSON file that must be there, with all of `keys` and one of `any_of`, for the recipe to be tried."""

    file: str
    keys: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Names:
    """The JSON file that names channels and labels, and the keys under which it does; `None`: not in the file."""

    file: str
    channels: tuple[str, ...] = ()  # the first key that is there
    labels: str | None = None
    regions: str | None = None  # {name: [values]}
    regions_order: str | None = None  # values painted, one per region
    ignore: str | None = None
    cases: str | None = None  # [{"image": path, "label": path}]
    table: str | None = None  # {case: {"images": [paths], "label": path}}
    file_ending: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as written, checked."""

    name: str
    title: str
    source: str
    about: str
    explicit: bool  # only used when asked for by name
    detect: Detect | None
    names: Names | None
    case_names: tuple[str, ...]  # templates; the first one whose parts were all captured is the case's name
    groups: tuple[str, ...]  # the same for the group; none: no groups
    images: tuple[Pattern, ...]  # alternatives, for recipes whose channels have no files of their own
    label: tuple[Pattern, ...]  # alternatives
    unlabelled: str
    channels: tuple[RecipeChannel, ...]
    labels: Mapping[str, int]
    regions: tuple[RecipeRegion, ...]
    ignore: int | None
    annotated: tuple[tuple[Pattern, tuple[str, ...]], ...]  # (pattern for the case's name, labels annotated in it)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """All patterns for images, then those for labels."""
        return (*self.images, *(p for channel in self.channels for p in channel.files), *self.label)

    @property
    def specificity(self) -> int:
        """How little a match can be chance: characters written out, over all patterns."""
        return sum(pattern.specificity for pattern in self.patterns)


def read_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name in `datasets/`, or in a user's own TOML file.

    Raises
    ------
    SettingsError : not a recipe: an unknown key (the nearest known one is offered), a pattern that cannot work, an unknown modality
    MissingPath : no such file
    """
    file = Path(name_or_path) if str(name_or_path).endswith(".toml") else presets.folder("datasets") / f"{name_or_path}.toml"
    return parse_recipe(presets.recipe(name_or_path), name=file.stem, file=file)


def parse_recipe(table: Mapping[str, Any], *, name: str, file: Path | None = None) -> Recipe:
    """A recipe from the tables of its TOML file.

    Parameters
    ----------
    table : the nested tables
    name : of the recipe
    file : for messages

    Raises
    ------
    SettingsError : as for `read_recipe`
    """
    _refuse_unknown_keys(table, file=file)
    case = table.get("case", {})
    channels = tuple(_channel(entry, file=file) for entry in table.get("channels", []))
    images = _patterns(case.get("images", []), file=file)
    if not images and not all(channel.files for channel in channels):
        raise SettingsError(
            "the recipe does not say which files are images",
            file=file,
            expected="case.images, or files for each of the [[channels]]",
            fix='for example: [case] images = "images/{case}{ext}"',
        )
    if not images and not channels and not table.get("names", {}).get("table"):
        raise SettingsError("the recipe has no images", file=file, expected="case.images or [[channels]]", fix="add one of them")
    recipe = Recipe(
        name=name,
        title=str(table.get("title", name)),
        source=str(table.get("source", "")),
        about=str(table.get("about", "")),
        explicit=bool(table.get("explicit", False)),
        detect=_detect(table.get("detect")),
        names=_names(table.get("names"), file=file),
        case_names=_texts(case.get("name", "{case}")),
        groups=_texts(case.get("group", [])),
        images=images,
        label=_patterns(case.get("label", []), file=file),
        unlabelled=_one_of(case.get("unlabelled", "error"), UNLABELLED, key="case.unlabelled", file=file),
        channels=channels,
        labels={str(key): _whole(value, key=f"labels.{key}", file=file) for key, value in table.get("labels", {}).items()},
        regions=tuple(
            RecipeRegion(name=str(r["name"]), members=tuple(map(str, r["of"])), writes=str(r["writes"])) for r in table.get("regions", [])
        ),
        ignore=None if table.get("ignore") is None else _whole(table["ignore"], key="ignore", file=file),
        annotated=tuple((make_pattern(entry["case"], file=file), tuple(map(str, entry["labels"]))) for entry in table.get("annotated", [])),
    )
    _check_parts(recipe, file=file)
    return recipe


def make_pattern(text: str, *, file: Path | None = None) -> Pattern:
    """A pattern ready to match.

    Raises
    ------
    SettingsError : braces that do not close, or an odd name in them

    >>> make_pattern("imagesTr/{case}_{channel:####}{ext}").match("imagesTr/la_003_0000.nii.gz")
    {'case': 'la_003', 'channel': '0000', 'ext': '.nii.gz'}
    """
    seen: set[str] = set()
    regex, literal, place = "", 0, 0
    for token in _TOKEN.finditer(text):
        plain = text[place : token.start()]
        regex += re.escape(plain)
        literal += len(plain)
        regex += _token_regex(token, seen)
        literal += 0 if "|" in (token["glob"] or "|") else sum(c.isalnum() for c in token["glob"])
        place = token.end()
    regex += re.escape(text[place:])
    literal += len(text[place:])
    outside = _TOKEN.sub("", text)
    if "{" in outside or "}" in outside:
        raise SettingsError(
            "a pattern cannot be read",
            file=file,
            found=text,
            expected="named parts such as {case} or {case:####}",
            fix="close the braces; names are small letters",
        )
    needle = max(_TOKEN.sub("\0", text).split("\0"), key=len)
    return Pattern(text=text, regex=re.compile(regex), specificity=literal, needle=needle)


def fill(templates: Sequence[str], parts: Mapping[str, str]) -> str | None:
    """The first template whose parts are all there, filled in.

    >>> fill(["sub-{subject}_ses-{session}", "sub-{subject}"], {"subject": "03"})
    'sub-03'
    """
    for template in templates:
        wanted = re.findall(r"\{([a-z_]+)\}", template)
        if all(name in parts for name in wanted):
            return template.format(**{name: parts[name] for name in wanted})
    return None


def glob_of(pattern: Pattern) -> str:
    """A pattern as a user would say it: named parts as <name>.

    >>> glob_of(make_pattern("imagesTr/{case}_{channel:####}{ext}"))
    'imagesTr/<case>_<channel>.*'
    """
    text = re.sub(r"\{ext\}", ".*", pattern.text)
    return re.sub(r"\{([a-z_]+)(?::[^{}]*)?\}", r"<\1>", text)


def _token_regex(token: re.Match[str], seen: set[str]) -> str:
    if token["deep"]:
        return r"(?:[^/]+/)*"
    if token["star"]:
        return r"[^/]*"
    if token["any"]:
        return r"[^/]"
    if token["set"]:
        return "[^" + token["set"][2:] if token["set"].startswith("[!") else token["set"]
    name, glob = token["name"], token["glob"]
    if name == "ext":
        return "(?P<ext>(?i:" + "|".join(re.escape(suffix) for suffix in SUFFIXES) + "))"
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{_glob_regex(glob) if glob else '[^/]+?'})"


def _glob_regex(glob: str) -> str:
    turned = []
    for choice in glob.split("|"):
        text = re.escape(choice).replace(r"\*", "[^/]*").replace(r"\?", "[^/]").replace(r"\#", "[0-9]").replace("#", "[0-9]")
        turned.append(re.sub(r"\\\[(.+?)\\\]", lambda m: "[" + m[1].replace("\\-", "-") + "]", text))
    return "|".join(turned)


def _refuse_unknown_keys(table: Mapping[str, Any], *, file: Path | None) -> None:
    presets.refuse_unknown(list(table), _KEYS[""], file=file)
    if not isinstance(table.get("labels", {}), Mapping):
        raise SettingsError("'labels' is not a table", file=file, found=repr(table["labels"]), expected="[labels]", fix="write [labels]")
    for name, known in _KEYS.items():
        if not name or name not in table:
            continue
        entries = [table[name]] if name in _TABLES else table[name]
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            heading = f"[{name}]" if name in _TABLES else f"[[{name}]]"
            raise SettingsError(
                f"'{name}' is not a table",
                file=file,
                found=repr(table[name]),
                expected=f"{heading} with {', '.join(known)}",
                fix=f"write {heading}",
            )
        for entry in entries:
            presets.refuse_unknown([f"{name}.{key}" for key in entry], [f"{name}.{key}" for key in known], file=file)
    for name, needed in (("channels", ("name",)), ("regions", ("name", "of", "writes")), ("annotated", ("case", "labels"))):
        for entry in table.get(name, []):
            lacking = [key for key in needed if key not in entry]
            if lacking:
                raise SettingsError(
                    f"[[{name}]] lacks a key",
                    file=file,
                    found=str(dict(entry)),
                    expected=", ".join(needed),
                    fix=f"add {', '.join(lacking)}",
                )


def _check_parts(recipe: Recipe, *, file: Path | None) -> None:
    """Names of cases must be possible from what the patterns capture."""
    for pattern in recipe.patterns:
        captured = set(pattern.regex.groupindex)
        if fill(recipe.case_names, dict.fromkeys(captured, "x")) is None:
            raise SettingsError(
                "a pattern does not say which case a file belongs to",
                file=file,
                found=pattern.text,
                expected=f"the parts of {' or '.join(recipe.case_names)}",
                fix="put {case} into the pattern, or give case.name a template of the parts that are there",
            )


def _channel(entry: Mapping[str, Any], *, file: Path | None) -> RecipeChannel:
    modality = entry.get("modality")
    if modality is not None:
        _one_of(modality, MODALITIES, key="modality", file=file)
    return RecipeChannel(name=str(entry["name"]), modality=modality, files=_patterns(entry.get("files", []), file=file))


def _detect(table: Mapping[str, Any] | None) -> Detect | None:
    if table is None:
        return None
    return Detect(file=table.get("json", "dataset.json"), keys=_texts(table.get("keys", [])), any_of=_texts(table.get("any_of", [])))


def _names(table: Mapping[str, Any] | None, *, file: Path | None) -> Names | None:
    if table is None:
        return None
    if "file" not in table:
        raise SettingsError("[names] lacks its file", file=file, expected='for example file = "dataset.json"', fix="add the file")
    return Names(**{**table, "channels": _texts(table.get("channels", []))})


def _whole(value: Any, *, key: str, file: Path | None) -> int:
    if type(value) is not int:
        raise SettingsError(f"'{key}' is not an integer", file=file, found=repr(value), expected="a label value", fix="write the value")
    return value


def _patterns(value: Any, *, file: Path | None) -> tuple[Pattern, ...]:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise SettingsError(
            "a pattern is not a text", file=file, found=repr(value), expected='"images/{case}{ext}", or a list of such', fix="quote it"
        )
    return tuple(make_pattern(text, file=file) for text in _texts(value))


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _one_of(value: str, known: tuple[str, ...], *, key: str, file: Path | None) -> str:
    if value not in known:
        close = presets.nearest(str(value), known)
        raise SettingsError(f"unknown {key}", file=file, found=str(value), expected=", ".join(known), fix=f"did you mean '{close}'?")
    return value
