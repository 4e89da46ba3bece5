"""The panels of a triptych: signs, levels and bars drawn are those given."""

import numpy as np
import pytest

from dr_lib.drawing.figures import HALF_GRAY, INK, OPACITY, PALETTES
from dr_lib.drawing.triptych import probability_bars, signed_difference

SIDE = 64
GRAY = np.full((SIDE, SIDE, 3), HALF_GRAY, np.uint8)


def test_brighter_is_green_darker_is_red_and_what_stays_is_gray():
    changed = GRAY.copy()
    changed[3, 4] += 4
    changed[3, 5] -= 4
    changed[9, 9] += np.uint8([4, 2, 0])  # the mean counts
    picture, levels = signed_difference(GRAY, changed)
    assert levels == pytest.approx(4, abs=0.05)
    for place, colour in (((3, 4), PALETTES["green-red"][0]), ((3, 5), PALETTES["green-red"][1])):
        expected = HALF_GRAY + OPACITY * (np.array(colour) - HALF_GRAY)
        np.testing.assert_allclose(picture[place], expected, atol=1.5)
    assert picture[0, 0].tolist() == [HALF_GRAY] * 3
    halfway = picture[9, 9].astype(int) - HALF_GRAY
    assert 0 < halfway[1] < picture[3, 4][1] - HALF_GRAY


def test_less_than_a_level_is_not_blown_up_to_full_colour_and_nothing_is_nothing():
    assert signed_difference(GRAY, GRAY)[1] == 1.0
    assert (signed_difference(GRAY, GRAY)[0] == HALF_GRAY).all()
    faint = GRAY.copy()
    faint[..., 0] += 1  # a third of a level on the mean
    picture, levels = signed_difference(GRAY, faint)
    assert levels == 1.0
    assert (
        abs(int(picture[0, 0][1]) - HALF_GRAY)
        < OPACITY * (PALETTES["green-red"][0][1] - HALF_GRAY) / 2
    )


def test_bars_are_as_long_as_the_probabilities():
    size, left = 250, round(0.42 * 250)

    def length(after: float) -> int:
        drawn = probability_bars(np.zeros(5), np.array([after, 0.0, 0, 0, 0]), size)[
            : size // 5, left:
        ]
        return max(
            int(row.argmin()) for row in (drawn == INK).all(-1)
        )  # ink without a gap: the number comes after one

    full, half = length(1.0), length(0.5)
    assert full == pytest.approx(round(0.84 * size) - left, abs=2)
    assert half == pytest.approx(full / 2, abs=2)
    probability_bars(
        np.full(5, np.nan), np.full(5, 0.2)
    )  # a failed eye's are not numbers, and still there is a picture
