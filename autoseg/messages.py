"""What two of our own processes tell each other: values as JSON and raw arrays, never a pickle.

A message can hold plain values, containers, paths, arrays, our frozen dataclasses, enumerations, errors of the `AutosegError` family,
and names of functions that both sides can import. Reading one makes values and imports names; it calls nothing that a message names.
It is not a file format: both sides are the same version of autoseg.

    8 bytes: length of the JSON   |   JSON: {"value": tree, "blocks": [lengths]}   |   the blocks, one after the other
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType
from typing import IO, TYPE_CHECKING, Any

from autoseg.errors import AutosegError, rebuilt

if TYPE_CHECKING:
    import numpy as np  # otherwise only where an array travels: a process starts without it

Parts = list[memoryview]  # of a message, in the order in which they are sent

LONGEST_HEAD = 1 << 40  # bytes; any printed text, taken for a length, is longer

_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS: Mapping[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def packed(value: Any) -> Parts:
    """A value as the parts of a message; arrays are not copied.

    Raises
    ------
    TypeError : something in it cannot travel; says what
    """
    blocks: Parts = []
    try:
        tree = _tree(value, blocks)
        head = json.dumps({"value": tree, "blocks": [block.nbytes for block in blocks]}).encode()
    except (RecursionError, ValueError) as error:  # it holds itself; an integer of thousands of digits
        raise TypeError(str(error)) from error
    return [memoryview(len(head).to_bytes(8, "big")), memoryview(head), *blocks]


def send(stream: IO[bytes], parts: Parts) -> None:
    """Write a packed message and let it go."""
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message.

    Raises
    ------
    EOFError : the stream ended, before a message or within one
    ValueError : this is not a message
    """
    length = int.from_bytes(_read(stream, 8), "big")
    if length > LONGEST_HEAD:
        raise ValueError("not a message")
    try:
        head = json.loads(_read(stream, length))
        return _value(head["value"], [_read(stream, size) for size in head["blocks"]])
    except (KeyError, TypeError, AttributeError, ImportError, RecursionError) as error:
        raise ValueError(f"not a message: {error}") from error


def to_bytes(value: Any) -> bytes:
    """A message in one piece, for channels that are not streams. Raises as `packed`."""
    return b"".join(packed(value))


def from_bytes(message: bytes) -> Any:
    """What `to_bytes` was given. Raises as `receive`."""
    return receive(io.BytesIO(message))


