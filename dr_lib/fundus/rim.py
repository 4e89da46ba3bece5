"""The rim of the retina in a small grey picture: points on it, and the circle that most of them
agree on.

Everything here works in pixels of that small picture. Notches, text, dark quarters and spliced
exposures put points where the rim is not, so nothing takes a mean of all points: circles through
three points are judged by how many others they meet (RANSAC), and the winner is refined on those
alone.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

TRIOS = 160  # with four in ten points on the rim, all 160 trios miss it once in 10⁴ times
JUDGES = 96  # points that judge a circle; more cost time and change nothing
DIRECTIONS = 96  # in which the rim is looked for around a circle
TOLERANCE = 0.012  # of the radius: a point this near lies on the circle
REACH = 0.05  # of the radius: so near a circle the steepest fall of tone is looked for

Points = tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]  # (y, x)

_ANGLES = np.linspace(-np.pi, np.pi, DIRECTIONS, endpoint=False)
_SIN, _COS = np.sin(_ANGLES), np.cos(_ANGLES)


class Circle(NamedTuple):
    """A circle in pixels; `support` is the share of its directions within the frame in which the
    rim was seen, 0…1.

    `contrast` is the typical fall of tone across the rim, in grey levels; `seen` the share of all
    directions in which the rim was seen, however many of them the frame leaves.
    """

    y: float
    x: float
    radius: float
    support: float
    contrast: float
    seen: float


def rim_points(tone: Shaped[np.ndarray, "y x"], threshold: float) -> Points:
    """Where rows and columns first and last cross the threshold, (y, x) to a fraction of a pixel.

    Crossings at the frame's edges are left out: there the photograph ends, not the retina. So are
    small bright regions (text).
    """
    mask = (tone > threshold).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    if count < 2:
        return np.empty(0), np.empty(0)
    if count > 2:
        areas = np.bincount(labels.ravel())
        large = areas >= 0.05 * areas[1:].max()
        large[0] = False
        mask = large[np.asarray(labels, np.int32)]
    mask = mask.astype(bool)
    ys, xs = [], []
    for upright in (True, False):
        kept, value = (mask, tone) if upright else (np.ascontiguousarray(mask.T), tone.T)
        length = kept.shape[1]
        lines = np.flatnonzero(kept.any(axis=1))
        for step, ends in (
            (-1, kept.argmax(axis=1)[lines]),
            (1, length - 1 - kept[:, ::-1].argmax(axis=1)[lines]),
        ):
            inner = (ends > 1) & (ends < length - 2)
            line, end = lines[inner], ends[inner]
            here, beyond = (
                value[line, end].astype(np.float64),
                value[line, end + step].astype(np.float64),
            )
            place = end + step * np.clip((here - threshold) / np.maximum(here - beyond, 1e-6), 0, 1)
            ys.append(line if upright else place)
            xs.append(place if upright else line)
    return np.concatenate(ys).astype(np.float64), np.concatenate(xs).astype(np.float64)


def fit_circle(points: Points, shape: tuple[int, ...]) -> tuple[float, float, float] | None:
    """The circle (y, x, radius) that most of the points lie on, or None: RANSAC, then least
    squares on the points it meets.
    """
    (y, x), (height, width) = points, shape
    if len(y) < 12:
        return None
    random = np.random.default_rng(0)  # fixed, so that a photograph always gives the same disc
    first, second, third = random.integers(0, len(y), (3, TRIOS))
    a, b, c, d = (
        x[second] - x[first],
        y[second] - y[first],
        x[third] - x[first],
        y[third] - y[first],
    )
    determinant = 2 * (a * d - b * c)
    usable = np.abs(determinant) > 1e-3 * width  # not on one line
    a, b, c, d, determinant, first = (v[usable] for v in (a, b, c, d, determinant, first))
    e, f = a * a + b * b, c * c + d * d
    dx, dy = (d * e - b * f) / determinant, (a * f - c * e) / determinant
    cx, cy, radius = x[first] + dx, y[first] + dy, np.hypot(dx, dy)
    legal = (radius > 0.1 * min(height, width)) & (radius < 0.8 * max(height, width))
    legal &= (cx > 0) & (cx < width) & (cy > -0.2 * height) & (cy < 1.2 * height)
    if not legal.any():
        return None
    cx, cy, radius = (
        v[legal, None].astype(np.float32) for v in (cx, cy, radius)
    )  # precise enough to judge by, and faster
    judge = np.linspace(0, len(y) - 1, min(len(y), JUDGES)).astype(int)
    off = np.abs(
        np.sqrt((y[judge].astype(np.float32) - cy) ** 2 + (x[judge].astype(np.float32) - cx) ** 2)
        - radius
    )
    best = np.maximum(0, 1 - off / (TOLERANCE * radius)).sum(axis=1).argmax()
    circle = tuple(float(values[best, 0]) for values in (cy, cx, radius))
    return _least_squares(points, circle, (2, 1, 1))


def away(points: Points, circle: tuple[float, ...]) -> Float[np.ndarray, " point"]:
    """How far each point (y, x) lies from a circle (y, x, radius, …), in pixels."""
    y, x = points
    return np.abs(np.hypot(y - circle[0], x - circle[1]) - circle[2])


def _least_squares(points, circle, tolerances):
    """The circle refined on the points near it, pass by pass, or None when too few lie near."""
    y, x = points
    for tolerance in tolerances:
        cy, cx, radius = circle
        near = away(points, circle) < max(1.0, tolerance * TOLERANCE * radius)
        if near.sum() < 8:
            return None
        v, u = y[near] - cy, x[near] - cx
        # Kåsa's form: u² + v² = 2·du·u + 2·dv·v + k is linear in the centre's shift; about the last
        # centre it is unbiased.
        design = np.stack([2 * u, 2 * v, np.ones_like(u)], axis=1)
        try:
            du, dv, k = np.linalg.solve(design.T @ design, design.T @ (u * u + v * v))
        except np.linalg.LinAlgError:
            return None
        circle = (float(cy + dv), float(cx + du), float(np.sqrt(max(k + du * du + dv * dv, 1.0))))
    return circle


def refined(
    tone: Shaped[np.ndarray, "y x"],
    circle: tuple[float, float, float],
    least_contrast: float,
) -> Circle:
    """The circle moved onto the steepest fall of tone near it (within `REACH` of the radius), with
    its support and contrast.

    A threshold puts the rim too far out where glow surrounds it and too far in where it is dim; its
    steepest fall is in the same place for every threshold. Directions that leave the frame have no
    say.
    """
    for _ in range(2):
        fall = _steepest_fall(tone, circle, least_contrast)
        better = _least_squares(fall.points, circle, (2, 1)) if fall.clear.sum() >= 16 else None
        if better is None:
            break
        circle = better
    cy, cx, radius = circle
    distance = np.full(DIRECTIONS, np.inf)
    distance[fall.clear] = away(fall.points, circle)
    on_rim = distance < max(
        1.5, 2.5 * TOLERANCE * radius
    )  # wider than the fit's: a soft rim falls over several pixels
    framed = fall.whole.all(axis=1) | on_rim
    support = on_rim.sum() / max(framed.sum(), DIRECTIONS / 4)  # an arc under a quarter says little
    contrast = float(np.median(fall.steepest[on_rim])) if on_rim.any() else 0.0
    seen = float(on_rim.mean())
    return Circle(float(cy), float(cx), float(radius), float(support), contrast, seen)


def share_off(points: Points, circle: Circle) -> float:
    """Which share of the rim's points does not lie on the circle, 0…1."""
    return float((away(points, circle) > 2 * TOLERANCE * circle.radius).mean())


