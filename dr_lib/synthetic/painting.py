"""The retina before a camera: background, optic disc and vessels, and the lesions upon them."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.synthetic import lesion_painting
from dr_lib.synthetic.anatomy import Landmarks, Vessel
from dr_lib.synthetic.canvas import LABELS, MARGIN, Canvas, Patch, Skin, inward, noise
from dr_lib.synthetic.lesions import Spot

_COARSE = 128  # side of the grid on which slow changes of colour are computed
# Red, green and blue light that passes, of 255: blood takes green most; an artery shows a reflex
# along its middle.
_VEIN = np.array([172.0, 106.0, 128.0])
_ARTERY = np.array([206.0, 138.0, 150.0])
_REFLEX = np.array([234.0, 184.0, 184.0])


def paint(
    patch: Patch,
    skin: Skin,
    place: Landmarks,
    vessels: Sequence[Vessel],
    spots: Sequence[Spot],
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "side side 3"], UInt8[np.ndarray, "side side"]]:
    """The patch's reflectance (0 to about 1.3, RGB) and its labels (`canvas.LABELS`)."""
    canvas = Canvas(patch, _background(patch, skin, place, rng))
    _optic_disc(canvas, skin, place, rng)
    _vessels(canvas, vessels)
    canvas.soften(0.0022)
    lesion_painting.blood(canvas, place, spots, rng)
    canvas.absorb()
    lesion_painting.exudates(canvas, skin, spots, rng)
    return canvas.retina, canvas.labels


def _background(patch: Patch, skin: Skin, place: Landmarks, rng: np.random.Generator) -> np.ndarray:
    """Colour, macula and slow mottling on a coarse grid; fine mottling and the choroid's vessels
    at full size.
    """
    axis = np.linspace(-MARGIN, MARGIN, _COARSE, dtype=np.float32)
    from_fovea = (axis[None, :] - place.fovea_x) ** 2 + (axis[:, None] - place.fovea_y) ** 2
    from_disc = (axis[None, :] - place.disc_x) ** 2 + (axis[:, None] - place.disc_y) ** 2
    macula = 0.66 * np.exp(-from_fovea / (2 * 0.19**2)) + 0.34 * np.exp(-from_fovea / (2 * 0.07**2))
    slow = 0.6 * noise(rng, 5, _COARSE) + 0.4 * noise(rng, 12, _COARSE)
    hue = noise(rng, 7, _COARSE)
    halo = np.exp(-from_disc / (2 * (1.7 * place.disc_radius) ** 2))
    # How much the macula darkens, the mottling varies and the hue shifts the red, green and blue
    # channel.
    effects = ((0.5, 0.6, -0.06), (0.66, 0.8, 0.09), (0.55, 0.8, 0.12))
    field = np.empty((_COARSE, _COARSE, 3), np.float32)
    for channel, (darkening, varying, shift) in enumerate(effects):
        field[..., channel] = skin.colour[channel] * (
            (1.0 - skin.macula * darkening * macula)
            * (1.0 + skin.mottling * (varying * slow + shift * hue))
            * (1.0 + 0.12 * halo)
        )
    fine = (
        0.5 * noise(rng, 40, patch.side)
        + 0.4 * noise(rng, 110, patch.side)
        + 0.3 * noise(rng, 230, patch.side)
    )
    fine = 1.0 + 0.4 * skin.mottling * fine
    if skin.choroid > 0:
        # Ridges of smooth noise look like the choroid's vessels: bright lines between darker
        # islands. Stretched up and down, strongest far from the fovea, and patchy: even, they would
        # look like printed cloth.
        knots = 1.1 * rng.standard_normal((17, 36), dtype=np.float32)
        ridges = 0.4 - np.minimum(
            np.abs(cv2.resize(knots, (patch.side, patch.side), interpolation=cv2.INTER_CUBIC)), 1.0
        )
        where = np.clip(1.4 * np.sqrt(from_fovea) - 0.4, 0, 1) * np.clip(
            0.5 + 0.8 * noise(rng, 5, _COARSE), 0, 1
        )
        fine += np.float32(skin.choroid) * ridges * cv2.resize(where, (patch.side, patch.side))
    retina = cv2.resize(field, (patch.side, patch.side), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(retina, cv2.merge([fine, fine, fine]))


def _optic_disc(canvas: Canvas, skin: Skin, place: Landmarks, rng: np.random.Generator) -> None:
    """A pale, slightly wavy ellipse, paler on the fovea's side, with the cup in it."""
    rows, columns, x, y = canvas.window(place.disc_x, place.disc_y, 1.5 * place.disc_radius)
    angle = np.arctan2(y, x * place.nasal)
    waves = rng.uniform(-0.03, 0.03, 3)
    reach = place.disc_radius * (
        1 + sum(wave * np.sin((n + 2) * angle) for n, wave in enumerate(waves))
    )
    distance = np.hypot(x * place.disc_stretch, y) / reach
    shade = 1.0 + 0.08 * np.clip(-x * place.nasal / place.disc_radius, -1, 1)
    rim = shade[..., None] * np.array(skin.paler(0.62, (1.42, 1.2, 0.72)))
    canvas.blend(rows, columns, 0.93 * inward(distance, rng.uniform(0.02, 0.055)), rim)
    cup = np.hypot(x + 0.12 * place.nasal * place.disc_radius, y) / (
        place.cup_ratio * place.disc_radius
    )
    canvas.blend(rows, columns, 0.75 * inward(cup, 0.16), skin.paler(0.88, (1.5, 1.36, 0.95)))
    canvas.labels[rows, columns][distance < 1] = LABELS["optic_disc"]


def _vessels(canvas: Canvas, vessels: Sequence[Vessel]) -> None:
    """Arteries over veins; thin vessels paler, as their light passes less blood."""
    for vessel in sorted(vessels, key=lambda vessel: (vessel.artery, float(vessel.widths[0]))):
        path = canvas.fixed(vessel.points)
        for first in range(0, len(path) - 1, 6):
            piece = path[first : first + 7]
            width = float(vessel.widths[first : first + 7].mean())
            pixels = width * canvas.patch.radius
            # Below a pixel a line can only get paler, not thinner.
            depth = min(1.0, 0.42 + 24 * width) * min(1.0, pixels)
            canvas.stroke(
                piece,
                255 - (255 - (_ARTERY if vessel.artery else _VEIN)) * depth,
                max(1, round(pixels)),
            )
            if vessel.artery and pixels > 5:
                canvas.stroke(piece, _REFLEX, max(1, round(0.22 * pixels)))
