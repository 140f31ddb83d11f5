"""The cases of a data set beside each other: duplicates, patients that come twice, outliers, sides that are exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.cases import Channel, Dataset, left_out
from autoseg.checking.case import Facts
from autoseg.checking.faults import Fault, Severity

# Correlation of two thumbnails. A copy with noise of a fifth of the image's deviation, or resampled to 1.5 times the voxels, has at
# least 0.9987 on the real sets of the tests; different scans have at most 0.9931 (atlas volumes one week apart).
_NEAR_DUPLICATE = 0.998
_CT_RANGE = (-20_000.0, 80_000.0)  # padding goes down to -10 000, metal and 16-bit scanners up to 65 535
_FLIPS = ((3,), (2,), (1,), (2, 3), (1, 3), (1, 2), (1, 2, 3))  # axes of a stack (n, z, y, x)
_SPACING_FACTOR = 3.0  # from the median along an axis; nnU-Net, too, calls a factor of 3 anisotropic
_CT_AIR = -500.0  # HU; only CT goes so far below zero
_PAIR_OFFSET = 0.25  # off-axis distance of a left/right pair, as a part of the distance between its halves
_PAIR_VOLUMES = 0.6  # smaller half to larger half
_MIRRORED = 0.85  # edges at the label's borders, by those at the borders of its mirror image: a label this far below is mirrored
_SHIFTED = 0.8  # the same for a label shifted by 3 voxels
_BORDER = 200  # places at a label's border; fewer are too few to judge by
_EDGES = 0.2  # by which the edges at the borders of the other labels are stronger than usual, so that anything can be told
_COMPARED = 60  # labels whose places are compared by pairs
_SMALLEST, _LARGEST = 2.0, 5000.0  # mm along the longest axis of a scan of a body, or of a part of one
_LISTED = 6
_SESSION = re.compile(  # what stands behind a patient's name to tell his scans apart
    r"(?P<patient>.+?)(?:[_\-. ]|(?<=\d)(?=[A-Za-z]))"
    r"(?:t|tp|ses|session|visit|v|frame|scan|time|timepoint|day|week|month|year|acq|run|rep|series|study|fu|bl|baseline|followup|pre|post|"
    r"left|right|l|r|lt|rt|a|b|c|d|ed|es|od|os)[_\-. ]?\d*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<patient>.*\d.*)[_\-. ]\d+")
_EXPRESSIONS = (
    r"^(sub-[A-Za-z0-9]+)",
    r"^(.*?\d+)",
    r"^(.*)_[^_]+$",
    r"^(.*)-[^-]+$",
    r"^([^_]+)",
)  # offered for --group-regex if they fit


def compare(dataset: Dataset, facts: Sequence[Facts]) -> list[Fault]:
    """All faults that no case has by itself."""
    return [
        *_labels_in_no_case(dataset, facts),
        *_duplicates(facts),
        *_near_duplicates(facts),
        *_repeated_patients(dataset),
        *_spacing_outliers(facts),
        *_contradicted_modalities(dataset.channels, facts),
        *_exchanged_sides(dataset, facts),
        *_unnamed_pairs(dataset, facts),
        *_empty_places(facts),
        *_misfits(facts),
        *_reversed_labels(dataset, facts),
        *_flat_among_volumes(facts),
        *_absurd_extents(dataset.channels, facts),
        *_few_cases(dataset),
    ]


def patient_of(name: str) -> str | None:
    """The part of a case's name that seems to be a patient, where the rest seems to be one of several scans; else `None`.

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


def _labels_in_no_case(dataset: Dataset, facts: Sequence[Facts]) -> list[Fault]:
    read = [fact.voxels for fact in facts if fact.voxels is not None]
    if not read:
        return []
    seen = {name for voxels in read for name in voxels}
    absent = [label.name for label in dataset.labels.foreground if label.name not in seen]
    if len(absent) == len(dataset.labels.foreground):
        return [
            _fault(
                "error",
                "empty-label",
                "no case holds any labelled voxel",
                expected=_some(absent),
                remedy="check which files are the labels",
            )
        ]
    if not absent:
        return []
    return [
        _fault(
            "warning",
            "unused-label",
            "labels that occur in no case",
            found=_some(absent),
            remedy="they cannot be learnt; take them out of the declaration",
        )
    ]


