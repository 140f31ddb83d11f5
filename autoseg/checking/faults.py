"""A fault as a value, and the ways in which it is shown: a sentence, a table, an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from autoseg.cases import left_out
from autoseg.errors import (
    MANY,
    TOLD,
    AutosegError,
    FaultyCases,
    GeometryError,
    GridMismatch,
    InputError,
    LabelError,
    MissingChannel,
    MissingLabel,
    MissingPath,
    SettingsError,
    UnreadableFile,
    listed,
)
from autoseg.tables import Table

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_KINDS: dict[str, type[InputError]] = {
    "missing-file": MissingPath,
    "missing-channel": MissingChannel,
    "missing-label": MissingLabel,
    "unreadable": UnreadableFile,
    "geometry": GeometryError,
    "grid": GridMismatch,
    "labels": LabelError,
    "ambiguous": SettingsError,
}
_SHOWN = 3  # findings of a remark about many cases
_NAMED = 6  # cases named in the common remedy


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, or worth knowing, before training starts."""

    case: str | None  # None: it concerns the data set as a whole
    file: str | None
    severity: Severity  # an error stops planning
    code: str  # what kind of fault, one word or two joined by "-"
    summary: str  # what is wrong, one line
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None


def warning(code: str, summary: str, *, case: str | None = None, file: Path | None = None, **parts: str | None) -> Fault:
    """Return a fault that does not stop planning; `parts` are what was found, what is expected, and the remedy."""
    return Fault(case=case, file=None if file is None else str(file), severity="warning", code=code, summary=summary, **parts)


def error(code: str, summary: str, **parts: Any) -> Fault:
    """Return a fault that stops planning; further parts as for `warning`."""
    return replace(warning(code, summary, **parts), severity="error")


def note(code: str, summary: str, **parts: Any) -> Fault:
    """Return a remark on what was assumed or fixed; further parts as for `warning`."""
    return replace(warning(code, summary, **parts), severity="note")


def some(names: Iterable[str]) -> str:
    """Return the first names with commas between them, and the number of all."""
    known = list(names)
    return ", ".join(known[:_NAMED]) + (f", ... ({len(known)} in all)" if len(known) > _NAMED else "")


def in_mm(spacing: Iterable[float]) -> str:
    """Return a spacing as text.

    >>> in_mm((3, 0.97656, 0.97656))
    '(3, 0.977, 0.977)'
    """
    return "(" + ", ".join(f"{value:.3g}" for value in spacing) + ")"


def fault_of(error: AutosegError, *, case: str | None = None) -> Fault:
    """Return an error as a fault of severity "error"."""
    code = next((code for code, kind in _KINDS.items() if type(error) is kind), "other")
    found = "\n".join([*([error.found] if error.found else []), *(f"{name}: {text}" for name, text in error.details.items())])
    case = error.case or case
    return Fault(
        case=case,
        file=error.file,
        severity="error",
        code=code,
        summary=error.summary,
        found=found or None,
        expected=error.expected,
        remedy=_with_way_out(error.fix, case),
    )


def _with_way_out(remedy: str | None, case: str | None) -> str | None:
    """The remedy for a fault of one case, with the option that leaves it out."""
    if case is None:
        return remedy
    if remedy is None:
        return f"leave the case out: {left_out(case)}"
    if "--exclude" not in remedy:
        return f"{remedy}; or leave the case out with {left_out(case)}"
    return re.sub(r"--exclude(?! [^,;)])", lambda _: left_out(case), remedy)


def faulty(faults: Iterable[Fault]) -> FaultyCases | None:
    """Return the error to raise for the faults of severity "error", with options that leave the cases out; `None` without any."""
    errors = [fault for fault in faults if fault.severity == "error"]
    if not errors:
        return None
    cases = sorted({fault.case for fault in errors if fault.case})
    options = " ".join(left_out(case) for case in cases[:_NAMED])
    more = f" and so on, {len(cases)} cases in all" if len(cases) > _NAMED else ""
    fix = f"correct the files, or leave the cases out: {options}{more}" if cases else "correct the data set and try again"
    return FaultyCases([_error_of(fault) for fault in errors], fix=fix)


