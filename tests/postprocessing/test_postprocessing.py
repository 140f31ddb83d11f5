"""PostprocessingRules are chosen when they help out of fold, and removing components does what it says."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import SettingsError
from autoseg.labels import make_labels
from autoseg.postprocessing import PostprocessingRules, Rule, apply, candidates, choose, learn, measure_case

LABELS = make_labels({"background": 0, "liver": 1, "spleen": 2})
NESTED = make_labels(
    {"background": 0, "edema": 1, "core": 2, "enhancing": 3},
    regions={"whole": ((1, 2, 3), 1), "tumour core": ((2, 3), 2), "enhancing": ((3,), 3)},
)
SPACING = (3.0, 1.0, 2.0)  # 6 mm3 per voxel


def slow_components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Flood fill over the 26 neighbours."""
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        start = left.pop()
        component, queue = {start}, [start]
        while queue:
            voxel = queue.pop()
            for step in itertools.product((-1, 0, 1), repeat=3):
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    component.add(neighbour)
                    queue.append(neighbour)
        found.append(component)
    return found


def slow_apply(classes: np.ndarray, rule: Rule) -> np.ndarray:
    members = {None: (1, 2), "liver": (1,), "spleen": (2,)}[rule.target]
    components = slow_components(np.isin(classes, members))
    largest = max((len(c) for c in components), default=0)
    result = classes.copy()
    for component in components:
        if len(component) < largest if rule.keep_largest else len(component) * 6.0 < rule.drop_below:
            for voxel in component:
                result[voxel] = 0
    return result


def slow_dice(prediction: np.ndarray, reference: np.ndarray, ignore: int | None = None) -> list[float]:
    scores = []
    valid = reference != ignore if ignore is not None else np.ones(reference.shape, dtype=bool)
    for index in (1, 2):
        p, r = (prediction == index) & valid, (reference == index) & valid
        scores.append(2 * (p & r).sum() / (p.sum() + r.sum()) if p.any() or r.any() else np.nan)
    return scores


def blobs(seed: int, *, density: float = 0.12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    classes = np.zeros((5, 7, 9), dtype=np.uint8)
    classes[rng.random(classes.shape) < density] = 1
    classes[rng.random(classes.shape) < density] = 2
    return classes


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), target=st.sampled_from([None, "liver", "spleen"]), size=st.sampled_from([None, 6.0, 12.0, 13.0, 60.0]))
def test_components_are_removed_as_flood_fill_says(seed, target, size):
    rule = Rule(target=target, keep_largest=True) if size is None else Rule(target=target, drop_below=size)
    classes = blobs(seed)
    before = classes.copy()
    assert np.array_equal(apply(classes, PostprocessingRules(rules=(rule,)), LABELS, SPACING), slow_apply(classes, rule))
    assert np.array_equal(classes, before), "the input is left alone"


def test_equal_largest_components_are_all_kept():
    classes = np.zeros((3, 5, 9), dtype=np.uint8)
    classes[1, 1, 1:4] = classes[1, 1, 5:8] = 1
    classes[1, 4, 8] = 1
    result = apply(classes, PostprocessingRules(rules=(Rule(target="liver", keep_largest=True),)), LABELS, SPACING)
    assert result.sum() == 6 and result[1, 4, 8] == 0


def test_a_diagonal_neighbour_belongs_to_the_component_in_a_planar_image_too():
    classes = np.zeros((1, 6, 7), dtype=np.uint8)
    classes[0, 1, 1] = classes[0, 2, 2] = 1
    classes[0, 5, 5] = 1
    result = apply(classes, PostprocessingRules(rules=(Rule(target="liver", keep_largest=True),)), LABELS, (1.0, 1.0, 1.0))
    assert np.argwhere(result).tolist() == [[0, 1, 1], [0, 2, 2]]