def _duplicates(facts: Sequence[Facts]) -> list[Fault]:
    by_hash: dict[str, list[Facts]] = {}
    by_label: dict[str, list[Facts]] = {}
    for fact in facts:
        if fact.image_hash:
            by_hash.setdefault(fact.image_hash, []).append(fact)
        if fact.label_hash:
            by_label.setdefault(fact.label_hash, []).append(fact)
    faults = []
    for same in by_hash.values():
        if len(same) > 1:
            labels = "with equal labels" if len({fact.label_hash for fact in same}) == 1 else "with labels that differ"
            faults.append(_leak("duplicate", f"the same image under {len(same)} names", same, f"{_some(f.name for f in same)}, {labels}"))
    faults += _shared_channels(facts)
    for same in by_label.values():
        if len(same) > 1 and len({fact.image_hash for fact in same}) > 1:
            faults.append(
                _fault(
                    "warning",
                    "duplicate-label",
                    "the same label for different images",
                    case=same[-1].name,
                    found=_some(fact.name for fact in same),
                    remedy="check that no label was copied to another case",
                )
            )
    return faults


def _shared_channels(facts: Sequence[Facts]) -> list[Fault]:
    """One channel's file in two cases whose other channels differ, or twice in one case."""
    holders: dict[str, list[tuple[Facts, int]]] = {}
    for fact in facts:
        for number, text in fact.part_hashes:
            holders.setdefault(text, []).append((fact, number))
    faults = []
    for held in holders.values():
        if len(held) < 2 or len({fact.image_hash for fact, _ in held}) == 1 and len({fact.name for fact, _ in held}) > 1:
            continue  # once, or whole cases that are equal: told already
        if 2 * len({fact.name for fact, _ in held}) > len(facts) > 3:
            continue  # meant so: a template or prior
        last = held[-1][0]
        alone = len({fact.name for fact, _ in held}) == 1
        faults.append(
            _fault(
                "warning",
                "same-channel",
                "two channels of the case are the same image" if alone else "a channel of another case",
                case=last.name,
                found=", ".join(f"channel {number} of {fact.name}" for fact, number in held[:_LISTED]) + " hold the same voxels",
                expected="an image of its own for each channel",
                remedy=f"one of them was copied under the wrong name; restore it, or leave the case out: {left_out(last.name)}",
            )
        )
    return faults


def _near_duplicates(facts: Sequence[Facts]) -> list[Fault]:
    """Images that are almost the same, one remark for all that are linked: the frames of a film are one family, not n^2 / 2 pairs."""
    by_shape: dict[tuple[int, ...], list[Facts]] = {}
    for fact in facts:
        if fact.thumbnail is not None:
            by_shape.setdefault(fact.thumbnail.shape, []).append(fact)
    faults = []
    for shape, alike in by_shape.items():
        stacked = np.stack([fact.thumbnail for fact in alike if fact.thumbnail is not None])
        flips = [()] + [axes for axes in _FLIPS if all(shape[axis - 1] > 1 for axis in axes)]
        families, nearest, flip = _families(stacked, [fact.image_hash for fact in alike], flips)
        for family in families:
            same = [alike[index] for index in family]
            turned = [flips[flip[index]] for index in family if nearest[index] > 0 and flips[flip[index]]]
            mirrored = f", mirrored along {' and '.join('zyx'[axis - 1] for axis in turned[0])}" if turned else ""
            lowest = min(nearest[index] for index in family if nearest[index] > 0)
            if len(same) == 2:
                summary, found = "two images are almost the same", f"{same[0].name} and {same[1].name}{mirrored}, correlation {lowest:.5f}"
            else:
                some = f", {len(turned)} of them mirrored" if turned else ""
                summary, found = "images are almost the same", f"{_some(f.name for f in same)}{some}, correlation {lowest:.5f} or more"
            faults.append(_leak("near-duplicate", summary, same, found))
    return faults


