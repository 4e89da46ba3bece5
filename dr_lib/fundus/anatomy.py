"""Where a pixel of a fundus lies on the retina: inside the disc, how far out, in which quadrant and
ring.

A fundus of `size` pixels has its disc centred at ((size − 1) / 2, (size − 1) / 2) with radius R =
size / 2; what lies beyond (1 − crop) R has been cropped to half-gray (METHOD §1.5), so the
*visible* disc ends there and radii are shares of it. `crop` is always that of the fundus in
question (`PreprocessParams.crop`): a default here would be a second truth.

Angles are anatomical: 0° nasal, 90° superior, 180° temporal, 270° inferior. The optic disc lies on
the nasal side: on the right of a right eye's photograph, on the left of a left eye's. A left eye is
mirrored before its angles are measured, so equal angles mean equal anatomy. Photographs taken
through an inverting lens are not recognised here.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int8

from dr_lib.vocabulary import QUADRANTS

Eye = Literal["left", "right"]

RINGS = 3


@dataclass(frozen=True)
class Anatomy:
    """Per pixel of one eye's fundus: visible disc, radius share, angle, quadrant and ring."""

    eye: Eye
    inside: Bool[np.ndarray, "y x"]
    radius_share: Float64[
        np.ndarray, "y x"
    ]  # 0 centre … 1 edge of the visible disc, beyond 1 outside it
    angle_deg: Float64[np.ndarray, "y x"]  # [0, 360)
    quadrant: Int8[np.ndarray, "y x"]  # index into QUADRANTS
    ring: Int8[np.ndarray, "y x"]  # 0 inner … RINGS - 1 outer

    @property
    def area_px(self) -> int:
        """Pixels in the visible disc."""
        return int(self.inside.sum())


def place_of(
    y_px: float | int, x_px: float | int, size: int, eye: Eye, *, crop: float
) -> dict[str, Any]:
    """Where a point of an eye's fundus lies, named as the columns of `lesion_regions`:
    radius_share, angle_deg, quadrant and ring (the outermost takes everything beyond).

    The nasal edge of a right eye's visible disc, and the same place, temporal in a left eye:

    >>> place_of(63.5, 121.1, 128, "right", crop=0.1)
    {'radius_share': 1.0, 'angle_deg': 0.0, 'quadrant': 'superior_nasal', 'ring': 2}
    >>> place_of(63.5, 121.1, 128, "left", crop=0.1)
    {'radius_share': 1.0, 'angle_deg': 180.0, 'quadrant': 'inferior_temporal', 'ring': 2}
    """
    radius, angle = _polar(np.float64(y_px), np.float64(x_px), size, eye, crop)
    share = float(np.round(radius, 12))
    return {
        "radius_share": share,
        "angle_deg": float(angle),
        "quadrant": QUADRANTS[int(_quadrant(angle))],
        "ring": min(int(share * RINGS), RINGS - 1),
    }


@lru_cache(maxsize=8)
def anatomy(size: int, eye: Eye, *, crop: float) -> Anatomy:
    """The anatomy of every pixel of a `size`-pixel fundus; computed once per size, eye and crop,
    read-only.
    """
    y, x = np.mgrid[:size, :size].astype(np.float64)
    radius, angle = _polar(y, x, size, eye, crop)
    rings = np.minimum(radius * RINGS, RINGS - 1).astype(np.int8)
    arrays = radius <= 1.0, radius, angle, _quadrant(angle).astype(np.int8), rings
    for array in arrays:
        # shared by every caller: a stray write would move the anatomy for all
        array.setflags(write=False)
    return Anatomy(eye, *arrays)


def visible_disc(size: int, *, crop: float) -> Bool[np.ndarray, "y x"]:
    """True where a fundus of `size` pixels shows retina; the same for both eyes."""
    return anatomy(size, "right", crop=crop).inside


def _polar(y, x, size: int, eye: Eye, crop: float):
    centre = (size - 1) / 2
    right = x - centre if eye == "right" else centre - x
    up = centre - y
    radius = np.hypot(up, right) / ((1 - crop) * size / 2)
    return radius, np.degrees(np.arctan2(up, right)) % 360.0


def _quadrant(angle_deg):
    superior = angle_deg < 180.0
    nasal = (angle_deg < 90.0) | (angle_deg >= 270.0)
    return np.where(superior, 0, 2) + nasal
