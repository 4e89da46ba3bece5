"""Places on the retina: the disc's area, angles by hand, and that mirrored eyes agree."""

import numpy as np
import pytest

from dr_lib.fundus.anatomy import anatomy, polar, quadrant_of, ring_of, visible_disc
from dr_lib.vocabulary import QUADRANTS

CENTRE = 127.5  # of 256 px


def test_the_visible_disc_ends_at_nine_tenths_of_the_radius():
    inside = visible_disc(256)
    assert inside.sum() == pytest.approx(np.pi * (0.9 * 128) ** 2, rel=2e-3)  # a circle on a grid
    row = np.flatnonzero(inside[128])
    # At half a pixel from the middle line the half-chord is √(115.2² − 0.5²) = 115.199: columns
    # 127.5 ± 114.5.
    assert (row.min(), row.max()) == (13, 242)
    assert (visible_disc(255)[::-1, ::-1] == visible_disc(255)).all()


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
        radius, angle = polar(CENTRE + dy, CENTRE + dx, 256, eye)
        assert angle == pytest.approx(expected, abs=1e-9)
        assert radius == pytest.approx(np.hypot(dy, dx) / 115.2, rel=1e-9)


def test_quadrants_by_corner_of_a_right_eye():
    corners = {
        (60, 60): "superior_temporal",
        (60, 200): "superior_nasal",
        (200, 60): "inferior_temporal",
        (200, 200): "inferior_nasal",
    }
    for (y, x), name in corners.items():
        assert QUADRANTS[anatomy(256, "right").quadrant[y, x]] == name
        assert quadrant_of(polar(y, x, 256, "right")[1]) == name
        mirrored = name.replace("temporal", "?").replace("nasal", "temporal").replace("?", "nasal")
        assert QUADRANTS[anatomy(256, "left").quadrant[y, x]] == mirrored


@pytest.mark.parametrize("size", [33, 128])
def test_a_left_eye_is_a_right_eye_mirrored_and_points_agree_with_pixels(size):
    left, right = anatomy(size, "left"), anatomy(size, "right")
    np.testing.assert_array_equal(left.angle_deg, right.angle_deg[:, ::-1])
    np.testing.assert_array_equal(left.quadrant, right.quadrant[:, ::-1])
    np.testing.assert_array_equal(left.ring, right.ring)
    for y, x in ((3, 5), (size // 2, size - 4), (size - 2, 7)):
        radius, angle = polar(y, x, size, "left")
        assert radius == pytest.approx(left.radius_share[y, x], abs=1e-11)
        assert angle == left.angle_deg[y, x]
        assert ring_of(radius) == left.ring[y, x]
        assert quadrant_of(angle) == QUADRANTS[left.quadrant[y, x]]


def test_shared_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        anatomy(64, "right").ring[0, 0] = 7
