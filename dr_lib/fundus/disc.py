"""Where the retina lies in a photograph: centre and diameter of its disc, with a confidence (METHOD
§1.1).

The method's count of non-black pixels on the middle line is right only where that line crosses the
whole disc. So the rim is traced in every row and column and a circle fitted to it that ignores
notches, text, dark quarters and the frame's edges. The count is what remains where no circle can be
found. Where an upright ellipse fits far better the photograph was
squeezed, and where neither holds what is bright it is refused: a wrong disc would pass unseen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from dr_lib.fundus.photo import UngradablePhoto
from dr_lib.fundus.rim import TOLERANCE, Circle, away, rim_points
from dr_lib.fundus.squeeze import Ellipse, fit_ellipse, fit_round

# the rim is traced on a copy at least this wide: hundreds of rim points average to a tenth of its
# pixel
WORKING_PX = 220
FRACTIONS = (0.12, 0.06, 0.25, 0.5)  # thresholds tried, between the border's tone and the retina's
OFF = 0.25  # of the rim's points off the circle: with more another shape is looked for
SUPPORTED, LEAST_SEEN = 0.7, 0.25  # of an ellipse's rim within the frame; of all directions
TRUSTED = 0.85  # of an ellipse's rim; one that is seen less bounds a lit part of the retina
MORE_SEEN = 1.1  # times the directions in which a circle is seen, for an ellipse with a flaw
# Logarithm of the least aspect that is believed, of an ellipse without a flaw and of others. In 946
# photographs of round discs (EyePACS, Messidor-2, IDRiD) ellipses stray by up to 0.047; where only
# the corners of a square show a rim by 0.27, which is why directions count.
CLEAN_SQUEEZE, LEAST_SQUEEZE = 0.05, 0.1
FAINT, SPILL = 0.3, 0.1  # of the retina's tone at the rim; of what is lit outside it
NO_BLUE = 0.02  # of red
CUT_ALIKE = 0.1  # of the radius: from the middle of what a camera left of the disc
BAND = 0.02  # lit pixels of a row or column: below, it is a dark band
SECOND = 0.6  # of the rim of each of two discs


@dataclass(frozen=True)
class Disc:
    """The retina's disc, in pixels of the photograph it was found in; pixel centres have
    whole-number coordinates.

    `confidence` (0…1) is the share of the rim within the frame where a fall of tone was seen on the
    circle or ellipse; 0 where none was found and METHOD's count is all there is. `diameter` is the
    disc's width, `aspect` its height over its width: 1 unless the photograph was squeezed.
    """

    centre_y: float | int
    centre_x: float | int
    diameter: float | int
    confidence: float | int = 1.0
    aspect: float | int = 1.0

    @property
    def height(self) -> float | int:
        """The disc's vertical diameter in pixels."""
        return self.diameter * self.aspect

    @property
    def narrowest(self) -> float | int:
        """The shorter of its two diameters in pixels."""
        return min(self.diameter, self.height)

    def scaled(self, factor: float | int) -> "Disc":
        """The same disc in a photograph `factor` times as large.

        >>> twice = Disc(9.5, 9.5, 20.0).scaled(2)
        >>> twice.centre_y, twice.centre_x, twice.diameter
        (19.5, 19.5, 40.0)
        """
        return replace(
            self,
            centre_y=(self.centre_y + 0.5) * factor - 0.5,
            centre_x=(self.centre_x + 0.5) * factor - 0.5,
            diameter=self.diameter * factor,
        )