def _families(
    stacked: NDArray[np.float32], hashes: Sequence[str], flips: Sequence[tuple[int, ...]]
) -> tuple[list[list[int]], NDArray[np.float32], NDArray[np.intp]]:
    """Thumbnails `(n, z, y, x)` that are alike, directly or by way of others, perhaps mirrored; equal images are no link.

    Returns
    -------
    the families, each ascending; and for every thumbnail that has an earlier one like it, the highest correlation with such a one (0 for
    all others) and the number of the flip that it takes
    """
    n = len(stacked)
    flat = stacked.reshape(n, -1)
    _, identity = np.unique(hashes, return_inverse=True)
    family = np.arange(n)
    nearest, flip = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.intp)
    for number, axes in enumerate(flips):
        mirrored = np.flip(stacked, axes).reshape(n, -1) if axes else flat
        for start in range(0, n, 512):
            close = flat[start : start + 512] @ mirrored.T  # (512, n) at a time
            rows = np.arange(start, start + len(close))
            close[(close <= _NEAR_DUPLICATE) | (rows[:, None] >= np.arange(n)) | (identity[rows, None] == identity)] = 0
            best = close.max(axis=0)
            flip[best > nearest] = number
            nearest = np.maximum(nearest, best)
            first, second = np.nonzero(close)
            if first.size:
                from scipy.sparse import coo_array  # half a second, and rarely needed
                from scipy.sparse.csgraph import connected_components

                links = coo_array((np.ones(first.size, dtype=bool), (family[first + start], family[second])), shape=(n, n))
                family = connected_components(links, directed=False)[1][family]
    order = np.argsort(family, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(family[order])) + 1)
    return sorted(part.tolist() for part in members if len(part) > 1), nearest, flip


def _leak(code: str, summary: str, same: Sequence[Facts], found: str) -> Fault:
    """Several cases that hold one scan: harmless only inside one group."""
    together = len({fact.group for fact in same}) == 1 and same[0].group is not None
    return _fault(
        "note" if together else "warning",
        code,
        summary,
        case=same[-1].name,
        found=found,
        remedy="they are in one group, so no fold is validated on what it was trained on"
        if together
        else f"it would be trained on in one fold and validated on as new: {left_out(same[-1].name)}, or give them one group",
    )


def _repeated_patients(dataset: Dataset) -> list[Fault]:
    """Several scans of a patient that nobody put into one group."""
    by_patient: dict[str, list[str]] = {}
    for case in dataset.cases:
        patient = patient_of(case.name)
        if case.group is None and patient is not None:
            by_patient.setdefault(patient, []).append(case.name)
    repeated = {patient: names for patient, names in by_patient.items() if len(names) > 1}
    patients = {patient_of(case.name) or case.name for case in dataset.cases}
    if not repeated or len(patients) < max(2, len(dataset.cases) / 20):  # one prefix for all is the name of the data set
        return []
    examples = "; ".join(f"{', '.join(names[:3])}" for names in list(repeated.values())[:3])
    names = [case.name for case in dataset.cases if case.group is None]
    fitting = next((text for text in _EXPRESSIONS if _groups_as(text, names)), None)
    return [
        _fault(
            "warning",
            "repeated-patient",
            f"names suggest that {len(repeated)} {'patients come' if len(repeated) > 1 else 'patient comes'} more than once",
            found=examples,
            expected="all scans of a patient in one group, so that folds do not share patients",
            remedy=f"--group-regex '{fitting}'"
            if fitting
            else "--group-regex with an expression whose first group is the patient, or a column 'group' in a case list",
        )
    ]


def _groups_as(expression: str, names: Sequence[str]) -> bool:
    """Whether a regular expression groups the cases as their names suggest."""
    groups: dict[str, set[str]] = {}
    for name in names:
        found = re.search(expression, name)
        groups.setdefault(found[1] if found else name, set()).add(patient_of(name) or name)
    patients = {patient_of(name) or name for name in names}
    return len(groups) == len(patients) and all(len(members) == 1 for members in groups.values())


def _spacing_outliers(facts: Sequence[Facts]) -> list[Fault]:
    known = [fact for fact in facts if fact.spacing is not None and fact.placed]
    if len(known) < 3:
        return []
    spacings = np.array([fact.spacing for fact in known])
    median = np.median(spacings, axis=0)
    ratio = np.maximum(spacings / median, median / spacings).max(axis=1)
    return [
        _fault(
            "warning",
            "spacing",
            "a spacing far from the others",
            case=fact.name,
            found=f"{_mm(fact.spacing or ())} mm (z, y, x)",
            expected=f"about the median, {_mm(median)} mm",
            remedy="check the header; if it is right, the case is resampled like any other",
        )
        for fact, far in zip(known, ratio, strict=True)
        if far > _SPACING_FACTOR
    ]


