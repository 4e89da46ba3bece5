"""The retina before a camera: background, optic disc and vessels, and the lesions upon them,
painted in the order in which one lies before another.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from dr_lib.synthetic.anatomy import Vessel
from dr_lib.synthetic.canvas import (
    LABELS,
    MARGIN,
    SHIFT,
    Canvas,
    inward,
    noise,
    outline,
    rotated,
)
from dr_lib.synthetic.lesions import Spot

_COARSE = 128  # side of the grid on which slow changes of colour are computed
# Red, green and blue light that passes, of 255: blood takes green most; an artery shows a reflex
# along its middle.
_VEIN = np.array([172.0, 106.0, 128.0])
_ARTERY = np.array([206.0, 138.0, 150.0])
_REFLEX = np.array([234.0, 184.0, 184.0])
_MICROANEURYSM = np.array([140.0, 62.0, 84.0])
_HAEMORRHAGE = np.array([146.0, 70.0, 88.0])
_PRERETINAL = np.array([132.0, 46.0, 54.0])
_NEW_VESSEL = np.array([186.0, 84.0, 100.0])


def paint(canvas: Canvas, vessels: Sequence[Vessel], spots: Sequence[Spot]) -> None:
    """Paints a whole retina: the canvas' `retina` and `labels`."""
    _background(canvas)
    _optic_disc(canvas)
    _vessels(canvas, vessels)
    canvas.soften(0.0022)
    # What takes light away, soft ones first, since each softening blurs all that lies below: blood
    # within the retina has soft edges, a microaneurysm's are sharp.
    _paint(canvas, spots, "haemorrhage")
    if any(spot.kind == "haemorrhage" for spot in spots):
        canvas.soften(0.0036)
    _paint(canvas, spots, "microaneurysm", "new_vessels", "preretinal_haemorrhage")
    if spots:
        canvas.soften(0.0019)
    canvas.absorb()
    # They add light, before the vessels and the blood.
    _paint(canvas, spots, "soft_exudate", "hard_exudate")


def _paint(canvas: Canvas, spots: Sequence[Spot], *kinds: str) -> None:
    for kind in kinds:
        for spot in spots:
            if spot.kind == kind:
                _PAINTERS[kind](canvas, spot)


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
    channels = [
        colour
        * (
            (1.0 - skin.macula * darkening * macula)
            * (1.0 + skin.mottling * (varying * slow + shift * hue))
            * (1.0 + 0.12 * halo)
        )
        for colour, (darkening, varying, shift) in zip(skin.colour, effects, strict=True)
    ]
    field = cv2.merge(channels).astype(np.float32)
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
    rim = shade[..., None] * skin.paler(0.62, (1.42, 1.2, 0.72))
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


def _blob(canvas: Canvas, spot: Spot, passing: np.ndarray, roughness: float) -> None:
    """A dot or blot, some fainter than others."""
    rng = canvas.rng
    stretch = 1 + 2 * roughness * rng.random()
    shape = outline(spot.x, spot.y, spot.radius, rng, roughness, stretch, rng.uniform(0, np.pi))
    canvas.fill(shape, passing + (255 - passing) * rng.uniform(-0.05, 0.28), spot.kind)


def _haemorrhage(canvas: Canvas, spot: Spot) -> None:
    """A blot, or (two in five of the larger) a flame whose feathered ends follow the nerve
    fibres to the disc.
    """
    rng, marks = canvas.rng, canvas.marks
    if spot.radius < 0.018 or rng.random() > 0.4:
        _blob(canvas, spot, _HAEMORRHAGE, 0.15)
        return
    turn = float(np.arctan2(marks.disc_y - spot.y, marks.disc_x - spot.x) + rng.normal(0, 0.25))
    along, across = rng.normal(0, 0.35, (2, 6)) * spot.radius
    for x, y in rotated(along, 0.55 * across, turn, spot.x, spot.y).tolist():
        radius = spot.radius * rng.uniform(0.4, 0.6)
        tilt = rng.normal(0, 0.08)
        streak = outline(x, y, radius, rng, 0.06, 1.9, turn + tilt)
        canvas.fill(streak, _HAEMORRHAGE * rng.uniform(1.0, 1.3), spot.kind)