def test_what_lies_in_another_region_falls_back_to_it():
    classes = np.zeros((3, 6, 12), dtype=np.uint8)
    classes[:, 1:5, 1:10] = 1
    classes[1, 2:4, 2:5] = 2  # the large core
    classes[1, 3, 3] = 3
    classes[1, 2, 7] = 2  # a small core, far from it, with an enhancing voxel
    classes[1, 3, 7] = 3
    core = apply(classes, PostprocessingRules(rules=(Rule(target="tumour core", keep_largest=True),)), NESTED, SPACING)
    assert core[1, 2, 7] == core[1, 3, 7] == 1, "edema, in which the core lay"
    assert core[1, 3, 3] == 3
    enhancing = apply(classes, PostprocessingRules(rules=(Rule(target="enhancing", drop_below=100.0),)), NESTED, SPACING)
    assert enhancing[1, 3, 3] == enhancing[1, 3, 7] == 2, "core, in which the enhancing part lay"
    whole = apply(classes, PostprocessingRules(rules=(Rule(target="whole", drop_below=1e6),)), NESTED, SPACING)
    assert not whole.any()


def test_nothing_to_remove_returns_the_array_itself():
    classes = np.zeros((2, 3, 4), dtype=np.uint8)
    assert apply(classes, PostprocessingRules(rules=(Rule(target="liver", keep_largest=True),)), LABELS, SPACING) is classes
    classes[0, 0, 0] = 1
    assert apply(classes, PostprocessingRules(rules=(Rule(target="liver", keep_largest=True),)), LABELS, SPACING) is classes


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), ignore=st.booleans(), first=st.booleans())
def test_measured_dice_is_that_of_really_applying_each_candidate(seed, ignore, first):
    labels = make_labels({"background": 0, "liver": 1, "spleen": 2}, ignore=9 if ignore else None)
    prediction, reference = blobs(seed), blobs(seed + 1)
    prediction[1:3, 1:5, 1:5] = reference[1:3, 1:5, 2:6] = 1
    if ignore:
        reference[:, :, 7:] = 3
    already = PostprocessingRules(rules=(Rule(target=None, drop_below=13.0),)) if first else PostprocessingRules()
    tried = candidates(labels)
    measured = measure_case(prediction, reference, labels, SPACING, tried=tried, given=already)
    started = apply(prediction, already, labels, SPACING)
    ignored = 3 if ignore else None
    np.testing.assert_allclose(measured.before, slow_dice(started, reference, ignored))
    for rule in tried:
        expected = slow_dice(slow_apply(started, rule), reference, ignored)
        np.testing.assert_allclose(measured.after.get(rule, measured.before), expected)


def test_measured_dice_of_regions_is_that_of_really_applying_each_candidate():
    rng = np.random.default_rng(3)
    prediction, reference = (rng.choice(4, size=(4, 7, 8), p=(0.55, 0.25, 0.12, 0.08)).astype(np.uint8) for _ in range(2))
    measured = measure_case(prediction, reference, NESTED, SPACING)
    changed = 0
    for rule in candidates(NESTED):
        applied = apply(prediction, PostprocessingRules(rules=(rule,)), NESTED, SPACING)
        expected = []
        for _, members in NESTED.scored:
            p, r = np.isin(applied, members), np.isin(reference, members)
            expected.append(2 * (p & r).sum() / (p.sum() + r.sum()) if p.any() or r.any() else np.nan)
        np.testing.assert_allclose(measured.after.get(rule, measured.before), expected)
        changed += rule in measured.after
    assert changed > 5


def organ_with_specks(index: int, *, specks: int, parts: int = 1) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    rng = np.random.default_rng(index)
    reference = np.zeros((8, 16, 24), dtype=np.uint8)
    for part in range(parts):
        reference[2:6, 4:10, 2 + 8 * part : 7 + 8 * part] = 1
    reference[3:5, 12:14, 3:20] = 2
    prediction = reference.copy()
    prediction[2, 4:10, 2:7] = 0  # an honest error
    for _ in range(specks):
        prediction[7, int(rng.integers(0, 3)), int(rng.integers(0, 24))] = 1
    return prediction, reference, SPACING


