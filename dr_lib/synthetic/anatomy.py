"""The healthy eye: where disc and fovea lie and how the vessels run.

Coordinates are in units of the retina's radius: the visible disc has radius 1 and its centre is
(0, 0), x to the right of the picture, y down. So nothing here depends on a camera's size.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

# Between points of a vessel: 8 px at the usual work radius, short enough to look curved.
STEP = 0.02
# Vessels are followed a little past the rim, where a notch may show them.
FIELD = 1.06


@dataclass(frozen=True)
class Landmarks:
    """Disc and fovea of an eye; `nasal` is +1 where the nose is to the right of the picture (a
    right eye), −1 else.
    """

    disc_x: float
    disc_y: float
    disc_radius: float
    disc_stretch: float
    cup_ratio: float
    fovea_x: float
    fovea_y: float
    nasal: int

    def from_fovea(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The distance of points from the fovea."""
        return np.hypot(x - self.fovea_x, y - self.fovea_y)

    @property
    def disc_to_fovea(self) -> float:
        return float(np.hypot(self.disc_x - self.fovea_x, self.disc_y - self.fovea_y))

    def in_disc(self, x: float, y: float) -> np.ndarray:
        """The point [x, y] that lies so many disc radii from the disc's centre."""
        return np.array([self.disc_x + self.disc_radius * x, self.disc_y + self.disc_radius * y])


@dataclass(frozen=True)
class Vessel:
    """A vessel's middle line (points, [x, y]) and its width at each point, in units of the
    retina's radius.
    """

    points: Float[np.ndarray, "point xy=2"]
    widths: Float[np.ndarray, "point"]
    artery: bool


def draw_landmarks(rng: np.random.Generator, eye: Literal["left", "right"]) -> Landmarks:
    """Draws an eye's landmarks: the disc is on the nose's side, 2.5 disc diameters from the
    fovea and a little above it.
    """
    nasal = 1 if eye == "right" else -1
    magnification = rng.uniform(0.9, 1.1)
    disc_radius = 0.155 * magnification * rng.uniform(0.92, 1.1)
    distance = 0.75 * magnification * rng.uniform(0.95, 1.05)
    fovea_x, fovea_y = rng.uniform(-0.3, -0.02), rng.uniform(-0.06, 0.1)
    tilt = np.deg2rad(rng.uniform(1.0, 11.0))
    return Landmarks(
        disc_x=nasal * (fovea_x + distance * np.cos(tilt)),
        disc_y=fovea_y - distance * np.sin(tilt),
        disc_radius=disc_radius,
        disc_stretch=rng.uniform(1.0, 1.14),
        cup_ratio=rng.uniform(0.25, 0.55),
        fovea_x=nasal * fovea_x,
        fovea_y=fovea_y,
        nasal=nasal,
    )


def draw_vessels(rng: np.random.Generator, marks: Landmarks) -> list[Vessel]:
    """Draws the vessels: four pairs of trunks from the disc, each branching up to three times,
    none in the fovea.
    """
    trunks = []
    for up in (-1.0, 1.0):
        for artery in (False, True):
            width = (0.023 if artery else 0.031) * rng.uniform(0.88, 1.12)
            trunks.append(_vessel(_arcade(rng, marks, up, artery), width, 0.42, artery, marks))
            heading = np.arctan2(up * rng.uniform(0.7, 2.2), marks.nasal)
            start = marks.in_disc(rng.normal(0, 0.2), 0.25 * up)
            path = _walk(rng, start, heading, -up * marks.nasal * rng.uniform(0.1, 0.9), 1.2)
            trunks.append(_vessel(path, 0.72 * width, 0.4, artery, marks))
    # The small ones that cross from the disc to the macula.
    for _ in range(rng.integers(2, 5)):
        side = rng.choice([-1.0, 1.0])
        start = marks.in_disc(-0.4 * marks.nasal, 0.4 * side)
        heading = np.arctan2(side * rng.uniform(0.1, 0.5), -marks.nasal)
        bend = -side * marks.nasal * rng.uniform(-0.3, 0.9)
        path = _walk(rng, start, heading, bend, rng.uniform(0.35, 0.6))
        trunks.append(_vessel(path, rng.uniform(0.008, 0.012), 0.4, bool(rng.integers(2)), marks))
    vessels = []
    for trunk in trunks:
        vessels += [trunk, *_branches(rng, trunk, marks, depth=3)]
    return [vessel for vessel in vessels if len(vessel.points) > 2]


