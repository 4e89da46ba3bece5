"""Contact sheets: the circle is where the disc is, words stay within their tile, and a picture
stays within its bytes.
"""

import cv2
import numpy as np
import pytest

from dr_lib.drawing import sheets
from dr_lib.drawing.panels import OUTSIDE


def circle_of(picture: np.ndarray) -> tuple[float, float, float]:
    """Centre (y, x) and diameter of the drawn line, from the pixels that have its colour."""
    y, x = np.nonzero((picture == sheets.DISC).all(axis=-1))
    return (y.min() + y.max()) / 2, (x.min() + x.max()) / 2, float(x.max() - x.min())


def test_the_circle_lies_on_the_disc():
    photo = np.zeros((200, 300, 3), np.uint8)
    drawn = sheets.circled(photo, 90.0, 140.0, 120.0)
    assert drawn.shape == (300, 300, 3)
    # 300 − 200 rows are added, half of them above; the line is two pixels wide.
    assert circle_of(drawn) == pytest.approx((90 + 50, 140, 120), abs=2)


def test_a_circle_that_leaves_the_frame_is_drawn_whole_beyond_it():
    photo = np.full((100, 200, 3), 90, np.uint8)
    drawn = sheets.circled(photo, 50.0, 100.0, 180.0)
    assert drawn.shape == (200, 200, 3)
    assert circle_of(drawn)[2] == pytest.approx(180, abs=2)
    frame = drawn[50:150]
    untouched = (drawn == sheets.DISC).all(axis=-1)[50:150]
    assert (frame[cv2.dilate(untouched.astype(np.uint8), np.ones((7, 7))) == 0] == 90).all(), (
        "the photograph is in its place"
    )
    assert (drawn[0, 0] == OUTSIDE).all()


@pytest.mark.parametrize("centre", [(-500.0, 20.0), (50.0, 900.0)])
def test_a_disc_far_from_the_photograph_shows_as_such(centre):
    drawn = sheets.circled(np.full((100, 100, 3), 90, np.uint8), *centre, 80.0)
    assert drawn.shape[0] == drawn.shape[1] > 500
    assert (drawn == 90).all(axis=-1).sum() == 100 * 100


def test_a_sheet_wraps_and_shows_each_pair_and_its_words():
    fundus = np.full((10, 10, 3), (10, 200, 30), np.uint8)
    pair = sheets.BeforeAfter(
        "10_left",
        np.zeros((20, 30, 3), np.uint8),
        fundus,
        ("score 0.11: dark", "redness"),
        (9.0, 14.0, 12.0, 1.0),
    )
    three, four = (sheets.before_after_sheet([pair] * count) for count in (3, 4))
    assert three.shape[1] == four.shape[1] > 3 * 2 * sheets.PAIR_PX
    assert four.shape[0] > three.shape[0] + sheets.PAIR_PX
    assert (four == fundus[0, 0]).all(-1).sum() == 4 * sheets.PAIR_PX**2
    assert (four == sheets.DISC).all(-1).any()


def test_what_is_set_aside_is_a_photograph_or_a_placard():
    photo = np.full((30, 40, 3), (10, 200, 30), np.uint8)
    shown = [
        sheets.SetAside("7_left", "Empty file", "0 bytes, " * 20),
        sheets.SetAside("8_left", "No retina", "", photo),
    ]
    drawn = sheets.set_aside_sheet(shown)
    assert (drawn == photo[0, 0]).all(-1).sum() == sheets.ASIDE_PX * round(sheets.ASIDE_PX * 3 / 4)
    assert (drawn == OUTSIDE).all(-1).sum() > sheets.ASIDE_PX**2 / 2


def test_a_picture_is_made_as_small_as_asked_even_if_it_is_noise():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    plain = np.full((400, 400, 3), 90, np.uint8)
    assert len(sheets.small_jpeg(noise, 30_000)) <= 30_000
    assert cv2.imdecode(np.frombuffer(sheets.small_jpeg(plain, 30_000), np.uint8), 1).shape == (
        400,
        400,
        3,
    )
