"""Lesions: their records, the clinical scale that grades an eye by them, and where they lie in
an eye of a given stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dr_lib.synthetic.anatomy import Landmarks, Vessel
from dr_lib.vocabulary import QUADRANTS, LesionType, Quadrant

MASK_COLOURS: dict[str, tuple[int, int, int]] = {
    "microaneurysm": (255, 255, 255),
    "haemorrhage": (255, 0, 0),
    "hard_exudate": (0, 0, 255),
    "soft_exudate": (0, 255, 0),
    "new_vessels": (255, 0, 255),
    "preretinal_haemorrhage": (0, 255, 255),
    "optic_disc": (255, 255, 0),
}
"""RGB of each lesion kind in a mask, the first five as in IDRiD's; all else is black."""

SEVERE_PER_QUADRANT = 5
"""Haemorrhages in each of the four quadrants that make an eye severe.

The scale says more than 20 in each; it counts over the whole retina, of which one 45° photograph
shows about a quarter.
"""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a photograph: centre and radius in the photograph's pixels, the quadrant about
    the fovea.

    A hard exudate's record is one cluster of specks, a new vessel's one tangle; `radius_px` is then
    the group's.
    """

    kind: LesionType
    centre_y_px: float
    centre_x_px: float
    radius_px: float
    quadrant: Quadrant


@dataclass(frozen=True)
class Spot:
    """A lesion in the retina's own coordinates (see `anatomy`)."""

    kind: LesionType
    x: float
    y: float
    radius: float


def grade(lesions: Sequence[Lesion]) -> int:
    """The stage, 0 to 4, by the international clinical scale.

    0 no lesion; 1 microaneurysms only; 2 more than that; 3 at least `SEVERE_PER_QUADRANT`
    haemorrhages in each of the four quadrants; 4 new vessels or a preretinal haemorrhage, whatever
    else there is.

    Source: Wilkinson et al., Ophthalmology 110 (2003) 1677–1682.
    """
    kinds = {lesion.kind for lesion in lesions}
    if kinds & {"new_vessels", "preretinal_haemorrhage"}:
        return 4
    by_quadrant = [
        sum(lesion.kind == "haemorrhage" and lesion.quadrant == name for lesion in lesions)
        for name in QUADRANTS
    ]
    if min(by_quadrant) >= SEVERE_PER_QUADRANT:
        return 3
    if kinds - {"microaneurysm"}:
        return 2
    return 1 if kinds else 0


def quadrant_of(x: float, y: float, place: Landmarks) -> Quadrant:
    """The quadrant about the fovea: nasal is the optic disc's side."""
    nasal = (x - place.fovea_x) * place.nasal >= 0
    if y < place.fovea_y:
        return "superior_nasal" if nasal else "superior_temporal"
    return "inferior_nasal" if nasal else "inferior_temporal"


def spots_of_stage(
    stage: int,
    rng: np.random.Generator,
    place: Landmarks,
    vessels: Sequence[Vessel],
    *,
    top: float,
    bottom: float,
) -> list[Spot]:
    """Draws the lesions of an eye of the given stage, all with their centres in view.

    `top` and `bottom` are the first and last visible y (a camera may cut the disc). Centres stay
    within 0.86 of the radius: preprocessing crops the outer tenth (METHOD §1.5), and a lesion that
    makes the stage must not be lost there.
    """
    if stage == 0:
        return []
    ground = _Ground(rng, place, vessels, top, bottom)
    if stage == 1:
        ground.add("microaneurysm", int(rng.integers(3, 13)), (0.0105, 0.016))
        return ground.spots
    if stage == 4:
        _add_proliferation(rng, ground, place)
    # A proliferative eye's background lies between that of a moderate and that of a severe eye.
    severe = stage == 3 or (stage == 4 and rng.random() < 0.3)
    if severe:
        for quadrant in QUADRANTS:
            ground.add(
                "haemorrhage",
                int(rng.integers(SEVERE_PER_QUADRANT + 1, 12)),
                (0.013, 0.036),
                quadrant,
            )
        ground.add("microaneurysm", int(rng.integers(10, 26)), (0.0105, 0.016))
    else:
        # A moderate eye has at most 10, so that one quadrant always has fewer than five and the eye
        # cannot be severe.
        number = int(rng.integers(2, 11) if stage == 2 else rng.integers(8, 20))
        ground.add("haemorrhage", number, (0.014, 0.04))
        ground.add("microaneurysm", int(rng.integers(4, 19)), (0.0105, 0.016))
    if rng.random() < 0.65:
        ground.add("hard_exudate", int(rng.integers(1, 6)), (0.04, 0.13), prefer=_near_fovea(place))
    if rng.random() < (0.65 if severe else 0.35):
        ground.add(
            "soft_exudate", int(rng.integers(1, 5)), (0.028, 0.055), prefer=_near_arcades(place)
        )
    return ground.spots