def test_specks_in_every_case_lead_to_a_rule_with_its_evidence():
    rules = learn(lambda: (organ_with_specks(i, specks=6) for i in range(10)), LABELS)
    assert rules.rules and all(rule.target in (None, "liver") for rule in rules.rules)
    evidence = rules.rules[0].evidence
    assert evidence is not None and evidence.gain_low > 0 and evidence.cases == 10
    prediction, reference, spacing = organ_with_specks(99, specks=6)
    cleaned = apply(prediction, rules, LABELS, spacing)
    assert not (cleaned[7] == 1).any() and np.array_equal(cleaned[:7], prediction[:7])


def test_an_organ_in_two_parts_is_not_cut_to_the_largest():
    rules = learn(lambda: (organ_with_specks(i, specks=6, parts=2) for i in range(10)), LABELS)
    assert rules.rules and not any(rule.keep_largest and rule.target == "liver" for rule in rules.rules)
    prediction, reference, spacing = organ_with_specks(99, specks=6, parts=2)
    cleaned = apply(prediction, rules, LABELS, spacing)
    assert np.array_equal(cleaned[:7], prediction[:7]) and not (cleaned[7] == 1).any()


def test_a_gain_in_a_single_case_is_not_enough():
    assert learn(lambda: (organ_with_specks(i, specks=6 if i == 0 else 0) for i in range(10)), LABELS) == PostprocessingRules()


def test_few_cases_are_not_enough():
    assert learn(lambda: (organ_with_specks(i, specks=6) for i in range(4)), LABELS) == PostprocessingRules()


def test_no_rule_is_taken_that_makes_another_label_worse():
    """Keeping the largest of all foreground removes specks of the liver, and the whole spleen in some cases."""
    measured = []
    for index in range(12):
        prediction, reference, spacing = organ_with_specks(index, specks=60)
        everything = Rule(target=None, keep_largest=True)
        measured.append(measure_case(prediction, reference, LABELS, spacing, tried=[everything]))
        assert everything in measured[-1].after and measured[-1].after[everything][1] == 0
    assert choose(measured, LABELS) == PostprocessingRules()


def test_removing_all_of_a_false_positive_counts_as_a_gain():
    """Absent in the reference: Dice 0 before, out of the mean after."""

    def cases():
        for index in range(10):
            prediction, reference, spacing = organ_with_specks(index, specks=0)
            reference[reference == 2] = 0
            prediction[prediction == 2] = 0
            if index < 6:
                prediction[0, 15, 3:5] = 2
            else:
                prediction[3:5, 12:14, 3:20] = reference[3:5, 12:14, 3:20] = 2
            yield prediction, reference, spacing

    rules = learn(cases, LABELS)
    assert rules.rules
    for prediction, reference, spacing in cases():
        assert ((apply(prediction, rules, LABELS, spacing) == 2) == (reference == 2)).all()


def test_rules_survive_json():
    rules = learn(lambda: (organ_with_specks(i, specks=6) for i in range(10)), LABELS)
    again = PostprocessingRules.from_json(json.loads(json.dumps(rules.to_json())))
    assert again == rules and again.rules[0].evidence == rules.rules[0].evidence
    assert rules.sentences()[0] == rules.to_json()["rules"][0]["says"]


@pytest.mark.parametrize("rule", [{"target": "liver"}, {"target": "liver", "keep_largest": True, "drop_below": 5}, {"keep_largest": True}])
def test_a_rule_written_by_hand_that_says_nothing_or_too_much_is_refused(rule):
    with pytest.raises(SettingsError, match=r"cannot be used|target: is missing"):
        PostprocessingRules.from_json({"format": 1, "rules": [rule]})


def test_a_rule_about_an_unknown_label_is_refused():
    with pytest.raises(SettingsError, match="unknown label"):
        apply(blobs(0), PostprocessingRules(rules=(Rule(target="kidney", keep_largest=True),)), LABELS, SPACING)


