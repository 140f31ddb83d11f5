"""Values from JSON and TOML become frozen dataclasses; whatever does not fit becomes one error that names every damaged place.

A *record* is an ordinary frozen dataclass whose annotations are the schema: pydantic reads them, strictly. Numbers are not made
from text, whole numbers not from fractions, NaN and infinity are refused, and so is an unknown key, with the nearest known one.
Lists become tuples; a field without a default must be there. Where a file calls a field by another name, the field says so::

    @dataclass(frozen=True, kw_only=True)
    class CaseRecord:
        name: str = schema.key("case")
        spacing: tuple[float, float, float]
        group: str | None = None

pydantic is imported when the first record is read: what never reads one does not wait for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from autoseg import files
from autoseg.errors import InputError, SettingsError

if TYPE_CHECKING:
    import pydantic

MOST_NAMED = 12  # damaged places in one message

T = TypeVar("T")
_Place = tuple[str | int, ...]


def key(name: str, *, default: Any = dataclasses.MISSING) -> Any:
    """Return a dataclass field that the file calls `name`."""
    return dataclasses.field(default=default, metadata={"alias": name})


def read(kind: type[T], path: Path, *, what: str, fix: str, error: type[InputError] = SettingsError) -> T:
    """Return the record in a JSON file; as `files.read_json` and `parse`, with the file named in every error."""
    return parse(kind, files.read_json(path, fix=fix), what=what, fix=fix, file=path, error=error)


def parse(kind: type[T], value: Any, *, what: str, fix: str, file: Path | None = None, error: type[InputError] = SettingsError) -> T:
    """Return a value from a JSON or TOML file as a record.

    Parameters
    ----------
    kind : a frozen dataclass, or a type made of such, of plain types and of `Literal`, `tuple` and `Mapping`
    value : as the file holds it
    what : the value in the user's words, for the message
    fix : what the user can do about it
    file : where it was found
    error : class of the error

    Raises
    ------
    InputError : of the class `error`: the value does not fit; each place is named with what was found and what was expected

    >>> parse(tuple[int, int], [40, "56"], what="the patch", fix="correct it")
    Traceback (most recent call last):
    autoseg.errors.SettingsError: SettingsError: the patch cannot be understood
      found     [1]: "56" instead of a whole number
      fix       correct it
    """
    import pydantic

    found: list[str] = []
    try:
        text = json.dumps([value], default=str)
        if "NaN" in text or "Infinity" in text:
            found = list(_infinite(value))
        record: T = _adapter(cast(Hashable, kind)).validate_json(text)[0]
        if not found:
            return record
    except pydantic.ValidationError as damage:
        found += _faults(kind, value, damage)
    except (RecursionError, ValueError) as damage:
        found = [f"the whole: {files.too_much(damage)}"]
    more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    raise error(f"{what} cannot be understood", file=file, found="\n".join(found[:MOST_NAMED] + more), fix=fix)


def dump(record: Any) -> Any:
    """Return a record as plain values for a JSON file: tuples as lists, paths as text, each field under its name in the file."""
    if dataclasses.is_dataclass(record):
        return {name: dump(getattr(record, field)) for field, name in _names(type(record)).items()}
    if isinstance(record, Mapping):
        return {str(name): dump(value) for name, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [dump(value) for value in record]
    return str(record) if isinstance(record, Path) else record


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    import pydantic

    # Inside a tuple, because a configuration can be handed down to a dataclass but not given to one from outside.
    return pydantic.TypeAdapter(tuple[kind], config=pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def _faults(kind: Any, value: Any, damage: pydantic.ValidationError) -> Iterator[str]:
    """Yield each damaged place once, with what was found there and what was expected."""
    expected: dict[_Place, list[str]] = {}
    alternatives: set[_Place] = set()
    for fault in damage.errors(include_url=False):
        if fault["type"] == "finite_number":  # named already, with those in values of any type
            continue
        place, inside_union = _place_in(value, fault["loc"][1:], missing=fault["type"] == "missing")
        expected.setdefault(place, []).append(_words(kind, place, fault))
        if inside_union:
            alternatives.add(place)
    for place, words in expected.items():
        if place in alternatives and any(len(other) > len(place) and other[: len(place)] == place for other in expected):
            continue  # another of the alternatives came further
        here = written(place) or "the whole"
        if words[0].startswith(_VERBATIM):
            yield f"{here}: {words[0].removeprefix(_VERBATIM)}"
        else:
            yield f"{here}: {_shown(_at(value, place))} instead of {' or '.join(dict.fromkeys(words))}"


def _place_in(value: Any, location: tuple[str | int, ...], *, missing: bool) -> tuple[_Place, bool]:
    """Return pydantic's location without the names of alternatives, and whether it held any."""
    place: list[str | int] = []
    skipped = False
    for number, step in enumerate(location):
        if _holds(value, step):
            value = value[step]
            place.append(step)
        elif missing and number == len(location) - 1:
            place.append(step)
        else:
            skipped = skipped or step != "[key]"
    return tuple(place), skipped


