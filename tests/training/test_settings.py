import dataclasses
from typing import get_args, get_type_hints

import pytest

from autoseg import presets, schema
from autoseg.errors import SettingsError
from autoseg.training.settings import TrainingSettings, read_settings

VALUES = presets.planner("default").values["training"]


@pytest.mark.parametrize("name", presets.planner_names())
def test_every_planner_states_every_setting(name):
    preset = presets.planner(name)
    assert read_settings(preset.values["training"]) == read_settings(preset.documented["training"])


def test_a_dotted_name_changes_one_setting_and_texts_are_read_as_the_kind_they_replace():
    changed = read_settings(
        VALUES, {"optimizer.learning_rate": "0.125", "loss.class_weights": "[1, 2.5]", "epochs": 7, "optimizer.name": "sgd"}
    )
    assert changed.optimizer.learning_rate == 0.125 and changed.loss.class_weights == (1.0, 2.5)
    assert changed.epochs == 7 and changed.optimizer.name == "sgd"
    assert read_settings(VALUES).optimizer.learning_rate != 0.125


@pytest.mark.parametrize(
    ("name", "near"),
    [("optimizer.lerning_rate", "optimizer.learning_rate"), ("augmentation.mirrors", "augmentation.mirror"), ("epoch", "epochs")],
)
def test_an_unknown_name_is_refused_and_the_nearest_known_one_offered(name, near):
    with pytest.raises(SettingsError) as caught:
        read_settings(VALUES, {name: 1})
    assert name in str(caught.value) and near in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("epochs", 2.5),
        ("optimizer.nesterov", "perhaps"),
        ("augmentation.gamma_range", "[1]"),
        ("optimizer.name", 3),
        ("ema", True),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        read_settings(VALUES, {name: value})


def leaves(of=TrainingSettings, prefix=""):
    """Every setting by its dotted name with its kind."""
    hints = get_type_hints(of, include_extras=True)
    for name, kind in zip(schema.names(of), hints.values(), strict=True):
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def limited(kind) -> bool:
    """Whether every number has a limit."""
    of = get_args(kind)
    if hasattr(kind, "__metadata__") and any(getattr(part, "metadata", ()) for part in of[1:]):
        return True
    inner = [part for part in of if hasattr(part, "__metadata__") or get_args(part)]
    return bool(inner) and all(map(limited, inner))


def test_the_names_that_may_stand_are_those_of_the_default_planner_and_every_number_has_limits():
    documented = presets.planner("default").documented["training"]
    for name, kind in leaves():
        *tables, last = name.split(".")
        leaf = documented[tables[0]][last] if tables else documented[last]
        names = get_args(kind)[1].names if get_args(kind)[:1] == (str,) else get_args(kind)
        assert list(names) == leaf["choices"] if "choices" in leaf else kind is bool or limited(kind), name


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("optimizer.name", "sdg", "sgd"),
        ("schedule.name", "cosin", "cosine"),
        ("loss.pixel", "crossentropy", "cross_entropy"),
        ("loss.overlap", "Dice", "dice"),
        ("augmentation.backend", "monai", "batchgenerators"),
        ("augmentation.labels", "cubic", "linear"),
        ("augmentation.mirror_axes", "left", "left-right"),
        ("foreground_rounding", "down", "up"),
        ("precision", "fp16", "float16"),
        ("compile", "of", "off"),
    ],
)
def test_an_unknown_choice_is_refused_and_those_known_are_offered(name, value, near):
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings(VALUES, {name: value})
    assert f'"{value}"' in str(caught.value) and near in str(caught.value)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("foreground", 5, 1),
        ("foreground", -0.1, 0),
        ("ema", 1, 0.9999),
        ("ema", 2, 0),
        ("epochs", 0, 1),
        ("steps_per_epoch", 0, 1),
        ("steps_per_epoch", -1, 1),
        ("skip_limit", 0, 1),
        ("probe_steps", -1, 0),
        ("memory_share", 1.5, 0.9),
        ("optimizer.learning_rate", -0.1, 0.0),
        ("optimizer.learning_rate", float("nan"), 1),
        ("optimizer.learning_rate", float("inf"), 1),
        ("optimizer.momentum", 1.0, 0.5),
        ("schedule.warm_up", 1.1, 1.0),
        ("loss.top_k", 0, 1),
        ("loss.class_weights", [1, -1], [1, 0]),
        ("loss.class_weights", ["a"], []),
        ("augmentation.mirror", 1.01, 1.0),
        ("augmentation.blur_sigma", [0, 1], [0.1, 1]),
        ("augmentation.scaling_range", [1.4, 0.7], [0.7, 0.7]),
        ("augmentation.scaling_range", ["a", "b"], [0.7, 1.4]),
        ("augmentation.low_resolution_range", [0.5, 1.5], [0.5, 1]),
        ("cascade.drop_below", -1, 0),
    ],
)
def test_a_number_beyond_its_limits_is_refused(name, bad, good):
    read_settings(VALUES, {name: good})
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings(VALUES, {name: bad})
    assert caught.value.found.startswith(name) and " instead of " in caught.value.found


def test_nesterov_without_momentum_is_refused_for_sgd_alone():
    read_settings(VALUES, {"optimizer.momentum": 0})
    with pytest.raises(SettingsError, match="nesterov"):
        read_settings(VALUES, {"optimizer.name": "sgd", "optimizer.momentum": 0})
    read_settings(VALUES, {"optimizer.name": "sgd", "optimizer.momentum": 0, "optimizer.nesterov": False})


def test_a_table_with_a_key_too_many_or_too_few_is_refused():
    with pytest.raises(SettingsError, match="epochz"):
        read_settings({**VALUES, "epochz": 3})
    with pytest.raises(SettingsError, match="epochs: is missing"):
        read_settings({name: value for name, value in VALUES.items() if name != "epochs"})
