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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from autoseg import presets, schema
from autoseg.errors import SettingsError
from autoseg.images import SUFFIXES

Modality = Literal[  # the closed list; it chooses the normalisation
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
]
MODALITIES: tuple[str, ...] = get_args(Modality)
Texts = Annotated[tuple[str, ...], schema.OneOrMany()]

_TOKEN = re.compile(r"\{(?P<name>[a-z_]+)(?::(?P<glob>[^{}]*))?\}|\*\*/|\*|\?|\[[^\]]+\]")
_WILDCARDS = {"**/": r"(?:[^/]+/)*", "*": r"[^/]*", "?": r"[^/]"}


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One glob pattern with named parts, ready to match."""

    text: str
    regex: re.Pattern[str]
    specificity: int  # characters that are written out: the more, the less a match can be chance
    needle: str = ""  # a text that every match contains; looking for it first is much faster

    @property
    def weight(self) -> tuple[int, int]:
        """What decides whether a path is an image or a label where both patterns match it: characters, then parts that are limited."""
        return self.specificity, len(re.findall(r"\{[a-z_]+:", self.text))

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
    members: Texts = schema.key("of")
    writes: str


@dataclass(frozen=True, kw_only=True)
class Detect:
    """A JSON file that must be there, with all of `keys` and one of `any_of`, for the recipe to be tried."""

    file: str = schema.key("json", default="dataset.json")
    keys: Texts = ()
    any_of: Texts = ()


@dataclass(frozen=True, kw_only=True)
class Names:
    """The JSON file that names channels and labels, and the keys under which it does; `None`: not in the file."""

    file: str
    channels: Texts = ()  # the first key that is there
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


@dataclass(frozen=True, kw_only=True)
class _CaseTable:
    name: Texts = ("{case}",)
    group: Texts = ()
    images: Texts = ()
    label: Texts = ()
    unlabelled: Literal["error", "note"] = "error"  # what an image without a label means: a fault, or a part published without labels


@dataclass(frozen=True, kw_only=True)
class _ChannelTable:
    name: str
    modality: Modality | None = None
    files: Texts = ()


@dataclass(frozen=True, kw_only=True)
class _AnnotatedTable:
    case: str
    labels: Texts


@dataclass(frozen=True, kw_only=True)
class _RecipeFile:
    """A recipe as its TOML file writes it."""

    title: str | None = None
    source: str = ""
    about: str = ""
    explicit: bool = False
    detect: Detect | None = None
    names: Names | None = None
    case: _CaseTable = _CaseTable()
    channels: tuple[_ChannelTable, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    regions: tuple[RecipeRegion, ...] = ()
    ignore: int | None = None
    annotated: tuple[_AnnotatedTable, ...] = ()


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
    written = schema.parse(
        _RecipeFile, table, what="the recipe", fix="correct these places; `datasets/README.md` lists every key", file=file
    )
    case = written.case
    channels = tuple(RecipeChannel(name=c.name, modality=c.modality, files=_patterns(c.files, file=file)) for c in written.channels)
    images = _patterns(case.images, file=file)
    if not images and not all(channel.files for channel in channels):
        raise SettingsError(
            "the recipe does not say which files are images",
            file=file,
            expected="case.images, or files for each of the [[channels]]",
            fix='for example: [case] images = "images/{case}{ext}"',
        )
    if not images and not channels and not (written.names and written.names.table):
        raise SettingsError("the recipe has no images", file=file, expected="case.images or [[channels]]", fix="add one of them")
    recipe = Recipe(
        name=name,
        title=name if written.title is None else written.title,
        source=written.source,
        about=written.about,
        explicit=written.explicit,
        detect=written.detect,
        names=written.names,
        case_names=case.name,
        groups=case.group,
        images=images,
        label=_patterns(case.label, file=file),
        unlabelled=case.unlabelled,
        channels=channels,
        labels=written.labels,
        regions=written.regions,
        ignore=written.ignore,
        annotated=tuple((make_pattern(entry.case, file=file), entry.labels) for entry in written.annotated),
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
        glob = token.group("glob") or "|"
        literal += 0 if "|" in glob else sum(c.isalnum() for c in glob)
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
    text = token[0]
    if text in _WILDCARDS:
        return _WILDCARDS[text]
    if text.startswith("["):
        return "[^" + text[2:] if text.startswith("[!") else text
    name, glob = token.group("name", "glob")
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


def _patterns(texts: Iterable[str], *, file: Path | None) -> tuple[Pattern, ...]:
    return tuple(make_pattern(text, file=file) for text in texts)
