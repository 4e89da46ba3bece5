"""The normalised fundus follows its formula, and does not depend on how the eye was
photographed.
"""

import cv2
import numpy as np
import pytest
from fundus_drawing import Eye
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_lib.fundus import (
    Disc,
    PreprocessParams,
    UngradablePhoto,
    normalise,
    preprocess,
    retina_disc,
)
from dr_lib.fundus.scale import across, scaled
from dr_lib.fundus.tone import evened
from dr_lib.localisation import lesion_share

KEPT = across(256) <= 0.9


def apart(one: np.ndarray, other: np.ndarray, where: np.ndarray = KEPT) -> float:
    """The mean absolute difference in grey levels of two fundi where retina is kept."""
    return float(np.abs(one.astype(int) - other)[where].mean())


def encoded(pixels: np.ndarray, suffix: str = ".jpg", quality: int = 97) -> bytes:
    return cv2.imencode(
        suffix, pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    )[1].tobytes()


def test_the_cropped_rim_and_all_beyond_are_exactly_half_gray():
    fundus = preprocess(Eye().draw())
    assert fundus.shape == (256, 256, 3)
    assert fundus.dtype == np.uint8
    assert (fundus[~KEPT] == 128).all()
    assert (fundus[KEPT] != 128).mean() > 0.9


