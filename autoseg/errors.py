"""Every error a user can meet: one family, one exit code each.

::

    AutosegError
    ├── UsageError               2    the command line is wrong
    ├── InputError               3    the user's data or settings are at fault
    │   ├── MissingPath               no such file or folder
    │   ├── UnknownLayout             a folder in none of the known layouts
    │   ├── MissingChannel            a case lacks one of its channels
    │   ├── MissingLabel              a case lacks its reference segmentation
    │   ├── UnreadableFile            a file is truncated, corrupt or of an unknown format
    │   ├── GeometryError             shapes, spacings or affines that make no sense
    │   ├── GridMismatch              files of one case that are on different grids
    │   ├── LabelError                label values or regions that were not declared or cannot work
    │   ├── SettingsError             a preset, recipe, setting or hand-edited plan that cannot be used
    │   ├── PlanMismatch              a plan, model or cache made for other data
    │   ├── ModelError                a model without the wanted fold, or a damaged one
    │   │   └── ModelFileError        a .autoseg file that is damaged, was changed, or is not to be trusted
    │   ├── NotEnough                 too little memory, disk or shared memory
    │   │   └── DiskFull              no room for a file
    │   ├── TrainingFailed            the network does not learn, or its numbers stay non-finite
    │   └── FaultyCases               several cases at fault; holds the single errors
    ├── WorkerDied               3    a worker process ended without a result
    ├── SomeCasesFailed          4    finished; the failed cases are named in failed.csv
    ├── NothingLearned           4    finished; but a network finds next to nothing
    └── Interrupted            130    stopped by the user or the scheduler; the same command resumes

Anything else that reaches the command line is a defect of autoseg: exit code 1 and a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in the quota, under `ulimit -f`
_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "not enough memory")  # of PyTorch's errors
MANY = 12  # faults of one kind that are all shown in full
TOLD = 3  # of more, these are shown in full, the others by their names


class AutosegError(Exception):
    """Base of the family. Carries what a user needs: where, what was found, what was expected, how to fix it.

    Parameters
    ----------
    summary : one line that says what is wrong
    file : the file or folder at fault
    found, expected : the two things that disagree
    fix : what the user can do now; a ready option or command where there is one
    case : id of the case at fault
    details : further rows for the message, name to text, in order

    >>> print(MissingPath("no such folder", file="scans", fix="check the spelling"))
    MissingPath: no such folder
      file      scans
      fix       check the spelling
    """

    exit_code = 1

    def __init__(
        self,
        summary: str,
        *,
        file: str | Path | None = None,
        found: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
        case: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        self.summary = summary
        self.file = None if file is None else str(file)
        self.found = found
        self.expected = expected
        self.fix = fix
        self.case = case
        self.details = dict(details or {})
        super().__init__(summary)

    def __str__(self) -> str:
        """The whole message, one row per fact."""
        head = f"case '{self.case}': {self.summary}" if self.case else self.summary
        rows = {"file": self.file, **self.details, "found": self.found, "expected": self.expected, "fix": self.fix}
        lines = [f"{type(self).__name__}: {head}"]
        for name, text in rows.items():
            if text:
                first, *rest = str(text).splitlines()
                lines.append(f"  {name:<9} {first}")
                lines.extend(f"  {'':<9} {line}" for line in rest)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy the error whole, from a worker process to its parent, for instance."""
        return (rebuilt, (type(self), self.__dict__.copy()))


class UsageError(AutosegError):
    """The command line is wrong."""

    exit_code = 2


class InputError(AutosegError):
    """The user's data or settings are at fault."""

    exit_code = 3


class MissingPath(InputError):
    """No such file or folder."""


class UnknownLayout(InputError):
    """A folder in none of the known layouts."""


class MissingChannel(InputError):
    """A case lacks one of its channels."""


class MissingLabel(InputError):
    """A case lacks its reference segmentation."""


class UnreadableFile(InputError):
    """A file is truncated, corrupt or of an unknown format."""


class GeometryError(InputError):
    """Shapes, spacings or affines that make no sense."""


class GridMismatch(InputError):
    """Files of one case that are on different grids."""


class LabelError(InputError):
    """Label values or regions that were not declared or cannot work."""


class SettingsError(InputError):
    """A preset, recipe, setting or hand-edited plan that cannot be used."""


class PlanMismatch(InputError):
    """A plan, model or cache made for other data."""


class ModelError(InputError):
    """A model without the wanted fold, or a damaged one."""


class ModelFileError(ModelError):
    """A .autoseg file that is damaged, was changed, or is not to be trusted."""


