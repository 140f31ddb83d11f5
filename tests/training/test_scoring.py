from types import SimpleNamespace

from autoseg.training import scoring
from autoseg.training.schedule import Budget
from autoseg.training.task import Progress
from tests.training.made import make_case, make_plan


def test_the_validation_subset_is_fixed_and_spread_over_the_names():
    chosen = scoring.validation_subset([make_case(f"c{i:02d}", (4, 4, 4)) for i in reversed(range(40))], 5)
    assert [case.name for case in chosen] == ["c00", "c10", "c20", "c29", "c39"]
    assert len(scoring.validation_subset([make_case(name, (4, 4, 4)) for name in "fedcba"], 100)) == 6


def test_a_run_that_goes_on_with_another_subset_scores_that_one():
    configuration = make_plan()[1]
    task = SimpleNamespace(validation_cases=[make_case(name, (4, 4, 4)) for name in "abcd"], configuration=configuration, final_passes=1)
    clock, progress, seen = SimpleNamespace(now=lambda: 10.0), Progress(scored=["z"]), []

    def validate(network, some):
        seen.append([case.name for case in some])
        return 0.5

    settings = SimpleNamespace(validation_share=0.03)
    learner = SimpleNamespace(averaged=SimpleNamespace(eval=lambda: None, train=lambda: None))
    subset = task.validation_cases[:2]
    row = scoring.score_subset(validate, learner, subset, task, settings, Budget(seconds=60.0), progress, clock, print)
    assert seen == [["a"], ["a", "b"]] and row == {"validation_dice": 0.5} and progress.scored == ["a", "b"]