def _contradicted_modalities(channels: Sequence[Channel], facts: Sequence[Facts]) -> list[Fault]:
    read = [fact for fact in facts if len(fact.minima) == len(channels)]
    faults: list[Fault] = []
    for number, channel in enumerate(channels):
        low = {fact.name: fact.minima[number] for fact in read}
        high = {fact.name: fact.maxima[number] for fact in read}
        if channel.modality == "CT":
            faults += _ct_without_negatives(channel, low)
            faults += _beyond_hounsfield(channel, low, high)
        elif low and channel.modality in ("MR", "PET", "other", "microscopy") and np.median(list(low.values())) <= _CT_AIR:
            faults.append(
                _fault(
                    "warning",
                    "modality",
                    f"channel '{channel.name}' is declared {channel.modality} but looks like CT",
                    found=f"median of the lowest values {np.median(list(low.values())):g}",
                    expected="values that are not Hounsfield units",
                    remedy='name the channel "CT" or state its modality, so that it is normalised as CT',
                )
            )
        elif channel.modality == "RGB" and high and max(high.values()) > 255:
            name = max(high, key=lambda n: high[n])
            faults.append(
                _fault(
                    "warning",
                    "modality",
                    f"channel '{channel.name}' is declared a colour but exceeds 255",
                    case=name,
                    found=f"{high[name]:g}",
                    expected="0 to 255",
                    remedy="state the modality that it is",
                )
            )
    return faults


def _ct_without_negatives(channel: Channel, low: dict[str, float]) -> list[Fault]:
    without = [name for name, value in low.items() if value >= 0]
    if not without:
        return []
    summary = f"channel '{channel.name}' is declared CT but has no negative values"
    if len(without) == len(low):
        return [
            _fault(
                "warning",
                "modality",
                f"{summary} in any case",
                expected="Hounsfield units: air is -1000, fat about -100",
                remedy="if the intensities are rescaled or of another kind, give the channel another name or modality; CT is clipped and "
                "scaled by the intensities of the whole data set",
            )
        ]
    return [
        _fault(
            "warning",
            "modality",
            summary,
            case=name,
            found=f"lowest value {low[name]:g}",
            expected="negative values, as in the other cases",
            remedy="perhaps 1024 was added, or the air cut away; check the file",
        )
        for name in without
    ]


def _beyond_hounsfield(channel: Channel, low: dict[str, float], high: dict[str, float]) -> list[Fault]:
    """Cases whose values no CT has, or whose air lies elsewhere than that of all others: scaled, or in other units."""
    usual = float(np.median(list(low.values()))) if low else 0.0
    faults = []
    for name, lowest in low.items():
        beyond = lowest < _CT_RANGE[0] or high[name] > _CT_RANGE[1]
        shrunk = len(low) >= 3 and usual < _CT_AIR and usual / 20 < lowest < 0
        if beyond or shrunk:
            faults.append(
                _fault(
                    "warning",
                    "modality",
                    f"channel '{channel.name}' is declared CT but its values are no Hounsfield units",
                    case=name,
                    found=f"from {lowest:g} to {high[name]:g}",
                    expected="air at -1000, bone and metal up to some thousands"
                    + (f"; the other cases begin at {usual:g}" if shrunk else ""),
                    remedy=f"check whether the values were scaled; or leave the case out: {left_out(name)}",
                )
            )
    return faults