def sentence(fault: Fault) -> str:
    """Return a fault as one line.

    >>> sentence(Fault(case="la_003", file=None, severity="warning", code="empty-label", summary="the label is empty"))
    'la_003: the label is empty'
    """
    head = f"{fault.case}: {fault.summary}" if fault.case else fault.summary
    rest = "; ".join(text.replace("\n", ", ") for text in (fault.found, fault.remedy) if text)
    return f"{head} ({rest})" if rest else head


def table(faults: Sequence[Fault]) -> Table:
    """Return all faults to be shown, errors first, one row each; the same remark about many cases is shown once.

    Of many errors of one kind, the first are shown in full; the others are named.
    """
    rows: list[tuple[str, str, _Lines]] = []
    for group in _alike(faults):
        shown = [[fault] for fault in group] if group[0].severity == "error" else [group]
        few = shown if len(shown) <= MANY else shown[:TOLD]
        rows += [(group[0].severity, group[0].code, _lines(some)) for some in few]
        if len(few) < len(shown):
            rows.append((group[0].severity, group[0].code, _others(group[TOLD:])))
    return Table(
        text="\n".join(_block(severity, code, lines) for severity, code, lines in rows),
        columns=("", "check", "what was found, and the remedy"),
        rows=tuple(
            (severity, code, "\n".join(f"{name}: {text}" if name else text for name, text in lines)) for severity, code, lines in rows
        ),
    )


_Lines = list[tuple[str, str]]  # the name of each part of a fault, and its text


def _lines(group: Sequence[Fault]) -> _Lines:
    """Return the parts of one fault, or of one remark about several cases."""
    first = group[0]
    cases = list(dict.fromkeys(fault.case for fault in group if fault.case))
    named = ", ".join(cases[:_NAMED]) + (f", ... ({len(cases)} cases)" if len(cases) > _NAMED else "")
    found = "\n".join(f"{fault.case}: {fault.found}" for fault in group[:_SHOWN] if fault.found and fault.case)
    parts = [
        ("", f"{named}: {first.summary}" if named else first.summary),
        ("file", first.file if len(group) == 1 else None),
        ("found", first.found if len(group) == 1 else found),
        ("expected", first.expected),
        ("fix", first.remedy),
    ]
    return [(name, text) for name, text in parts if text]


def _others(group: Sequence[Fault]) -> _Lines:
    """Return the names of the cases that have the same fault as those already shown."""
    names = dict.fromkeys(name for fault in group if (name := fault.case or fault.file))
    return [("", f"{len(group)} more: {group[0].summary}"), ("cases", "\n".join(listed(names)))]


def _block(severity: str, code: str, lines: _Lines) -> str:
    """Return a fault as plain lines: severity, check, and its parts below each other."""
    (_, summary), *parts = lines
    text = [f"{severity:<8}{code:<18}{summary}"]
    for name, part in parts:
        first, *rest = part.splitlines()
        text += [f"{'':<8}{name:<18}{first}", *(f"{'':<26}{line}" for line in rest)]
    return "\n".join(text)


def ordered(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return errors first, then warnings, then notes; each by case."""
    return tuple(sorted(faults, key=lambda fault: (SEVERITIES.index(fault.severity), fault.case or "", fault.code, fault.summary)))


def _alike(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that say the same of several cases."""
    groups: dict[tuple[str, ...], list[Fault]] = {}
    for fault in ordered(faults):
        groups.setdefault((fault.severity, fault.code, fault.summary), []).append(fault)
    return list(groups.values())


def _error_of(fault: Fault) -> InputError:
    kind = _KINDS.get(fault.code, InputError)
    file = None if fault.file is None else Path(fault.file)
    return kind(fault.summary, case=fault.case, file=file, found=fault.found, expected=fault.expected, fix=fault.remedy)
