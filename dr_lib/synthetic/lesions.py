"""Lesions: which an eye of a given stage has, and where.

Stages follow the international clinical scale (Wilkinson et al., Ophthalmology 110 (2003)
1677–1682): 0 no lesion; 1 microaneurysms only; 2 more than that; 3 at least `SEVERE_PER_QUADRANT`
haemorrhages in each of the four quadrants; 4 new vessels or a preretinal haemorrhage, whatever else
there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dr_lib.synthetic.anatomy import Landmarks, Vessel
from dr_lib.vocabulary import QUADRANTS, LesionType, Quadrant

# RGB of each lesion type in a mask, the first five as in IDRiD's; all else is black.
MASK_COLOURS: dict[str, tuple[int, int, int]] = {
    "microaneurysm": (255, 255, 255),
    "haemorrhage": (255, 0, 0),
    "hard_exudate": (0, 0, 255),
    "soft_exudate": (0, 255, 0),
    "new_vessels": (255, 0, 255),
    "preretinal_haemorrhage": (0, 255, 255),
    "optic_disc": (255, 255, 0),
}

# Haemorrhages in each of the four quadrants that make an eye severe. The scale says more than 20 in
# each; it counts over the whole retina, of which one 45° photograph shows about a quarter.
SEVERE_PER_QUADRANT = 5


@dataclass(frozen=True)
class Spot:
    """A lesion in the retina's own coordinates (see `anatomy`): of a hard exudate a cluster of
    specks, of new vessels a tangle.
    """

    kind: LesionType
    x: float
    y: float
    radius: float


def spots_of_stage(
    stage: int,
    rng: np.random.Generator,
    marks: Landmarks,
    vessels: Sequence[Vessel],
    *,
    top: float,
    bottom: float,
) -> list[Spot]:
    """Draws the lesions of an eye of the given stage, all with their centres in view.

    Centres stay within 0.86 of the radius: preprocessing crops the outer tenth (METHOD §1.5), and a
    lesion that makes the stage must not be lost there.

    Parameters
    ----------
    stage: 0 to 4. rng: its stream of random numbers.
    top, bottom: the first and last visible y (a camera may cut the disc).
    """
    if stage == 0:
        return []
    ground = _Ground(rng, marks, vessels, top, bottom)
    dots = (0.0105, 0.016)
    if stage == 1:
        ground.add("microaneurysm", (3, 13), dots)
        return ground.spots
    if stage == 4:
        sign = rng.random()  # new vessels, a preretinal haemorrhage, or both
        if sign < 0.75:
            if rng.random() < 0.5:  # on the disc
                radius = marks.disc_radius * rng.uniform(0.75, 1.1)
                y = marks.disc_y + rng.uniform(-0.05, 0.05)
                ground.put(Spot("new_vessels", marks.disc_x * 0.96, y, radius))
            ground.add("new_vessels", (1, 5), (0.1, 0.19), near=ground.arcades)
        if sign > 0.5:
            ground.add("preretinal_haemorrhage", (1, 2), (0.13, 0.25))
    # A proliferative eye's background lies between that of a moderate and that of a severe eye.
    severe = stage == 3 or (stage == 4 and rng.random() < 0.3)
    if severe:
        for quadrant in QUADRANTS:
            ground.add("haemorrhage", (SEVERE_PER_QUADRANT + 1, 12), (0.013, 0.036), quadrant)
        ground.add("microaneurysm", (10, 26), dots)
    else:
        # A moderate eye has at most 10, so that one quadrant always has fewer than five and the eye
        # cannot be severe.
        ground.add("haemorrhage", (2, 11) if stage == 2 else (8, 20), (0.014, 0.04))
        ground.add("microaneurysm", (4, 19), dots)
    if rng.random() < 0.65:
        ground.add("hard_exudate", (1, 6), (0.04, 0.13), near=ground.fovea)
    if rng.random() < (0.65 if severe else 0.35):
        ground.add("soft_exudate", (1, 5), (0.028, 0.055), near=ground.arcades)
    return ground.spots


class _Ground:
    """Where lesions may lie: a pool of points off disc and fovea, which lesions take one by one.

    `crowds`, `fovea` and `arcades` are weights of the points, large near what they are named for.
    """

    _CELLS = 256

    def __init__(
        self,
        rng: np.random.Generator,
        marks: Landmarks,
        vessels: Sequence[Vessel],
        top: float,
        bottom: float,
    ) -> None:
        self.rng, self.top, self.bottom = rng, top, bottom
        self.spots: list[Spot] = []
        radius, angle = 0.86 * np.sqrt(rng.random(3000)), rng.uniform(0, 2 * np.pi, 3000)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        seen = (y > top + 0.06) & (y < bottom - 0.06) & (marks.from_fovea(x, y) > 0.07)
        seen &= np.hypot(x - marks.disc_x, y - marks.disc_y) > 1.35 * marks.disc_radius
        self.x, self.y = x, y = x[seen], y[seen]
        # A dot upon a vessel could not be seen, and the stage would be a lie: keep off them, with a
        # margin of one dot.
        near = np.zeros((self._CELLS, self._CELLS), np.uint8)
        for vessel in vessels:
            thickness = max(3, round((float(vessel.widths.max()) + 0.034) * self._CELLS / 2))
            cv2.polylines(near, [self._cells(vessel.points)], False, 1, thickness)
        self.off_vessels = near[self._cells(y), self._cells(x)] == 0
        # Lesions of blood come in crowds, with some anywhere.
        centres = rng.integers(0, len(x), 5)
        squares = (x[:, None] - x[centres]) ** 2 + (y[:, None] - y[centres]) ** 2
        self.crowds = 0.15 + np.exp(-squares / (2 * 0.16**2)).sum(axis=1)
        squares = (x - marks.fovea_x) ** 2 + (y - marks.fovea_y) ** 2
        self.fovea = np.exp(-(squares / (2 * 0.3**2))) + 1e-6
        self.arcades = np.exp(-((marks.from_fovea(x, y) - 0.6) ** 2) / (2 * 0.15**2)) + 1e-6
        # From each point to the edge of the nearest lesion.
        self.room = np.full(len(x), np.inf)
        # About the fovea: nasal is the optic disc's side.
        nasal = (x - marks.fovea_x) * marks.nasal >= 0
        self.quadrants = np.array(QUADRANTS)[2 * (y >= marks.fovea_y) + nasal]

    def _cells(self, places: np.ndarray) -> np.ndarray:
        return np.clip((places + 1.0) * self._CELLS / 2, 0, self._CELLS - 1).astype(np.int32)

    def put(self, spot: Spot) -> None:
        """Adds a lesion where it is asked for."""
        self.spots.append(spot)
        edge = np.hypot(self.x - spot.x, self.y - spot.y) - spot.radius
        self.room = np.minimum(self.room, edge)

    def add(
        self,
        kind: LesionType,
        numbers: tuple[int, int],
        radii: tuple[float, float],
        quadrant: Quadrant | None = None,
        near: np.ndarray | None = None,
    ) -> None:
        """Adds lesions, apart from those already there as far as there is room.

        numbers: from the first to below the second. radii: their range. near: weights of the points
        (None: `crowds`).
        """
        small = kind in ("microaneurysm", "haemorrhage")
        allowed = self.off_vessels if small else np.ones(len(self.x), bool)
        if quadrant is not None:
            inside = self.quadrants == quadrant
            allowed = allowed & inside if (allowed & inside).any() else inside
        low, high = radii
        for _ in range(self.rng.integers(*numbers)):
            radius = float(low * (high / low) ** self.rng.random())
            fits = allowed & (self.room > radius + 0.02)
            if not small:  # the whole of a large lesion should be in view
                fits &= np.hypot(self.x, self.y) < 0.9 - 0.7 * radius
                fits &= (self.y > self.top + 0.7 * radius) & (self.y < self.bottom - 0.7 * radius)
            if not fits.any():
                fits = allowed & (self.room >= self.room[allowed].max())
            weights = fits * (self.crowds if near is None else near)
            point = self.rng.choice(len(self.x), p=weights / weights.sum())
            self.put(Spot(kind, float(self.x[point]), float(self.y[point]), radius))