def _exchanged_sides(dataset: Dataset, facts: Sequence[Facts]) -> list[Fault]:
    """Left structures lie at smaller x than right ones, in RAS+; told case by case where they do not.

    An error only where nothing but exchanged sides explains it, for no option accepts an error. A pair of a case can be judged where
    the two lie beside each other rather than above or behind, more than half as far apart as in the other cases, and neither is a
    fragment (`_clear_sides`). It is an error if every pair that can be judged is reversed, at least two of them where the data set has
    several, and each is the right way round in three other cases and in three of four at least. Everything else, such as structures
    at the midline, a scan cropped through one of them, or a crossed kidney, is a warning.
    """
    reversals: dict[str, list[str]] = {}
    against: dict[str, int] = {}  # case -> pairs that speak for exchanged sides
    sound: set[str] = set()  # cases with a pair that speaks against it
    faults: list[Fault] = []
    for left, right in dataset.labels.pairs:
        both = [fact for fact in facts if fact.placed and left in fact.centres and right in fact.centres]
        if not both:
            continue
        gaps = np.array([np.subtract(fact.centres[right], fact.centres[left]) for fact in both])  # (cases, 3), mm, (x, y, z)
        wrong = gaps[:, 0] < 0
        if 2 * np.count_nonzero(wrong) > len(both):
            faults.append(
                _fault(
                    "warning",
                    "sides",
                    f"'{left}' lies to the patient's right of '{right}'",
                    found=f"in {np.count_nonzero(wrong)} of {len(both)} cases",
                    expected="left at the left, by the files' headers",
                    remedy="perhaps the names speak of the side of the picture, or a conversion lost the orientation",
                )
            )
            wrong = gaps[:, 0] > 0
        rare = np.count_nonzero(~wrong) >= 3 and np.count_nonzero(wrong) <= len(both) / 4  # then the few are wrong, and not the many
        clear = _clear_sides(gaps, [_volumes(both, name) for name in (left, right)], ~wrong)
        for fact, is_wrong, is_clear in zip(both, wrong, clear, strict=True):
            if is_wrong:
                reversals.setdefault(fact.name, []).append(f"'{left}' and '{right}' (so in {np.count_nonzero(wrong)} of {len(both)} cases)")
                against[fact.name] = against.get(fact.name, 0) + int(is_clear and rare)
            elif is_clear:
                sound.add(fact.name)
    needed = min(2, len(dataset.labels.pairs))
    return faults + [_reversal(name, pairs, sure=name not in sound and against[name] >= needed) for name, pairs in reversals.items()]