def retina_disc(photo: UInt8[np.ndarray, "y x 3"]) -> Disc:
    """The disc of the retina in a photograph, (H, W, 3) uint8 RGB. Raises UngradablePhoto
    (no_retina, no_border, not_round, two_eyes, wide_field).

    A disc of little confidence is returned as it is; `preprocess` refuses it.
    """
    small, step = photo, 1
    while max(small.shape[:2]) >= 2 * WORKING_PX:
        small, step = halved(small), 2 * step
    tone = brightest(small)
    view = _View(tone, *_tones(tone))
    tones = f"(tones {view.dark:.0f} and {view.bright:.0f} of 255)"
    if view.range < 2:
        raise UngradablePhoto("no_retina", f"no bright disc on a dark border {tones}")
    # in 644 EyePACS photographs the border reaches a sixth of the retina's tone
    if view.dark > 0.5 * view.bright:
        raise UngradablePhoto("no_border", f"its corners are not darker than its middle {tones}")
    best = _within_bands(view, _best(view, fit_round))
    if best is None or best.off > OFF:
        if best is not None and _another_disc(view, best):
            raise UngradablePhoto("two_eyes", "it shows two discs; cut it into a photograph an eye")
        ellipse = _best(view, fit_ellipse)
        oval = ellipse is not None and _explains_more(ellipse, best)
        # Wide-field scanners show lying or ragged ovals; frames are squeezed the other way.
        odd = ellipse.aspect < 1 if oval else best is None or best.circle.support < SUPPORTED
        # White light shows the retina redder than green, with some blue; a scanner's two lasers
        # show no blue, and mostly green.
        red, green, blue = small[view.lit()].mean(axis=0)
        if odd and not (red > green and blue > NO_BLUE * red):
            raise UngradablePhoto(
                "wide_field",
                "its outline is not round, and its colours are not those of white light: a"
                " wide-field scan shows the retina in another geometry",
            )
        if oval and ellipse.circle.support < TRUSTED:
            raise UngradablePhoto(
                "not_round",
                "its outline is neither a circle nor an ellipse, as where one side of it is dark",
            )
        if oval:
            aspect = round(ellipse.aspect, 4)
            return Disc(*ellipse.in_photo(), _confidence(ellipse.circle), aspect).scaled(step)
    if best is None:
        return _middle_line(tone, view.level(0.1)).scaled(step)
    circle = best.circle
    if _retina_outside(view, circle):
        raise UngradablePhoto("no_border", "the retina fills the frame, and no rim of it is seen")
    return Disc(circle.y, circle.x, 2 * circle.radius, _confidence(circle)).scaled(step)


class _View(NamedTuple):
    """The small grey picture in which the disc is looked for, with the tones of the border and of
    the retina.
    """

    tone: np.ndarray
    dark: float
    bright: float

    @property
    def range(self) -> float:
        return self.bright - self.dark

    @property
    def least_contrast(self) -> float:
        """The fall of tone from which on it may be the rim's."""
        return max(0.75, 0.03 * self.range)

    def level(self, fraction: float) -> float:
        """A tone between the border's and the retina's."""
        return self.dark + max(1.0, fraction * self.range)

    def lit(self) -> np.ndarray:
        """Which pixels are brighter than any border."""
        return self.tone > self.level(0.25)


def _best(view: _View, fit: Callable[..., Ellipse | None]) -> Ellipse | None:
    """The best circle or ellipse in the rims that the thresholds give.

    Glow outside the rim makes a circle too, but a faint one: of two complete circles the sharper is
    the rim.
    """
    best, best_merit = None, 0.0
    for fraction in FRACTIONS:
        found = fit(view.tone, rim_points(view.tone, view.level(fraction)), view.least_contrast)
        if found is None:
            continue
        sharpness = found.circle.contrast / view.range
        merit = found.circle.support * (0.2 + min(sharpness, 0.5))
        if merit > best_merit:
            best, best_merit = found, merit
        if found.circle.support > 0.85 and sharpness > 0.35:
            break
    return best


def _within_bands(view: _View, found: Ellipse | None) -> Ellipse | None:
    """A circle that is seen too little, looked for again without the dark bands around what is lit:
    where a cut photograph was put on a black square, the cuts look like rim until they are the
    frame's edges. What was found before, unless that shows a circle.
    """
    if found is None or found.off <= OFF or found.circle.support >= SUPPORTED:
        return found
    lit = view.lit()
    spans = [np.flatnonzero(lit.mean(axis=axis) > BAND)[[0, -1]] for axis in (1, 0)]
    (top, bottom), (left, right) = ((int(low) + 2, int(high) - 1) for low, high in spans)
    inner = view._replace(tone=view.tone[top:bottom, left:right])
    again = _best(inner, fit_round)
    if again is None or again.circle.support < SUPPORTED or again.circle.seen < LEAST_SEEN:
        return found
    circle = again.circle._replace(y=again.circle.y + top, x=again.circle.x + left)
    # A camera cuts both sides alike; where one side is dark the circle's middle lies elsewhere.
    apart = max(abs(circle.y - (top + bottom) / 2), abs(circle.x - (left + right) / 2))
    if apart > CUT_ALIKE * circle.radius:
        return found
    return again._replace(circle=circle, points=(again.points[0] + top, again.points[1] + left))


