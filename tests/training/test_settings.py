import pytest

from autoseg import presets
from autoseg.errors import SettingsError
from autoseg.training.settings import read_settings

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


def test_a_table_with_a_key_too_many_or_too_few_is_refused():
    with pytest.raises(SettingsError, match="epochz"):
        read_settings({**VALUES, "epochz": 3})
    with pytest.raises(SettingsError, match="plan lacks the training setting 'epochs'"):
        read_settings({name: value for name, value in VALUES.items() if name != "epochs"})