def _clear_sides(gaps: NDArray[np.float64], volumes: Sequence[NDArray[np.float64]], usual: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(cases,): where the way from left to right tells the sides, measured by the cases that are as usual."""
    if not usual.any():
        return np.zeros(len(gaps), dtype=bool)
    length = np.abs(gaps)
    beside = (length[:, 0] >= length[:, 1:].max(axis=1)) & (np.median(length[usual, 0]) >= np.median(length[usual, 1:], axis=0).max())
    apart = length[:, 0] > np.median(length[usual, 0]) / 2
    whole = [volume > np.median(volume[usual]) / 4 for volume in volumes]
    return np.asarray(beside & apart & whole[0] & whole[1])


def _volumes(facts: Sequence[Facts], name: str) -> NDArray[np.float64]:
    """(cases,): of one label, mm3; 0 where the image could not be read."""
    return np.array([(fact.voxels or {}).get(name, 0) * float(np.prod(fact.spacing or (0.0,))) for fact in facts])


def _reversal(case: str, pairs: Sequence[str], *, sure: bool) -> Fault:
    weak = (
        f"if it is the patient's anatomy, or a structure is cut or at the midline, nothing is to be done; else mend it, or {left_out(case)}"
    )
    strong = (
        "check whether its left and right are exchanged, or its orientation was lost, and mend it. If the patient is built so, no option "
        f"keeps the case, since it would teach the sides of all others wrongly: {left_out(case)}"
    )
    return _fault(
        "error" if sure else "warning",
        "sides",
        "left and right lie the other way round than in the other cases",
        case=case,
        found=_some(pairs),
        expected="the sides of the other cases, by the files' headers",
        remedy=strong if sure else weak,
    )


def _unnamed_pairs(dataset: Dataset, facts: Sequence[Facts]) -> list[Fault]:
    """Two labels that lie mirrored at the midline in every case, and whose names do not say so."""
    named = {name for pair in dataset.labels.pairs for name in pair}
    names = [label.name for label in dataset.labels.foreground if label.name not in named]
    read = [fact for fact in facts if fact.placed and fact.middle is not None and fact.centres and fact.voxels]
    if len(read) < 3 or len(names) > 300:
        return []
    places = {name: np.array([fact.centres.get(name, (np.nan,) * 3) for fact in read]) for name in names}  # (cases, 3), mm
    sizes = {name: np.array([(fact.voxels or {}).get(name, 0) for fact in read], dtype=float) for name in names}
    extents = np.array([abs(fact.shape[2] * fact.spacing[2]) for fact in read if fact.shape and fact.spacing])
    middles = np.array([fact.middle[0] for fact in read if fact.middle])
    faults = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            gap = places[second] - places[first]
            seen = np.isfinite(gap[:, 0])
            if np.count_nonzero(seen) < 3 or not _side_by_side(gap[seen], sizes[first][seen], sizes[second][seen]):
                continue
            between = np.abs((places[first] + places[second])[seen, 0] / 2 - middles[seen])
            if np.median(between / extents[seen]) > 0.1:
                continue
            left, right = (first, second) if np.median(gap[seen, 0]) > 0 else (second, first)
            faults.append(
                _fault(
                    "warning",
                    "pair",
                    f"'{left}' and '{right}' look like a left and a right half",
                    found=f"mirrored at the midline in {np.count_nonzero(seen)} cases",
                    remedy="if they are, name them so ('... left', '... right'): mirrored training images then exchange them",
                )
            )
    return faults


def _side_by_side(gap: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:  # type: ignore[type-arg]
    """Whether two structures lie side by side along x in every case, at equal height and depth, and of equal volume."""
    across = np.abs(gap[:, 0])
    same_sign = bool(np.all(gap[:, 0] > 0) or np.all(gap[:, 0] < 0))
    level = bool(np.median(np.abs(gap[:, 1:]).max(axis=1) / np.maximum(across, 1e-6)) < _PAIR_OFFSET)
    alike = bool(np.median(np.minimum(first, second) / np.maximum(first, second)) > _PAIR_VOLUMES)
    return same_sign and level and alike


def _empty_places(facts: Sequence[Facts]) -> list[Fault]:
    """Labels that lie outside of what was imaged, although those of the other cases do not."""
    known = [(fact, fact.empty_share) for fact in facts if fact.empty_share is not None]
    shares = [share for _, share in known]
    if len(known) < 3 or np.median(shares) > 0.1:
        return []
    return [
        _fault(
            "warning",
            "label-place",
            "the label lies in the empty part of the image",
            case=fact.name,
            file=fact.label_file,
            found=f"{share:.0%} of it where the image is as dark as its darkest",
            expected=f"about {np.median(shares):.0%}, as in the other cases",
            remedy=f"check that the label is of this image, and not mirrored or shifted; or leave the case out: {left_out(fact.name)}",
        )
        for fact, share in known
        if share > 0.7
    ]


def _flat_among_volumes(facts: Sequence[Facts]) -> list[Fault]:
    read = [fact for fact in facts if fact.shape is not None]
    flat = [fact for fact in read if fact.shape is not None and min(fact.shape) == 1]
    if not 0 < len(flat) < len(read) / 2:
        return []
    return [
        _fault(
            "warning",
            "shape",
            "a single slice among volumes",
            case=fact.name,
            found=f"shape {fact.shape} (z, y, x)",
            expected="volumes, as the other cases are",
            remedy=f"check that the volume was not cut; or leave the case out: {left_out(fact.name)}",
        )
        for fact in flat
    ]


def _absurd_extents(channels: Sequence[Channel], facts: Sequence[Facts]) -> list[Fault]:
    """Scans smaller than a grain or larger than a room: a spacing in metres or micrometres that is given as mm."""
    if not any(channel.modality in ("CT", "MR", "PET") for channel in channels):
        return []
    faults = []
    for fact in facts:
        if fact.shape is None or fact.spacing is None or not fact.placed:
            continue
        extent = max(n * step for n, step in zip(fact.shape, fact.spacing, strict=True))
        if not _SMALLEST < extent < _LARGEST:
            faults.append(
                _fault(
                    "warning",
                    "spacing",
                    "an extent that no scan has",
                    case=fact.name,
                    found=f"spacing {_mm(fact.spacing)} mm: {extent:.3g} mm along the longest axis",
                    expected=f"{_SMALLEST:g} mm to {_LARGEST / 1000:g} m",
                    remedy="perhaps the spacing is in metres or micrometres; write it in mm",
                )
            )
    return faults


def _reversed_labels(dataset: Dataset, facts: Sequence[Facts]) -> list[Fault]:
    """Cases in which two labels lie the other way round than in all others: their values were exchanged, or the label mirrored."""
    named = {frozenset(pair) for pair in dataset.labels.pairs}  # those have a check of their own
    names = [label.name for label in dataset.labels.foreground][:_COMPARED]
    read = [fact for fact in facts if fact.centres]
    if len(read) < 4:
        return []
    places = {name: np.array([fact.centres.get(name, (np.nan,) * 3) for fact in read]) for name in names}  # (cases, 3), mm
    found: dict[str, list[str]] = {}
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            if frozenset((first, second)) in named:
                continue
            gap = places[second] - places[first]
            seen = np.flatnonzero(np.isfinite(gap[:, 0]))
            if len(seen) < 4:
                continue
            way = np.median(gap[seen], axis=0)
            cosine = gap[seen] @ way / np.maximum(np.linalg.norm(gap[seen], axis=1) * np.linalg.norm(way), 1e-9)
            wrong = seen[cosine < -0.5]
            if 0 < len(wrong) <= len(seen) / 10 + 0.6 and np.count_nonzero(cosine > 0.5) + len(wrong) == len(seen):
                for case in wrong:
                    found.setdefault(read[case].name, []).append(f"'{first}' and '{second}'")
    return [
        _fault(
            "warning",
            "label-place",
            "labels lie the other way round than in all other cases",
            case=name,
            found=_some(pairs),
            remedy=f"check whether their values are exchanged in this case, or the label is mirrored; or leave it out: {left_out(name)}",
        )
        for name, pairs in found.items()
    ]


def _misfits(facts: Sequence[Facts]) -> list[Fault]:
    """Labels that do not lie at the edges of their image although those of the other cases do.

    Measured on the real sets of the tests: labels that belong there are at least 0.98 times as strong as their mirror images, in sets
    whose labels follow edges; mirrored ones at most 0.87 times.
    """
    known = [(fact, fact.fit) for fact in facts if fact.fit is not None and fact.fit.mirrored > 0 and fact.fit.count >= _BORDER]
    if len(known) < 3:
        return []
    here, mirrored, shifted = (np.array([getattr(fit, name) for _, fit in known]) for name in ("here", "mirrored", "shifted"))
    mirrors = (here < _MIRRORED * mirrored) & _most_others(here > mirrored)
    shifts = (here < _SHIFTED * shifted) & _most_others(here > 0.92 * shifted)
    faults = []
    for place, (fact, fit) in enumerate(known):
        strengths = np.delete(here, place) - 1
        usual = float(np.median(strengths))
        if usual < _EDGES:
            continue
        mirror, shift = bool(mirrors[place]), bool(shifts[place])
        foreign = len(known) >= 5 and fit.here - 1 < usual / 4 and np.percentile(strengths, 10) > max(0.1, usual / 2)
        if not (mirror or shift or foreign):
            continue
        how = "mirrored" if mirror and (not shift or fit.mirrored > fit.shifted) else "shifted" if shift else ""
        better = {
            "mirrored": f"; mirrored along {fit.mirror} they would lie on {fit.mirrored:.2f} times",
            "shifted": f"; shifted by 3 voxels along {fit.shift} they would lie on {fit.shifted:.2f} times",
            "": "",
        }[how]
        faults.append(
            _fault(
                "warning",
                "label-place",
                f"the label seems {how}" if how else "the label seems to belong to another image",
                case=fact.name,
                file=fact.label_file,
                found=f"its borders lie on edges {fit.here:.2f} times as strong as around{better}",
                expected=f"about {usual + 1:.2f} times, as in the other cases",
                remedy=f"look at image and label in a viewer; mend the label, or leave the case out: {left_out(fact.name)}",
            )
        )
    return faults


def _most_others(judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether it holds of nine in ten of the others; of few, of all."""
    return np.asarray(np.count_nonzero(judged) - judged.astype(int) >= 0.9 * (len(judged) - 1))


def _few_cases(dataset: Dataset) -> list[Fault]:
    count = len(dataset.cases)
    if count == 0 and not dataset.problems:
        return [_fault("error", "no-case", "there is no case with image and label", file=dataset.root, remedy="check the data set")]
    groups = len({case.group or case.name for case in dataset.cases})
    if 0 < groups < 5:
        what = "case" if groups == count else "group"
        return [
            _fault(
                "note",
                "few-cases",
                f"with {groups} {what}s there are {max(groups, 1)} folds" if groups > 1 else f"a single {what} cannot be validated",
                expected="5 or more for five folds",
            )
        ]
    return []


def _fault(
    severity: Severity,
    code: str,
    summary: str,
    *,
    case: str | None = None,
    file: Path | None = None,
    found: str | None = None,
    expected: str | None = None,
    remedy: str | None = None,
) -> Fault:
    return Fault(
        case=case,
        file=None if file is None else str(file),
        severity=severity,
        code=code,
        summary=summary,
        found=found,
        expected=expected,
        remedy=remedy,
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_LISTED]) + (f", ... ({len(listed)} in all)" if len(listed) > _LISTED else "")


def _mm(spacing: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in spacing) + ")"
