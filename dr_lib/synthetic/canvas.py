"""The surface on which a retina is painted: a square patch, in the retina's own coordinates (see
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

from dr_lib.vocabulary import LESION_TYPES

MARGIN = 1.1  # half the patch's side, in retina radii: the notch at the rim lies outside the disc
LABELS = {kind: label for label, kind in enumerate(("none", "optic_disc", *LESION_TYPES))}

SHIFT = 4  # OpenCV draws at sixteenths of a pixel
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Skin:
    """What fellow eyes share of their background: colour (reflectance 0…1) and how much of the
    choroid shows.
    """

    colour: Colour
    mottling: float
    choroid: float
    macula: float

    def paler(self, share: float, ceiling: Colour) -> Colour:
        """The skin's colour moved by `share` toward `ceiling`, which counts in the skin's
        brightest channel.
        """
        bright = max(self.colour)
        red, green, blue = (
            own + share * (bright * high - own)
            for own, high in zip(self.colour, ceiling, strict=True)
        )
        return red, green, blue


class Patch:
    """A square of retina: `side` pixels, `radius` of them to a retina radius, centre in the
    middle pixel.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.half = int(np.ceil(MARGIN * radius))
        self.side = 2 * self.half + 1


class Canvas:
    """A patch being painted; create it with its background, paint, then take `finished()` and
    `labels`.
    """

    def __init__(self, patch: Patch, background: Float32[np.ndarray, "side side 3"]) -> None:
        self.patch = patch
        self.retina = background
        self.through = np.full((patch.side, patch.side, 3), 255, np.uint8)
        self.labels = np.zeros((patch.side, patch.side), np.uint8)

    def fixed(self, points: Float[np.ndarray, "point 2"]) -> np.ndarray:
        """Retina coordinates as OpenCV's fixed-point pixels."""
        return np.round((self.patch.half + self.patch.radius * points) * (1 << SHIFT)).astype(
            np.int32
        )

    def window(
        self, x: float, y: float, reach: float
    ) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        """The part of the patch within `reach` of a point: row and column slices, and x and y of
        its pixels from there.
        """
        half, radius = self.patch.half, self.patch.radius
        low_x, high_x, low_y, high_y = (
            int(np.clip(round(half + radius * value), 0, self.patch.side))
            for value in (x - reach, x + reach, y - reach, y + reach)
        )
        xs = (np.arange(low_x, high_x, dtype=np.float32) - half) / radius - np.float32(x)
        ys = (np.arange(low_y, high_y, dtype=np.float32) - half) / radius - np.float32(y)
        return slice(low_y, high_y), slice(low_x, high_x), xs[None, :], ys[:, None]

    def blend(
        self, rows: slice, columns: slice, alpha: np.ndarray, colour: np.ndarray | Colour
    ) -> None:
        """Mixes a colour (or an image of colours) into the background, `alpha` of it."""
        part = self.retina[rows, columns]
        part += alpha[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - part)

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
        cv2.polylines(
            self.through,
            [path],
            False,
            np.clip(passing, 0, 255).tolist(),
            pixels,
            cv2.LINE_AA,
            SHIFT,
        )
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
    return np.stack(
        [
            x + along * np.cos(turn) - across * np.sin(turn),
            y + along * np.sin(turn) + across * np.cos(turn),
        ],
        axis=-1,
    )


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
    amplitudes, phases = (
        rng.normal(0, roughness, 4) / (1, 1.5, 2, 2.5),
        rng.uniform(0, 2 * np.pi, 4),
    )
    reach = radius * (
        1
        + sum(
            a * np.sin((n + 2) * angle + p)
            for n, (a, p) in enumerate(zip(amplitudes, phases, strict=True))
        )
    )
    return rotated(reach * np.cos(angle) * stretch, reach * np.sin(angle) / stretch, turn, x, y)


def inward(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 inside (distance below 1), 0 outside, with a soft edge of the given width."""
    return 1 / (1 + np.exp(np.clip((distance - 1) / edge, -30, 30)))


def noise(rng: np.random.Generator, cells: int, side: int) -> Float32[np.ndarray, "side side"]:
    """Smooth noise, of unit variance at its knots: `cells` of them across `side` pixels."""
    return cv2.resize(
        rng.standard_normal((cells, cells), dtype=np.float32),
        (side, side),
        interpolation=cv2.INTER_CUBIC,
    )
