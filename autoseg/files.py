"""Writing files so that nothing half-written is ever read as whole, and reading JSON, TOML and CSV with errors a user understands.

Every file is written under a temporary name in its own folder, flushed to the disk and renamed. A full disk becomes
`NotEnough`, with the space that is left. The contents of files are handled in the rooms below.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import FULL, DiskFull, MissingPath, SettingsError, UnreadableFile
from autoseg.quantities import format_bytes

TEMPORARY = ".writing-"
_OF_WRITER = re.compile(re.escape(TEMPORARY) + r"(?:(?P<host>.+)-)?(?P<pid>\d+)-(?:[0-9a-f]{8}|\d+|[^-].*)", re.DOTALL)
_ROOM = 1 << 16  # bytes without which no result can be written
_FORGOTTEN = 86_400.0  # seconds after which what a process of another machine left half-written is swept away


_DEEPEST = 100  # tables in one key of TOML, with dots between; tomllib's time grows with their square


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, in a folder of its own next to `path`; it becomes `path` when the block ends well, and is removed otherwise.

    The file keeps its name, because writers choose the format by it, and because a longer one might be too long for the file system.

    Raises
    ------
    DiskFull : the disk is full
    """
    path = Path(path)
    with _full_disk_named(path), temporary_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def whole_folder(path: Path, *, keep: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary folder that takes the place of the folder `path` when the block ends well; with those files of the old one in `keep`.

    Raises
    ------
    DiskFull : the disk is full
    """
    with _full_disk_named(path), temporary_folder(path.parent) as temporary:
        for name in keep:
            os.replace(path / name, temporary / name)
        yield temporary
        for _ in range(100):  # another run may be putting the same folder there in the same moment
            remove_tree(path)
            try:
                os.rename(temporary, path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        raise OSError(errno.EBUSY, "another program keeps this folder from being replaced", str(path))


@contextlib.contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(path) from error
        raise


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed when the block ends; where the process is killed before, `sweep` removes it."""
    folder = Path(parent) / f"{TEMPORARY}{writer()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove_tree(folder)


def writer() -> str:
    """Return a name for what this process writes that no other process in any machine or container gives: see `is_dead_writer`."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_dead_writer(name: str, path: Path) -> bool:
    """Return whether the process that `writer` named has ended.

    A process of another machine or container cannot be asked: it counts as dead when `path`, which it wrote, has not changed for a day.
    """
    named = _OF_WRITER.fullmatch(TEMPORARY + name)
    if named is not None and named["host"] == _host():
        return not _alive(int(named["pid"]))
    return time.time() - path.lstat().st_mtime > _FORGOTTEN


@functools.cache
def _host() -> str:
    """The machine and the space of process numbers, which two containers of one machine do not share."""
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        space = ""
    return f"{socket.gethostname()}.{space}" if space else socket.gethostname()


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder: temporary folders and files of autoseg whose writer is dead.

    A process of another machine cannot be asked: what it left goes after a day.
    """
    for path in Path(folder).glob(f"{TEMPORARY}*"):
        if _OF_WRITER.fullmatch(path.name) is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner was quicker
            if is_dead_writer(path.name.removeprefix(TEMPORARY), path):
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def require_writable(folder: Path) -> None:
    """Raise unless files can be written in a folder, or in the one where it will be made: before work whose results go there.

    Raises
    ------
    MissingPath : nothing can be written there
    DiskFull : there is no room at all
    """
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with temporary_folder(place) as temporary, open(temporary / "room", "wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(folder / "results") from error
        raise MissingPath(
            "nothing can be written there", file=folder, found=error.strerror, fix="give another place, or change its permissions"
        ) from None


def disk_full(path: Path) -> DiskFull:
    """The error for a disk without room for `path`."""
    free = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free
    return DiskFull(
        "the disk is full",
        file=path,
        found=f"{format_bytes(free)} free",
        fix="free some space, or choose another place with -o, and run the same command again: it continues",
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all; bytes of file names that are no text become escapes, as JSON has them."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON: short lists on one line, NaN and infinity refused."""
    write_text(path, readable_json(value) + "\n")


def read_json(path: Path, *, fix: str | None = None) -> Any:
    """Read a JSON file.

    Raises
    ------
    MissingPath : there is no such file
    UnreadableFile : it is not JSON, and line and column are named, or cannot be read at all
    """
    return parse_json(read_utf8(path, kind="JSON", fix=fix), file=path, fix=fix)


def parse_json(text: str, *, file: Path, fix: str | None = None) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    UnreadableFile : it is not JSON, is nested too deeply, or holds a name twice or a number of thousands of digits
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, file))
    except json.JSONDecodeError as error:
        found = f"{error.msg} in line {error.lineno}, column {error.colno}"
        raise UnreadableFile("not a JSON file", file=file, found=found, expected="JSON", fix=fix or "correct that line") from None
    except (RecursionError, ValueError) as error:
        raise UnreadableFile("the JSON cannot be read", file=file, found=too_much(error), fix=fix or "correct the file") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    MissingPath : there is no such file
    UnreadableFile : it cannot be read
    SettingsError : it is not TOML; the message names line and column
    """
    return parse_toml(read_utf8(path, kind="TOML"), file=path)


def toml_value(text: str) -> Any:
    """Return a value as TOML writes it, the text itself where it is none: "3" is a number, "se" a text."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except SettingsError:
        return text


def parse_toml(text: str, *, file: Path | None = None) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises
    ------
    SettingsError : it is not TOML, or is nested too deeply, or holds a number of thousands of digits
    """
    try:
        keys = (line.partition("=")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
        if any(key.count(".") > _DEEPEST for key in keys):
            raise RecursionError
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise SettingsError("not a TOML file", file=file, found=too_much(error), expected="TOML", fix="correct that line") from None


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file that are not empty, column to text; the separator is the one that is most frequent in its head.

    Raises
    ------
    MissingPath : there is no such file
    UnreadableFile : not in UTF-8, or not CSV: a quote that does not end
    SettingsError : two columns of one name, or a row with more fields than there are columns
    """
    text = read_utf8(path, kind="CSV")
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max((",", ";", "\t"), key=head.count), strict=True)
    rows = []
    try:
        _refuse_repeated_columns(reader.fieldnames or (), path)
        for row in reader:
            if None in row:
                raise SettingsError(
                    "a row has more fields than the head",
                    file=path,
                    found=f"line {reader.line_num}: {row[None]}",
                    expected=f"{len(row) - 1} fields",
                    fix="put paths with the separator in them into quotes",
                )
            filled = {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
            if any(filled.values()):
                rows.append(filled)
    except csv.Error as error:
        raise UnreadableFile(
            "the file is not valid CSV",
            file=path,
            found=f"{error}, after line {reader.line_num}",
            expected='every quote " closed before the next separator',
            fix="close the quote, or remove it",
        ) from None
    return rows


def _refuse_repeated_columns(head: Sequence[str], path: Path) -> None:
    names = [name.strip() for name in head if name and name.strip()]
    folded = Counter(name.casefold() for name in names)
    if repeated := [name for name in names if folded[name.casefold()] > 1]:
        raise SettingsError(
            "two columns have one name",
            file=path,
            found=", ".join(repeated),
            expected="each column under a name of its own",
            fix="rename one of them, or remove it",
        )


def read_utf8(path: Path, *, kind: str, fix: str | None = None) -> str:
    """Read a text file.

    Parameters
    ----------
    kind : what the text should be, for the message

    Raises
    ------
    MissingPath : there is no such file
    UnreadableFile : it cannot be read, or is not UTF-8
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingPath("no such file", file=path, fix=fix or "check the spelling of the path") from None
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02x} in line {len(error.object[: error.start + 1].splitlines())}"
        found = "UTF-16" if error.object.startswith((b"\xff\xfe", b"\xfe\xff")) else place
        raise UnreadableFile("the text is not UTF-8", file=path, found=found, expected=f"{kind} in UTF-8",
                             fix=fix or "save it again as UTF-8") from None  # fmt: skip
    except OSError as error:
        raise UnreadableFile("the file cannot be read", file=path, found=error.strerror or str(error),
                             fix=fix or "check its type and its access rights") from None  # fmt: skip


def too_much(error: Exception) -> str:
    """Return why Python cannot read a JSON or TOML text, in words."""
    if isinstance(error, RecursionError):
        return "lists or tables nested too deeply"
    return "a number with too many digits" if "integer string conversion" in str(error) else str(error)


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """An object of a JSON file; one that says a name twice would lose the first in silence, unless both say the same."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next((name for name, item in pairs if value[name] != item), None)
        if twice is not None:
            raise UnreadableFile(
                "a name occurs twice in one object of the file, with different values",
                file=path,
                found=f'"{twice}"',
                expected="each name once",
                fix="rename the one or the other",
            )
    return value


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable_json(value: Any, *, width: int = 140) -> str:
    """JSON with two blanks of indentation, in which what fits on one line stays on one line.

    >>> print(readable_json({"patch_size": [40, 56, 40]}))
    {"patch_size": [40, 56, 40]}
    """
    return _layout(value, "", width)


def empty_folder(folder: Path) -> None:
    """Remove what is in a folder; the folder, and a lock held on it, stay."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (".lock", ".lease"):
            path.unlink()


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it; no error where it does not exist."""
    shutil.rmtree(folder, ignore_errors=True)


def _layout(value: Any, indent: str, width: int) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain)
    if len(flat) + len(indent) <= width or not isinstance(value, (dict, list, tuple)) or not value:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{json.dumps(str(key), ensure_ascii=False)}: {_layout(item, inner, width)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + row for row in rows) + "\n" + indent + "}"
    rows = [_layout(item, inner, width) for item in value]
    return "[\n" + ",\n".join(inner + row for row in rows) + "\n" + indent + "]"


def plain(value: Any) -> Any:
    """Return what `json.dumps` cannot write as a value that it can: paths as text, arrays and numbers of numpy as lists and numbers."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if item is not None:
        return item()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")


def finite_or_none(value: float) -> float | None:
    """A float for JSON: `None` in place of NaN and infinity."""
    return float(value) if math.isfinite(value) else None
