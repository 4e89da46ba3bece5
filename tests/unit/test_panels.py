"""Panels, Hinton diagrams and bars: every pixel is as it was given, every word is there."""

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from dr_lib.drawing import figures, plots
from dr_lib.drawing.figures import Panel
from dr_lib.drawing.panels import OUTSIDE, Grid, hinton, pixels, placard, probability_bars, sheet

GRAY = np.full((64, 64, 3), 128, np.uint8)


def places(drawn: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Where the picture is in the drawing, to the pixel; fails where it is nowhere."""
    # Where it fits best it fits exactly (the search itself is in float32).
    at = int(cv2.matchTemplate(drawn, picture, cv2.TM_SQDIFF).argmin())
    y, x = divmod(at, drawn.shape[1] - picture.shape[1] + 1)
    np.testing.assert_array_equal(
        drawn[y : y + picture.shape[0], x : x + picture.shape[1]], picture
    )
    return y, x


def test_a_sheet_holds_its_panels_unchanged_in_both_formats_and_its_words():
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(5)]
    panels = [
        Panel(image, f"panel {number}", "a $note$ < 1") for number, image in enumerate(images)
    ]
    drawn = plots.rendered(sheet(Grid(panels, "10_left")), themed=False)
    page = cv2.imdecode(np.frombuffer(drawn.png, np.uint8), 1)[..., ::-1]
    assert page.shape[:2] == (drawn.height, drawn.width)
    found = [places(np.ascontiguousarray(page), image) for image in images]
    assert len({y for y, _ in found[:4]}) == 1
    assert found[4][0] > found[0][0] + 64, "the fifth of four columns is in the next row"
    assert found[4][1] == found[0][1]
    document = ET.fromstring(drawn.svg)
    words = {
        "".join(node.itertext()).strip()
        for node in document.iter("{http://www.w3.org/2000/svg}text")
    }
    assert words >= {"10_left", "panel 0", "panel 4"}
    assert sum("note" in text for text in words) == 1
    assert drawn.svg.count(b"data:image/png;base64") == 5
    assert drawn == plots.rendered(sheet(Grid(panels, "10_left")), themed=False), (
        "same input, same bytes"
    )


def test_grids_stand_one_below_the_other_and_what_is_missing_is_left_out():
    one, two = (
        pixels(sheet(*grids))
        for grids in (
            [Grid([Panel(GRAY)])],
            [Grid([Panel(GRAY), Panel(None)]), Grid([Panel(GRAY)])],
        )
    )
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] == 2 * one.shape[0]


def test_no_word_leaves_its_panel():
    long, short = Panel(GRAY, "W" * 100, "W" * 100), Panel(GRAY)
    drawn = pixels(sheet(Grid([long, short])))
    assert (drawn[:, : drawn.shape[1] // 2] < 100).any()
    _, x = places(np.ascontiguousarray(drawn[:, 80:]), GRAY)
    assert (drawn[:, 80 + x - 2 :].min(axis=(0, 2)) >= 128).all(), (
        "the left panel's words end before the right panel"
    )


def test_hinton_squares_have_an_area_in_proportion_and_the_signs_colour():
    drawn = hinton(np.array([4.0, -1.0, 0.0, np.nan]), scale=4.0, cell_px=22)
    full, quarter = drawn[:22, :22], drawn[:22, 22:]
    green, red = figures.PALETTES["green-red"]
    assert (full == green).all(-1).sum() == 20 * 20
    assert (quarter == red).all(-1).sum() == 10 * 10
    assert (drawn[22:] == figures.HALF_GRAY).all()
    # Centred: as much rim on the left as on the right.
    columns = np.flatnonzero((quarter == red).all(-1).any(0))
    assert (columns[0], 21 - columns[-1]) == (6, 6)


def test_a_row_of_units_becomes_a_square_diagram_and_none_are_an_empty_one():
    assert hinton(np.ones(10), scale=1.0, cell_px=8).shape == (3 * 8, 4 * 8, 3)
    assert (hinton(np.zeros(0), scale=1.0, cell_px=8) == figures.HALF_GRAY).all()


def test_bars_are_as_long_as_the_probabilities():
    def length(after: float) -> int:
        drawn = probability_bars(np.zeros(5), np.array([after, 0.0, 0, 0, 0]), 250)
        ink = (
            np.abs(drawn.astype(int) - [int(plots.INK[at : at + 2], 16) for at in (1, 3, 5)]) < 3
        ).all(-1)[:50, 105:]
        return max(
            int(row.argmin()) for row in ink
        )  # ink without a gap: the number comes after one

    full, half = length(1.0), length(0.5)
    assert full == pytest.approx(0.42 * 250, abs=2)
    assert half == pytest.approx(full / 2, abs=2)
    probability_bars(
        np.full(5, np.nan), np.full(5, 0.2)
    )  # a failed eye's are not numbers, and still there is a picture


def test_a_placard_says_something_about_any_words():
    for words in (
        "No retina",
        "A reason that is longer than the square is wide, and $cannot$ be told",
        "",
    ):
        drawn = placard(words, 120)
        assert drawn.shape == (120, 120, 3)
        assert bool((drawn != OUTSIDE).any()) == bool(words)