def nearest_fall(tone: Shaped[np.ndarray, "y x"], circle: Circle, least_contrast: float) -> Points:
    """Where tone falls most steeply near the circle, (y, x) of each direction in which it clearly
    does, those on the circle alone.
    """
    y, x = points = _steepest_fall(tone, circle[:3], least_contrast).points
    near = away(points, circle) < 4 * TOLERANCE * circle.radius
    return y[near], x[near]


class _Fall(NamedTuple):
    """The steepest fall of tone in each direction around a circle."""

    points: tuple[np.ndarray, np.ndarray]  # (y, x) of the clear ones
    clear: np.ndarray  # (direction,) bool
    steepest: np.ndarray  # (direction,) grey levels
    whole: np.ndarray  # (direction, step) bool: within the frame


def _steepest_fall(tone, circle, least_contrast) -> _Fall:
    height, width = tone.shape
    cy, cx, radius = circle
    steps = max(6, int(np.ceil(2 * REACH * radius / 0.5)))
    radii = np.linspace((1 - REACH) * radius, (1 + REACH) * radius, steps)
    apart = max(1.0, 0.012 * radius)
    rings = np.concatenate([radii - apart, radii + apart])
    map_y = (cy + rings * _SIN[:, None]).astype(np.float32)
    map_x = (cx + rings * _COS[:, None]).astype(np.float32)
    sampled = cv2.remap(
        tone, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    fall = sampled[:, :steps] - sampled[:, steps:]
    in_frame = (map_y > 1) & (map_y < height - 2) & (map_x > 1) & (map_x < width - 2)
    whole = in_frame[:, :steps] & in_frame[:, steps:]
    fall[~whole] = -1
    at = fall.argmax(axis=1)
    steepest = fall[np.arange(DIRECTIONS), at]
    inner = np.clip(at, 1, steps - 2)
    before, here, after = (fall[np.arange(DIRECTIONS), inner + k] for k in (-1, 0, 1))
    curve = before - 2 * here + after
    shift = np.where(
        (curve < -1e-3) & (inner == at), 0.5 * (before - after) / np.minimum(curve, -1e-3), 0
    )
    place = radii[inner] + np.clip(shift, -0.5, 0.5) * (radii[1] - radii[0])
    place = np.where(inner == at, place, radii[at])
    clear = steepest > least_contrast
    points = cy + place[clear] * _SIN[clear], cx + place[clear] * _COS[clear]
    return _Fall(points, clear, steepest, whole)
