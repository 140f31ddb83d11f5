"""Writing and reading the archive itself: every member and every byte between them is checked before anything is believed.

::

    manifest.json                              format, version, default configuration, name, size and SHA-256 of each member, digest
    README.md, card.json                       the model card, to be read by people and by programs
    plan.json, fingerprint.json, scores.json   and postprocessing.json, selection.json, calibration.json where the workspace has them
    runs/CONFIGURATION/fold_K/model.safetensors

The same members give the same bytes. The *digest* of a model is a SHA-256 over the names, sizes and SHA-256 of its members and its
default configuration; it does not depend on the details of the zip format.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from autoseg import files, schema
from autoseg.checksums import checked, with_checksum
from autoseg.errors import MissingPath, ModelFileError
from autoseg.quantities import format_bytes
from autoseg.version import __version__

FORMAT = 1
SUFFIX = ".autoseg"
MANIFEST = "manifest.json"

_LARGEST = 16 << 30  # bytes of a model file
_LARGEST_TEXT = 64 << 20  # bytes of a member that is no weights file
_LARGEST_MANIFEST = 4 << 20
_MOST = 1000  # members
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*(/[A-Za-z0-9_][A-Za-z0-9_.]*){0,3}")
_WEIGHTS = ".safetensors"
_FIRST = (MANIFEST, "README.md", "card.json")  # for who opens the archive with another program
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16
_FIX = "copy the file again from where it was made: only files as `autoseg export` wrote them are read"

# One per earlier format, from its manifest to that of the next; kept forever, so that every model file can always be read.
_CONVERTERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member, as the manifest lists it."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json holds."""

    format: int
    version: str  # of autoseg that wrote it
    configuration: str  # whose result is the model's, unless another is asked for
    digest: str
    files: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """An open model file: `sharing.Stored` for its members, each of which is checked whenever it is read."""

    path: Path
    manifest: Manifest
    places: Mapping[str, int]  # byte at which the content of each member begins

    @property
    def digest(self) -> str:
        """The SHA-256 that identifies the model, as hexadecimal digits."""
        return self.manifest.digest

    def exists(self, path: Path) -> bool:
        """Return whether there is such a member; `path` is `FILE.autoseg/NAME`."""
        return self._name(path) in self.places

    def children(self, folder: Path) -> list[str]:
        """Return the names of what is in a folder of the archive."""
        prefix = self._name(folder) + "/"
        return sorted({name.removeprefix(prefix).partition("/")[0] for name in self.places if name.startswith(prefix)})

    def read(self, path: Path) -> bytes:
        """Return the content of a member.

        Raises
        ------
        MissingPath : there is no such member
        ModelFileError : it is not what the manifest lists
        """
        name = self._name(path)
        entry = next((entry for entry in self.manifest.files if entry.name == name), None)
        if entry is None:
            raise MissingPath("the model file has no such member", file=path, fix="export the model again from its workspace")
        with open(self.path, "rb") as file:
            file.seek(self.places[name])
            content = file.read(entry.size)
        if len(content) != entry.size or not hmac.compare_digest(hashlib.sha256(content).hexdigest(), entry.sha256):
            raise _refused(self.path, f"{name} is not what its SHA-256 in the manifest is of")
        return content

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)