def _new_vessels(canvas: Canvas, spot: Spot) -> None:
    """A tangle of fine loops that fans out to one side."""
    rng = canvas.rng
    fan, turn = rng.uniform(0, 2 * np.pi, 2)
    stretch = rng.uniform(1.0, 1.4)
    thicknesses = [max(1, round(share * canvas.patch.radius)) for share in (0.0035, 0.0055)]
    along = np.linspace(0, 1, 26)
    for _ in range(rng.integers(16, 27)):
        heading = fan + rng.uniform(-1.7, 1.7) + rng.choice([-1, 1]) * rng.uniform(3.0, 7.5) * along
        heading = heading + 0.8 * np.sin(2 * np.pi * (along * rng.uniform(1.5, 4) + rng.random()))
        step = spot.radius * rng.uniform(0.9, 2.4) / len(along)
        loop = np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)]), axis=1)
        loop = loop + rng.normal(0, 0.32 * spot.radius, (2, 1))
        # Held in at a different distance for each loop: the same for all would draw a circle.
        loop = loop / np.cbrt(1.0 + (np.hypot(*loop) / (spot.radius * rng.uniform(0.5, 1.15))) ** 3)
        path = canvas.fixed(rotated(loop[0] * stretch, loop[1] / stretch, turn, spot.x, spot.y))
        colour = _NEW_VESSEL * rng.uniform(0.85, 1.25)
        canvas.stroke(path, colour, int(rng.choice(thicknesses)), spot.kind)


def _preretinal(canvas: Canvas, spot: Spot) -> None:
    """A boat: blood that sank under a level surface, before the retina, hiding what is behind."""
    rng = canvas.rng
    x, y = outline(0.0, 0.0, spot.radius, rng, 0.025, 1.15).T
    level = spot.radius * (0.02 * np.sin(7 * x / spot.radius) - rng.uniform(0.1, 0.3))
    shape = np.stack([x, np.maximum(y, level)], axis=1) + (spot.x, spot.y)
    canvas.fill(shape, _PRERETINAL * rng.uniform(0.85, 1.15), spot.kind)


def _soft_exudate(canvas: Canvas, spot: Spot) -> None:
    """A pale patch of swollen nerve fibres with fluffy edges."""
    rng = canvas.rng
    window, x, y = canvas.window(spot.x, spot.y, 1.9 * spot.radius)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / spot.radius
    fluff = noise(rng, 7, x.size, y.size)
    share = inward(distance + 0.15 + 0.16 * fluff, 0.14)
    canvas.blend(window, 0.78 * share, canvas.skin.paler(0.72, (1.25, 1.2, 0.92)))
    canvas.labels[window][share > 0.5] = LABELS[spot.kind]


def _hard_exudate(canvas: Canvas, spot: Spot) -> None:
    """A cluster of sharp yellow specks, or (two in five) a ring of them around a leaking vessel."""
    rng, radius = canvas.rng, spot.radius
    window, x, y = canvas.window(spot.x, spot.y, 1.4 * radius)
    ring = rng.random() < 0.4
    number = int(rng.integers(12, 26) + 220 * radius)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(0, 4.6 if ring else 2 * np.pi, number)
    reach = rng.normal(0.85, 0.12, number) if ring else np.abs(rng.normal(0, 0.62, number))
    reach = np.minimum(radius * reach, 1.15 * radius)
    centres = spot.x + reach * np.cos(angle), spot.y + reach * np.sin(angle)
    specks = np.zeros((y.size, x.size), np.uint8)
    origin = np.array([window[1].start, window[0].start], np.int32) << SHIFT
    for speck_x, speck_y, size in zip(*centres, rng.gamma(1.6, 0.0032, number), strict=True):
        shape = outline(speck_x, speck_y, 0.0034 + size, rng, 0.16)
        cv2.fillPoly(specks, [canvas.fixed(shape) - origin], 255.0, cv2.LINE_AA, SHIFT)
    canvas.labels[window][specks > 127] = LABELS[spot.kind]
    share = cv2.GaussianBlur(specks, (0, 0), max(0.5, 0.0016 * canvas.patch.radius))
    paler = canvas.skin.paler(0.85, (1.33, 1.18, 0.55))
    canvas.blend(window, 0.94 * (share / np.float32(255)), paler)


_PAINTERS: dict[str, Callable[[Canvas, Spot], None]] = {
    "microaneurysm": lambda canvas, spot: _blob(canvas, spot, _MICROANEURYSM, 0.1),
    "haemorrhage": _haemorrhage,
    "hard_exudate": _hard_exudate,
    "soft_exudate": _soft_exudate,
    "new_vessels": _new_vessels,
    "preretinal_haemorrhage": _preretinal,
}