def written(place: _Place) -> str:
    """Return a place in a file as text.

    >>> written(("configurations", "3d_fullres", "patch_size", 1))
    'configurations.3d_fullres.patch_size[1]'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


_VERBATIM = "\0"  # marks a fault that is not of the form "found instead of expected"
_WORDS = {
    "string_type": "text", "path_type": "text", "int_type": "a whole number", "int_from_float": "a whole number",
    "int_parsing": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "dict_type": "{...}", "mapping_type": "{...}", "dataclass_type": "{...}", "tuple_type": "[...]", "list_type": "[...]",
    "none_required": "null",
}  # fmt: skip
_LIMITS: tuple[tuple[str, str], ...] = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def _words(kind: Any, place: _Place, fault: Any) -> str:
    """Return what was expected at a place."""
    context: Mapping[str, Any] = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return f"{_VERBATIM}is missing"
        case "unexpected_keyword_argument":
            close = difflib.get_close_matches(str(place[-1]), _known(kind, place[:-1]), n=1)
            return f"{_VERBATIM}no such key" + (f"; did you mean '{close[0]}'?" if close else "")
        case "literal_error":
            return f"one of: {context['expected'].replace(' or ', ', ')}"
        case "too_long" | "too_short":
            return f"{context.get('max_length', context.get('min_length'))} values"
        case "json_invalid":
            return f"{_VERBATIM}{'lists or tables nested too deeply' if 'recursion' in fault['msg'] else 'text that is not valid Unicode'}"
        case "int_parsing" if fault["loc"][-1] == "[key]":
            return f"{_VERBATIM}the key is not a whole number"
    limits = [f"{word} {context[name]:g}" for name, word in _LIMITS if name in context]
    message: str = fault["msg"]
    return f"a number {', '.join(limits)}" if limits else _WORDS.get(fault["type"], message[:1].lower() + message[1:])


def _known(kind: Any, place: _Place) -> list[str]:
    """Return the keys that a record may have at a place."""
    kinds = list(_alternatives(kind))
    for step in place:
        inner: list[Any] = []
        for one in kinds:
            if dataclasses.is_dataclass(one):
                hints = get_type_hints(one)
                inner += [hints[field] for field, name in _names(one).items() if name == step]
            elif get_origin(one) is tuple and isinstance(step, int) and Ellipsis not in get_args(one):
                inner += get_args(one)[step : step + 1]
            elif get_origin(one) is not None:
                inner += [item for item in get_args(one) if item is not Ellipsis][-1:]
        kinds = [alternative for one in inner for alternative in _alternatives(one)]
    return [name for one in kinds if dataclasses.is_dataclass(one) for name in _names(one).values()]


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _alternatives(one)
    else:
        yield get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _names(kind: Any) -> Mapping[str, str]:
    """Return the name in the file of each field of a record."""
    return {field.name: field.metadata.get("alias", field.name) for field in dataclasses.fields(kind)}


def _infinite(value: Any, place: _Place = ()) -> Iterator[str]:
    """Yield the places that hold NaN or infinity."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _infinite(item, (*place, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _infinite(item, (*place, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{written(place) or 'the whole'}: {value} instead of a finite number"


def _holds(value: Any, step: str | int) -> bool:
    return step in value if isinstance(value, Mapping) else isinstance(value, (list, tuple)) and step in range(len(value))


def _at(value: Any, place: _Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