def test_typical_volumes_set_the_sizes_that_are_tried():
    tried = candidates(LABELS, typical={"liver": 2000.0, "spleen": 100.0})
    sizes = {target: [r.drop_below for r in tried if r.target == target and r.drop_below] for target in (None, "liver", "spleen")}
    assert max(sizes["liver"]) == 1000.0 and max(sizes["spleen"]) == 50.0 and max(sizes[None]) == 50.0


RESHAPING = [
    Rule(target=target, **what)
    for target in (None, "liver", "spleen")
    for what in ({"fill_holes": True}, {"closing": 2.0}, {"opening": 1.0})
]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), ignore=st.booleans())
def test_measured_dice_of_rules_on_shapes_is_that_of_really_applying_each(seed, ignore):
    labels = make_labels({"background": 0, "liver": 1, "spleen": 2}, ignore=9 if ignore else None)
    prediction, reference = blobs(seed, density=0.35), blobs(seed + 1, density=0.3)
    if ignore:
        reference[:, :, 7:] = 3
    measured = measure_case(prediction, reference, labels, SPACING, tried=RESHAPING)
    for rule in RESHAPING:
        applied = apply(prediction, PostprocessingRules(rules=(rule,)), labels, SPACING)
        np.testing.assert_allclose(measured.after.get(rule, measured.before), slow_dice(applied, reference, 3 if ignore else None))
        assert (rule in measured.after) == (not np.array_equal(applied, prediction))
        grown = applied != prediction
        if rule.opening is not None:
            assert not applied[grown].any(), "opening only removes"
        else:
            assert not prediction[grown].any(), "no other label is replaced"


def test_a_hole_between_two_labels_gets_the_nearer_one():
    classes = np.zeros((5, 7, 12), dtype=np.uint8)
    classes[1:4, 1:6, 1:6], classes[1:4, 1:6, 6:11] = 1, 2
    classes[2, 3, 5:8] = 0
    filled = apply(classes, PostprocessingRules(rules=(Rule(target=None, fill_holes=True),)), LABELS, (1.0, 1.0, 1.0))
    assert filled[2, 3, 5] == 1 and filled[2, 3, 7] == 2 and (filled[1:4, 1:6, 1:11] > 0).all()
    alone = apply(classes, PostprocessingRules(rules=(Rule(target="liver", fill_holes=True),)), LABELS, (1.0, 1.0, 1.0))
    assert alone is classes, "neither label alone encloses it"


def test_a_region_that_grows_is_painted_over_the_one_around_it():
    classes = np.zeros((5, 9, 9), dtype=np.uint8)
    classes[:, 1:8, 1:8] = 1
    classes[1:4, 2:7, 2:7] = 2
    classes[2, 4, 4] = 1  # a hole in the core, within the whole
    filled = apply(classes, PostprocessingRules(rules=(Rule(target="tumour core", fill_holes=True),)), NESTED, SPACING)
    assert filled[2, 4, 4] == 2 and (filled != classes).sum() == 1
    classes[2, 4, 4] = 3
    assert apply(classes, PostprocessingRules(rules=(Rule(target="tumour core", fill_holes=True),)), NESTED, SPACING) is classes


def test_a_rule_sees_what_the_rules_before_it_added():
    """The spleen is filled from nothing but the closing of all foreground: its box grows meanwhile."""
    classes = np.zeros((3, 9, 14), dtype=np.uint8)
    classes[:, 2:7, 1:5], classes[:, 2:7, 6:9] = 1, 2
    both = PostprocessingRules(rules=(Rule(target=None, closing=1.0), Rule(target="spleen", drop_below=1e6)))
    step = apply(classes, PostprocessingRules(rules=both.rules[:1]), LABELS, (1.0, 1.0, 1.0))
    assert (step[:, 3:6, 5] > 0).all() and (step == 2).sum() > (classes == 2).sum()
    assert not (apply(classes, both, LABELS, (1.0, 1.0, 1.0)) == 2).any()


