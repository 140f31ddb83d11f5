from autoseg.training import scoring
from tests.training.made import make_case


def test_the_validation_subset_is_fixed_and_spread_over_the_names():
    chosen = scoring.validation_subset([make_case(f"c{i:02d}", (4, 4, 4)) for i in reversed(range(40))], 5)
    assert [case.name for case in chosen] == ["c00", "c10", "c20", "c29", "c39"]
    assert len(scoring.validation_subset([make_case(name, (4, 4, 4)) for name in "fedcba"], 100)) == 6