def _tree(value: Any, blocks: Parts) -> Any:
    """The value as JSON: plain ones as they are, any other as a list that begins with its kind."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind.__name__ in _CONTAINERS and kind is _CONTAINERS[kind.__name__]:
        return [kind.__name__, *(_tree(item, blocks) for item in value)]
    if kind is dict:
        return ["dict", *([_tree(key, blocks), _tree(item, blocks)] for key, item in value.items())]
    if kind is slice:
        return ["slice", *(_tree(item, blocks) for item in (value.start, value.stop, value.step))]
    if isinstance(value, PurePath):
        return ["path", str(value)]
    if kind is bytes:
        blocks.append(memoryview(value))
        return ["bytes", len(blocks) - 1]
    if kind.__module__.split(".")[0] == "numpy" and "numpy" in sys.modules:
        return _array_tree(value, blocks)
    if isinstance(value, enum.Enum) and value.name in kind.__members__:  # flags that are combined have no name
        return ["enum", _name_of(kind), value.name]
    if dataclasses.is_dataclass(kind):
        fields = {field.name: _tree(getattr(value, field.name), blocks) for field in dataclasses.fields(value)}
        return ["record", _name_of(kind), fields]
    if isinstance(value, AutosegError):
        return ["error", _name_of(kind), {name: _tree(item, blocks) for name, item in vars(value).items()}]
    if isinstance(value, functools.partial):
        return ["partial", *(_tree(item, blocks) for item in (value.func, list(value.args), value.keywords))]
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return ["name", _name_of(value)]
    raise TypeError(f"a value of {kind.__module__}.{kind.__qualname__}")


def _array_tree(value: Any, blocks: Parts) -> list[Any]:
    """An array, a number of numpy or a dtype; the values themselves go into a block."""
    import numpy as np

    if isinstance(value, np.dtype):
        return ["dtype", _dtype_text(value)]
    if type(value) not in (np.ndarray, np.memmap) and not isinstance(value, np.generic):
        raise TypeError(f"a value of {type(value)}")
    array = np.ascontiguousarray(value)
    blocks.append(array.reshape(-1).view(np.uint8).data)
    return ["array" if isinstance(value, np.ndarray) else "number", _dtype_text(array.dtype), list(value.shape), len(blocks) - 1]


def _dtype_text(dtype: np.dtype[Any]) -> str:
    """Kind and byte order. Raises TypeError for dtypes that hold objects or fields."""
    if dtype.hasobject or dtype.names is not None:
        raise TypeError(f"an array of {dtype}")
    return dtype.str


def _value(tree: Any, blocks: list[bytearray]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](_value(item, blocks) for item in rest)
    if kind == "dict":
        return {_value(key, blocks): _value(item, blocks) for key, item in rest}
    return _MAKERS[kind](blocks, *rest)


def _array(blocks: list[bytearray], dtype: str, shape: list[int], block: int) -> np.ndarray[Any, Any]:
    """The array over the memory of its block: not copied, and it can be written to."""
    import numpy as np

    return np.frombuffer(blocks[block], dtype=dtype).reshape(shape)


def _dtype(_: list[bytearray], text: str) -> np.dtype[Any]:
    """A dtype by its text."""
    import numpy as np

    return np.dtype(text)


def _record(blocks: list[bytearray], name: str, fields: Mapping[str, Any]) -> Any:
    """A dataclass as it was; neither its constructor nor its checks run."""
    kind = _named(name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"{name} is not a dataclass")
    made = object.__new__(kind)
    for field, tree in fields.items():
        object.__setattr__(made, field, _value(tree, blocks))
    return made


def _error(blocks: list[bytearray], name: str, state: Mapping[str, Any]) -> AutosegError:
    """An error of ours as it was; its constructor does not run."""
    kind = _named(name)
    if not (isinstance(kind, type) and issubclass(kind, AutosegError)):
        raise ValueError(f"{name} is not an error of ours")
    return rebuilt(kind, {field: _value(tree, blocks) for field, tree in state.items()})


def _member(_: list[bytearray], name: str, member: str) -> enum.Enum:
    """The member of an enumeration by its name."""
    kind = _named(name)
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise ValueError(f"{name} is not an enumeration")
    return kind[member]


_MAKERS: Mapping[str, Callable[..., Any]] = {
    "slice": lambda blocks, *ends: slice(*(_value(end, blocks) for end in ends)),
    "path": lambda _, text: Path(text),
    "array": _array,
    "number": lambda blocks, *facts: _array(blocks, *facts)[()],
    "bytes": lambda blocks, block: bytes(blocks[block]),
    "dtype": _dtype,
    "enum": _member,
    "record": _record,
    "error": _error,
    "partial": lambda blocks, work, args, keywords: functools.partial(
        _value(work, blocks), *_value(args, blocks), **_value(keywords, blocks)
    ),
    "name": lambda _, name: _named(name),
}


def _name_of(thing: Any) -> str:
    """Where the other process finds the same function or class. Raises TypeError where it cannot."""
    name = f"{thing.__module__}:{thing.__qualname__}"
    try:
        there = _named(name)
    except (ImportError, AttributeError):
        there = None
    if there is not thing:
        raise TypeError(f"{name}, which another process cannot import")
    return name


def _named(name: str) -> Any:
    """What stands under a name; its module is imported where it is not yet."""
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def _read(stream: IO[bytes], size: int) -> bytearray:
    """Exactly so many bytes, in memory of their own: arrays made of them can be written to."""
    buffer = bytearray(size)
    view, done = memoryview(buffer), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return buffer
