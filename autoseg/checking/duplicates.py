"""Images, channels and labels that several cases share, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from autoseg.cases import left_out
from autoseg.checking.faults import Fault, note, some, warning
from autoseg.checking.statistics import CaseStatistics, Cohort
from autoseg.checking.thresholds import thresholds

_LIMITS = thresholds("duplicates")


def equal_images(cohort: Cohort) -> Iterator[Fault]:
    """Report one image under several names."""
    for same in _alike(cohort, lambda case: case.image_hash):
        labels = "with equal labels" if len({case.label_hash for case in same}) == 1 else "with labels that differ"
        yield leak("duplicate", f"the same image under {len(same)} names", same, f"{some(case.name for case in same)}, {labels}")


def shared_channels(cohort: Cohort) -> Iterator[Fault]:
    """Report one channel's file in two cases whose other channels differ, or twice in one case."""
    holders: dict[str, list[tuple[CaseStatistics, int]]] = {}
    for case in cohort.cases:
        for number, text in case.part_hashes:
            holders.setdefault(text, []).append((case, number))
    for held in holders.values():
        names = {case.name for case, _ in held}
        if len(held) < 2 or (len(names) > 1 and len({case.image_hash for case, _ in held}) == 1):
            continue  # once, or whole cases that are equal: reported already
        if len(names) > _LIMITS.template * len(cohort.cases) and len(cohort.cases) > 3:
            continue
        last = held[-1][0].name
        yield warning(
            "same-channel",
            "two channels of the case are the same image" if len(names) == 1 else "a channel of another case",
            case=last,
            found=", ".join(f"channel {number} of {case.name}" for case, number in held[:6]) + " hold the same voxels",
            expected="an image of its own for each channel",
            remedy=f"one of them was copied under the wrong name; restore it, or leave the case out: {left_out(last)}",
        )


def equal_labels(cohort: Cohort) -> Iterator[Fault]:
    """Report one label for different images, unless it is so simple that it may come twice by chance: a small box, a few voxels."""
    pairs = len(cohort.cases) * (len(cohort.cases) - 1) / 2
    for same in _alike(cohort, lambda case: case.label_hash):
        if len({case.image_hash for case in same}) == 1:
            continue
        box = same[0].label_box
        if box is not None and (box.filled or box.voxels < _LIMITS.simple) and pairs > _LIMITS.chance * box.positions:
            continue
        yield warning(
            "duplicate-label",
            "the same label for different images",
            case=same[-1].name,
            found=some(case.name for case in same),
            remedy="check that no label was copied to another case",
        )


def _alike(cohort: Cohort, hash_of: Callable[[CaseStatistics], str]) -> Iterator[list[CaseStatistics]]:
    hashed = sorted(filter(hash_of, cohort.cases), key=hash_of)
    return (same for _, group in groupby(hashed, hash_of) if len(same := list(group)) > 1)


def leak(code: str, summary: str, same: Sequence[CaseStatistics], found: str) -> Fault:
    """Return the fault for several cases that hold one scan: harmless only inside one group."""
    last = same[-1]
    if last.group is not None and len({case.group for case in same}) == 1:
        remedy = "they are in one group, so no fold is validated on what it was trained on"
        return note(code, summary, case=last.name, found=found, remedy=remedy)
    remedy = f"it would be trained on in one fold and validated on as new: {left_out(last.name)}, or give them one group"
    return warning(code, summary, case=last.name, found=found, remedy=remedy)
