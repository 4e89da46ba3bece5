"""How each kind of lesion looks, painted in the order in which one lies before another."""

from collections.abc import Sequence

import cv2
import numpy as np

from dr_lib.synthetic.anatomy import Landmarks
from dr_lib.synthetic.canvas import LABELS, SHIFT, Canvas, Skin, inward, outline, rotated
from dr_lib.synthetic.lesions import Spot
from dr_lib.vocabulary import LesionType

# Red, green and blue light that passes, of 255: blood takes green most.
_MICROANEURYSM = np.array([140.0, 62.0, 84.0])
_HAEMORRHAGE = np.array([146.0, 70.0, 88.0])
_PRERETINAL = np.array([132.0, 46.0, 54.0])
_NEW_VESSEL = np.array([186.0, 84.0, 100.0])


def blood(
    canvas: Canvas, place: Landmarks, spots: Sequence[Spot], rng: np.random.Generator
) -> None:
    """Paints the lesions that take light away; soft ones first, since each softening blurs all
    that lies below.
    """
    haemorrhages = of_kind(spots, "haemorrhage")
    for spot in haemorrhages:
        _haemorrhage(canvas, place, spot, rng)
    if haemorrhages:  # blood within the retina has soft edges, a microaneurysm's are sharp
        canvas.soften(0.0036)
    for spot in of_kind(spots, "microaneurysm"):
        _blob(canvas, spot, _MICROANEURYSM, rng, roughness=0.1)
    for spot in of_kind(spots, "new_vessels"):
        _new_vessels(canvas, spot, rng)
    for spot in of_kind(spots, "preretinal_haemorrhage"):
        _preretinal(canvas, spot, rng)
    if spots:
        canvas.soften(0.0019)


def exudates(canvas: Canvas, skin: Skin, spots: Sequence[Spot], rng: np.random.Generator) -> None:
    """Paints the lesions that add light, before the vessels and the blood."""
    for spot in of_kind(spots, "soft_exudate"):
        _soft_exudate(canvas, skin, spot, rng)
    for spot in of_kind(spots, "hard_exudate"):
        _hard_exudate(canvas, skin, spot, rng)


def of_kind(spots: Sequence[Spot], kind: LesionType) -> list[Spot]:
    return [spot for spot in spots if spot.kind == kind]


def _blob(
    canvas: Canvas, spot: Spot, passing: np.ndarray, rng: np.random.Generator, roughness: float
) -> None:
    """A dot or blot, some fainter than others."""
    stretch = 1 + 2 * roughness * rng.random()
    shape = outline(spot.x, spot.y, spot.radius, rng, roughness, stretch, rng.uniform(0, np.pi))
    canvas.fill(shape, passing + (255 - passing) * rng.uniform(-0.05, 0.28), spot.kind)


def _haemorrhage(canvas: Canvas, place: Landmarks, spot: Spot, rng: np.random.Generator) -> None:
    """A blot, or (two in five of the larger) a flame whose feathered ends follow the nerve
    fibres to the disc.
    """
    if spot.radius < 0.018 or rng.random() > 0.4:
        _blob(canvas, spot, _HAEMORRHAGE, rng, roughness=0.15)
        return
    turn = float(np.arctan2(place.disc_y - spot.y, place.disc_x - spot.x) + rng.normal(0, 0.25))
    along, across = rng.normal(0, 0.35, (2, 6)) * spot.radius
    for x, y in rotated(along, 0.55 * across, turn, spot.x, spot.y).tolist():
        streak = outline(
            x,
            y,
            spot.radius * rng.uniform(0.4, 0.6),
            rng,
            0.06,
            stretch=1.9,
            turn=turn + rng.normal(0, 0.08),
        )
        canvas.fill(streak, _HAEMORRHAGE * rng.uniform(1.0, 1.3), spot.kind)


