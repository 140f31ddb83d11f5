from types import SimpleNamespace

import pytest

from autoseg.labels import make_labels
from autoseg.planning.plan import mirroring


def fingerprint(pairs=()):
    """All of a fingerprint that matters here."""
    return SimpleNamespace(labels=make_labels({"background": 0, "left": 1, "right": 2}, pairs=pairs))


PAIRED = fingerprint(pairs=(("left", "right"),))


@pytest.mark.parametrize(
    ("wanted", "brief", "planar", "axes"),
    [
        ("all", True, False, (0, 1, 2)),
        ("auto", False, False, (0, 1, 2)),
        ("auto", True, False, (2,)),  # minutes of training: bodies are alike left and right, not upside down
        ("auto", True, True, (1, 2)),  # pictures have no anatomical axes
        ("left-right", False, False, (2,)),
        ("none", False, False, ()),
    ],
)
def test_axes_that_are_mirrored(wanted, brief, planar, axes):
    assert mirroring(fingerprint(), (0, 1, 2), planar=planar, wanted=wanted, brief=brief) == (axes, None)


def test_left_and_right_follow_the_axis_order_of_the_plan():
    assert mirroring(PAIRED, (2, 0, 1), planar=False, wanted="left-right") == ((0,), 0)
    assert mirroring(PAIRED, (2, 0, 1), planar=False, wanted="all") == ((0, 1, 2), 0)


def test_labels_are_swapped_only_where_their_axis_is_mirrored():
    assert mirroring(PAIRED, (0, 1, 2), planar=False, wanted="none") == ((), None)
    assert mirroring(PAIRED, (2, 0, 1), planar=True, wanted="all") == ((1, 2), None)  # left and right lie across the slices
