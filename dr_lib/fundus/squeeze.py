"""Photographs that were squeezed along one axis: the retina's disc is an ellipse in them.

Data sets are published as squares of 256 or 512 px, whatever the camera's frame was. `aspect` is
the disc's height over its width; enlarging the shorter axis by it makes the disc round again, and
the circle is then looked for as in any photograph.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped

from dr_lib.fundus.rim import (
    TOLERANCE,
    Circle,
    Points,
    away,
    fit_circle,
    nearest_fall,
    refined,
    share_off,
)

ASPECTS = np.geomspace(0.55, 1.8, 25)  # tried, 5 % apart: what lies between is fitted
PASSES = 3


class Ellipse(NamedTuple):
    """An upright ellipse: its `aspect` (height over width), its circle in the picture made round,
    the rim's points (y, x) that it was found in, and the share of them that does not lie on it.
    """

    aspect: float
    circle: Circle
    points: Points
    off: float

    def in_photo(self) -> tuple[float, float, float]:
        """Its centre (y, x) and width in pixels of the squeezed picture."""
        y, x = _carried(self.circle[:2], self.aspect, 1.0)
        return y, x, 2 * self.circle.radius / growth(self.aspect)[1]


def growth(aspect: float) -> tuple[float, float]:
    """The factors (rows, columns) by which a squeezed picture is enlarged to be round.

    >>> growth(1.5), growth(0.5)
    ((1.0, 1.5), (2.0, 1.0))
    """
    return max(1 / aspect, 1.0), max(aspect, 1.0)


def made_round(
    picture: Shaped[np.ndarray, "y x"], aspect: float
) -> Shaped[np.ndarray, "round_y round_x"]:
    """The picture with its shorter axis enlarged by exactly the aspect."""
    grow_y, grow_x = growth(aspect)
    back = np.array([[1 / grow_x, 0, 0.5 / grow_x - 0.5], [0, 1 / grow_y, 0.5 / grow_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        picture,
        back,
        _round_shape(picture, aspect)[::-1],
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    )


def fit_round(tone: Shaped[np.ndarray, "y x"], points: Points, contrast: float) -> Ellipse | None:
    """The circle that most of the rim's points lie on, moved onto the steepest fall of tone (at
    least this contrast), or None.
    """
    circle = fit_circle(points, tone.shape)
    if circle is None:
        return None
    found = refined(tone, circle, contrast)
    return Ellipse(1.0, found, points, share_off(points, found))


def fit_ellipse(tone: Shaped[np.ndarray, "y x"], points: Points, contrast: float) -> Ellipse | None:
    """The upright ellipse that most of the rim's points lie on, or None.

    Each aspect of a grid makes the points round, and a circle is fitted to them; the best one's
    aspect is then fitted with its circle to the steepest fall of tone.
    """
    best, best_share = None, 0.0
    for aspect in ASPECTS:
        grown = _carried(points, 1.0, aspect)
        circle = fit_circle(grown, _round_shape(tone, aspect))
        if circle is None:
            continue
        share = float(np.maximum(0, 1 - away(grown, circle) / (2 * TOLERANCE * circle[2])).mean())
        if share > best_share:
            best, best_share = (float(aspect), circle), share
    if best is None:
        return None
    aspect, circle = best
    for _ in range(PASSES):
        picture = made_round(tone, aspect)
        found = refined(picture, circle, contrast)
        change = _aspect_of(*nearest_fall(picture, found, contrast))
        if change is None or not ASPECTS[0] <= aspect * change <= ASPECTS[-1]:
            break
        circle = _rescaled(found, aspect, aspect * change)
        aspect *= change
    found = refined(made_round(tone, aspect), circle, contrast)
    return Ellipse(aspect, found, points, share_off(_carried(points, 1.0, aspect), found))


def _round_shape(picture, aspect):
    return tuple(
        round(side * grow) for side, grow in zip(picture.shape, growth(aspect), strict=True)
    )


def _carried(places, aspect, other):
    """Places (y, x) of the picture made round by one aspect, in the one made round by another; by
    1 it is as it was.
    """
    return tuple(
        (place + 0.5) / before * after - 0.5
        for place, before, after in zip(places, growth(aspect), growth(other), strict=True)
    )


def _rescaled(circle: Circle, aspect: float, other: float) -> tuple[float, float, float]:
    """The circle in the picture made round by another aspect."""
    (old_y, old_x), (new_y, new_x) = growth(aspect), growth(other)
    y, x = _carried(circle[:2], aspect, other)
    return y, x, circle.radius * float(np.sqrt(new_y / old_y * new_x / old_x))


def _aspect_of(y: np.ndarray, x: np.ndarray) -> float | None:
    """Height over width of the upright ellipse x²·α + y² + β·x + γ·y + δ = 0 through the points,
    or None where they do not say.
    """
    if len(y) < 16:
        return None
    v, u = y - y.mean(), x - x.mean()
    scale = float(np.hypot(v, u).max())
    v, u = v / scale, u / scale
    design = np.stack([u * u, u, v, np.ones_like(u)], axis=1)
    alpha = float(np.linalg.lstsq(design, -v * v, rcond=None)[0][0])
    return float(np.sqrt(alpha)) if alpha > 0 else None