def test_an_even_retina_becomes_exactly_half_gray_without_a_ring_at_the_rim():
    # The local mean of a constant is that constant: any trace of the black border in it would show
    # as a bright ring.
    fundus = preprocess(Eye(texture=0, shade=0).draw())
    assert np.abs(fundus.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_cut_through_a_slope_of_tone_leaves_no_line(turned):
    # A straight slope is its own local mean, on both sides of a point; next to a cut only if the
    # one-sided mean is put right.
    height, width, diameter = 400, 800, 520.0
    y, x = np.mgrid[:height, :width].astype(np.float32)
    inside = np.hypot(y - 199.5, x - 399.5) <= diameter / 2
    photo = np.where(inside, 60 + 0.3 * y, 0)[..., None].repeat(3, axis=2)
    photo = np.rint(photo).astype(np.uint8)
    fundus = preprocess(photo.transpose(1, 0, 2).copy() if turned else photo)
    rows = fundus.transpose(1, 0, 2) if turned else fundus
    seen = slice(round(128 - 400 / 520 * 128) + 1, round(128 + 400 / 520 * 128) - 1)
    # 0.3 levels a pixel are 0.6 in the output; uncorrected, the edge row would be off by 4 · 0.6 ·
    # 0.8 · 4.27 = 8 levels.
    assert np.abs(rows[seen, 100:156].astype(int) - 128).max() <= 4
    assert (rows[: seen.start - 2] == 128).all()
    assert (rows[seen.stop + 2 :] == 128).all()


def test_a_cut_that_fades_to_black_within_the_frame_leaves_no_band():
    eye = Eye(texture=0, shade=0)
    fade = np.clip((500 - np.arange(600)) / 40, 0, 1)[
        :, None, None
    ]  # black from row 500, the disc would end at 559
    fundus = preprocess((eye.draw() * fade).astype(np.uint8))
    assert (
        np.abs(fundus.astype(int) - 128).max() <= 8
    )  # an untreated fade leaves bands that saturate at 0 and 255
    assert (
        apart(
            preprocess(eye.but(texture=12.0).draw()),
            preprocess((eye.but(texture=12.0).draw() * fade).astype(np.uint8)),
            KEPT & (np.arange(256) < 190)[:, None],
        )
        < 0.5
    )


def test_a_wave_keeps_the_height_that_the_formula_gives_it():
    # A wave of angular frequency k passes a Gaussian of variance s² at exp(−k²s²/2): first the
    # low-pass (σ 0.5 px), then it loses what the local mean (σ = 128/30 px) keeps, and is
    # multiplied by 4.
    diameter, height, waves = 1024.0, 8.0, 24  # 24 waves across the disc: one in 10.7 output pixels
    y, x = np.mgrid[:1100, :1100].astype(np.float64)
    u = (x - 549.5) / diameter
    photo = np.where(
        np.hypot(y - 549.5, x - 549.5) <= diameter / 2,
        120 + height * np.cos(2 * np.pi * waves * u),
        0,
    )
    small = scaled(
        np.rint(photo)[..., None].repeat(3, axis=2).astype(np.uint8),
        Disc(549.5, 549.5, diameter),
        PreprocessParams(),
    )
    fundus = evened(small, PreprocessParams())
    k = 2 * np.pi * waves / 256
    expected = (
        4 * height * np.exp(-(k**2) * 0.5**2 / 2) * (1 - np.exp(-(k**2) * (128 / 30) ** 2 / 2))
    )
    across_middle = fundus[120:136, 60:196].astype(float).mean(axis=(0, 2)) - 128
    phase = 2 * np.pi * waves * (np.arange(60, 196) - 127.5) / 256
    measured = 2 * (across_middle * np.cos(phase)).mean()
    assert measured == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("size", [64, 128, 256, 300])
def test_the_retina_fills_the_output_at_every_size(size):
    fundus = preprocess(Eye().draw(), PreprocessParams(size=size))
    assert fundus.shape == (size, size, 3)
    changed = (fundus != 128).any(axis=2)
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows[0] == pytest.approx(0.05 * size, abs=2)
    assert rows[-1] == pytest.approx(0.95 * size, abs=2)


BASE = preprocess(Eye().draw())


@settings(max_examples=8, deadline=None)
@given(
    top=st.integers(0, 200),
    bottom=st.integers(0, 200),
    left=st.integers(0, 300),
    right=st.integers(0, 300),
)
def test_padding_with_black_changes_nothing_to_speak_of(top, bottom, left, right):
    padded = np.pad(Eye().draw(), ((top, bottom), (left, right), (0, 0)))
    # The disc is found anew, a few thousandths of its diameter off at most; the waves then lie that
    # much apart.
    assert apart(preprocess(padded), BASE) < 1.5


@settings(max_examples=8, deadline=None)
@given(factor=st.floats(0.6, 2.0))
def test_resizing_changes_nothing_to_speak_of(factor):
    eye = Eye(
        round(600 * factor),
        round(800 * factor),
        300 * factor - 0.5,
        400 * factor - 0.5,
        520 * factor,
    )
    # From 312 px on; shrinking by less than the low-pass asks for leaves a little more of the
    # finest wave.
    assert apart(preprocess(eye.draw()), BASE) < 2.0


@settings(max_examples=8, deadline=None)
@given(angle=st.floats(-180, 180))
def test_turning_the_camera_turns_the_fundus(angle):
    turned = preprocess(Eye(angle=angle).draw())
    back = cv2.warpAffine(
        turned, cv2.getRotationMatrix2D((127.5, 127.5), angle, 1), (256, 256), flags=cv2.INTER_CUBIC
    )
    # Turning back samples the fundus once more, which costs the finest waves about a tenth of their
    # height.
    assert apart(back, BASE, across(256) < 0.87) < 2.5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_turn_the_fundus(turns):
    assert apart(np.rot90(preprocess(np.rot90(Eye().draw(), turns).copy()), -turns), BASE) < 1.0


def test_a_mirrored_eye_gives_the_mirrored_fundus():
    assert apart(preprocess(Eye().draw()[:, ::-1].copy())[:, ::-1], BASE) < 1.0


@settings(max_examples=8, deadline=None)
@given(lift=st.integers(-20, 40), border=st.integers(0, 20))
def test_a_lighter_or_darker_tone_and_border_change_nothing_to_speak_of(lift, border):
    eye = Eye()
    inside = eye.but(texture=0, shade=0, tone=(255.0,) * 3).draw()[..., :1] / 255
    photo = eye.draw() + lift * inside + border * (1 - inside)
    assert apart(preprocess(np.clip(np.rint(photo), 0, 255).astype(np.uint8)), BASE) < 1.5


def test_exchanged_colours_exchange_the_fundus_colours_exactly():
    assert np.array_equal(preprocess(Eye().draw()[..., ::-1].copy()), BASE[..., ::-1])


def test_twice_the_exposure_gives_twice_the_contrast():
    dim = Eye(tone=(90.0, 55.0, 30.0), texture=12.0).draw()  # texture is in proportion to the tone
    contrast = (BASE.astype(int) - 128)[KEPT].std() / (preprocess(dim).astype(int) - 128)[
        KEPT
    ].std()
    assert contrast == pytest.approx(2, rel=0.05)


def test_reduced_decoding_differs_from_the_full_size_by_less_than_a_grey_level():
    photo = Eye(2220, 2300, 1109.5, 1149.5, 2160.0).draw()
    data = encoded(photo)
    ours = normalise(data)
    full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].copy()
    assert ours.reduction == 4
    assert apart(ours.pixels, preprocess(full)) < 1.0
    assert ours.disc.diameter == pytest.approx(2160, rel=0.003)
    assert ours.disc.centre_x == pytest.approx(1149.5, abs=4)


