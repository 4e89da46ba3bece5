"""Places on the retina: the disc's area, angles by hand, and that mirrored eyes agree."""

import numpy as np
import pytest

from dr_lib.fundus import PreprocessParams, preprocess
from dr_lib.fundus.anatomy import anatomy, place_of, visible_disc
from dr_lib.vocabulary import QUADRANTS
from tests.unit.fundus_drawing import Eye

CENTRE = 127.5  # of 256 px


def test_the_visible_disc_ends_at_nine_tenths_of_the_radius():
    inside = visible_disc(256, crop=0.1)
    assert inside.sum() == pytest.approx(np.pi * (0.9 * 128) ** 2, rel=2e-3)  # a circle on a grid
    row = np.flatnonzero(inside[128])
    # At half a pixel from the middle line the half-chord is √(115.2² − 0.5²) = 115.199: columns
    # 127.5 ± 114.5.
    assert (row.min(), row.max()) == (13, 242)
    assert (visible_disc(255, crop=0.1)[::-1, ::-1] == visible_disc(255, crop=0.1)).all()


@pytest.mark.parametrize("size", [64, 255, 256])
def test_the_default_crop_gives_the_disc_of_nine_tenths_to_the_bit(size):
    place = anatomy(size, "right", crop=PreprocessParams().crop)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    radius = np.hypot((size - 1) / 2 - y, x - (size - 1) / 2) / (0.9 * size / 2)
    assert place.radius_share.tobytes() == radius.tobytes()
    assert np.array_equal(place.inside, radius <= 1.0)
    assert np.array_equal(place.ring, np.minimum((radius * 3).astype(np.int8), 2))


@pytest.mark.parametrize("crop", [0.0, 0.1, 0.25, 0.6])
def test_the_visible_disc_is_what_preprocessing_leaves(crop):
    eye = Eye(height=300, width=340, centre_y=149.5, centre_x=169.5, diameter=280.0, texture=30)
    fundus = preprocess(eye.draw(), PreprocessParams(size=128, crop=crop))
    shown = (fundus != 128).any(axis=2)
    inside = visible_disc(128, crop=crop)
    assert not shown[~inside].any()
    # Half-gray by chance, and at crop 0 the retina's own soft edge.
    assert shown[inside].mean() > (0.97 if crop else 0.9)


def test_rings_stay_the_outermost_far_outside_a_small_disc():
    assert anatomy(256, "right", crop=0.99).ring[0, 0] == 2
    assert place_of(0, 0, 256, "right", crop=0.99)["ring"] == 2


@pytest.mark.parametrize(
    ("dy", "dx", "right", "left"),
    [
        (0, 10, 0, 180),
        (-10, 0, 90, 90),
        (0, -10, 180, 0),
        (10, 0, 270, 270),
        (-10, 10, 45, 135),
        (10, -10, 225, 315),
    ],
)
def test_angles_count_from_nasal_over_superior_and_left_eyes_are_mirrored(dy, dx, right, left):
    """y grows downward; the optic disc is on the right of a right eye's photograph."""
    for eye, expected in (("right", right), ("left", left)):
        place = place_of(CENTRE + dy, CENTRE + dx, 256, eye, crop=0.1)
        assert place["angle_deg"] == pytest.approx(expected, abs=1e-9)
        assert place["radius_share"] == pytest.approx(np.hypot(dy, dx) / 115.2, rel=1e-9)


def test_quadrants_by_corner_of_a_right_eye():
    corners = {
        (60, 60): "superior_temporal",
        (60, 200): "superior_nasal",
        (200, 60): "inferior_temporal",
        (200, 200): "inferior_nasal",
    }
    for (y, x), name in corners.items():
        assert QUADRANTS[anatomy(256, "right", crop=0.1).quadrant[y, x]] == name
        assert place_of(y, x, 256, "right", crop=0.1)["quadrant"] == name
        mirrored = name.replace("temporal", "?").replace("nasal", "temporal").replace("?", "nasal")
        assert QUADRANTS[anatomy(256, "left", crop=0.1).quadrant[y, x]] == mirrored


@pytest.mark.parametrize("size", [33, 128])
def test_a_left_eye_is_a_right_eye_mirrored_and_points_agree_with_pixels(size):
    left, right = anatomy(size, "left", crop=0.1), anatomy(size, "right", crop=0.1)
    np.testing.assert_array_equal(left.angle_deg, right.angle_deg[:, ::-1])
    np.testing.assert_array_equal(left.quadrant, right.quadrant[:, ::-1])
    np.testing.assert_array_equal(left.ring, right.ring)
    for y, x in ((3, 5), (size // 2, size - 4), (size - 2, 7)):
        place = place_of(y, x, size, "left", crop=0.1)
        assert place["radius_share"] == pytest.approx(left.radius_share[y, x], abs=1e-11)
        assert place["angle_deg"] == left.angle_deg[y, x]
        assert place["ring"] == left.ring[y, x]
        assert place["quadrant"] == QUADRANTS[left.quadrant[y, x]]


def test_shared_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        anatomy(64, "right", crop=0.1).ring[0, 0] = 7
