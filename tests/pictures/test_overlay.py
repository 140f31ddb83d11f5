"""Pictures show what lies where, upright, and of the right proportions; they are looked at by people besides."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from autoseg.colours import COLOURS
from autoseg.geometry import Spacing
from autoseg.labels import Labels, make_labels
from autoseg.pictures import Overlay, overlays

pytestmark = pytest.mark.slow

LABELS = make_labels({"background": 0, "left": 1, "right": 2})
SPACING = (4.0, 1.0, 1.0)


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def coloured(picture: np.ndarray, number: int) -> np.ndarray:
    """Where a label's colour is mixed in, over black: the same ratios as the colour itself."""
    colour = np.array(to_rgb(COLOURS[number - 1]))
    strength = picture.max(axis=-1, keepdims=True)
    return (np.abs(picture / np.maximum(strength, 1e-6) - colour / colour.max()).max(axis=-1) < 0.06) & (strength[..., 0] > 0.25)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def overlay(image: np.ndarray, prediction: np.ndarray, reference: np.ndarray | None, labels: Labels, spacing: Spacing) -> bytes:
    return overlays([Overlay(title="", image=image, prediction=prediction, reference=reference, spacing=spacing)], labels)


def dark_case(**blocks: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """A black image with a bright frame around it, so that what is coloured keeps its colour."""
    classes = np.zeros((15, 60, 60), dtype=np.uint8)
    for name, place in blocks.items():
        classes[place] = LABELS.names.index(name)
    return np.zeros(classes.shape, dtype=np.int16), classes


def panel(picture: np.ndarray, column: int, columns: int = 4) -> np.ndarray:
    """One panel of a picture of one row: beside the panels are 2.55 inches, above them 0.5."""
    height, width = picture.shape[:2]
    inch = width / (columns * 2.76 + 2.55)
    return picture[round(0.5 * inch) :, round(column * 2.76 * inch) : round((column * 2.76 + 2.7) * inch)]


def test_left_is_on_the_viewers_right_anterior_and_superior_are_up():
    # canonical: low x is left, high y is anterior, high z is superior
    image, classes = dark_case(left=(slice(9, 12), slice(38, 48), slice(8, 20)), right=(slice(3, 6), slice(12, 22), slice(40, 52)))
    png = overlay(image, classes, None, LABELS, SPACING)
    for number, name in ((1, "left"), (2, "right")):
        for column, plane in ((1, "axial"), (2, "coronal"), (3, "sagittal")):
            view = coloured(panel(pixels(png), column), number)
            if not view[:, 3:-3].any():
                continue  # this plane was laid through the other structure
            top, bottom, first, last = box_of(view)
            upper = (top + bottom) / 2 < view.shape[0] / 2
            rightward = (first + last) / 2 > view.shape[1] / 2
            if plane == "axial":
                assert upper == rightward == (name == "left")
            elif plane == "coronal":
                assert upper == rightward == (name == "left")
            else:
                assert upper == (name == "left") and rightward == (name == "right"), "anterior on the viewer's left"
    assert coloured(panel(pixels(png), 1), 1).any() or coloured(panel(pixels(png), 1), 2).any()
    assert not coloured(panel(pixels(png), 0), 1).any(), "the first panel is the image alone"


def test_a_cube_is_square_in_every_plane_whatever_the_spacing():
    image, classes = dark_case(left=(slice(5, 10), slice(20, 40), slice(20, 40)))  # 20 mm along each axis
    picture = pixels(overlay(image, classes, None, LABELS, SPACING))
    sizes = []
    for column in (1, 2, 3):
        top, bottom, first, last = box_of(coloured(panel(picture, column), 1))
        assert bottom - top == pytest.approx(last - first, rel=0.05)
        sizes.append(bottom - top)
    assert min(sizes) > 50


def test_the_reference_is_a_line_where_it_differs():
    image, classes = dark_case(left=(slice(5, 10), slice(20, 40), slice(20, 40)))
    reference = np.zeros_like(classes)
    reference[5:10, 16:44, 16:44] = 1
    with_line = coloured(panel(pixels(overlay(image, classes, reference, LABELS, SPACING)), 1), 1)
    filled = coloured(panel(pixels(overlay(image, reference, reference, LABELS, SPACING)), 1), 1)
    top, bottom, first, last = box_of(with_line)
    assert bottom - top == pytest.approx(box_of(filled)[1] - box_of(filled)[0], rel=0.1), "the line goes around the reference"
    assert with_line.sum() < 0.85 * filled.sum(), "between prediction and reference nothing is filled"


def test_a_photograph_is_shown_as_it_is_stored():
    classes = np.zeros((1, 60, 60), dtype=np.uint8)
    classes[0, 5:10, 40:50] = 1
    classes[0, 45:55, 5:15] = 2
    for spacing, upper, rightward in (((1.0, 1.0, 1.0), True, True), ((5.0, 2.0, 2.0), False, False)):
        case = Overlay(title="", image=np.zeros((3, 1, 60, 60)), prediction=classes, spacing=spacing)
        view = coloured(panel(pixels(overlays([case], LABELS)), 1, columns=2), 1)
        top, bottom, first, last = box_of(view)
        assert ((top + bottom) / 2 < view.shape[0] / 2) == upper and ((first + last) / 2 > view.shape[1] / 2) == rightward


def test_the_slices_go_through_the_structures():
    image, classes = dark_case(left=(slice(12, 14), slice(50, 56), slice(3, 9)))
    picture = pixels(overlay(image, classes, classes, LABELS, SPACING))
    assert all(coloured(panel(picture, column), 1).any() for column in (1, 2, 3))


@pytest.mark.parametrize(
    ("image", "classes"),
    [
        (np.zeros((4, 30, 40)), np.zeros((4, 30, 40), dtype=np.uint8)),
        (np.random.default_rng(0).random((1, 90, 70)), np.pad(np.ones((1, 20, 20), dtype=np.uint8), ((0, 0), (30, 40), (30, 20)))),
        (np.random.default_rng(0).random((3, 1, 90, 70)), np.zeros((1, 90, 70), dtype=np.int16)),
        (np.random.default_rng(0).random((2, 6, 30, 20)), np.ones((6, 30, 20), dtype=np.int16)),
        (np.full((3, 8, 9), np.nan), np.ones((3, 8, 9), dtype=np.uint8)),
    ],
    ids=["nothing predicted", "planar", "planar in colours", "two channels", "not a number"],
)
def test_any_case_can_be_drawn(image, classes):
    for reference in (None, classes):
        assert pixels(
            overlays([Overlay(title="", image=image, prediction=classes, reference=reference, spacing=(2.0, 1.0, 1.0))], LABELS, dpi=50)
        ).size


def test_many_labels_and_regions_can_be_drawn():
    many = make_labels({"background": 0} | {f"structure number {i} with a long name": i for i in range(1, 30)})
    classes = (np.arange(6 * 20 * 20).reshape(6, 20, 20) // 41 % 30).astype(np.uint8)
    regions = make_labels({"background": 0, "a": 1, "b": 2}, regions={"all": ((1, 2), 1), "b": ((2,), 2)}, ignore=7)
    case = Overlay(title="a", image=classes.astype(float), prediction=classes, reference=classes, spacing=SPACING)
    assert pixels(overlays([case], many, dpi=40)).size
    small = classes % 3
    reference = np.where(classes > 27, 3, small).astype(np.uint8)
    assert pixels(overlay(classes.astype(float), small, reference, regions, SPACING)).size
