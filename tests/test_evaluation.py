"""What absent, missed, ignored and not annotated labels do to scores and summaries, by hand on small masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoseg import evaluation
from autoseg import metrics as metrics_module
from autoseg.errors import GridMismatch
from autoseg.evaluation import affordable_metrics, case_rows, mean_over_labels, score_case, summarise
from autoseg.files import readable_json
from autoseg.labels import make_labels
from autoseg.metrics import ALL, QUICK, Metric
from autoseg.pipeline import evaluating

METRICS = tuple(metrics_module.METRICS)
SURFACE = ("nsd", "hd95", "assd")
LESIONS = ("lesion_f1", "lesion_recall", "lesion_precision")
LABELS = make_labels({"background": 0, "liver": 10, "tumour": 20})
REGIONS = make_labels({"background": 0, "edema": 1, "core": 2}, regions={"whole": ((1, 2), 1), "tumour core": ((2,), 2)}, ignore=9)
SPACING = (5.0, 1.0, 2.0)  # 10 mm3 = 0.01 ml per voxel


def masks(*, liver: int = 0, tumour: int = 0) -> np.ndarray:
    """So many voxels of each, from the start of two different rows."""
    classes = np.zeros((3, 4, 12), dtype=np.uint8)
    classes[1, 1, :liver] = 1
    classes[1, 3, :tumour] = 2
    return classes


def test_scores_of_a_case_by_hand():
    scores = score_case(masks(liver=4, tumour=3), masks(liver=6), LABELS, spacing=SPACING)
    assert scores["liver"]["dice"] == pytest.approx(8 / 10) and scores["liver"]["iou"] == pytest.approx(4 / 6)
    assert scores["liver"]["volume_error"] == pytest.approx(-2 / 6)
    assert (scores["liver"]["tp"], scores["liver"]["fp"], scores["liver"]["fn"]) == (4, 0, 2)
    assert scores["liver"]["reference_ml"] == pytest.approx(0.06) and scores["liver"]["predicted_ml"] == pytest.approx(0.04)
    assert scores["tumour"]["dice"] == 0 and scores["tumour"]["volume_error"] is None
    assert mean_over_labels(scores) == pytest.approx(0.4)


def test_only_the_wanted_metrics_are_there():
    quick = score_case(masks(liver=4), masks(liver=6), LABELS, spacing=SPACING)
    assert set(quick["liver"]) & set(METRICS) == set(QUICK)
    some = score_case(masks(liver=4), masks(liver=6), LABELS, spacing=SPACING, metrics=("dice", "hd95"))
    assert set(some["liver"]) & set(METRICS) == {"dice", "hd95"}
    assert set(score_case(masks(liver=4), masks(liver=6), LABELS, spacing=SPACING, metrics=METRICS)["liver"]) >= set(METRICS)


def test_surfaces_are_measured_in_millimetres_and_not_at_the_border_of_the_crop():
    """Two plates in slices 1 and 2 of a volume: cropped to themselves they still have both sides."""
    prediction, reference = np.zeros((6, 8, 9), dtype=np.uint8), np.zeros((6, 8, 9), dtype=np.uint8)
    reference[1, 1:7, 1:8] = 1
    prediction[3, 1:7, 1:8] = 1
    scores = score_case(prediction, reference, LABELS, spacing=SPACING, metrics=SURFACE)["liver"]
    assert scores["hd95"] == pytest.approx(10.0)
    same = score_case(reference, reference, LABELS, spacing=SPACING, metrics=SURFACE)["liver"]
    assert (same["nsd"], same["hd95"], same["assd"]) == (1, 0, 0)


def test_the_tolerance_may_differ_between_labels():
    prediction, reference = np.zeros((1, 9, 20), dtype=np.uint8), np.zeros((1, 9, 20), dtype=np.uint8)
    for index, left in ((1, 1), (2, 11)):
        reference[0, 2:7, left : left + 5] = index
        prediction[0, 3:8, left : left + 5] = index  # a millimetre further on
    scores = score_case(prediction, reference, LABELS, spacing=SPACING, metrics=SURFACE, tolerance={"liver": 1.0, "tumour": 0.5})
    assert scores["liver"]["nsd"] == 1 and scores["tumour"]["nsd"] < 1


def test_a_surface_against_nothing_has_nsd_zero_and_no_distance():
    missed = score_case(masks(), masks(liver=5), LABELS, spacing=SPACING, metrics=METRICS)["liver"]
    false = score_case(masks(liver=5), masks(), LABELS, spacing=SPACING, metrics=METRICS)["liver"]
    for scores in (missed, false):
        assert scores["nsd"] == scores["dice"] == scores["lesion_f1"] == 0 and scores["hd95"] is None and scores["assd"] is None
    both = score_case(masks(), masks(), LABELS, spacing=SPACING, metrics=METRICS)["liver"]
    assert all(both[metric] is None for metric in METRICS)


def test_lesions_are_counted():
    reference, prediction = np.zeros((3, 4, 12), dtype=np.uint8), np.zeros((3, 4, 12), dtype=np.uint8)
    reference[1, 1, (1, 2, 5, 6, 9)] = 2  # three lesions
    prediction[1, 1, (1, 5, 6)] = 2  # finds two
    prediction[1, 3, 11] = 2  # and one that is not there
    scores = score_case(prediction, reference, LABELS, spacing=SPACING, metrics=LESIONS)["tumour"]
    assert [scores[f"lesions_{part}"] for part in ("found", "missed", "true", "false")] == [2, 1, 2, 1]
    assert scores["lesion_recall"] == pytest.approx(2 / 3) and scores["lesion_precision"] == pytest.approx(2 / 3)


def test_ignored_voxels_do_not_count_at_all():
    reference = np.zeros((3, 4, 12), dtype=np.uint8)
    reference[1, 1, :4] = 1
    reference[:, :, 6:] = REGIONS.ignore_class
    prediction = np.zeros_like(reference)
    prediction[1, 1, :4] = 1
    prediction[:, :, 8:] = 2
    scores = score_case(prediction, reference, REGIONS, spacing=SPACING, metrics=METRICS)
    assert scores["whole"]["dice"] == 1 and scores["whole"]["hd95"] == 0 and scores["whole"]["lesions_false"] == 0
    assert scores["tumour core"]["dice"] is None and scores["tumour core"]["predicted_ml"] == 0


def test_regions_are_scored_as_unions():
    reference, prediction = masks(liver=6, tumour=2), masks(liver=4, tumour=4)
    scores = score_case(prediction, reference, REGIONS, spacing=SPACING)
    assert scores["whole"]["dice"] == pytest.approx(2 * 6 / 16) and scores["tumour core"]["dice"] == pytest.approx(2 * 2 / 6)


def test_labels_that_were_not_annotated_are_not_scored():
    scores = {"a": score_case(masks(liver=4, tumour=9), masks(liver=4), LABELS, spacing=SPACING, annotated=("liver",))}
    assert set(scores["a"]) == {"liver"}
    summary = summarise(scores, LABELS)
    assert summary["labels"]["tumour"]["not_annotated"] == 1 and summary["labels"]["tumour"]["dice"]["n"] == 0
    assert summary["mean"]["dice"]["mean"] == 1


def test_different_shapes_are_refused():
    with pytest.raises(GridMismatch, match=r"\(3, 4, 12\)"):
        score_case(masks(), np.zeros((3, 4, 11), dtype=np.uint8), LABELS, spacing=SPACING)


def four_cases() -> dict:
    """Liver always there; tumour found, missed, absent from both, and predicted where there is none."""
    pairs = {
        "found": (masks(liver=6, tumour=3), masks(liver=6, tumour=5)),
        "missed": (masks(liver=6), masks(liver=4, tumour=5)),
        "absent": (masks(liver=3), masks(liver=4)),
        "false": (masks(liver=4, tumour=2), masks(liver=4)),
    }
    return {name: score_case(p, r, LABELS, spacing=SPACING, metrics=METRICS) for name, (p, r) in pairs.items()}


def test_a_summary_counts_the_absent_apart_and_the_false_and_missed_as_zero():
    tumour = summarise(four_cases(), LABELS)["labels"]["tumour"]
    assert tumour["dice"]["n"] == 3 and tumour["dice"]["mean"] == pytest.approx((6 / 8 + 0 + 0) / 3)
    assert tumour["dice"]["std"] == pytest.approx(np.std([6 / 8, 0, 0]))
    assert (tumour["positive"], tumour["missed"]) == (2, 1)
    assert (tumour["negative"], tumour["false_positive"], tumour["absent"]) == (2, 1, 1)
    assert tumour["specificity"] == 0.5 and tumour["false_positive_ml"] == pytest.approx(0.02 / 2)
    assert tumour["hd95"]["n"] == 1, "no distance where one of the surfaces is missing"


def test_the_mean_over_the_labels_is_the_mean_of_their_means():
    """As nnU-Net's foreground_mean; 'absent' has no tumour, so the mean of the cases' means would differ."""
    summary = summarise(four_cases(), LABELS)
    liver = (1 + 8 / 10 + 6 / 7 + 1) / 4
    tumour = (6 / 8) / 3
    assert summary["mean"]["dice"]["mean"] == pytest.approx((liver + tumour) / 2)
    assert (summary["mean"]["dice"]["n"], summary["mean"]["dice"]["labels"]) == (4, 2)
    cases = {case["case"]: case["mean"]["dice"] for case in summary["cases"]}
    assert cases["absent"] == pytest.approx(6 / 7) and cases["missed"] == pytest.approx(0.4)
    low, high = summary["mean"]["dice"]["ci95"]
    assert low < summary["mean"]["dice"]["mean"] < high


def test_a_summary_is_json_without_nan_even_when_a_label_is_in_no_case():
    scores = {"only": score_case(masks(liver=3), masks(liver=4), LABELS, spacing=SPACING, metrics=METRICS)}
    summary = summarise(scores, LABELS)
    assert "NaN" not in readable_json(summary), "readable_json would have refused it too"
    assert summary["labels"]["tumour"]["dice"] == {"mean": None, "std": None, "n": 0, "median": None, "ci95": None}
    assert summary["labels"]["tumour"]["absent"] == 1 and summary["labels"]["tumour"]["positive"] == 0
    assert summary["mean"]["dice"]["mean"] == pytest.approx(6 / 7)


def test_a_summary_of_no_cases_has_no_means():
    summary = summarise({}, LABELS)
    assert summary["mean"]["dice"]["mean"] is None and summary["cases"] == []
    assert readable_json(summary)


def test_the_same_scores_give_the_same_summary_in_any_order():
    cases = four_cases()
    assert summarise(cases, LABELS) == summarise(dict(reversed(cases.items())), LABELS)


def test_a_summary_says_how_its_figures_were_made():
    summary = summarise(four_cases(), LABELS, tolerance={"liver": 3.0})
    assert summary["settings"]["nsd_tolerance_mm"] == {"liver": 3.0} and len(summary["rules"]) > 3


def test_rows_for_tables_have_the_same_columns_and_no_none():
    summary = summarise(four_cases(), LABELS)
    rows = case_rows(summary)
    assert len(rows) == 8 and len({tuple(row) for row in rows}) == 1
    assert next(row for row in rows if row["case"] == "absent" and row["label"] == "tumour")["dice"] == ""
    assert not any(value is None or (isinstance(value, float) and math.isnan(value)) for row in rows for value in row.values())


def test_metrics_that_cost_more_than_counting_are_left_out_of_large_cases_only():
    assert affordable_metrics(100**3, LABELS) == ALL
    assert affordable_metrics(512 * 512 * 300, LABELS) == QUICK


def test_a_metric_is_one_record(monkeypatch):
    """Whatever is in the dictionary can be asked for, is summarised, explained and drawn in the table."""
    twice = Metric(title="twice", meaning="twice is twice the Dice.", score=lambda pair: 2 * (pair.counts.dice or 0), shown=True)
    for module in (metrics_module, evaluation, evaluating):
        monkeypatch.setattr(module, "METRICS", {**metrics_module.METRICS, "twice": twice})
    names = evaluating._metric_names("twice,nsd")
    assert names == ("dice", "nsd", "twice")
    scores = {"one": score_case(masks(liver=4), masks(liver=6), LABELS, spacing=SPACING, metrics=names)}
    summary = summarise(scores, LABELS)
    assert summary["labels"]["liver"]["twice"]["mean"] == pytest.approx(2 * summary["labels"]["liver"]["dice"]["mean"])
    assert "twice is twice the Dice." in summary["rules"]
    assert "twice" in str(evaluating.table(summary)).splitlines()[0]
    assert "1.600" in str(evaluating.table(summary)).splitlines()[1]
