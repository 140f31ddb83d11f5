"""What the words in a data set's JSON file mean: names of channels to modalities, the spellings of label declarations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.cases.values import Channel, printable
from autoseg.errors import LabelError, SettingsError
from autoseg.labels import Labels, left_right_pairs, make_labels, regions_that_write

# Words in the name of a channel that tell its modality. nnU-Net and the Decathlon give names only, so this is an
# assumption, and printed as one; a recipe or a case list states the modality itself.
_WORDS: dict[str, tuple[str, ...]] = {
    "CT": ("ct", "cect", "ncct", "cta", "ctp", "cbct", "hu", "cect", "lowdosect"),
    "MR": ("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t1post", "t1km", "t1wce", "t2", "t2w", "t2f", "t2s", "t2star",
           "t2starw", "flair", "adc", "dwi", "dti", "swi", "pd", "pdw", "dce", "dixon", "fse", "tse", "bold", "asl", "lge", "cine",
           "inphase", "outphase", "mprage", "mp2rage", "unit1", "stir", "hbv", "cor", "mra", "tof", "gre", "megre", "b1000"),
    "PET": ("pet", "suv", "fdg", "psma", "fdgpet"),
    "RGB": ("r", "g", "b", "red", "green", "blue", "rgb"),
    "microscopy": ("em", "sem", "tem", "microscopy", "he", "fluorescence", "brightfield", "phasecontrast", "cars", "histology"),
    "ultrasound": ("us", "ultrasound", "tus", "trus", "bmode", "echo"),
    "xray": ("xray", "xr", "cxr", "dx", "mammography", "mg", "radiograph"),
    "rescaled": ("rescale", "rescaled", "rescaleto01", "rgbto01"),
    "unchanged": ("nonorm", "nonormalization", "normalized", "normalised"),
}  # fmt: skip
MODALITY_OF = {word: modality for modality, words in _WORDS.items() for word in words}
_UNNAMED = re.compile(r"channel ?\d+|image|[rgb]", re.IGNORECASE)  # names that were made up where nobody gave any


def are_named(channels: Sequence[str]) -> bool:
    """Return whether the channels have names that say what they are."""
    return not all(_UNNAMED.fullmatch(name) for name in channels)


def modality_of(name: str) -> str | None:
    """Return the modality that a channel's name suggests, `None` where it suggests none or two.

    >>> modality_of("T1-weighted"), modality_of("FDG_PET"), modality_of("channel 0")
    ('MR', 'PET', None)
    """
    squeezed = re.sub(r"[^a-z0-9]", "", name.casefold())
    if squeezed in MODALITY_OF:
        return MODALITY_OF[squeezed]
    words = [word for word in re.split(r"[^a-z0-9]+", name.casefold()) if word and word not in ("r", "g", "b", "he", "us", "em", "cor")]
    found = {MODALITY_OF[word] for word in words if word in MODALITY_OF}
    return found.pop() if len(found) == 1 else None


def channels_from(names: Sequence[str], *, stated: Sequence[str | None] | None = None) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    """Return channels with their modalities, and the notes on what was assumed.

    Parameters
    ----------
    names : of the channels, in order
    stated : modality of each where it was stated; `None` is taken from the name
    """
    stated = stated or [None] * len(names)
    channels, assumed = [], []
    for name, modality in zip(names, stated, strict=True):
        if modality is None:
            modality = modality_of(name) or "other"
            assumed.append(f"{name} is {modality}" if modality != "other" else f"{name} is of an unknown kind ('other', z-score)")
        channels.append(Channel(name=name, modality=modality))
    notes = (f"assumed from the names of the channels: {'; '.join(assumed)}",) if assumed else ()
    return tuple(channels), notes


def channel_names(value: Any, *, file: Path) -> tuple[str, ...]:
    """Return the names of the channels in order, from `{"0": "T1"}` or `["T1"]`.

    Raises
    ------
    SettingsError : neither of the two, or numbers that leave one out
    """
    if isinstance(value, Mapping) and value:
        try:
            numbered = sorted((int(key), str(name)) for key, name in value.items())
        except ValueError:
            numbered = sorted((number, str(name)) for name, item in value.items() if (number := _integer(item)) is not None)
        words = all(isinstance(part, str | int) for part in (*value.keys(), *value.values()))
        if words and [number for number, _ in numbered] == list(range(len(value))):
            return tuple(name for _, name in numbered)
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise SettingsError(
        "the channels are not declared as expected",
        file=file,
        found=repr(value),
        expected='{"0": "T1", "1": "CT"}',
        fix="number the channels from 0 on",
    )


def labels_from(
    declared: Any,
    *,
    file: Path,
    regions: Mapping[str, Any] | None = None,
    order: Sequence[int] | None = None,
    ignore: int | None = None,
    merge: Mapping[int, int] | None = None,
) -> tuple[Labels, tuple[str, ...]]:
    """Return the label scheme from a data set's JSON file, in any of the usual spellings, and notes on what was left aside.

    Parameters
    ----------
    declared : `{"0": "background", "1": "liver"}` (Decathlon), `{"background": 0, "liver": 1}` or, with regions, `{"whole": [1, 2]}`
        (nnU-Net v2; `"ignore"` is the ignore value)
    regions : `{name: [values]}` beside single labels; trained only if each label can be told apart from them
    order : the value that each region paints, in painting order (nnU-Net v2, `regions_class_order`)
    ignore : the ignore value, where it is declared elsewhere
    merge : values in the files to the declared value they stand for, of the user's choosing

    Raises
    ------
    LabelError : not a declaration of labels, or one that cannot work
    """
    _check_kinds(regions, order, ignore, file=file)
    single, grouped = _split_declaration(declared, file=file)
    ignore = next((single.pop(name) for name in list(single) if name.casefold() == "ignore"), ignore)
    notes: list[str] = []
    if grouped:
        single, painted = _declared_regions(declared, single, grouped, order, file=file)
    else:
        painted = None
    single, aliases = _merged(single, ignore, merge or {})
    if painted is None and regions:
        members = {str(name): _renamed(_as_values(values, file=file), aliases) for name, values in regions.items()}
        painted = regions_that_write(members, [value for name, value in single.items() if not _is_background(name, value)])
        if painted is None:
            notes.append(_lost_labels(members, single))
    elif painted is not None and aliases:
        painted = {name: (_renamed(values, aliases), aliases.get(writes, writes)) for name, (values, writes) in painted.items()}
    pairs = left_right_pairs(name for name, value in single.items() if not _is_background(name, value))
    try:
        return make_labels(single, regions=painted, ignore=ignore, pairs=pairs, aliases=aliases), tuple(notes)
    except LabelError as error:
        error.file = error.file or str(file)
        raise


def labels_from_values(values: Iterable[int], *, aliases: Mapping[int, int] | None = None) -> Labels:
    """Return a label scheme for values that nobody named: 0, or the lowest, is background, the others are `label_V`."""
    known = sorted(set(values))
    background = 0 if 0 in known or not known else known[0]
    named = {"background": background, **{f"label_{value}": value for value in known if value != background}}
    return make_labels(named, aliases=dict(aliases or {}))


def _check_kinds(regions: Any, order: Any, ignore: Any, *, file: Path) -> None:
    """Refuse a declaration of the wrong JSON kind."""
    for key, value, sound, expected in (
        ("regions", regions, isinstance(regions, Mapping), "a table of name and list of values"),
        ("regions_class_order", order, isinstance(order, list) and all(type(v) is int for v in order), "a list of label values"),
        ("ignore", ignore, type(ignore) is int, "one integer"),
    ):
        if value is not None and not sound:
            raise LabelError(f"'{key}' is not declared as expected", file=file, found=repr(value), expected=expected, fix="correct it")


def _split_declaration(declared: Any, *, file: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """(name to value, name to member values of the regions)."""
    single: dict[str, int] = {}
    grouped: dict[str, tuple[int, ...]] = {}
    if isinstance(declared, list):
        declared = {str(index): name for index, name in enumerate(declared)}
    if not isinstance(declared, Mapping) or not declared:
        raise LabelError(
            "the labels are not declared as expected",
            file=file,
            found=repr(declared),
            expected='{"background": 0, "liver": 1}',
            fix="declare name and value of each label",
        )
    for key, value in declared.items():
        if isinstance(value, list):
            members = _as_values(value, file=file)
            if len(members) == 1:
                single[str(key)] = members[0]
            grouped[str(key)] = members
        elif (number := _integer(value)) is not None:
            single[str(key)] = number
        elif (number := _integer(key)) is not None:
            if (taken := single.get(str(value))) is not None:
                raise LabelError(
                    "two values have one label name",
                    file=file,
                    found=f"{value}: {taken} and {number}",
                    expected="one name per value",
                    fix=f"give each its own name; or, if they are one structure, declare one and give --map-labels {number}={taken}",
                )
            single[str(value)] = number
        else:
            raise LabelError(
                f"the value of the label '{key}' is no integer",
                file=file,
                found=repr(value),
                expected="an integer, or a list of integers",
                fix=f'write {{"{key}": 1}}, with the value that the label has in the files',
            )
    if unfit := next((name for name in (*single, *grouped) if printable(name) != name), None):
        raise LabelError("a label name that cannot be printed", file=file, found=printable(unfit), expected="text", fix="give another name")
    if grouped and all(len(members) == 1 for members in grouped.values()):
        grouped = {}
    return single, grouped


def _declared_regions(
    declared: Mapping[str, Any], single: dict[str, int], grouped: dict[str, tuple[int, ...]], order: Sequence[int] | None, *, file: Path
) -> tuple[dict[str, int], dict[str, tuple[tuple[int, ...], int]]]:
    """nnU-Net v2 regions: every foreground entry is a target; values without a name of their own get one."""
    members = {**{name: (value,) for name, value in single.items() if not _is_background(name, value)}, **grouped}
    members = {str(name): members[str(name)] for name in declared if str(name) in members and set(members[str(name)]) != {0}}
    values = sorted({value for group in members.values() for value in group} - {0})
    named = {value: name for name, value in single.items()}
    labels = {named.get(0, "background"): 0, **{named.get(value, f"label_{value}"): value for value in values}}
    if order is not None:
        if len(order) != len(members):
            raise LabelError(
                "the painting order does not fit the regions",
                file=file,
                found=f"{len(order)} values for {len(members)} regions ({', '.join(members)})",
                expected="one value per region, in the order of the regions",
                fix="correct regions_class_order",
            )
        return labels, {name: (group, int(writes)) for (name, group), writes in zip(members.items(), order, strict=True)}
    painted = regions_that_write(members, values)
    if painted is None:
        raise LabelError(
            "the regions do not say which value each of them writes",
            file=file,
            found=str({name: list(group) for name, group in members.items()}),
            expected="regions_class_order: one value per region, in painting order",
            fix="add regions_class_order to the file",
        )
    return labels, painted


def _merged(single: dict[str, int], ignore: int | None, merge: Mapping[int, int]) -> tuple[dict[str, int], dict[int, int]]:
    """Leave out the labels that the user maps onto others; the mapping stays as aliases."""
    kept = {name: value for name, value in single.items() if value not in merge}
    known = {*kept.values(), *([] if ignore is None else [ignore])}
    for target in merge.values():
        if target not in known and target in merge:
            raise LabelError(
                "a label value is mapped to one that is mapped itself",
                found=str(dict(merge)),
                expected=f"one of {sorted(known)}",
                fix="map straight to the value that stays",
            )
    return kept, dict(merge)


def _renamed(values: Sequence[int], aliases: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(aliases.get(value, value) for value in values))


def _as_values(values: Any, *, file: Path) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in (values if isinstance(values, list) else [values]))
    except (TypeError, ValueError):
        raise LabelError(
            "a region is not a list of label values",
            file=file,
            found=repr(values),
            expected="for example [1, 2]",
            fix="write the values of its labels",
        ) from None


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # 1.0, as some writers of JSON put it
        value = int(value)
    return int(value) if not isinstance(value, bool) and re.fullmatch(r"-?[0-9]{1,9}", str(value)) else None


def _is_background(name: str, value: int) -> bool:
    return name.casefold() == "background" or value == 0


def _lost_labels(members: Mapping[str, Sequence[int]], single: Mapping[str, int]) -> str:
    """Why the regions cannot be trained, and the ready way out."""
    belongs = {value: tuple(name for name, group in members.items() if value in group) for value in single.values()}
    alike: dict[tuple[str, ...], list[int]] = {}
    for name, value in single.items():
        if not _is_background(name, value):
            alike.setdefault(belongs[value], []).append(value)
    same = next((values for values in alike.values() if len(values) > 1), None)
    head = f"the regions ({', '.join(members)}) are left aside and the labels trained: the regions do not tell the labels apart"
    if same is None:
        return head
    names = {value: name for name, value in single.items()}
    listed = " and ".join(f"{names[value]} ({value})" for value in same)
    return f"{head}: {listed} lie in the same ones (to train the regions, give --map-labels {same[1]}={same[0]})"