@pytest.mark.parametrize(
    ("diameter", "reduction"),
    [(500, 1), (1000, 1), (1100, 2)],
)
def test_the_reduction_is_the_largest_that_leaves_the_retina_twice_the_output(diameter, reduction):
    side = round(diameter / 0.95)
    eye = Eye(side, side, (side - 1) / 2, (side - 1) / 2, float(diameter))
    assert normalise(encoded(eye.draw())).reduction == reduction


def test_a_small_retina_in_a_large_frame_is_decoded_again_with_less_reduction():
    eye = Eye(1300, 1300, 600.0, 650.0, 800.0)
    found = normalise(encoded(eye.draw()))
    assert found.reduction == 1
    assert found.disc.diameter == pytest.approx(800, rel=0.005)


def test_a_lossless_file_and_its_pixels_give_the_same_fundus():
    photo = Eye().draw()
    assert np.array_equal(normalise(encoded(photo, ".png")).pixels, preprocess(photo))


def test_a_disc_trusted_less_than_asked_for_is_refused():
    photo = Eye().draw()
    photo[260:] = 0
    assert preprocess(photo).shape == (256, 256, 3)
    with pytest.raises(UngradablePhoto) as error:
        preprocess(photo, PreprocessParams(min_confidence=0.7))
    assert error.value.reason == "no_retina"


def test_a_masks_lesion_lies_on_the_photographs_lesion():
    eye = Eye(texture=0, shade=0)
    photo = eye.draw()
    mask = cv2.circle(np.zeros(photo.shape[:2], np.uint8), (480, 220), 14, 1, -1) > 0
    photo[mask] //= 2
    lesion = lesion_share(mask, retina_disc(photo), PreprocessParams()) > 0.5
    dark = preprocess(photo)[..., 0] < 100
    assert (lesion & dark).sum() / (lesion | dark).sum() > 0.8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 0}, r"^size must be"),
        ({"crop": 1.0}, r"^crop must be"),
        ({"tone_sigma": 0.0}, r"^tone_sigma must be"),
        ({"low_pass_sigma": -1.0}, r"^low_pass_sigma must be"),
        ({"quality_threshold": 2.0}, r"^quality_threshold must be"),
        ({"max_megapixels": 1e4}, r"^max_megapixels must be"),
        ({"min_side_px": 0}, r"^min_side_px must be"),
        ({"min_confidence": 1.5}, r"^min_confidence must be"),
        ({"tone_gain": 0.0}, r"^tone_gain must be"),
    ],
)
def test_an_impossible_setting_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        PreprocessParams(**change)