def _new_vessels(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """A tangle of fine loops that fans out to one side."""
    fan, turn = rng.uniform(0, 2 * np.pi, 2)
    stretch = rng.uniform(1.0, 1.4)
    thicknesses = [max(1, round(share * canvas.patch.radius)) for share in (0.0035, 0.0055)]
    along = np.linspace(0, 1, 26)
    for _ in range(int(rng.integers(16, 27))):
        heading = fan + rng.uniform(-1.7, 1.7) + rng.choice([-1, 1]) * rng.uniform(3.0, 7.5) * along
        heading = heading + 0.8 * np.sin(2 * np.pi * (along * rng.uniform(1.5, 4) + rng.random()))
        steps = (
            spot.radius
            * rng.uniform(0.9, 2.4)
            / len(along)
            * np.stack([np.cos(heading), np.sin(heading)])
        )
        loop = np.cumsum(steps, axis=1) + rng.normal(0, 0.32 * spot.radius, (2, 1))
        # Held in at a different distance for each loop: one distance for all would draw a circle.
        loop = loop / np.cbrt(1.0 + (np.hypot(*loop) / (spot.radius * rng.uniform(0.5, 1.15))) ** 3)
        path = canvas.fixed(rotated(loop[0] * stretch, loop[1] / stretch, turn, spot.x, spot.y))
        canvas.stroke(
            path, _NEW_VESSEL * rng.uniform(0.85, 1.25), int(rng.choice(thicknesses)), spot.kind
        )


def _preretinal(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """A boat: blood that sank under a level surface, before the retina, hiding what is behind."""
    hull = outline(0.0, 0.0, spot.radius, rng, 0.025, stretch=1.15)
    level = spot.radius * (0.02 * np.sin(7 * hull[:, 0] / spot.radius) - rng.uniform(0.1, 0.3))
    shape = np.stack([hull[:, 0], np.maximum(hull[:, 1], level)], axis=1) + (spot.x, spot.y)
    canvas.fill(shape, _PRERETINAL * rng.uniform(0.85, 1.15), spot.kind)


def _soft_exudate(canvas: Canvas, skin: Skin, spot: Spot, rng: np.random.Generator) -> None:
    """A pale patch of swollen nerve fibres with fluffy edges."""
    rows, columns, x, y = canvas.window(spot.x, spot.y, 1.9 * spot.radius)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / spot.radius
    fluff = cv2.resize(
        rng.standard_normal((7, 7), dtype=np.float32),
        distance.shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    share = inward(distance + 0.15 + 0.16 * fluff, 0.14)
    canvas.blend(rows, columns, 0.78 * share, skin.paler(0.72, (1.25, 1.2, 0.92)))
    canvas.labels[rows, columns][share > 0.5] = LABELS[spot.kind]


def _hard_exudate(canvas: Canvas, skin: Skin, spot: Spot, rng: np.random.Generator) -> None:
    """A cluster of sharp yellow specks, or (two in five) a ring of them around a leaking vessel."""
    rows, columns, x, y = canvas.window(spot.x, spot.y, 1.4 * spot.radius)
    ring = rng.random() < 0.4
    number = int(rng.integers(12, 26) + 220 * spot.radius)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(0, 4.6 if ring else 2 * np.pi, number)
    reach = spot.radius * (
        rng.normal(0.85, 0.12, number) if ring else np.abs(rng.normal(0, 0.62, number))
    )
    reach = np.minimum(reach, 1.15 * spot.radius)
    centres = np.stack([spot.x + reach * np.cos(angle), spot.y + reach * np.sin(angle)], axis=1)
    specks = np.zeros((y.shape[0], x.shape[1]), np.uint8)
    origin = np.array([columns.start, rows.start], np.int32) << SHIFT
    for (speck_x, speck_y), size in zip(
        centres.tolist(), rng.gamma(1.6, 0.0032, number), strict=True
    ):
        shape = outline(speck_x, speck_y, 0.0034 + float(size), rng, 0.16)
        cv2.fillPoly(specks, [canvas.fixed(shape) - origin], 255.0, cv2.LINE_AA, SHIFT)
    canvas.labels[rows, columns][specks > 127] = LABELS[spot.kind]
    share = cv2.GaussianBlur(specks, (0, 0), max(0.5, 0.0016 * canvas.patch.radius)) / np.float32(
        255
    )
    canvas.blend(rows, columns, 0.94 * share, skin.paler(0.85, (1.33, 1.18, 0.55)))
