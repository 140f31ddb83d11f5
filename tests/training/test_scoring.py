from types import SimpleNamespace

from autoseg.training import scoring
from autoseg.training.length import RunLength
from autoseg.training.process_group import SINGLE_PROCESS
from autoseg.training.task import Progress
from tests.training.made import make_case, make_plan


def test_the_validation_subset_is_fixed_and_spread_over_the_names():
    chosen = scoring.validation_subset([make_case(f"c{i:02d}", (4, 4, 4)) for i in reversed(range(40))], 5)
    assert [case.name for case in chosen] == ["c00", "c10", "c20", "c29", "c39"]
    assert len(scoring.validation_subset([make_case(name, (4, 4, 4)) for name in "fedcba"], 100)) == 6


def test_a_run_that_goes_on_with_another_subset_scores_that_one():
    configuration = make_plan()[1]
    cases = [make_case(name, (4, 4, 4)) for name in "abcd"]
    task = SimpleNamespace(validation_cases=cases, configuration=configuration, final_passes=1, processes=SINGLE_PROCESS)
    clock, progress, seen = SimpleNamespace(now=lambda: 10.0), Progress(scored=["z"], length=RunLength(time_budget=60.0)), []

    def validate(network, some):
        seen.append([case.name for case in some])
        return 0.5

    settings = SimpleNamespace(validation_share=0.03, validation_cases=2)
    trainer = SimpleNamespace(averaged=SimpleNamespace(eval=lambda: None, train=lambda: None))
    scorer = scoring.Scorer(task=task, settings=settings, validate=validate, clock=clock, say=print)
    assert scorer.is_due(progress) and scorer.score(trainer, progress) == {"validation_dice": 0.5}
    assert seen == [["a"], ["a", "d"]] and progress.scored == ["a", "d"]