class NotEnough(InputError):
    """Too little memory, disk or shared memory."""


class DiskFull(NotEnough):
    """No room for a file; what was written before is whole."""


class TrainingFailed(InputError):
    """The network does not learn, or its numbers stay non-finite."""


class FaultyCases(InputError):
    """Several cases at fault; `errors` holds the single ones, all of them, in order."""

    def __init__(self, errors: Sequence[AutosegError], *, fix: str | None = None) -> None:
        self.errors = tuple(errors)
        plural = "fault" if len(self.errors) == 1 else "faults"
        super().__init__(f"{len(self.errors)} {plural} in the data", fix=fix)

    def __str__(self) -> str:
        """The single messages one after the other, the common remedy last; of many of one kind the first, and the names of the others.

        >>> print(FaultyCases([MissingLabel("no label", case=f"c{i}") for i in range(40)]))  # doctest: +ELLIPSIS
        MissingLabel: case 'c0': no label
        MissingLabel: case 'c1': no label
        MissingLabel: case 'c2': no label
        MissingLabel: no label
          of these  37 more
                    c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23, c24,
                    c25, c26, c27, c28, c29, c30, c31, c32, c33, c34, c35, c36, c37, c38, c39
        FaultyCases: 40 faults in the data
        """
        kinds: dict[tuple[str | None, ...], list[AutosegError]] = {}
        for error in self.errors:
            cause = (error.details.get("stage"), error.details.get("cause"))
            kinds.setdefault((type(error).__name__, error.summary, *cause), []).append(error)
        parts: list[str] = []
        for (kind, summary, *_), alike in kinds.items():
            told = alike if len(alike) <= MANY else alike[:TOLD]
            parts += map(str, told)
            if more := alike[len(told) :]:
                names = dict.fromkeys(name for error in more if (name := error.case or error.file))
                rest = "".join(f"\n  {'':<9} {line}" for line in listed(names))
                parts.append(f"{kind}: {summary}\n  {'of these':<9} {len(more)} more{rest}")
        return "\n".join([*parts, super().__str__()])


class WorkerDied(AutosegError):
    """A worker process ended without a result: killed by the kernel, out of shared memory, or crashed."""

    exit_code = 3


class SomeCasesFailed(AutosegError):
    """Finished, but some cases failed; the others are there."""

    exit_code = 4


class NothingLearned(AutosegError):
    """Finished, but a network finds next to nothing of what it was trained to find."""

    exit_code = 4


class Interrupted(AutosegError):
    """Stopped by the user or the scheduler; the same command resumes."""

    exit_code = 130


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error about what a file says names the file."""
    try:
        yield
    except AutosegError as error:
        error.file = error.file or str(path)
        raise


def listed(names: Iterable[str]) -> list[str]:
    """Names with commas between them, in lines that fit a terminal."""
    return textwrap.wrap(", ".join(names), width=110, break_long_words=False, break_on_hyphens=False)


def short_of_space(error: BaseException) -> NotEnough | None:
    """The error for a full disk or exhausted memory hidden in one of Python's own; `None` for any other.

    >>> short_of_space(ValueError()) is None
    True
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiskFull):
            return seen
        if isinstance(seen, OSError) and seen.errno in FULL:
            return DiskFull("the disk is full", file=seen.filename, fix="free some space and run the same command again: it continues")
        if isinstance(seen, MemoryError) or (isinstance(seen, RuntimeError) and any(words in str(seen) for words in _NO_MEMORY)):
            return NotEnough(
                "out of memory", found=str(seen) or None, fix="use fewer --workers, or a smaller plan: autoseg plan --memory 4G"
            )
        seen = seen.__cause__ or seen.__context__
    return None


def unusable_path(error: BaseException) -> InputError | None:
    """The error for a file or folder that the system does not let us use; `None` for any other.

    >>> print(unusable_path(PermissionError(errno.EACCES, "Permission denied", "out")))
    MissingPath: a file or folder cannot be used
      file      out
      found     Permission denied
      fix       give another place, or change its permissions
    """
    kinds = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
    if isinstance(error, kinds) or (isinstance(error, OSError) and error.errno in (errno.EROFS, errno.ENAMETOOLONG)):
        return MissingPath(
            "a file or folder cannot be used",
            file=error.filename,
            found=error.strerror,
            fix="give another place, or change its permissions",
        )
    return None


def rebuilt(kind: type[AutosegError], state: dict[str, object]) -> AutosegError:
    """An error as it was, from its class and attributes; its constructor does not run."""
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (state.get("summary", ""),)
    return error
