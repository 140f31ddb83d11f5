"""Predictions against references: the scores of one case, and the summary of many.

Pure functions on arrays and on scores; `pipeline` reads and writes the files. A score that has no meaning is `None` and is left
out of the means, and how often that happened is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import GridMismatch
from autoseg.geometry import Spacing
from autoseg.labels import Labels
from autoseg.metrics import ALL, METRICS, QUICK, Comparison, Mask, bootstrap_interval, confusion, mean_of_means, overlap_of

Scores = Mapping[str, Mapping[str, Any]]  # label or region name -> metric -> number or None

TOLERANCE = 2.0  # mm
LESION_OVERLAP = 0.1
AFFORDABLE_VOXELS = 50_000_000  # of a case times its labels: up to here all metrics take at most a second on one core; benchmarks/scores.py
RULES = (
    "A label absent from both masks of a case is left out of the means and counted as 'absent'.",
    "A label absent from the reference but predicted has Dice, IoU and NSD 0 in the means and is counted as 'false_positive'; "
    "so has one that is in the reference and not predicted, which is counted as 'missed'. Neither has an HD95 or ASSD.",
    "The mean over the labels is the mean of the labels' means; its std is that of the cases' means over their own labels.",
    "ci95 is the 95 % percentile bootstrap interval of the mean, resampling cases.",
)


def affordable_metrics(voxels: int, labels: Labels) -> tuple[str, ...]:
    """Return the metrics to compute where none were asked for: all of them unless the cases are large, then the quick ones.

    Parameters
    ----------
    voxels : of the largest case, so that every case of a set has the same metrics
    labels : how many masks are compared
    """
    return ALL if voxels * len(labels.scored) <= AFFORDABLE_VOXELS else QUICK


def score_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    labels: Labels,
    *,
    spacing: Spacing,
    metrics: Sequence[str] = QUICK,
    tolerance: float | Mapping[str, float] = TOLERANCE,
    lesion_overlap: float = LESION_OVERLAP,
    annotated: Sequence[str] | None = None,
) -> Scores:
    """The scores of every label, or of every region where regions are declared, in one case.

    Parameters
    ----------
    prediction, reference : (z, y, x), classes; the reference may hold the ignore class, whose voxels do not count
    labels : what the classes mean
    spacing : (z, y, x), mm per voxel
    metrics : names from `METRICS`; surfaces and lesions take time, and are measured only where a metric needs them
    tolerance : of the NSD, in mm; one for all, or one per label or region (the others have 2 mm)
    lesion_overlap : share of a component that must be in the other mask
    annotated : names of the labels that were annotated in this case; the others are not scored. `None`: all

    Returns
    -------
    {name: {metric: number or None, "tp", "fp", "fn": voxels, "reference_ml", "predicted_ml": volumes}}; with lesions also
    "lesions_found", "lesions_missed", "lesions_true", "lesions_false": components of the reference and of the prediction

    Raises
    ------
    GridMismatch : the shapes differ

    Source: counts, Dice and IoU as in nnU-Net 2.8.1, ignored voxels left out; surfaces as in Nikolov et al. 2021, doi:10.2196/26151.
    """
    _check_shapes(prediction, reference)
    classes = labels.class_count + (labels.ignore_class is not None)
    counts = confusion(prediction, reference, classes=classes)
    quick = all(METRICS[name].quick for name in metrics)
    boxes = ((), ()) if quick else (ndimage.find_objects(prediction), ndimage.find_objects(reference))
    whole = any(METRICS[name].whole for name in metrics)
    millilitres = float(np.prod(spacing)) / 1000
    scores: dict[str, dict[str, Any]] = {}
    for name, members in labels.scored:
        if annotated is not None and name not in annotated:
            continue
        both = overlap_of(counts, members, ignore=labels.ignore_class)
        predicted, true = _masks(prediction, reference, members, None if whole else boxes, labels.ignore_class)
        allowed = tolerance.get(name, TOLERANCE) if isinstance(tolerance, Mapping) else tolerance
        pair = Comparison(
            counts=both, prediction=predicted, reference=true, spacing=spacing, tolerance=allowed, lesion_overlap=lesion_overlap
        )
        found: dict[str, Any] = {metric: METRICS[metric].score(pair) if both.predicted or both.reference else None for metric in metrics}
        found |= {"tp": both.tp, "fp": both.fp, "fn": both.fn}
        found |= {"reference_ml": both.reference * millilitres, "predicted_ml": both.predicted * millilitres}
        if "lesions" in vars(pair):
            found |= {f"lesions_{part}": count for part, count in asdict(pair.lesions).items()}
        scores[name] = found
    return scores


def mean_over_labels(scores: Scores, metric: str = "dice") -> float | None:
    """The mean of one metric over the labels that have it in this case; `None` where none has."""
    values = [s[metric] for s in scores.values() if s.get(metric) is not None]
    return float(np.mean(values)) if values else None


def summarise(
    cases: Mapping[str, Scores],
    labels: Labels,
    *,
    tolerance: float | Mapping[str, float] = TOLERANCE,
    lesion_overlap: float = LESION_OVERLAP,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """The summary of many cases, as summary.json holds it.

    Parameters
    ----------
    cases : name of the case -> what `score_case` returned
    labels : what is summarised: all its targets are listed, also those that no case has
    tolerance, lesion_overlap : that `score_case` was given, to be written down
    rng : source of the bootstrap; a fixed one where not given, so that the same scores give the same summary

    Returns
    -------
    ::

        {"labels": {NAME: {METRIC: {"mean", "std", "n", "median", "ci95"}, "positive", "missed", "absent",
                           "negative", "false_positive", "specificity", "false_positive_ml", "not_annotated"}},
         "mean":   {METRIC: {"mean", "std", "n", "labels", "ci95"}},
         "cases":  [{"case", "labels": {NAME: {METRIC}}, "mean": {METRIC}}],
         "settings": {"nsd_tolerance_mm", "lesion_overlap"},
         "rules":  [how to read it]}

    `positive` cases have the label in the reference, `missed` ones of them have no voxel of it predicted; `negative` cases do
    not have it, `false_positive` ones of them have it predicted, with a mean volume of `false_positive_ml`; `absent` ones
    have it in neither mask. Numbers that do not exist are `None`, never NaN.
    """
    rng = rng or np.random.default_rng(0)
    names = [name for name, _ in labels.scored]
    metrics = [m for m in METRICS if any(m in s for scores in cases.values() for s in scores.values())] or list(QUICK)
    table = {m: score_table(cases, names, m) for m in metrics}
    return {
        "labels": {
            name: {**{m: _statistics(table[m][:, [i]], rng) for m in metrics}, **_groups(cases, name)} for i, name in enumerate(names)
        },
        "mean": {m: _mean_statistics(table[m], rng) for m in metrics},
        "cases": [
            {"case": case, "labels": scores, "mean": {m: mean_over_labels(scores, m) for m in metrics}}
            for case, scores in sorted(cases.items())
        ],
        "settings": {
            "nsd_tolerance_mm": dict(tolerance) if isinstance(tolerance, Mapping) else tolerance,
            "lesion_overlap": lesion_overlap,
        },
        "rules": [*RULES, *(METRICS[m].meaning for m in metrics)],
    }


def scores_in(summary: Mapping[str, Any]) -> dict[str, Scores]:
    """Return the scores of each case in a summary, by its name."""
    return {case["case"]: case["labels"] for case in summary["cases"]}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One metric over cases, of one label or of the mean over the labels; None where no case has a score."""

    mean: float | None
    std: float | None
    n: int
    ci95: tuple[float, float] | None
    median: float | None = None  # of one label
    labels: int = 0  # that have the metric, of the mean over them