def _another_disc(view: _View, found: Ellipse) -> bool:
    """Whether the points that are not on the first circle make a second one beside it."""
    first, (y, x) = found.circle, found.points
    if first.support < SECOND:
        return False
    off = away(found.points, first) > 4 * TOLERANCE * first.radius
    second = fit_round(view.tone, (y[off], x[off]), view.least_contrast)
    if second is None:
        return False
    other = second.circle
    apart = np.hypot(other.y - first.y, other.x - first.x) / (first.radius + other.radius)
    alike = 0.6 < other.radius / first.radius < 1 / 0.6
    return bool(other.support > SECOND and alike and apart > 0.75)


def _explains_more(ellipse: Ellipse, best: Ellipse | None) -> bool:
    """Whether the ellipse is seen in more directions than the best circle, and is none itself."""
    found, seen = ellipse.circle, 0.0 if best is None else best.circle.seen
    clean = found.support > 0.95 and ellipse.off < 0.1
    least, more = (CLEAN_SQUEEZE, 1.0) if clean else (LEAST_SQUEEZE, MORE_SEEN)
    return (
        found.support > SUPPORTED
        and found.seen > max(LEAST_SEEN, more * seen)
        and bool(abs(np.log(ellipse.aspect)) > least)
    )


def _retina_outside(view: _View, circle: Circle) -> bool:
    """Whether the circle is a faint one amid the retina."""
    if circle.contrast >= FAINT * view.range:
        return False
    lit = view.lit()
    y, x = np.ogrid[: lit.shape[0], : lit.shape[1]]
    outside = np.hypot(y - circle.y, x - circle.x) > 1.06 * circle.radius
    return bool(lit[outside].sum() > SPILL * lit.sum())


def _confidence(circle: Circle) -> float:
    return round(min(circle.support, 1.0), 4)


def brightest(image: Shaped[np.ndarray, "y x 3"]) -> Shaped[np.ndarray, "y x"]:
    """The brightest of each pixel's colours; 30 times faster than .max(axis=2)."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def halved(image: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "half_y half_x 3"]:
    """The image at half its size, each pixel the mean of four; an odd last row or column is left
    out (so OpenCV is ten times faster).
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return cv2.resize(
        image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
    )


def quantile(values: Shaped[np.ndarray, "..."], share: float) -> float:
    """The value that `share` (0…1) of the values lie below; the nearest one, which takes a tenth
    of np.percentile's time.
    """
    ordered = np.sort(values, axis=None)
    return float(ordered[round(share * (len(ordered) - 1))])


def _tones(tone):
    """The tones of the border and of the retina. The border is the darkest corner; a brighter
    one holds a notch, text or glow.
    """
    height, width = tone.shape
    side = max(2, min(height, width) // 16)
    corners = (tone[:side, :side], tone[:side, -side:], tone[-side:, :side], tone[-side:, -side:])
    dark = min(quantile(corner, 0.5) for corner in corners)
    bright = quantile(tone[::2, ::2], 0.75)
    if bright - dark < 8:  # the disc may fill less than a quarter of the frame
        bright = quantile(tone[::2, ::2], 0.95)
    return dark, bright


def _middle_line(tone, threshold):
    """METHOD §1.1 as it stands: the diameter is the number of non-black pixels of the middle line
    (the median of nine lines).
    """
    middle = tone.shape[0] // 2
    counts = (tone[max(0, middle - 4) : middle + 5] > threshold).sum(axis=1)
    return Disc(float(middle), (tone.shape[1] - 1) / 2, max(float(np.median(counts)), 1.0), 0.0)