def _arcade(rng: np.random.Generator, marks: Landmarks, up: float, artery: bool) -> np.ndarray:
    """A temporal arcade: up (−1) or down (+1) out of the disc, then round the fovea on a
    widening ellipse.
    """
    distance = marks.disc_to_fovea
    turn = np.linspace(0.0, np.deg2rad(rng.uniform(150, 172)), 120)
    cosine, sine = np.cos(turn), np.sin(turn)
    across = distance * (1.0 + 0.28 * (turn / np.pi) ** 2)
    height = (
        distance * rng.uniform(0.66, 1.0) * (0.95 if artery else 1.0) * (1.0 + 0.3 * turn / np.pi)
    )
    x = marks.fovea_x + marks.nasal * across * cosine
    y = marks.fovea_y + (marks.disc_y - marks.fovea_y) * np.cos(turn / 2) ** 2 + up * height * sine
    wave = _wave(rng, turn / turn[-1]) * 0.065 * np.minimum(1.0, 4.0 * turn / np.pi)
    # Out of different corners of the cup.
    x = x + rng.normal(0, 0.22) * marks.disc_radius * np.exp(-turn / 0.3)
    return np.stack([x + wave * cosine * marks.nasal, y + up * wave * sine], axis=1)


def _wave(rng: np.random.Generator, along: np.ndarray) -> np.ndarray:
    """A smooth random curve of amplitude about 1 over `along` in 0…1."""
    phases = rng.uniform(0, 2 * np.pi, 4)
    return sum(np.sin(2 * np.pi * n * along + phase) / n for n, phase in enumerate(phases, 1)) / 1.2


def _walk(
    rng: np.random.Generator, start: np.ndarray, heading: float, bend: float, length: float
) -> np.ndarray:
    """A winding path from `start`: `bend` is its total turn in radians, to which small waves are
    added.
    """
    along = np.linspace(0.0, 1.0, max(4, int(length / STEP)))
    headings = heading + bend * along + 0.38 * _wave(rng, along * length * 2.2)
    steps = (length / len(along)) * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps[:-1], axis=0)])


def _vessel(path: np.ndarray, width: float, taper: float, artery: bool, marks: Landmarks) -> Vessel:
    """Cuts a path where it leaves the field or enters the fovea, and tapers it down to `taper`
    of its width.
    """
    x, y = path.T
    outside = (np.hypot(x, y) > FIELD) | (marks.from_fovea(x, y) < 0.16 * marks.disc_to_fovea)
    end = int(np.argmax(outside)) if outside.any() else len(path)
    return Vessel(path[:end], (width * np.linspace(1.0, taper, len(path)))[:end], artery)


def _branches(
    rng: np.random.Generator, parent: Vessel, marks: Landmarks, depth: int
) -> list[Vessel]:
    """The branches of a vessel and theirs in turn: alternating sides, narrower, aiming a little
    along the parent.
    """
    if depth == 0 or len(parent.points) < 8:
        return []
    directions = np.gradient(parent.points, axis=0)
    along = np.cumsum(np.hypot(*directions.T))
    branches: list[Vessel] = []
    side = rng.choice([-1.0, 1.0])
    position = rng.uniform(0.12, 0.3)
    while position < along[-1]:
        start = int(np.searchsorted(along, position))
        position += rng.uniform(0.15, 0.38)
        width = min(float(parent.widths[start]) * rng.uniform(0.4, 0.75), 0.019)
        if width < 0.0028:
            continue
        x, y = directions[start]
        heading = np.arctan2(y, x) + side * np.deg2rad(rng.uniform(25, 65))
        length = min(0.9, 0.1 + 48.0 * width) * rng.uniform(0.55, 1.25)
        bend = -side * rng.uniform(-0.35, 0.9)
        path = _walk(rng, parent.points[start], heading, bend, length)
        child = _vessel(path, width, 0.35, parent.artery, marks)
        branches += [child, *_branches(rng, child, marks, depth - 1)]
        side = -side if rng.random() < 0.75 else side
    return branches
