"""Sets without a fault raise no warning by chance, however many cases they have; what stands out is still reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.cases import Case, Channel, Dataset
from autoseg.checking import Fault
from autoseg.checking.duplicates import equal_labels
from autoseg.checking.reading import CaseData, ChannelFile
from autoseg.checking.registry import CASE_CHECKS, COHORT_CHECKS
from autoseg.checking.spacings import spacing_outliers
from autoseg.checking.statistics import CaseStatistics, Cohort, statistics_of
from autoseg.geometry import affine_from_spacing
from autoseg.images import Image
from autoseg.labels import Labels, make_labels

LABELS = {
    "boxes": make_labels({"background": 0, "lesion": 1}),
    "organs": make_labels({"background": 0, "head": 1, "tail": 2}),
    "contrasts": make_labels({"background": 0, "lesion": 1}),
    "outlines": make_labels({"background": 0, "lesion": 1}),
    "midline": make_labels({"background": 0, "gland_left": 1, "gland_right": 2}, pairs=(("gland_left", "gland_right"),)),
}


def ellipsoid(shape: tuple[int, ...], centre: Sequence[float], radii: Sequence[float]) -> NDArray[np.bool_]:
    places = np.indices(shape)
    return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in zip(places, centre, radii, strict=True)) < 1)


def scan(kind: str, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A random image (z, y, x) and its label."""
    if kind == "outlines":  # the air of CT around one body, which outweighs all else
        shape = (20, 24, 28)
        body = ellipsoid(shape, (10, 12, 14), (12, 9, 10))
        label = ellipsoid(shape, rng.uniform(0.4, 0.6, 3) * shape, rng.uniform(2, 4, 3)).astype(np.uint8)
        return (np.where(body, 40.0, -1000.0) + 60 * label + rng.normal(scale=15, size=shape)).astype(np.float32), label
    shape = tuple(int(n) for n in rng.integers(14, 30, 3))
    image = 100 + ndimage.gaussian_filter(rng.normal(size=shape), 1) * 60
    label = np.zeros(shape, dtype=np.uint8)
    if kind == "boxes":
        label[tuple(slice(start, start + 3) for start in rng.integers(0, 11, 3))] = 1
    elif kind == "organs":
        centre = np.array(shape) * rng.uniform(0.35, 0.6, 3)
        inside = ellipsoid(shape, centre, np.array(shape) * rng.uniform(0.15, 0.25, 3))
        label = (inside * (1 + (np.indices(shape)[1] > centre[1]))).astype(np.uint8)
    elif kind == "contrasts":
        label[ellipsoid(shape, np.array(shape) * rng.uniform(0.3, 0.7, 3), rng.uniform(3, 5, 3))] = 1
    else:
        for value in (1, 2):  # the order of the two is chance
            label[ellipsoid(shape, np.array(shape) * (0.3 * value, 0.5, 0.5) + rng.normal(size=3), (2.5, 3, 3))] = value
    contrast = rng.uniform(0, 300) if kind == "contrasts" else 80
    return (image + contrast * (label > 0)).astype(np.float32), label


def cohort(kind: str, count: int, rng: np.random.Generator) -> tuple[Cohort, list[Fault]]:
    """A clean set of random cases, and the faults of single cases."""
    labels: Labels = LABELS[kind]
    statistics: list[CaseStatistics] = []
    cases: list[Case] = []
    for number in range(count):
        image, label = scan(kind, rng)
        affine = affine_from_spacing(tuple(np.exp(rng.normal([1, 0, 0], [0.3, 0.2, 0.2])).tolist()))
        case = Case(name=f"case{number:03}", images=(Path(f"/i/{number}"),), label=Path(f"/l/{number}"))
        part = ChannelFile(number=0, path=case.images[0], image=Image(array=image[None], affine=affine))
        classes, undeclared = labels.classify(label)
        truth = Image(array=label[None], affine=affine)
        data = CaseData(case=case, labels=labels, parts=(part,), label=truth, classes=classes, undeclared=undeclared, faults=())
        statistics.append(statistics_of(data, tuple(fault for find in CASE_CHECKS for fault in find(data))))
        cases.append(case)
    keys: dict[str, Any] = {"name": "set", "root": Path("/"), "recipe": "list"}
    dataset = Dataset(
        channels=(Channel(name="image", modality="CT" if kind == "outlines" else "MR"),), labels=labels, cases=tuple(cases), **keys
    )
    return Cohort(dataset=dataset, cases=tuple(statistics)), [fault for case in statistics for fault in case.faults]


@pytest.mark.parametrize("kind", LABELS)
def test_clean_random_sets_raise_no_warning(kind: str) -> None:
    """A longer run, 250 sets of 3 to 200 cases of each kind, had at most 2 with a warning; here are a few with a fixed seed."""
    rng = np.random.default_rng(1)
    for count in (3, 4, 5, 8, 13, 30):
        whole, faults = cohort(kind, count, rng)
        faults += [fault for find in COHORT_CHECKS for fault in find(whole)]
        assert not [fault for fault in faults if fault.severity != "note"], (count, faults)


@pytest.mark.parametrize(("kind", "count", "reported"), [("boxes", 120, False), ("boxes", 3, True), ("organs", 120, True)])
def test_equal_labels_are_reported_unless_so_simple_that_chance_makes_them(kind: str, count: int, reported: bool) -> None:
    whole, _ = cohort(kind, count, np.random.default_rng(2))
    first, second, *rest = whole.cases
    copied = CaseStatistics(**{**vars(second), "label_hash": first.label_hash, "label_box": first.label_box})
    found = [fault.case for fault in equal_labels(Cohort(dataset=whole.dataset, cases=(first, copied, *rest)))]
    assert found == ([second.name] if reported else [])


@pytest.mark.parametrize(("spread", "reported"), [(0.05, True), (1.5, False)])
def test_a_spacing_is_far_only_by_the_spread_of_its_data_set(spread: float, reported: bool) -> None:
    rng = np.random.default_rng(3)
    whole, _ = cohort("boxes", 20, rng)
    odd = [4.0, *np.exp(rng.normal(0, spread, 19))]
    cases = tuple(CaseStatistics(**{**vars(case), "spacing": (z, 1.0, 1.0)}) for case, z in zip(whole.cases, odd, strict=True))
    assert [fault.case for fault in spacing_outliers(Cohort(dataset=whole.dataset, cases=cases))] == (["case000"] if reported else [])
