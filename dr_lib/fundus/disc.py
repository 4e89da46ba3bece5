"""Where the retina lies in a photograph: centre and diameter of its disc, with a confidence (METHOD
§1.1).

The method's count of non-black pixels on the middle line is right only where that line crosses the
whole disc. So the rim is traced in every row and column and a circle fitted to it that ignores
notches, text, dark quarters and the frame's edges. The count is the check on that circle, and what
remains where no circle can be found. Where an upright ellipse fits far better the photograph was
squeezed, and where neither holds what is bright it is refused: a wrong disc would pass unseen.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from dr_lib.fundus.errors import UngradablePhoto
from dr_lib.fundus.rim import TOLERANCE, Circle, fit_circle, refined, rim_points, share_off
from dr_lib.fundus.squeeze import Ellipse, fit_ellipse

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
SECOND = 0.6  # of the rim of each of two discs
AGREEMENT = 0.02  # of the diameter: so near, the middle line's count confirms the circle


@dataclass(frozen=True)
class Disc:
    """The retina's disc, in pixels of the photograph it was found in; pixel centres have
    whole-number coordinates.

    `confidence` (0…1) is the share of the rim within the frame where a fall of tone was seen on the
    circle. `method`: "middle_line+circle" (METHOD's count agrees with the circle), "circle" (it
    does not: the circle stands), "ellipse" (the photograph was squeezed) or "middle_line" (no
    circle was found). `diameter` is the disc's width, `aspect` its height over its width: 1 unless
    the photograph was squeezed.
    """

    centre_y: float | int
    centre_x: float | int
    diameter: float | int
    confidence: float | int = 1.0
    method: str = "given"
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
    tone = np.maximum(np.maximum(small[..., 0], small[..., 1]), small[..., 2])
    dark, bright = _tones(tone)
    if bright - dark < 2:
        raise UngradablePhoto(
            "no_retina",
            f"no bright disc on a dark border (tones {dark:.0f} and {bright:.0f} of 255)",
        )
    if (
        dark > 0.5 * bright
    ):  # in 644 EyePACS photographs the border reaches a sixth of the retina's tone
        raise UngradablePhoto(
            "no_border",
            f"its corners are not darker than its middle (tones {dark:.0f} and {bright:.0f} of"
            " 255)",
        )
    rim = _best_circle(tone, dark, bright)
    if rim.off > OFF:
        if rim.circle is not None and _another_disc(tone, rim.circle, rim.points, dark, bright):
            raise UngradablePhoto("two_eyes", "it shows two discs; cut it into a photograph an eye")
        ellipse = _best_ellipse(tone, dark, bright)
        oval = ellipse is not None and _explains_more(ellipse, rim.circle)
        support = 0.0 if rim.circle is None else rim.circle.support
        # Wide-field scanners show lying or ragged ovals; frames are squeezed the other way.
        odd = ellipse.aspect < 1 if oval else support < SUPPORTED
        if odd and not _by_white_light(small, tone, dark, bright):
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
            return _round_disc(ellipse).scaled(step)
    if rim.circle is not None and _retina_outside(tone, rim.circle, dark, bright):
        raise UngradablePhoto("no_border", "the retina fills the frame, and no rim of it is seen")
    count, line = _middle_line(tone, dark + max(1.0, 0.1 * (bright - dark)))
    best = rim.circle
    if best is None:
        disc = Disc(float(line), (tone.shape[1] - 1) / 2, max(count, 1.0), 0.0, "middle_line")
    else:
        chord = 2 * np.sqrt(max(best.radius**2 - (line - best.y) ** 2, 0))
        agrees = abs(count - chord) < AGREEMENT * 2 * best.radius + 1
        method = "middle_line+circle" if agrees else "circle"
        disc = Disc(best.y, best.x, 2 * best.radius, round(min(best.support, 1.0), 4), method)
    return disc.scaled(step)


class _Rim(NamedTuple):
    """The circle that fits best, the rim's points (y, x) that it was found in, and the share of
    them that does not lie on it.
    """

    circle: Circle | None
    points: tuple[np.ndarray, np.ndarray]
    off: float


def _best_circle(tone, dark, bright) -> _Rim:
    best, best_merit = _Rim(None, (np.empty(0), np.empty(0)), 1.0), 0.0
    for fraction in FRACTIONS:
        points = rim_points(tone, dark + max(1.0, fraction * (bright - dark)))
        circle = fit_circle(*points, tone.shape)
        if circle is None:
            continue
        circle = refined(tone, circle, _least_contrast(dark, bright))
        merit, sharp = _merit(circle, dark, bright)
        if merit > best_merit:
            best, best_merit = _Rim(circle, points, share_off(points, circle[:3])), merit
        if sharp:
            break
    return best


def _best_ellipse(tone, dark, bright) -> Ellipse | None:
    best, best_merit = None, 0.0
    for fraction in FRACTIONS:
        points = rim_points(tone, dark + max(1.0, fraction * (bright - dark)))
        ellipse = fit_ellipse(tone, points, _least_contrast(dark, bright))
        if ellipse is None:
            continue
        merit, sharp = _merit(ellipse.circle, dark, bright)
        if merit > best_merit:
            best, best_merit = ellipse, merit
        if sharp:
            break
    return best


def _another_disc(tone, first: Circle, points, dark, bright) -> bool:
    """Whether the points that are not on the first circle make a second one beside it."""
    y, x = points
    off = np.abs(np.hypot(y - first.y, x - first.x) - first.radius) > 4 * TOLERANCE * first.radius
    if first.support < SECOND:
        return False
    second = fit_circle(y[off], x[off], tone.shape)
    if second is None:
        return False
    second = refined(tone, second, _least_contrast(dark, bright))
    apart = np.hypot(second.y - first.y, second.x - first.x) / (first.radius + second.radius)
    alike = 0.6 < second.radius / first.radius < 1 / 0.6
    return bool(second.support > SECOND and alike and apart > 0.75)


def _explains_more(ellipse: Ellipse, circle: Circle | None) -> bool:
    """Whether the ellipse is seen in more directions than the circle, and is none itself."""
    found, seen = ellipse.circle, circle.seen if circle is not None else 0.0
    clean = found.support > 0.95 and ellipse.off < 0.1
    least, more = (CLEAN_SQUEEZE, 1.0) if clean else (LEAST_SQUEEZE, MORE_SEEN)
    return (
        found.support > SUPPORTED
        and found.seen > max(LEAST_SEEN, more * seen)
        and bool(abs(np.log(ellipse.aspect)) > least)
    )


def _retina_outside(tone, circle: Circle, dark, bright) -> bool:
    """Whether the circle is a faint one amid the retina."""
    if circle.contrast >= FAINT * (bright - dark):
        return False
    y, x = np.ogrid[: tone.shape[0], : tone.shape[1]]
    outside = np.hypot(y - circle.y, x - circle.x) > 1.06 * circle.radius
    lit = _lit(tone, dark, bright)
    return bool(lit[outside].sum() > SPILL * lit.sum())


def _by_white_light(small, tone, dark, bright) -> bool:
    """Whether the retina is redder than green and has some blue. A scanner's two lasers show no
    blue, and mostly green.
    """
    red, green, blue = small[_lit(tone, dark, bright)].mean(axis=0)
    return bool(red > green and blue > NO_BLUE * red)


def _lit(tone, dark, bright):
    return tone > dark + max(1.0, 0.25 * (bright - dark))


def _round_disc(ellipse: Ellipse) -> Disc:
    y, x, width = ellipse.in_photo()
    confidence = round(min(ellipse.circle.support, 1.0), 4)
    return Disc(y, x, width, confidence, "ellipse", round(ellipse.aspect, 4))


def _least_contrast(dark, bright):
    return max(0.75, 0.03 * (bright - dark))


def _merit(circle: Circle, dark, bright) -> tuple[float, bool]:
    """How good a circle is, and whether no better one need be looked for.

    Glow outside the rim makes a circle too, but a faint one: of two complete circles the sharper is
    the rim.
    """
    sharpness = circle.contrast / (bright - dark)
    merit = circle.support * (0.2 + min(sharpness, 0.5))
    return merit, circle.support > 0.85 and sharpness > 0.35


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
    """METHOD §1.1 as it stands: the number of non-black pixels of the middle line (the median of
    nine lines), and its row.
    """
    height = tone.shape[0]
    counts = (tone[max(0, height // 2 - 4) : height // 2 + 5] > threshold).sum(axis=1)
    return float(np.median(counts)), height // 2