def statistics_of_labels(summary: Mapping[str, Any], metric: str = "dice") -> dict[str, Statistics]:
    """Return one metric of each label in a summary."""
    return {name: Statistics(**row[metric]) for name, row in summary["labels"].items()}


def statistics_of_mean(summary: Mapping[str, Any], metric: str = "dice") -> Statistics:
    """Return one metric of the mean over the labels in a summary."""
    return Statistics(**summary["mean"][metric])


def summarise_groups(summary: Mapping[str, Any], groups: Mapping[str, str], labels: Labels) -> dict[str, Any]:
    """Return the summary of each group of cases.

    Parameters
    ----------
    summary : of all cases, as `summarise` returns it
    groups : name of a case -> its group; cases that are not in it belong to none

    Returns
    -------
    {group: {"cases": names, "labels": as in `summarise`, "mean": as in `summarise`}}
    """
    scores: dict[str, dict[str, Scores]] = {}
    for case, of_labels in scores_in(summary).items():
        if case in groups:
            scores.setdefault(groups[case], {})[case] = of_labels
    parts = {group: summarise(members, labels) for group, members in sorted(scores.items())}
    return {group: {"cases": list(scores[group])} | {key: part[key] for key in ("labels", "mean")} for group, part in parts.items()}


def case_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per case and label, for a CSV file; the columns are the same in every row, a score that does not exist is ''."""
    of = {case: {"group": group} for group, part in summary.get("groups", {}).items() for case in part["cases"]}
    rows = [
        {"case": case, "label": name, **of.get(case, {}), **scores}
        for case, labels in scores_in(summary).items()
        for name, scores in labels.items()
    ]
    return _even(rows)


def _check_shapes(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise GridMismatch(
            "prediction and reference are not on the same grid",
            details={"predicted": f"shape {prediction.shape}", "reference": f"shape {reference.shape}"},
            expected="equal shapes",
            fix="give predictions of the very images that were segmented by hand",
        )


def _masks(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    members: Sequence[int],
    boxes: tuple[Sequence[Any], Sequence[Any]] | None,
    ignore: int | None,
) -> tuple[Mask, Mask]:
    """The two masks of one target, cropped to where either of them is; both without the voxels that were not annotated.

    `boxes` are those of the classes; without them nothing is cropped.
    One voxel more on each side, where there is one, so that only a planar image stays planar.
    """
    if boxes is None:
        boxes = ([tuple(slice(0, size) for size in prediction.shape)] * max(members), ())
    found = [side[c - 1] for side in boxes for c in members if c <= len(side) and side[c - 1] is not None]
    if not found:
        nothing = np.zeros((0, 0, 0), dtype=bool)
        return nothing, nothing
    box = tuple(slice(max(0, min(b[a].start for b in found) - 1), max(b[a].stop for b in found) + 1) for a in range(3))
    predicted, true = (_mask(array[box], members) for array in (prediction, reference))
    if ignore is not None:
        predicted &= reference[box] != ignore
    return predicted, true


def _mask(classes: NDArray[Any], members: Sequence[int]) -> Mask:
    return np.asarray(classes == members[0] if len(members) == 1 else np.isin(classes, members))


def score_table(cases: Mapping[str, Scores], names: Sequence[str], metric: str) -> NDArray[np.float64]:
    """Return one metric as (cases, labels), the cases in the order of their names; NaN where there is no score."""
    table = np.full((len(cases), len(names)), np.nan)
    for row, (_, scores) in enumerate(sorted(cases.items())):
        for column, name in enumerate(names):
            value = scores.get(name, {}).get(metric)
            if value is not None:
                table[row, column] = value
    return table


def _statistics(column: NDArray[np.float64], rng: np.random.Generator) -> dict[str, Any]:
    values = column[np.isfinite(column)]
    if not values.size:
        return {"mean": None, "std": None, "n": 0, "median": None, "ci95": None}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "n": int(values.size),
        "median": float(np.median(values)),
        "ci95": bootstrap_interval(values[:, None], rng=rng),
    }


def _mean_statistics(table: NDArray[np.float64], rng: np.random.Generator) -> dict[str, Any]:
    scored = np.isfinite(table)
    per_case = [float(row[mask].mean()) for row, mask in zip(table, scored, strict=True) if mask.any()]
    if not per_case:
        return {"mean": None, "std": None, "n": 0, "labels": 0, "ci95": None}
    return {
        "mean": float(mean_of_means(table)[0]),
        "std": float(np.std(per_case)),
        "n": len(per_case),
        "labels": int(scored.any(axis=0).sum()),
        "ci95": bootstrap_interval(table, rng=rng),
    }


def _groups(cases: Mapping[str, Scores], name: str) -> dict[str, Any]:
    volumes = [(s["reference_ml"], s["predicted_ml"]) for scores in cases.values() if (s := scores.get(name)) is not None]
    positive = [predicted for reference, predicted in volumes if reference > 0]
    negative = [predicted for reference, predicted in volumes if reference == 0]
    false_positive = [predicted for predicted in negative if predicted > 0]
    return {
        "positive": len(positive),
        "missed": positive.count(0),
        "absent": len(negative) - len(false_positive),
        "negative": len(negative),
        "false_positive": len(false_positive),
        "specificity": 1 - len(false_positive) / len(negative) if negative else None,
        "false_positive_ml": float(np.mean(negative)) if negative else None,
        "not_annotated": len(cases) - len(volumes),
    }


def _even(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    listed = list(rows)
    columns = list(dict.fromkeys(key for row in listed for key in row))
    return [{column: "" if row.get(column) is None else row[column] for column in columns} for row in listed]