def holed(index: int, *, honest: bool = False) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """An organ whose prediction has holes, which the reference has, too, where `honest`; a thin sheet grows out of it."""
    rng = np.random.default_rng(index)
    reference = np.zeros((11, 18, 24), dtype=np.uint8)
    z, y, x = np.ogrid[-5:6, -8:10, -8:16]
    reference[z**2 + y**2 + x**2 <= 4.7**2] = 1
    reference[3:6, 14:16, 3:20] = 2
    prediction = reference.copy()
    for place in rng.integers((4, 7, 7), (7, 10, 10), size=(6, 3)):
        prediction[tuple(place)] = 0
    if honest:
        reference = prediction.copy()
    prediction[:3][prediction[:3] == 1] = 0  # an honest error
    prediction[7, 4 + index % 3 : 12, 13:22] = 1
    return prediction, reference, (1.0, 1.0, 1.0)


def test_holes_are_filled_and_thin_sheets_removed_where_the_references_have_none():
    rules = learn(lambda: (holed(i) for i in range(12)), LABELS)
    kinds = [(rule.fill_holes, rule.closing, rule.opening) for rule in rules.rules]
    assert (True, None, None) in kinds and any(opening for *_, opening in kinds)
    assert all(rule.evidence is not None and rule.evidence.gain_low > 0 for rule in rules.rules)
    prediction, reference, spacing = holed(99)
    before, after = (slow_dice(p, reference) for p in (prediction, apply(prediction, rules, LABELS, spacing)))
    assert after[0] > before[0] and after[1] >= before[1]


def test_holes_that_the_references_have_are_not_filled():
    rules = learn(lambda: (holed(i, honest=True) for i in range(12)), LABELS)
    assert not any(rule.fill_holes or rule.closing for rule in rules.rules)


def test_a_rule_on_shapes_without_a_gain_on_the_first_cases_is_not_tried_on_all(monkeypatch):
    from autoseg.postprocessing import learning

    monkeypatch.setattr(learning, "SCREENED", 4)
    tried = []
    original = learning.measure_case
    monkeypatch.setattr(learning, "measure_case", lambda *given, **named: (tried.append(named["tried"]), original(*given, **named))[1])
    learn(lambda: (holed(i, honest=True) for i in range(8)), LABELS)
    holes = [len(rules) for rules in tried if any(rule.fill_holes for rule in rules)]
    assert holes == [3] * 4, "all foreground, liver and spleen, on four cases; none of them helps"


def test_radii_reach_the_voxels_they_are_made_for():
    from autoseg.postprocessing import shape_candidates

    holes, closing, opening = shape_candidates(LABELS, voxel=0.78125)
    assert [rule.closing for rule in closing if rule.target == "liver"] == [0.782, 1.57, 2.35]
    assert len(holes) == 3 and [rule.opening for rule in opening] == [rule.closing for rule in closing]


def test_rules_of_the_first_format_open_and_rules_on_shapes_survive_json():
    old = {"format": 1, "rules": [{"says": "", "target": "liver", "keep_largest": False, "drop_below": 5.0, "evidence": None}]}
    assert PostprocessingRules.from_json(old) == PostprocessingRules(rules=(Rule(target="liver", drop_below=5.0),))
    rules = PostprocessingRules(rules=tuple(RESHAPING))
    assert PostprocessingRules.from_json(json.loads(json.dumps(rules.to_json()))) == rules
    assert len({str(rule) for rule in RESHAPING}) == len(RESHAPING)
    for wrong in ({"closing": -1.0}, {"opening": 0.0}, {"fill_holes": True, "closing": 1.0}, {"fill_holes": False}):
        with pytest.raises(SettingsError, match="cannot be used"):
            PostprocessingRules.from_json({"format": 2, "rules": [{"target": "liver", **wrong}]})
    with pytest.raises(SettingsError, match="format 3"):
        PostprocessingRules.from_json({"format": 3, "rules": []})