def _add_proliferation(rng: np.random.Generator, ground: "_Ground", place: Landmarks) -> None:
    sign = rng.random()
    if sign < 0.75:
        if rng.random() < 0.5:  # on the disc
            radius = place.disc_radius * rng.uniform(0.75, 1.1)
            ground.put(
                Spot(
                    "new_vessels",
                    place.disc_x * 0.96,
                    place.disc_y + rng.uniform(-0.05, 0.05),
                    radius,
                )
            )
        ground.add("new_vessels", int(rng.integers(1, 5)), (0.1, 0.19), prefer=_near_arcades(place))
    if sign > 0.5:
        ground.add("preretinal_haemorrhage", 1, (0.13, 0.25))


def _near_fovea(place: Landmarks) -> Callable[[np.ndarray], np.ndarray]:
    return lambda xy: np.exp(
        -(((xy[:, 0] - place.fovea_x) ** 2 + (xy[:, 1] - place.fovea_y) ** 2) / (2 * 0.3**2))
    )


def _near_arcades(place: Landmarks) -> Callable[[np.ndarray], np.ndarray]:
    return lambda xy: np.exp(
        -((np.hypot(xy[:, 0] - place.fovea_x, xy[:, 1] - place.fovea_y) - 0.6) ** 2) / (2 * 0.15**2)
    )


class _Ground:
    """Where lesions may lie: a pool of points off the vessels, disc and fovea, from which places
    are taken one by one.
    """

    _CELLS = 256

    def __init__(
        self,
        rng: np.random.Generator,
        place: Landmarks,
        vessels: Sequence[Vessel],
        top: float,
        bottom: float,
    ) -> None:
        self.rng, self.place, self.top, self.bottom = rng, place, top, bottom
        self.spots: list[Spot] = []
        radius, angle = 0.86 * np.sqrt(rng.random(3000)), rng.uniform(0, 2 * np.pi, 3000)
        xy = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        self.pool = xy[(xy[:, 1] > top + 0.06) & (xy[:, 1] < bottom - 0.06)]
        from_disc = np.hypot(self.pool[:, 0] - place.disc_x, self.pool[:, 1] - place.disc_y)
        from_fovea = np.hypot(self.pool[:, 0] - place.fovea_x, self.pool[:, 1] - place.fovea_y)
        self.pool = self.pool[(from_disc > 1.35 * place.disc_radius) & (from_fovea > 0.07)]
        # A dot upon a vessel could not be seen, and the stage would be a lie: keep off them, with a
        # margin of one dot.
        near = np.zeros((self._CELLS, self._CELLS), np.uint8)
        for vessel in vessels:
            thickness = max(3, round((float(vessel.widths.max()) + 0.034) * self._CELLS / 2))
            cv2.polylines(near, [self._cells(vessel.points)], False, 1, thickness)
        cells = self._cells(self.pool)
        self.off_vessels = near[cells[:, 1], cells[:, 0]] == 0
        self.crowded = self._crowds()
        self.room = np.full(
            len(self.pool), np.inf
        )  # from each point to the edge of the nearest lesion
        self.quadrants = np.array([quadrant_of(float(x), float(y), place) for x, y in self.pool])

    def _cells(self, xy: np.ndarray) -> np.ndarray:
        return np.clip((xy + 1.0) * self._CELLS / 2, 0, self._CELLS - 1).astype(np.int32)

    def _crowds(self) -> np.ndarray:
        """A weight for each point: lesions of blood come in crowds, with some anywhere."""
        centres = self.pool[self.rng.integers(0, len(self.pool), 5)]
        squares = ((self.pool[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
        return 0.15 + np.exp(-squares / (2 * 0.16**2)).sum(axis=1)

    def put(self, spot: Spot) -> None:
        self.spots.append(spot)
        self.room = np.minimum(
            self.room, np.hypot(self.pool[:, 0] - spot.x, self.pool[:, 1] - spot.y) - spot.radius
        )

    def add(
        self,
        kind: LesionType,
        number: int,
        radii: tuple[float, float],
        quadrant: Quadrant | None = None,
        prefer: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Adds `number` lesions with radii from the range, apart from those already there as far
        as there is room.
        """
        small = kind in ("microaneurysm", "haemorrhage")
        allowed = self.off_vessels.copy() if small else np.ones(len(self.pool), bool)
        if quadrant is not None:
            allowed &= self.quadrants == quadrant
            if not (allowed & self.off_vessels).any():
                allowed = self.quadrants == quadrant
        for _ in range(number):
            low, high = radii
            radius = float(low * (high / low) ** self.rng.random())
            fits = allowed & (self.room > radius + 0.02)
            if not small:  # the whole of a large lesion should be in view
                fits &= np.hypot(self.pool[:, 0], self.pool[:, 1]) < 0.9 - 0.7 * radius
                fits &= (self.pool[:, 1] > self.top + 0.7 * radius) & (
                    self.pool[:, 1] < self.bottom - 0.7 * radius
                )
            if not fits.any():
                fits = allowed & (self.room >= self.room[allowed].max())
            weights = fits * (prefer(self.pool) + 1e-6 if prefer else self.crowded)
            x, y = self.pool[self.rng.choice(len(self.pool), p=weights / weights.sum())]
            self.put(Spot(kind, float(x), float(y), radius))
