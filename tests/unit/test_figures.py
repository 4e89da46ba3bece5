"""Pictures: what a pixel's colour must be, by hand."""

import cv2
import numpy as np
import pytest

from dr_lib.drawing import figures

GRAY = np.full((16, 16, 3), 128, np.uint8)


def sparse(**places):
    values = np.zeros((16, 16), np.float32)
    for at, value in places.items():
        y, x = map(int, at.strip("p").split("_"))
        values[y, x] = value
    return values


def test_a_pixel_at_the_scale_takes_the_palettes_colour_but_for_the_last_five_percent():
    drawn = figures.overlay(GRAY, sparse(p2_3=2.0, p4_5=-2.0), scale=2.0, radius_px=0)
    ground = round(128 * figures.DARKENED)
    for (y, x), colour in zip([(2, 3), (4, 5)], figures.PALETTES["green-red"], strict=True):
        expected = [round(0.05 * ground + 0.95 * channel) for channel in colour]
        assert np.abs(drawn[y, x].astype(int) - expected).max() <= 1  # two roundings


def test_positive_is_greener_negative_is_redder_and_zero_is_the_ground_itself():
    fundus = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    drawn = figures.overlay(fundus, sparse(p2_3=1e-6, p4_5=-1e-6), radius_px=0).astype(int)
    red, green, blue = np.moveaxis(drawn, -1, 0)
    assert green[2, 3] > red[2, 3] + 100
    assert red[4, 5] > green[4, 5] + 100
    untouched = np.ones((16, 16), bool)
    untouched[2, 3] = untouched[4, 5] = False
    luminance = cv2.cvtColor(fundus, cv2.COLOR_RGB2GRAY)
    expected = np.rint(luminance * figures.DARKENED)
    for channel in (red, green, blue):
        np.testing.assert_array_equal(channel[untouched], expected[untouched])


def test_strength_below_the_scale_follows_the_power_law():
    drawn = figures.overlay(GRAY, sparse(p2_3=0.5), scale=1.0, background="gray", radius_px=0)
    opacity = 0.95 * 0.5**0.7
    expected = 128 + opacity * (np.array(figures.PALETTES["green-red"][0]) - 128)
    assert np.abs(drawn[2, 3] - expected).max() <= 0.5


def test_a_map_of_a_softmax_outcome_looks_the_same_at_a_millionth_of_its_size():
    values = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    large, small = (
        figures.overlay(GRAY, (values * unit).astype(np.float32)) for unit in (1.0, 1e-7)
    )
    assert np.abs(large.astype(int) - small).max() <= 1


def test_one_outlier_does_not_darken_the_map():
    values = np.full((100, 100), 1.0)
    values[0, 0] = 1e6
    assert figures.robust_scale(values) == 1.0


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_a_map_without_numbers_is_drawn_as_the_ground(values):
    assert figures.robust_scale(values) == 1.0
    drawn = figures.overlay(GRAY[:4, :4], values.astype(np.float32))
    np.testing.assert_array_equal(
        drawn, np.full((4, 4, 3), round(128 * figures.DARKENED), np.uint8)
    )


def test_a_region_of_one_pixel_shows_on_several():
    drawn = figures.overlay(
        np.full((64, 64, 3), 128, np.uint8), np.eye(1, 64 * 64, 2080).reshape(64, 64)
    )
    greener = drawn[..., 1].astype(int) > drawn[..., 0].astype(int) + 40
    assert 5 <= greener.sum() <= 60
    assert greener[32, 32]


def test_smoothing_keeps_the_sum_of_an_inner_region():
    values = sparse(p8_8=3.0)
    np.testing.assert_allclose(
        figures.smooth(values, 1.2).sum(), 3.0, rtol=1e-5
    )  # float32, and the kernel's cut tail


def test_the_matrix_recolours_a_drawing_as_if_it_had_been_drawn_so(monkeypatch):
    rng = np.random.default_rng(2)
    fundus = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    values = rng.normal(size=(32, 32)).astype(np.float32)
    drawn, matrix = figures.overlay(fundus, values), figures.recolouring()
    monkeypatch.setitem(figures.PALETTES, "green-red", figures.PALETTES["blue-orange"])
    wanted = figures.overlay(fundus, values)
    recoloured = np.clip(np.rint(drawn @ matrix.T), 0, 255)
    # Rounding the source by half a level costs at most the matrix's absolute row sum times that,
    # and half a level more.
    assert np.abs(recoloured - wanted).max() <= 0.5 * np.abs(matrix).sum(1).max() + 1


def test_fitting_keeps_the_aspect_and_centres():
    wide = np.full((10, 40, 3), 255, np.uint8)
    fitted = figures.fitted(wide, 80)
    assert (fitted[30:50] == 255).all()
    assert (fitted[:30] == 0).all()
    assert (fitted[50:] == 0).all()


def test_png_gives_back_every_pixel_and_jpeg_nearly():
    picture = cv2.GaussianBlur(
        np.random.default_rng(4).integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 4
    )
    read = [
        cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]
        for data in (figures.png(picture), figures.jpeg(picture))
    ]
    np.testing.assert_array_equal(read[0], picture)
    assert np.abs(read[1].astype(int) - picture).mean() < 4


def test_brighter_is_green_darker_is_red_and_what_stays_is_gray():
    plain = np.full((64, 64, 3), figures.HALF_GRAY, np.uint8)
    changed = plain.copy()
    changed[3, 4] += 4
    changed[3, 5] -= 4
    changed[9, 9] += np.uint8([4, 2, 0])  # the mean counts
    picture, levels = figures.signed_difference(plain, changed)
    assert levels == pytest.approx(4, abs=0.05)
    for place, colour in (
        ((3, 4), figures.PALETTES["green-red"][0]),
        ((3, 5), figures.PALETTES["green-red"][1]),
    ):
        expected = figures.HALF_GRAY + figures.OPACITY * (np.array(colour) - figures.HALF_GRAY)
        np.testing.assert_allclose(picture[place], expected, atol=1.5)
    assert picture[0, 0].tolist() == [figures.HALF_GRAY] * 3
    halfway = picture[9, 9].astype(int) - figures.HALF_GRAY
    assert 0 < halfway[1] < picture[3, 4][1] - figures.HALF_GRAY


def test_less_than_a_level_is_not_blown_up_to_full_colour_and_nothing_is_nothing():
    plain = np.full((64, 64, 3), figures.HALF_GRAY, np.uint8)
    assert figures.signed_difference(plain, plain)[1] == 1.0
    assert (figures.signed_difference(plain, plain)[0] == figures.HALF_GRAY).all()
    faint = plain.copy()
    faint[..., 0] += 1  # a third of a level on the mean
    picture, levels = figures.signed_difference(plain, faint)
    assert levels == 1.0
    assert (
        abs(int(picture[0, 0][1]) - figures.HALF_GRAY)
        < figures.OPACITY * (figures.PALETTES["green-red"][0][1] - figures.HALF_GRAY) / 2
    )
