"""Where the retina lies in a photograph: centre and diameter of its disc, with a confidence (METHOD
§1.1).

The method's count of non-black pixels on the middle line is right only where that line crosses the
whole disc. So the rim is traced in every row and column and a circle fitted to it that ignores
notches, text, dark quarters and the frame's edges. The count is the check on that circle, and what
remains where no circle can be found.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from dr_lib.fundus.errors import UngradablePhoto
from dr_lib.fundus.rim import fit_circle, refined, rim_points

# the rim is traced on a copy at least this wide: hundreds of rim points average to a tenth of its
# pixel
WORKING_PX = 220
FRACTIONS = (0.12, 0.06, 0.25, 0.5)  # thresholds tried, between the border's tone and the retina's
AGREEMENT = 0.02  # of the diameter: so near, the middle line's count confirms the circle


@dataclass(frozen=True)
class Disc:
    """The retina's disc, in pixels of the photograph it was found in; pixel centres have
    whole-number coordinates.

    `confidence` (0…1) is the share of the rim within the frame where a fall of tone was seen on the
    circle. `method`: "middle_line+circle" (METHOD's count agrees with the circle), "circle" (it
    does not: the circle stands) or "middle_line" (no circle was found).
    """

    centre_y: float | int
    centre_x: float | int
    diameter: float | int
    confidence: float | int = 1.0
    method: str = "given"

    def scaled(self, factor: float | int) -> "Disc":
        """The same disc in a photograph `factor` times as large.

        >>> Disc(9.5, 9.5, 20.0).scaled(2)
        Disc(centre_y=19.5, centre_x=19.5, diameter=40.0, confidence=1.0, method='given')
        """
        centre_y, centre_x = (
            (self.centre_y + 0.5) * factor - 0.5,
            (self.centre_x + 0.5) * factor - 0.5,
        )
        return Disc(centre_y, centre_x, self.diameter * factor, self.confidence, self.method)


def retina_disc(photo: UInt8[np.ndarray, "y x 3"]) -> Disc:
    """The disc of the retina in a photograph, (H, W, 3) uint8 RGB. Raises UngradablePhoto
    (no_retina, no_border).

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
    best, best_merit = None, 0.0
    for fraction in FRACTIONS:
        circle = fit_circle(
            *rim_points(tone, dark + max(1.0, fraction * (bright - dark))), tone.shape
        )
        if circle is None:
            continue
        circle = refined(tone, circle, max(0.75, 0.03 * (bright - dark)))
        # Glow outside the rim makes a circle too, but a faint one: of two complete circles the
        # sharper is the rim.
        sharpness = circle.contrast / (bright - dark)
        merit = circle.support * (0.2 + min(sharpness, 0.5))
        if merit > best_merit:
            best, best_merit = circle, merit
        if circle.support > 0.85 and sharpness > 0.35:
            break
    count, line = _middle_line(tone, dark + max(1.0, 0.1 * (bright - dark)))
    if best is None:
        disc = Disc(float(line), (tone.shape[1] - 1) / 2, max(count, 1.0), 0.0, "middle_line")
    else:
        chord = 2 * np.sqrt(max(best.radius**2 - (line - best.y) ** 2, 0))
        agrees = abs(count - chord) < AGREEMENT * 2 * best.radius + 1
        method = "middle_line+circle" if agrees else "circle"
        disc = Disc(best.y, best.x, 2 * best.radius, round(min(best.support, 1.0), 4), method)
    return disc.scaled(step)


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
