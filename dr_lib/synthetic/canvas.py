"""The surface on which a retina is painted: a square patch, in units of the retina's radius (see
`anatomy`).

Blood takes light away and is painted into `through`, the share of light that passes, which
multiplies the background; exudates and the optic disc add light and are blended into `retina`. So a
lesion keeps its look on an orange, a pink or a brown eye. `labels` receives the same shapes,
without soft edges.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32

from dr_lib.synthetic.anatomy import Landmarks
from dr_lib.vocabulary import LESION_TYPES

MARGIN = 1.1  # half the patch's side, in retina radii: the notch at the rim lies outside the disc
LABELS = {kind: label for label, kind in enumerate(("none", "optic_disc", *LESION_TYPES))}

SHIFT = 4  # OpenCV draws at sixteenths of a pixel


@dataclass(frozen=True)
class Skin:
    """What fellow eyes share of their background: colour (reflectance 0…1) and how much of the
    choroid shows.
    """

    colour: Float[np.ndarray, "channel"]
    mottling: float
    choroid: float
    macula: float

    def paler(self, share: float, ceiling: tuple[float, float, float]) -> np.ndarray:
        """The skin's colour moved by `share` toward `ceiling`, which counts in the skin's
        brightest channel.
        """
        return self.colour + share * (self.colour.max() * np.array(ceiling) - self.colour)


class Patch:
    """A square of retina: `side` pixels, `radius` of them to a retina radius, centre in the
    middle pixel.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.half = int(np.ceil(MARGIN * radius))
        self.side = 2 * self.half + 1


class Canvas:
    """A patch being painted, and what each painter needs: the eye's skin, its landmarks and a
    stream of random numbers.

    retina: (side, side, 3) float32 reflectance, 0 to about 1.3, RGB; a painter sets it first.
    through: (side, side, 3) uint8, the light that the blood lets through, of 255.
    labels: (side, side) uint8, `LABELS`.
    """

    def __init__(
        self, patch: Patch, skin: Skin, marks: Landmarks, rng: np.random.Generator
    ) -> None:
        self.patch, self.skin, self.marks, self.rng = patch, skin, marks, rng
        self.retina = np.empty((patch.side, patch.side, 3), np.float32)
        self.through = np.full((patch.side, patch.side, 3), 255, np.uint8)
        self.labels = np.zeros((patch.side, patch.side), np.uint8)

    def fixed(self, points: Float[np.ndarray, "point 2"]) -> np.ndarray:
        """Retina coordinates as OpenCV's fixed-point pixels."""
        return np.round((self.patch.half + self.patch.radius * points) * (1 << SHIFT)).astype(
            np.int32
        )

    def window(
        self, x: float, y: float, reach: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of the patch within `reach` of a point: its rows and columns, and x and y of
        its pixels from there.
        """
        half, radius = self.patch.half, self.patch.radius
        low_x, high_x, low_y, high_y = (
            int(np.clip(round(half + radius * value), 0, self.patch.side))
            for value in (x - reach, x + reach, y - reach, y + reach)
        )
        xs = (np.arange(low_x, high_x, dtype=np.float32) - half) / radius - np.float32(x)
        ys = (np.arange(low_y, high_y, dtype=np.float32) - half) / radius - np.float32(y)
        return np.s_[low_y:high_y, low_x:high_x], xs[None, :], ys[:, None]

    def blend(self, window: tuple[slice, slice], alpha: np.ndarray, colour: np.ndarray) -> None:
        """Mixes a colour (or an image of colours) into the background, `alpha` of it."""
        part = self.retina[window]
        part += alpha[..., None].astype(np.float32) * (colour.astype(np.float32) - part)

    def fill(self, outline: Float[np.ndarray, "point 2"], passing: np.ndarray, kind: str) -> None:
        """Fills an outline with blood that lets `passing` (0…255 RGB) through, and with its
        label.
        """
        polygon = [self.fixed(outline)]
        cv2.fillPoly(self.through, polygon, np.clip(passing, 0, 255).tolist(), cv2.LINE_AA, SHIFT)
        cv2.fillPoly(self.labels, polygon, LABELS[kind], cv2.LINE_8, SHIFT)

    def stroke(
        self, path: np.ndarray, passing: np.ndarray, pixels: int, kind: str | None = None
    ) -> None:
        """Draws a line (fixed-point pixels) of blood, and its label if it has one."""
        blood = np.clip(passing, 0, 255).tolist()
        cv2.polylines(self.through, [path], False, blood, pixels, cv2.LINE_AA, SHIFT)
        if kind is not None:
            cv2.polylines(self.labels, [path], False, LABELS[kind], pixels + 1, cv2.LINE_8, SHIFT)

    def soften(self, sigma: float) -> None:
        """Blurs all blood painted so far; `sigma` in retina radii."""
        self.through = cv2.GaussianBlur(self.through, (0, 0), sigma * self.patch.radius)

    def absorb(self) -> None:
        """Takes the blood's light from the background; what is blended in later lies before the
        blood.
        """
        self.retina = cv2.multiply(self.retina, self.through, scale=1 / 255, dtype=cv2.CV_32F)


def rotated(
    along: np.ndarray, across: np.ndarray, turn: float, x: float, y: float
) -> Float[np.ndarray, "point 2"]:
    """Points given along and across a direction, as [x, y] around a centre."""
    cosine, sine = np.cos(turn), np.sin(turn)
    points = x + along * cosine - across * sine, y + along * sine + across * cosine
    return np.stack(points, axis=-1)


def outline(
    x: float,
    y: float,
    radius: float,
    rng: np.random.Generator,
    roughness: float,
    stretch: float = 1.0,
    turn: float = 0.0,
) -> Float[np.ndarray, "point 2"]:
    """A closed, irregular outline of 24 points around a centre."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    amplitudes = rng.normal(0, roughness, 4) / (1, 1.5, 2, 2.5)
    waves = zip(range(2, 6), amplitudes, rng.uniform(0, 2 * np.pi, 4), strict=True)
    reach = radius * (1 + sum(a * np.sin(n * angle + phase) for n, a, phase in waves))
    return rotated(reach * np.cos(angle) * stretch, reach * np.sin(angle) / stretch, turn, x, y)


def inward(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 inside (distance below 1), 0 outside, with a soft edge of the given width."""
    return 1 / (1 + np.exp(np.clip((distance - 1) / edge, -30, 30)))


def noise(
    rng: np.random.Generator, cells: int, width: int, height: int | None = None
) -> Float32[np.ndarray, "height width"]:
    """Smooth noise, of unit variance at its knots: `cells` of them across `width` pixels, and
    across `height` (None: as `width`).
    """
    knots = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(knots, (width, height or width), interpolation=cv2.INTER_CUBIC)
