"""The outline of a region in its photograph's own pixels: the way back from the fundus' geometry.

Outlines run between pixels (the level ½ of the region's mask), and are carried through the affine
map by which preprocessing placed the photograph, squeezed ones too. Coordinates are those of
labelling tools: x to the right and y down, in pixels from the photograph's top left corner, so that
a pixel's centre lies at a half.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from dr_lib.fundus import Disc
from dr_lib.fundus.scale import matrix

DECIMALS = 2


@dataclass(frozen=True)
class Outline:
    """A polygon (corner, (x, y)) in a photograph, closed from its last corner to its first, without
    holes; at least three corners.
    """

    polygon: Float64[np.ndarray, "corner 2"]

    @property
    def area_px(self) -> float:
        """Its area in px² of the photograph."""
        x, y = self.polygon.T
        return round(float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2), DECIMALS)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, width, height) of its bounding box."""
        left, top = (float(v) for v in self.polygon.min(axis=0))
        right, bottom = (float(v) for v in self.polygon.max(axis=0))
        return left, top, round(right - left, DECIMALS), round(bottom - top, DECIMALS)


def outline(
    region: Bool[np.ndarray, "y x"], disc: Disc, photo_shape: tuple[int, int]
) -> Outline | None:
    """The outer outline of a connected region of a fundus, on its photograph.

    Parameters
    ----------
    region
        Pixels of the fundus that belong together, over corners too; holes are filled.
    disc
        Of the photograph, as preprocessing found it.
    photo_shape
        The photograph's height and width, px; the outline ends at its edges.

    Returns
    -------
    Outline or None
        None where nothing of the region lies in the photograph.
    """
    from skimage.measure import find_contours

    padded = np.pad(region, 1).astype(np.float64)
    contours = find_contours(padded, 0.5, fully_connected="high")
    outer = max(contours, key=lambda line: np.prod(np.ptp(line, axis=0)))
    y, x = outer[:-1].T - 1
    (scale_x, _, left), (_, scale_y, top) = matrix(disc, len(region))
    corners = np.stack([scale_x * x + left + 0.5, scale_y * y + top + 0.5], axis=1)
    height, width = photo_shape
    corners = np.round(np.clip(corners, 0, (width, height)), DECIMALS) + 0.0  # no negative zero
    corners = corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)]
    found = Outline(corners)
    return found if len(corners) >= 3 and found.area_px > 0 else None
