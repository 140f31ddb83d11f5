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
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

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


def names(kind: Any) -> tuple[str, ...]:
    """Return the name in the file of each field of a record."""
    return tuple(_names(kind).values())


def checked(inner: Any, check: Callable[[Any], Any]) -> Any:
    """Return pydantic's schema of a type with a check after it: for a class in `Annotated` that limits values.

    Parameters
    ----------
    inner : pydantic's schema of the type
    check : is given the value and returns it; raises ValueError with what is wrong, in words
    """
    from pydantic_core import core_schema

    return core_schema.no_info_after_validator_function(check, inner)


class OneOrMany:
    """Marks a tuple of strings that a file can also write as one string: `Annotated[tuple[str, ...], OneOrMany()]`."""

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """Have pydantic take a string for a tuple of one."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self._many, handler(kind))

    def _many(self, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def pick(kind: Any, value: Any) -> Any:
    """Return those keys of a table that a record has, for a file of which it reads a part; what is not a table as it is."""
    return {name: value[name] for name in names(kind) if name in value} if isinstance(value, Mapping) else value


def parse(
    kind: type[T],
    value: Any,
    *,
    what: str,
    fix: str,
    file: Path | None = None,
    error: type[InputError] = SettingsError,
    format: int | None = None,
) -> T:
    """Return a value from a JSON or TOML file as a record.

    Parameters
    ----------
    kind : a frozen dataclass, or a type made of such, of plain types and of `Literal`, `tuple` and `Mapping`
    value : as the file holds it
    what : the value in the user's words, for the message
    fix : what the user can do about it
    file : where it was found
    error : class of the error
    format : what the value must hold under "format", where it has one

    Raises
    ------
    InputError : of the class `error`: the value does not fit; each place is named with what was found and what was expected

    >>> parse(tuple[int, int], [40, "56"], what="the patch", fix="correct it")
    Traceback (most recent call last):
    autoseg.errors.SettingsError: SettingsError: the patch cannot be understood
      found     [1]: "56" instead of a whole number
      fix       correct it
    """
    if format is not None and isinstance(value, Mapping) and value.get("format") != format:
        found_format = f"format {_shown(value['format'])}" if "format" in value else "no format"
        raise error(f"{what} is of another format", file=file, found=found_format, expected=f"format {format}", fix=fix)
    record, found = _parsed(kind, value)
    if found:
        raise failure(found, what=what, fix=fix, file=file, error=error)
    return cast(T, record)


def faults(kind: Any, value: Any) -> list[str]:
    """Return what `parse` would name: each damaged place of a value, with what was found and what was expected."""
    return _parsed(kind, value)[1]


def failure(found: list[str], *, what: str, fix: str, file: Path | None = None, error: type[InputError] = SettingsError) -> InputError:
    """Return the error that names damaged places, the first ones of many."""
    more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    return error(f"{what} cannot be understood", file=file, found="\n".join(found[:MOST_NAMED] + more), fix=fix)


def nearest(name: str, known: Collection[str], *, cutoff: float = 0.0) -> str | None:
    """Return the known name most like `name`, None where none is alike by `cutoff`; the last part of a dotted key counts as much as all.

    >>> nearest("memory_3d.budgt", ["memory_3d.budget", "memory_2d.budget", "training.batch"])
    'memory_3d.budget'
    """

    def likeness(other: str) -> float:
        pairs = [(name, other), (name.rpartition(".")[2], other.rpartition(".")[2])]
        return sum(difflib.SequenceMatcher(None, one.casefold(), two.casefold()).ratio() for one, two in pairs) / 2

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= cutoff else None


def unknown_key(name: str, known: Collection[str]) -> str:
    """Return what is wrong with a key that does not exist, with the nearest one that does."""
    return "no such key" + _suggestion(name, known)


def dump(record: Any) -> Any:
    """Return a record as plain values for a JSON file: tuples and arrays as lists, paths as text, each field under its name in the file."""
    if dataclasses.is_dataclass(record):
        return {name: dump(getattr(record, field)) for field, name in _names(type(record)).items()}
    if isinstance(record, Mapping):
        return {str(name): dump(value) for name, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [dump(value) for value in record]
    if hasattr(record, "tolist"):
        return record.tolist()
    return str(record) if isinstance(record, Path) else record


def rebuild(kind: type[T], record: Any, **changed: Any) -> T:
    """Return a dataclass with the fields that a record has too, but for those that are given."""
    shared = {field.name for field in dataclasses.fields(cast(Any, kind))} & _names(type(record)).keys()
    return kind(**{**{name: getattr(record, name) for name in shared}, **changed})


def _plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, a date of TOML as text."""
    return value.item() if hasattr(value, "item") else str(value)


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    import pydantic

    # Inside a tuple, because a configuration can be handed down to a dataclass but not given to one from outside.
    return pydantic.TypeAdapter(tuple[kind], config=pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def _parsed(kind: Any, value: Any) -> tuple[Any, list[str]]:
    """Return a value as a record, and what is wrong with it."""
    import pydantic

    try:
        text = json.dumps([value], default=_plain)
        found = list(_infinite(value)) if "NaN" in text or "Infinity" in text else []
        try:
            return _adapter(cast(Hashable, kind)).validate_json(text)[0], found
        except pydantic.ValidationError as damage:
            return None, found + list(_faults(kind, value, damage))
    except (RecursionError, ValueError) as damage:
        return None, [f"the whole: {files.too_much(damage)}"]


def _faults(kind: Any, value: Any, damage: pydantic.ValidationError) -> Iterator[str]:
    """Yield each damaged place once, with what was found there and what was expected."""
    faults: dict[_Place, str] = {}
    for fault in damage.errors(include_url=False):
        kind_of_fault = fault["type"]
        place = _place_in(value, fault["loc"][1:], missing=kind_of_fault == "missing")
        if kind_of_fault == "missing" and isinstance(place[-1], int):
            place = place[:-1]  # a tuple that is too short
        if kind_of_fault != "finite_number" or not isinstance(_at(value, place), float):  # floats are named already; not 10**400
            faults.setdefault(place, _fault(kind, value, place, fault))
    for place, text in faults.items():
        if not any(len(other) > len(place) and other[: len(place)] == place for other in faults):  # else another alternative fits better
            yield f"{written(place) or 'the whole'}: {text}"


def _place_in(value: Any, location: tuple[str | int, ...], *, missing: bool) -> _Place:
    """Return pydantic's location without the names of alternatives."""
    place: list[str | int] = []
    for number, step in enumerate(location):
        if isinstance(value, Mapping) and step in value or isinstance(value, (list, tuple)) and step in range(len(value)):
            value = _at(value, (step,))
            place.append(step)
        elif missing and number == len(location) - 1:
            place.append(step)
    return tuple(place)


def written(place: _Place) -> str:
    """Return a place in a file as text.

    >>> written(("configurations", "3d_fullres", "patch_size", 1))
    'configurations.3d_fullres.patch_size[1]'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _fault(kind: Any, value: Any, place: _Place, fault: Any) -> str:
    """Return what is wrong at a place."""
    match fault:
        case {"type": "missing", "loc": (*_, str())}:
            return "is missing"
        case {"type": "unexpected_keyword_argument"}:
            known = [name for one in _kinds_at(kind, place[:-1]) if dataclasses.is_dataclass(one) for name in _names(one).values()]
            return unknown_key(str(place[-1]), known)
        case {"type": "literal_error"}:
            choices = [choice for one in _kinds_at(kind, place) for choice in get_args(one)]
            hint = _suggestion(str(_at(value, place)), choices)
            return f"{_shown(_at(value, place))} instead of {_one_of(choices)}{hint}"
        case {"type": "json_invalid", "msg": message}:
            return "lists or tables nested too deeply" if "recursion" in message else "text that is not valid Unicode"
        case {"type": "int_parsing"}:
            return "the key is not a whole number"
        case {"type": "value_error", "ctx": {"error": error}}:
            return str(error)
    return f"{_shown(_at(value, place))} instead of {' or '.join(dict.fromkeys(map(_in_words, _kinds_at(kind, place))))}"


_WORDS = {str: "text", Path: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _suggestion(name: str, known: Collection[str]) -> str:
    close = nearest(name, known, cutoff=0.6)
    return f"; did you mean '{close}'?" if close else ""


def _one_of(choices: Sequence[Any]) -> str:
    return f"one of {', '.join(map(str, choices))}" if len(choices) != 1 else _shown(choices[0])


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind))
    if get_origin(kind) is tuple:
        items = [" or ".join(map(_in_words, _alternatives(item))) for item in get_args(kind) if item is not Ellipsis]
        return f"[{', '.join(item.removeprefix('a ') for item in items)}{', ...' if Ellipsis in get_args(kind) else ''}]"
    return _WORDS.get(kind, "{...}")


def _kinds_at(kind: Any, place: _Place) -> list[Any]:
    """Return the types that a record allows at a place."""
    kinds = list(_alternatives(kind))
    for step in place:
        inner: list[Any] = []
        for one in kinds:
            items = [item for item in get_args(one) if item is not Ellipsis]
            if dataclasses.is_dataclass(one):
                hints = get_type_hints(one)
                inner += [hints[field] for field, name in _names(one).items() if name == step]
            elif get_origin(one) is tuple and isinstance(step, int):
                inner += items[step : step + 1] if Ellipsis not in get_args(one) else items
            elif get_origin(one) not in (tuple, None):
                inner += items[-1:]
        kinds = [alternative for one in inner for alternative in _alternatives(one)]
    return kinds


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _alternatives(one)
    else:
        yield from _alternatives(get_args(kind)[0]) if get_origin(kind) is Annotated else [kind]


def _names(kind: Any) -> Mapping[str, str]:
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


def _at(value: Any, place: _Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
