"""Photographs that are not one round disc in a frame: squeezed ones are made round, others refused
by name.
"""

import cv2
import numpy as np
import pytest
from fundus_drawing import Eye

from dr_lib.fundus import Disc, PreprocessParams, UngradablePhoto, preprocess, retina_disc
from dr_lib.fundus.scale import matrix
from dr_lib.fundus.squeeze import made_round

PARAMS = PreprocessParams(size=128)


def squeezed(aspect, **changes):
    """An eye 300 px wide, as high as the aspect says, in a frame that leaves a tenth around it."""
    height = 300 * aspect
    frame = {"height": round(1.1 * height), "width": 330}
    place = {"centre_y": frame["height"] / 2 + 3, "centre_x": 162.0}
    return Eye(**(frame | place | {"diameter": 300.0, "aspect": aspect} | changes))


@pytest.mark.parametrize("aspect", [0.7, 0.8, 1.2, 1.33, 1.5])
def test_a_squeezed_discs_centre_width_and_aspect_are_those_it_was_drawn_with(aspect):
    eye = squeezed(aspect)
    disc = retina_disc(eye.draw())
    assert disc.aspect == pytest.approx(aspect, rel=0.01)
    assert disc.diameter == pytest.approx(eye.diameter, rel=0.01)
    assert (disc.centre_y, disc.centre_x) == pytest.approx((eye.centre_y, eye.centre_x), abs=1.5)


def test_a_frame_of_three_by_two_squeezed_to_a_square_shows_sides_of_an_ellipse_alone():
    """The disc is cut at top and bottom, as by most cameras: two thirds of its height are seen."""
    eye = Eye(256, 256, 127.5, 127.5, 244.0, aspect=1.5)
    disc = retina_disc(eye.draw())
    assert disc.aspect == pytest.approx(1.5, rel=0.03)
    assert disc.diameter == pytest.approx(244, rel=0.01)


def test_a_round_disc_has_the_aspect_1_exactly_wherever_it_is_cut():
    for eye in (Eye(), Eye(height=420, centre_y=209.5), Eye(500, 500, 249.5, 249.5, 498.0)):
        assert retina_disc(eye.draw()).aspect == 1.0


@pytest.mark.parametrize("aspect", [0.75, 1.4])
def test_the_fundus_of_a_squeezed_photograph_is_that_of_the_round_one(aspect):
    """Both are drawn from one formula; what differs is what the squeeze sampled away."""
    there = preprocess(squeezed(aspect).draw(), PARAMS).astype(float)
    here = preprocess(squeezed(1.0).draw(), PARAMS).astype(float)
    assert np.abs(there - here).mean() < 4.0
    halves = np.corrcoef(there.ravel(), here.ravel())[0, 1]
    assert halves > 0.97


def test_a_place_in_the_fundus_leads_back_to_its_place_in_the_squeezed_photograph():
    """Output pixel 0 … 99 of a disc 200 wide and 300 high: 2 and 3 photograph pixels to one."""
    disc = Disc(149.5, 99.5, 200.0, aspect=1.5)
    back = matrix(disc, 100)
    assert (back @ [49.5, 49.5, 1]).tolist() == [99.5, 149.5]
    assert (back @ [0, 0, 1]).tolist() == [0.5, 1.0]
    assert disc.scaled(0.5).height == 150.0


def test_made_round_enlarges_the_shorter_axis_about_the_pixels_edges():
    picture = np.repeat(np.arange(0, 100, 10, dtype=np.uint8)[None], 4, axis=0)
    wide = made_round(picture, 2.0)
    assert wide.shape == (4, 20)
    # Column i of the wider one shows column (i + 1/2) / 2 - 1/2: tones rise by 5 a column.
    assert wide[0, 1:-1] == pytest.approx(5 * np.arange(1, 19) - 2.5, abs=0.51)
    assert made_round(picture, 0.5).shape == (8, 10)


@pytest.mark.parametrize("stacked", [np.hstack, np.vstack], ids=["side by side", "one above"])
@pytest.mark.parametrize("gap", [0, 40])
def test_two_eyes_in_one_picture_are_refused(stacked, gap):
    eyes = [Eye(420, 420, 209.5, 212.0, 400.0), Eye(420, 420, 205.0, 209.5, 380.0, angle=70)]
    photos = [np.pad(eye.draw(), ((gap // 2,) * 2, (gap // 2,) * 2, (0, 0))) for eye in eyes]
    with pytest.raises(UngradablePhoto) as error:
        retina_disc(stacked(photos))
    assert error.value.reason == "two_eyes"


def test_text_and_a_small_inset_beside_the_eye_are_not_a_second_eye():
    photo = Eye().draw()
    cv2.putText(photo, "OD 2019", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 4)
    cv2.circle(photo, (740, 60), 45, (200, 120, 60), cv2.FILLED)
    disc = retina_disc(photo)
    assert disc.diameter == pytest.approx(520, rel=0.01)


def wide_field(seed, tone):
    """As a scanning laser sees the retina: no blue, or mostly green; an oval 1.27 times as wide as
    high with lashes across its upper and lower edge.
    """
    rng = np.random.default_rng(seed)
    eye = Eye(614, 780, 306.5, 389.5, 740.0, tone=tone, aspect=0.79)
    photo = eye.draw()
    for _ in range(40):
        x, down = int(rng.integers(60, 720)), bool(rng.integers(2))
        start = (x, 614 if down else 0)
        end = (x + int(rng.integers(-60, 60)), 614 - 130 if down else 130)
        cv2.line(photo, start, end, (4, 4, 2), int(rng.integers(4, 14)))
    return photo


@pytest.mark.parametrize("bands", [60, 130])
def test_a_cut_disc_on_a_black_square_is_round_whatever_its_colours(bands):
    """As data sets are published: the camera cut the disc at top and bottom, and the frame was
    filled up to a square; equalised colours are not those of white light.
    """
    eye = Eye(380, 520, 189.5, 259.5, 500.0, tone=(140.0, 150.0, 150.0), texture=40.0)
    photo = eye.draw()
    assert photo[0].any()
    assert photo[-1].any()
    disc = retina_disc(np.pad(photo, ((bands, bands), (0, 0), (0, 0))))
    assert disc.aspect == 1.0
    assert disc.diameter == pytest.approx(500, rel=0.01)
    assert disc.centre_y == pytest.approx(189.5 + bands, abs=3)
    assert disc.confidence > 0.7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tone", [(150.0, 120.0, 0.0), (110.0, 140.0, 60.0)], ids=["two", "green"])
def test_a_wide_field_photograph_is_refused(seed, tone):
    with pytest.raises(UngradablePhoto) as error:
        preprocess(wide_field(seed, tone))
    assert error.value.reason == "wide_field"


def test_a_side_that_is_dark_is_not_taken_for_a_squeeze():
    """What is lit is bounded by the rim on one side and by the shadow's edge on the other."""
    photo = Eye(400, 400, 199.5, 199.5, 380.0).draw().astype(float)
    photo[:, :150] *= 0.03
    disc = retina_disc(np.rint(photo).astype(np.uint8))
    assert disc.aspect == 1.0
    assert disc.diameter == pytest.approx(380, rel=0.02)
