import json
from dataclasses import replace

import pytest

from autoseg import presets
from autoseg.training.schedule import learning_rate
from autoseg.training.settings import read_settings

REFERENCE = read_settings(presets.planner("nnunet").values["training"]).schedule


def test_poly_schedule_equals_the_reference(golden):
    given = json.loads((golden / "golden-numerics.json").read_text())["poly_lr"]
    for epoch, rate in given.items():
        assert learning_rate(int(epoch) / 1000, top=0.01, settings=REFERENCE) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_rate_rises_during_the_warm_up_then_falls_to_its_final_share(name):
    settings = replace(REFERENCE, name=name, warm_up=0.1, final=0.05)
    rates = [learning_rate(i / 1000, top=2.0, settings=settings) for i in range(1001)]
    assert rates[50] == pytest.approx(1.0) and rates[100] == pytest.approx(2.0) and rates[-1] == pytest.approx(0.1)
    assert rates[:101] == sorted(rates[:101]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[0] < 0.02


def test_constant_schedule_stays_at_the_top():
    settings = replace(REFERENCE, name="constant", warm_up=0.0)
    assert {learning_rate(i / 10, top=0.3, settings=settings) for i in range(11)} == {0.3}