def digest_of(configuration: str, entries: Iterable[Entry]) -> str:
    """Return the digest of a model: of its default configuration and of the name, size and SHA-256 of each member."""
    lines = [f"configuration {configuration}", *sorted(f"{entry.name} {entry.size} {entry.sha256}" for entry in entries)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_model_file(path: Path, members: Mapping[str, Path | bytes], *, configuration: str) -> str:
    """Write a model file, whole or not at all; the same members give the same bytes.

    Parameters
    ----------
    path : ends in `.autoseg`
    members : name in the archive -> a file to copy, or the content. Weights are named as in a workspace,
        `runs/CONFIGURATION/fold_K/model.safetensors`, as `checkpoint.save_model` writes them
    configuration : whose result is the model's: one, or several joined by "+"

    Returns
    -------
    the digest of the model

    Raises
    ------
    DiskFull : the disk is full
    """
    assert all(_NAME.fullmatch(name) and name != MANIFEST for name in members), sorted(members)
    with contextlib.ExitStack() as stack:
        opened: dict[str, IO[bytes]] = {
            name: io.BytesIO(content) if isinstance(content, bytes) else stack.enter_context(open(content, "rb"))
            for name, content in sorted(members.items(), key=lambda item: (item[0] not in _FIRST, item[0]))
        }
        entries = tuple(_entry(name, file) for name, file in opened.items())
        digest = digest_of(configuration, entries)
        manifest = Manifest(format=FORMAT, version=__version__, configuration=configuration, digest=digest, files=entries)
        text = files.readable_json(with_checksum(schema.dump(manifest))) + "\n"
        with files.atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(_info(MANIFEST, 0), text)
            for entry in entries:
                opened[entry.name].seek(0)
                with archive.open(_info(entry.name, entry.size), "w") as target:
                    shutil.copyfileobj(opened[entry.name], target, 1 << 20)
    return digest


def _entry(name: str, file: IO[bytes]) -> Entry:
    whole, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        whole.update(block)
        size += len(block)
    return Entry(name=name, size=size, sha256=whole.hexdigest())


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr, info.file_size, info.create_system = _MODE, size, 3  # 3: the mode is that of Unix, whatever writes it
    return info


def open_model_file(path: Path) -> ModelFile:
    """Check a model file and return it open: the whole archive, the manifest, and all members but the weights, which `read` checks.

    Raises
    ------
    MissingPath : no such file
    ModelFileError : it is damaged, was changed, needs a newer autoseg, or is something else
    UnreadableFile, SettingsError : the manifest is not JSON, or not a manifest
    """
    if not path.exists():
        raise MissingPath("no such model file", file=path, fix="check the spelling of the path")
    with open(path, "rb") as file:
        places, sizes = _members(file, path)
        file.seek(places[MANIFEST])
        manifest = _manifest(file.read(sizes[MANIFEST]), path)
    listed = {entry.name: entry.size for entry in manifest.files}
    if len(listed) != len(manifest.files) or {MANIFEST: sizes[MANIFEST], **listed} != sizes:
        different = sorted(listed.items() ^ {name: size for name, size in sizes.items() if name != MANIFEST}.items())
        raise _refused(path, f"members that are not those of the manifest: {', '.join(sorted({name for name, _ in different})[:5])}")
    if not hmac.compare_digest(digest_of(manifest.configuration, manifest.files), manifest.digest):
        raise _refused(path, "the digest in the manifest is not that of its members")
    opened = ModelFile(path=path, manifest=manifest, places=places)
    for name in listed:
        if not name.endswith(_WEIGHTS):
            opened.read(path / name)
    return opened


def _manifest(content: bytes, path: Path) -> Manifest:
    try:
        value = files.parse_json(content.decode(), file=path / MANIFEST, fix=_FIX)
    except UnicodeDecodeError:
        raise _refused(path, "a manifest that is not UTF-8") from None
    number = value.get("format") if isinstance(value, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise _refused(path, f"format {number!r}")
    if number > FORMAT:
        raise ModelFileError(
            "the model file needs a newer autoseg",
            file=path,
            found=f"format {number}, made by autoseg {str(value.get('version'))[:20]}",
            expected=f"format {FORMAT} or earlier, as autoseg {__version__} reads it",
            fix="install at least the version that made it: pip install --upgrade autoseg-unet",
        )
    value = checked(value, file=path / MANIFEST, what="the manifest", fix=_FIX, error=ModelFileError)
    for known in range(number, FORMAT):
        value = _CONVERTERS[known](value)
    return schema.parse(Manifest, value, what="the manifest", fix=_FIX, file=path, error=ModelFileError)


def _members(file: IO[bytes], path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return where the content of each member begins, and its size; raise unless they fill the archive without gap or overlap."""
    try:
        count, directory = _check_end(file, path)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        names = [info.orig_filename for info in infos]
        folded = [name.casefold() for name in names]
        if twice := sorted({name for name, same in zip(names, folded, strict=True) if folded.count(same) > 1}):
            raise _refused(path, f"members of one name: {', '.join(map(repr, twice))[:200]}")
        if not names or names[0] != MANIFEST:
            raise _refused(path, f"{names[0][:80]!r} as first member" if names else "no members", expected=f"{MANIFEST} as first member")
        places, at = {}, 0
        for info in infos:
            for fault in _faults(info):
                raise _refused(path, f"{info.orig_filename[:80]!r}: {fault}")
            places[info.filename] = _content(file, info, at, path)
            at = places[info.filename] + info.file_size
        if at != directory or len(infos) != count:
            raise _refused(path, f"{len(infos)} members of {count}, and {directory - at} bytes that belong to none of them")
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error) as error:
        raise _refused(path, str(error) or type(error).__name__) from None
    return places, {info.filename: info.file_size for info in infos}


def _check_end(file: IO[bytes], path: Path) -> tuple[int, int]:
    """Return the number of members and where their directory begins; raise unless it ends with the file, and its size is reasonable."""
    whole = os.fstat(file.fileno()).st_size
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or not 22 <= whole <= _LARGEST:
        raise _refused(path, format_bytes(whole), expected=f"a file of at most {format_bytes(_LARGEST)}")
    file.seek(whole - 22)
    signature, disk, other, here, count, size, begin, comment = struct.unpack("<4s4H2LH", file.read(22))
    end = whole - 22
    if signature != b"PK\5\6" or comment:
        raise _refused(path, "no end of a zip archive where the file ends: it was cut off, or something was appended")
    if 0xFFFF in (here, count) or 0xFFFFFFFF in (size, begin):  # beyond 2 GB: the figures are in a longer record before
        if whole < 98:
            raise _refused(path, "an end of a zip archive that cannot be")
        file.seek(whole - 98)
        long, _, _, _, _, _, here, count, size, begin, locator, _, place, _ = struct.unpack("<4sQ2H2L4Q4sLQL", file.read(76))
        end = whole - 98
        if long != b"PK\6\6" or locator != b"PK\6\7" or place != end:
            raise _refused(path, "an end of a zip archive that cannot be")
    if disk or other or here != count or not 0 < count <= _MOST:
        raise _refused(path, f"{count} members", expected=f"1 to {_MOST}")
    if size > count * 512 or begin + size != end:
        raise _refused(path, "a directory of the archive that is not where its end says: bytes were inserted or removed")
    return int(count), int(begin)


def _faults(info: zipfile.ZipInfo) -> Iterator[str]:
    """Yield what is wrong with a member by the directory of the archive."""
    if info.orig_filename != info.filename or not _NAME.fullmatch(info.filename):
        yield "a name that no member has"
    if info.compress_type != zipfile.ZIP_STORED:
        yield "compressed; members are stored as they are"
    if info.file_size != info.compress_size:
        yield f"two sizes, {info.compress_size} and {info.file_size} bytes"
    if info.flag_bits:
        yield "encrypted" if info.flag_bits & 1 else f"flags {info.flag_bits:#x}"
    if stat.S_IFMT(info.external_attr >> 16) != stat.S_IFREG:
        yield "a link or another special file"
    largest = _LARGEST_MANIFEST if info.filename == MANIFEST else _LARGEST if info.filename.endswith(_WEIGHTS) else _LARGEST_TEXT
    if info.file_size > largest:
        yield f"{format_bytes(info.file_size)}, at most {format_bytes(largest)} are read"


def _content(file: IO[bytes], info: zipfile.ZipInfo, at: int, path: Path) -> int:
    """Return where the content of a member begins; raise unless its own header is at `at` and agrees with the directory."""
    file.seek(at)
    head = file.read(30)
    signature, _, flags, method, _, _, crc, _, size, name_length, extra = struct.unpack("<4s5H3L2H", head)
    name = file.read(name_length)
    agrees = (flags, method, crc, name) == (info.flag_bits, info.compress_type, info.CRC, info.filename.encode())
    if info.header_offset != at or signature != b"PK\3\4" or not agrees or size not in (info.file_size, 0xFFFFFFFF) or extra > 64:
        raise _refused(path, f"{info.filename}: its header and the directory of the archive disagree")
    return at + 30 + name_length + extra


def _refused(path: Path, found: str, *, expected: str = "a model file as autoseg export writes it") -> ModelFileError:
    return ModelFileError("the model file is damaged, or is not one", file=path, found=found, expected=expected, fix=_FIX)
