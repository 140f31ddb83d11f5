import pytest

from autoseg.labels import make_labels
from autoseg.planning.mirroring import Mirroring, choose_mirroring

VALUES = {"background": 0, "left": 1, "right": 2}
PLAIN, PAIRED = make_labels(VALUES), make_labels(VALUES, pairs=(("left", "right"),))


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
    assert choose_mirroring(PLAIN, (0, 1, 2), planar=planar, wanted=wanted, brief=brief) == Mirroring(axes=axes)


def test_left_and_right_follow_the_axis_order_of_the_plan():
    sided = Mirroring(axes=(0,), swap_axis=0, pairs=((1, 2),))
    assert choose_mirroring(PAIRED, (2, 0, 1), planar=False, wanted="left-right") == sided
    assert choose_mirroring(PAIRED, (2, 0, 1), planar=False, wanted="all") == Mirroring(axes=(0, 1, 2), swap_axis=0, pairs=((1, 2),))


@pytest.mark.parametrize(("order", "planar", "wanted", "axes"), [((0, 1, 2), False, "none", ()), ((2, 0, 1), True, "all", (1, 2))])
def test_labels_are_swapped_only_where_their_axis_is_mirrored(order, planar, wanted, axes):
    found = choose_mirroring(PAIRED, order, planar=planar, wanted=wanted)
    assert found.axes == axes and found.swap_axis is None


def test_a_patch_of_one_slice_is_not_flipped_along_it_nor_are_its_sides_exchanged():
    whole = Mirroring(axes=(0, 1, 2), swap_axis=0, pairs=((1, 2),))
    assert whole.within((8, 8, 8)) == whole and whole.passes == 8
    assert whole.within((1, 8, 8)) == Mirroring(axes=(1, 2), pairs=((1, 2),))
    assert whole.along((0, 2)).passes == 4 and whole.along(()).passes == 1
