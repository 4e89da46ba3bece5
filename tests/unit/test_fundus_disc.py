"""The retina's disc is found where it was drawn, whatever hides part of it."""

import numpy as np
import pytest
from fundus_drawing import Eye
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_lib.fundus import Disc, UngradablePhoto, preprocess, retina_disc


def off_by(disc: Disc, eye: Eye) -> float:
    """The largest error of centre and diameter, as a fraction of the diameter."""
    errors = (
        disc.centre_y - eye.centre_y,
        disc.centre_x - eye.centre_x,
        disc.diameter - eye.diameter,
    )
    return max(map(abs, errors)) / eye.diameter


@settings(max_examples=25, deadline=None)
@given(
    diameter=st.floats(200, 900),
    shift_y=st.floats(-0.12, 0.12),
    shift_x=st.floats(-0.2, 0.2),
    tall=st.floats(0.75, 1.2),
    border=st.floats(0, 25),
)
def test_a_drawn_disc_is_found_to_half_a_percent_of_its_diameter_also_when_cut_at_top_and_bottom(
    diameter, shift_y, shift_x, tall, border
):
    height, width = int(tall * diameter), int(1.5 * diameter)
    eye = Eye(
        height,
        width,
        height / 2 + shift_y * diameter,
        width / 2 + shift_x * diameter,
        diameter,
        border=border,
    )
    disc = retina_disc(eye.draw())
    # The rim is traced on a copy at least 220 px wide, to a third of its pixel.
    assert off_by(disc, eye) < 0.005
    assert disc.confidence > 0.85


@pytest.mark.parametrize("height", [300, 420, 900])
def test_the_frames_height_does_not_enter_the_diameter(height):
    eye = Eye(height=height, centre_y=height / 2)
    assert off_by(retina_disc(eye.draw()), eye) < 0.005


def test_noise_in_retina_and_border_moves_the_disc_by_less_than_a_percent():
    noise = np.random.default_rng(1).normal(0, 10, (600, 800, 3))
    eye = Eye(border=12)
    noisy = np.clip(eye.draw() + noise, 0, 255).astype(np.uint8)
    assert off_by(retina_disc(noisy), eye) < 0.01


def test_a_dark_quarter_shortens_the_middle_line_but_not_the_disc():
    eye = Eye()
    photo = eye.draw()
    photo[280:, 400:] //= 60
    assert off_by(retina_disc(photo), eye) < 0.01


def test_text_and_a_notch_in_the_frame_are_no_rim():
    eye = Eye()
    photo = eye.draw()
    photo[20:32, 30:120:3] = 255  # text in a corner
    photo[110:150, 560:610] = photo[300, 400]  # a notch that sticks out of the rim
    assert off_by(retina_disc(photo), eye) < 0.005


def test_with_only_the_upper_two_fifths_lit_the_disc_is_found_and_less_trusted():
    eye = Eye()
    photo = eye.draw()
    photo[260:] = 0
    disc = retina_disc(photo)
    assert off_by(disc, eye) < 0.02
    assert disc.confidence < 0.6


def test_glow_around_the_rim_is_not_the_retina():
    eye = Eye()
    halo = Eye(diameter=590, tone=(40.0, 30.0, 30.0), texture=0, shade=0).draw()
    assert off_by(retina_disc(np.maximum(eye.draw(), halo)), eye) < 0.01


def test_a_nearly_black_eye_is_found():
    eye = Eye(tone=(7.0, 5.0, 3.0), texture=0)
    assert off_by(retina_disc(eye.draw()), eye) < 0.01


def test_the_disc_of_a_twice_as_large_photograph_is_twice_the_disc():
    small, large = Eye(), Eye(1200, 1600, 599.5, 799.5, 1040)
    assert off_by(retina_disc(small.draw()).scaled(2), large) < 0.005


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (np.zeros((300, 400, 3), np.uint8), "no_retina"),
        (np.full((300, 400, 3), 140, np.uint8), "no_retina"),
        (np.random.default_rng(0).integers(100, 160, (300, 400, 3)).astype(np.uint8), "no_border"),
        (np.full((300, 400, 3), 255, np.uint8) - Eye(300, 400, 150, 200, 260).draw(), "no_retina"),
    ],
    ids=["black", "one tone", "noise without a border", "a negative"],
)
def test_what_shows_no_bright_disc_on_a_dark_border_is_refused_by_name(photo, reason):
    with pytest.raises(UngradablePhoto) as error:
        retina_disc(photo)
    assert error.value.reason == reason


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (17, 23)])
def test_even_the_smallest_frames_of_noise_are_refused_or_not_trusted(shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    with pytest.raises(UngradablePhoto):
        preprocess(photo)
