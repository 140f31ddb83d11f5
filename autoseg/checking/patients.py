"""Whether names of cases suggest several scans of one patient that nobody put into one group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autoseg.checking.faults import Fault, warning
from autoseg.checking.statistics import Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("patients")
_SESSION = re.compile(  # what follows a patient's name to tell scans apart
    r"(?P<patient>.+?)(?:[_\-. ]|(?<=\d)(?=[A-Za-z]))"
    r"(?:t|tp|ses|session|visit|v|frame|scan|time|timepoint|day|week|month|year|acq|run|rep|series|study|fu|bl|baseline|followup|pre|post|"
    r"left|right|l|r|lt|rt|a|b|c|d|ed|es|od|os)[_\-. ]?\d*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<patient>.*\d.*)[_\-. ]\d+")
_EXPRESSIONS = (r"^(sub-[A-Za-z0-9]+)", r"^(.*?\d+)", r"^(.*)_[^_]+$", r"^(.*)-[^-]+$", r"^([^_]+)")  # for --group-regex, if they fit


def repeated_patients(cohort: Cohort) -> Iterator[Fault]:
    """Report patients with several scans in no group: folds would share them."""
    cases = cohort.dataset.cases
    names = [case.name for case in cases if case.group is None]
    by_patient: dict[str, list[str]] = {}
    for name in names:
        if (patient := patient_of(name)) is not None:
            by_patient.setdefault(patient, []).append(name)
    repeated = [scans for scans in by_patient.values() if len(scans) > 1]
    patients = {patient_of(case.name) or case.name for case in cases}
    if not repeated or len(patients) < max(2, len(cases) * _LIMITS.distinct):
        return
    fitting = next((text for text in _EXPRESSIONS if _groups_as(text, names)), None)
    yield warning(
        "repeated-patient",
        f"names suggest that {len(repeated)} {'patients come' if len(repeated) > 1 else 'patient comes'} more than once",
        found="; ".join(", ".join(scans[:3]) for scans in repeated[:3]),
        expected="all scans of a patient in one group, so that folds do not share patients",
        remedy=f"--group-regex '{fitting}'"
        if fitting
        else "--group-regex with an expression whose first group is the patient, or a column 'group' in a case list",
    )


def patient_of(name: str) -> str | None:
    """Return the part of a case's name that seems to be a patient, where the rest seems to be one of several scans; otherwise `None`.

    >>> [patient_of(name) for name in ("p08_t1", "sub-rat3_sample-data9", "hippocampus_007", "patient012_2", "sc_9709Ses2")]
    ['p08', 'sub-rat3', None, 'patient012', 'sc_9709']
    """
    bids = re.match(r"(sub-[A-Za-z0-9]+)_", name)
    if bids:
        return bids[1]
    prefix = name
    while found := _SESSION.fullmatch(prefix):
        prefix = found["patient"]
    if prefix == name and (numbered := _NUMBERED.fullmatch(name)):
        prefix = numbered["patient"]
    return prefix if prefix != name and any(c.isdigit() for c in prefix) else None


def _groups_as(expression: str, names: Sequence[str]) -> bool:
    """Whether a regular expression groups the cases as their names suggest."""
    groups: dict[str, set[str]] = {}
    for name in names:
        found = re.search(expression, name)
        groups.setdefault(found[1] if found else name, set()).add(patient_of(name) or name)
    patients = {patient_of(name) or name for name in names}
    return len(groups) == len(patients) and all(len(members) == 1 for members in groups.values())
