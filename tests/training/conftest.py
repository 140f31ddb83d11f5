import pytest

from tests.training.made import make_case


@pytest.fixture
def cases():
    shapes = [(9, 15, 11), (10, 13, 14), (7, 16, 12), (12, 12, 9), (10, 14, 10), (11, 17, 13)]
    return [make_case(f"case{i}", shape, seed=i) for i, shape in enumerate(shapes)]
