"""The retina before a camera: background, optic disc and vessels, and the lesions upon them."""

from collections.abc import Sequence

import cv2
import numpy as np

from dr_lib.synthetic.anatomy import Vessel
from dr_lib.synthetic.canvas import LABELS, MARGIN, Canvas, inward, noise
from dr_lib.synthetic.lesion_painting import paint_blood, paint_exudates
from dr_lib.synthetic.lesions import Spot

_COARSE = 128  # side of the grid on which slow changes of colour are computed
# Red, green and blue light that passes, of 255: blood takes green most; an artery shows a reflex
# along its middle.
_VEIN = np.array([172.0, 106.0, 128.0])
_ARTERY = np.array([206.0, 138.0, 150.0])
_REFLEX = np.array([234.0, 184.0, 184.0])


def paint(canvas: Canvas, vessels: Sequence[Vessel], spots: Sequence[Spot]) -> None:
    """Paints a whole retina: the canvas' `retina` and `labels`."""
    _background(canvas)
    _optic_disc(canvas)
    _vessels(canvas, vessels)
    canvas.soften(0.0022)
    paint_blood(canvas, spots)
    canvas.absorb()
    paint_exudates(canvas, spots)


def _background(canvas: Canvas) -> None:
    """Colour, macula and slow mottling on a coarse grid; fine mottling and the choroid's vessels
    at full size.
    """
    skin, marks, rng, side = canvas.skin, canvas.marks, canvas.rng, canvas.patch.side
    axis = np.linspace(-MARGIN, MARGIN, _COARSE, dtype=np.float32)
    from_fovea = (axis[None, :] - marks.fovea_x) ** 2 + (axis[:, None] - marks.fovea_y) ** 2
    from_disc = (axis[None, :] - marks.disc_x) ** 2 + (axis[:, None] - marks.disc_y) ** 2
    macula = 0.66 * np.exp(-from_fovea / (2 * 0.19**2)) + 0.34 * np.exp(-from_fovea / (2 * 0.07**2))
    slow = 0.6 * noise(rng, 5, _COARSE) + 0.4 * noise(rng, 12, _COARSE)
    hue = noise(rng, 7, _COARSE)
    halo = np.exp(-from_disc / (2 * (1.7 * marks.disc_radius) ** 2))
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
    fine = 0.5 * noise(rng, 40, side) + 0.4 * noise(rng, 110, side) + 0.3 * noise(rng, 230, side)
    fine = 1.0 + 0.4 * skin.mottling * fine
    if skin.choroid > 0:
        # Ridges of smooth noise look like the choroid's vessels: bright lines between darker
        # islands. Stretched up and down, strongest far from the fovea, and patchy: even, they would
        # look like printed cloth.
        knots = 1.1 * rng.standard_normal((17, 36), dtype=np.float32)
        knots = cv2.resize(knots, (side, side), interpolation=cv2.INTER_CUBIC)
        ridges = 0.4 - np.minimum(np.abs(knots), 1.0)
        far = np.clip(1.4 * np.sqrt(from_fovea) - 0.4, 0, 1)
        patchy = np.clip(0.5 + 0.8 * noise(rng, 5, _COARSE), 0, 1)
        fine += np.float32(skin.choroid) * ridges * cv2.resize(far * patchy, (side, side))
    canvas.retina = cv2.multiply(cv2.resize(field, (side, side)), cv2.merge([fine, fine, fine]))


def _optic_disc(canvas: Canvas) -> None:
    """A pale, slightly wavy ellipse, paler on the fovea's side, with the cup in it."""
    skin, marks, rng = canvas.skin, canvas.marks, canvas.rng
    window, x, y = canvas.window(marks.disc_x, marks.disc_y, 1.5 * marks.disc_radius)
    angle = np.arctan2(y, x * marks.nasal)
    waves = enumerate(rng.uniform(-0.03, 0.03, 3), 2)
    reach = marks.disc_radius * (1 + sum(wave * np.sin(n * angle) for n, wave in waves))
    distance = np.hypot(x * marks.disc_stretch, y) / reach
    shade = 1.0 + 0.08 * np.clip(-x * marks.nasal / marks.disc_radius, -1, 1)
    rim = shade[..., None] * np.array(skin.paler(0.62, (1.42, 1.2, 0.72)))
    canvas.blend(window, 0.93 * inward(distance, rng.uniform(0.02, 0.055)), rim)
    cup = np.hypot(x + 0.12 * marks.nasal * marks.disc_radius, y)
    cup = inward(cup / (marks.cup_ratio * marks.disc_radius), 0.16)
    canvas.blend(window, 0.75 * cup, skin.paler(0.88, (1.5, 1.36, 0.95)))
    canvas.labels[window][distance < 1] = LABELS["optic_disc"]


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
            colour = 255 - (255 - (_ARTERY if vessel.artery else _VEIN)) * depth
            canvas.stroke(piece, colour, max(1, round(pixels)))
            if vessel.artery and pixels > 5:
                canvas.stroke(piece, _REFLEX, max(1, round(0.22 * pixels)))
