"""Reads the tensors of a file that `torch.save` wrote, without unpickling: nothing in the file is imported, called or run.

The description in such a file is a pickle, that is a small program. Its instructions are read one by one into a tree in which
names stay names and calls stay calls; an instruction that no checkpoint needs is refused. Of the storages only those of the
wanted tensors are read.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import MissingPath, ModelError

MOST_DESCRIPTION = 64 << 20  # bytes of the description; those of nnU-Net take a few hundred thousand
MOST_INSTRUCTIONS = 5_000_000
MOST_MEMBERS = 100_000
_TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
          "ByteStorage": "u1", "BoolStorage": "?"}  # fmt: skip
_VALUES: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONSTANTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
              "SHORT_BINBYTES"}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a file, "module name". Never looked up."""

    text: str


@dataclass(frozen=True)
class Call:
    """What a call in a file would make. Never made."""

    name: str
    arguments: Any


@dataclass(frozen=True)
class _Storage:
    kind: str
    member: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor: where its numbers are in a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """What is wrong with the file."""


def read_archive(path: Path, weights: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the tensors under one key of a checkpoint, and everything else in it as a tree of plain values.

    Parameters
    ----------
    weights : the key in the checkpoint under which a table of name and tensor is

    Returns
    -------
    the tensors by name; and the checkpoint without them: tables, lists, texts and numbers, and `Name` and `Call` for what would
    have been imported and called

    Raises
    ------
    MissingPath : no such file
    ModelError : not such a file, damaged, or one that does what no checkpoint needs
    """
    if not path.is_file():
        raise MissingPath("no such checkpoint", file=path, fix="check the spelling of the path")
    try:
        with zipfile.ZipFile(path) as archive:
            root, description = _description(archive, path.stat().st_size)
            value = read_pickle(description)
            table = value.pop(weights, None) if isinstance(value, dict) else None
            if not isinstance(table, dict) or not table:
                raise _Refused(f"no table '{weights}'")
            storages: dict[str, NDArray[Any]] = {}
            return {_text(name): _array(archive, root, name, view, storages) for name, view in table.items()}, value
    except _Refused as error:
        _refuse(path, str(error))
    except (zipfile.BadZipFile, OSError, KeyError, IndexError, ValueError, TypeError, OverflowError, NotImplementedError) as error:
        _refuse(path, f"it is cut off or damaged: {error}")
    except (RecursionError, MemoryError):
        _refuse(path, "values nested too deeply, or sizes that no checkpoint has")


def _refuse(path: Path, found: str) -> NoReturn:
    raise ModelError(
        "a checkpoint that cannot be read safely; nothing in it was run",
        file=path,
        found=found,
        expected="a file written by torch.save that holds tensors and plain values",
        fix="copy the file again from where it was trained",
    ) from None


def _description(archive: zipfile.ZipFile, size: int) -> tuple[str, bytes]:
    """Return the folder in the archive and the description, once the archive is what torch writes."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > MOST_MEMBERS or len(set(names)) != len(names):
        raise _Refused("too many members, or one of them twice")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise _Refused("a member is compressed or encrypted, which torch never does")
    if any(member.file_size != member.compress_size for member in members) or sum(member.file_size for member in members) > size:
        raise _Refused("its members are larger than the file")
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise _Refused("no description, data.pkl, or several")
    root = found[0].removesuffix("data.pkl")
    if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
        raise _Refused("written by a big-endian machine")
    if archive.getinfo(found[0]).file_size > MOST_DESCRIPTION:
        raise _Refused(f"a description of more than {MOST_DESCRIPTION} bytes")
    return root, archive.read(found[0])


def read_pickle(data: bytes) -> Any:
    """Return the value that a pickle describes, with names and calls left as they are written.

    >>> import pickle
    >>> read_pickle(pickle.dumps({"fold": 0, "axes": (0, 1)}, protocol=2))
    {'fold': 0, 'axes': (0, 1)}
    """
    machine = _Machine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
        if count > MOST_INSTRUCTIONS:
            raise _Refused("too many instructions")
        if instruction.name == "STOP":
            if len(machine.stack) != 1:
                raise _Refused("its description does not end with one value")
            return machine.stack[0]
        machine.take(instruction.name, argument)
    raise _Refused("its description has no end")


_MARK = object()


class _Machine:
    """The stack on which the instructions of a pickle put values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, kind: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if kind in _CONSTANTS:
            stack.append(argument)
        elif kind in _VALUES:
            stack.append(_VALUES[kind])
        elif kind in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if kind == "EMPTY_DICT" else [])
        elif kind == "MARK":
            stack.append(_MARK)
        elif kind in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._to_mark() if kind == "TUPLE" else self._last(int(kind[-1]))))
        elif kind in ("APPEND", "APPENDS"):
            self._append(self._last(1) if kind == "APPEND" else self._to_mark())
        elif kind in ("SETITEM", "SETITEMS"):
            self._set(self._last(2) if kind == "SETITEM" else self._to_mark())
        elif kind in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if kind == "MEMOIZE" else argument] = stack[-1]
        elif kind in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif kind not in ("PROTO", "FRAME"):
            self._name_or_call(kind, argument)

    def _name_or_call(self, kind: str, argument: Any) -> None:
        stack = self.stack
        if kind == "GLOBAL":
            stack.append(Name(argument))
        elif kind == "STACK_GLOBAL":
            module, name = self._last(2)
            stack.append(Name(f"{module} {name}"))
        elif kind == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif kind in ("REDUCE", "NEWOBJ"):
            stack.append(_called(*self._last(2)))
        elif kind == "BUILD":
            stack.pop()  # the state of something that is never made; of an ordered table it is the versions of its layers
        else:
            raise _Refused(f"an instruction that no checkpoint needs: {kind}")

    def _last(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(self.stack) < count or _MARK in items:
            raise _Refused("values are missing in its description")
        del self.stack[len(self.stack) - count :]
        return items

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise _Refused("a mark is missing in its description")

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Refused("something is appended to what is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _Refused("an item is set in what is no table")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _storage(reference: Any) -> _Storage:
    match reference:
        case ("storage", Name(text=name), str(member), _, int(count)) if name.split(" ")[-1] in _TYPES and member.isdigit() and count >= 0:
            return _Storage(name.split(" ")[-1], member, count)
    raise _Refused("a reference to something that is no storage of numbers")


def _called(callee: Any, arguments: Any) -> Any:
    match callee, arguments:
        case Name(text="collections OrderedDict"), ():
            return {}
        case Name(text="torch._utils _rebuild_tensor_v2"), (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)) or len(shape) != len(strides):
                raise _Refused("a tensor with an impossible shape, stride or offset")
            return _View(storage, offset, shape, strides)
        case Name(text="torch._utils _rebuild_parameter"), (_View() as view, *_):
            return view
        case Name(text=name), _:
            return Call(name, arguments)
    raise _Refused("a call of something that has no name")


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise _Refused("a weight whose name is no text")
    return name


def _array(archive: zipfile.ZipFile, root: str, name: str, view: Any, storages: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Return one tensor as an array of its own."""
    if not isinstance(view, _View):
        raise _Refused(f"'{name}' is no tensor")
    storage = view.storage
    if storage.member not in storages:
        storages[storage.member] = np.frombuffer(archive.read(f"{root}data/{storage.member}"), dtype=_TYPES[storage.kind])
    whole = storages[storage.member]
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True)) if all(view.shape) else -1
    if len(whole) < storage.count or last >= len(whole) or np.dtype(_TYPES[storage.kind]) != whole.dtype:
        raise _Refused(f"'{name}' reaches beyond its storage")
    if int(np.prod(view.shape, dtype=object)) > len(whole):
        raise _Refused(f"'{name}' repeats its storage")
    steps = tuple(step * whole.itemsize for step in view.strides)
    return np.lib.stride_tricks.as_strided(whole[view.offset :], view.shape, steps, writeable=False).copy()
