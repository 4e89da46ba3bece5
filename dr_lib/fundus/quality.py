"""How usable an eye is: named measures of the photograph at the output's scale, and one score from
0 (unusable) to 1.

The measures see the photograph before its local tone is evened out, brought to 256 px whatever the
output's size, so that a score means the same at every setting.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float

from dr_lib.fundus.disc import Disc, quantile
from dr_lib.fundus.params import PreprocessParams
from dr_lib.fundus.scale import Scaled, across

SIDE = 256  # the measures' own size; the retina is 256 px across
# sharpness and tone are judged block by block, so that one sharp corner cannot speak for a blurred
# eye
BLOCK = 8

# The columns of the table `quality`, which says what each measures.
MEASURES = (
    *("exposure", "redness", "haze", "saturated", "contrast"),
    *("sharpness", "weakest", "clarity", "vessels", "structure", "shadow"),
    *("visible", "confidence", "score"),
)

# A logistic regression on a person's verdict (gradable or not) on 644 public EyePACS photographs of
# Kaggle's 2015 competition, of which 125 are ungradable. AUC 0.851 on these, 0.838 cross-validated
# by patient; of the gradable 97.7 % score at least 0.39.
# The weight of each measure, and how the score sees it.
TERMS = {
    "weakest": (5.8447, lambda value: value),
    "redness": (8.1262, lambda value: value),
    "haze": (-4.3156, lambda value: value**2),
    "vessels": (-0.519, lambda value: value),
    "clarity": (2.1343, lambda value: np.log(np.maximum(value, 0.0) + 0.01)),
    "structure": (-0.7204, lambda value: np.log(np.maximum(value, 0.0) + 0.01)),
}
OFFSET = 5.1522
# What a person sees in an eye whose measure lowers the score, by the sign of its weight.
FAULTS = {
    "weakest": "blurred in places",
    "redness": "dark",
    "haze": "hazy or too bright",
    "vessels": "hard edges or noise",
    "clarity": "blurred",
    "structure": "uneven",
    "visible": "partly out of the frame",
    "confidence": "rim hardly seen",
}
# of the disc and of its rim is seen in all but two of those eyes; with less the score falls in
# proportion
WHOLE = 0.6


def quality_of(photo: Scaled, disc: Disc, params: PreprocessParams) -> dict[str, float]:
    """The measures of a photograph at the output's scale: a number for each name of MEASURES."""
    side = (SIDE, SIDE)
    how = cv2.INTER_AREA if len(photo.pixels) > SIDE else cv2.INTER_LINEAR
    pixels = cv2.resize(photo.pixels, side, interpolation=how)
    seen = cv2.resize(photo.seen.view(np.uint8), side, interpolation=cv2.INTER_NEAREST)
    kept = across(SIDE) < 1 - params.crop
    seen = seen * kept.astype(np.uint8)
    core = cv2.erode(seen, np.ones((9, 9), np.uint8)).astype(
        np.float32
    )  # the crop's own edge is no detail
    share = _block_means(core)
    full = share > 0.5
    if full.sum() < 4:
        return dict.fromkeys(MEASURES, 0.0) | {"confidence": disc.confidence}
    red, green, blue = cv2.split(pixels)
    count = cv2.countNonZero(seen)
    mean, spread = (float(values[0, 0]) for values in cv2.meanStdDev(green, mask=seen))
    light = cv2.countNonZero(cv2.copyTo(seen, (green > 240).view(np.uint8), np.zeros_like(seen)))
    tones = {
        name: _block_means(channel * core)[full] / share[full]
        for name, channel in zip("rgb", (red, green, blue), strict=True)
    }
    (red_fine, red_middle), (green_fine, _) = (_fine(channel) for channel in (red, green))
    # after σ = 2 half the resolution loses nothing
    half = cv2.resize(red_middle, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    # 2² + (2·√3)² = 4²
    wide = cv2.resize(cv2.GaussianBlur(half, (0, 0), np.sqrt(3.0)), side)
    # The root mean square of each detail in the blocks that are mostly retina.
    red_fine, red_middle, green_fine = (
        np.sqrt(_block_means(detail * detail * core)[full] / share[full])
        for detail in (red_fine, red_middle - wide, green_fine)
    )
    structure, shadow = _coarse(green, seen)
    measures = {
        "exposure": mean / 255,
        "redness": quantile(tones["r"], 0.95) / 255,
        "haze": quantile(tones["b"], 0.95) / 255,
        "saturated": light / count,
        "contrast": spread / 255,
        "sharpness": quantile(green_fine, 0.25),
        "weakest": quantile(red_fine, 0.1),
        "clarity": quantile(green_fine / (tones["g"] + 5), 0.5),
        "vessels": quantile(red_middle, 0.9),
        "structure": structure,
        "shadow": shadow,
        "visible": count / kept.sum(),
        "confidence": disc.confidence,
    }
    return {
        name: round(float(value), 6)
        for name, value in (measures | {"score": score(measures)}).items()
    }


def score(measures: dict[str, float]) -> float:
    """The probability, 0…1, that a person would call an eye with these measures gradable."""
    value = OFFSET + sum(weight * seen(measures[name]) for name, (weight, seen) in TERMS.items())
    missing = min(1.0, measures["visible"] / WHOLE) * min(1.0, measures["confidence"] / WHOLE)
    return float(missing / (1 + np.exp(-value)))


def score_parts(
    measures: Mapping[str, Float[np.ndarray, "eye"]],
) -> dict[str, Float[np.ndarray, "eye"]]:
    """What each measure adds to the score's logit, by the measure's name: the lowest against other
    eyes says why a score is low.

    A disc or rim that is not wholly seen multiplies the score; its part is the logarithm, which for
    low scores is the same.
    """
    parts = {name: weight * seen(measures[name]) for name, (weight, seen) in TERMS.items()}
    for name in ("visible", "confidence"):
        parts[name] = np.log(np.clip(measures[name] / WHOLE, 1e-6, 1.0))
    return parts


def _block_means(image):
    return cv2.resize(image, (SIDE // BLOCK, SIDE // BLOCK), interpolation=cv2.INTER_AREA)


def _fine(channel):
    """A channel's detail at 1 to 2 px, and what is coarser than that."""
    narrow, middle = (
        cv2.GaussianBlur(channel, (side, side), sigma) for side, sigma in ((7, 1), (13, 2))
    )  # three σ to each side
    return narrow - middle, middle


def _coarse(green, seen):
    """Standard deviation, and depth of the darkest hundredth, of green's detail at 8 to 24 px,
    made at a quarter of the size.
    """
    quarter = (SIDE // 4, SIDE // 4)
    total, share = cv2.copyTo(green, seen, np.zeros_like(green)), seen.astype(np.float32)
    total, share = (
        cv2.resize(image, quarter, interpolation=cv2.INTER_AREA) for image in (total, share)
    )
    narrow, wide = (
        cv2.GaussianBlur(total, (0, 0), sigma)
        / np.maximum(cv2.GaussianBlur(share, (0, 0), sigma), 1e-3)
        for sigma in (2.0, 6.0)
    )
    difference = (narrow - wide)[share > 0.99]
    return (float(difference.std()), -quantile(difference, 0.01)) if difference.size else (0.0, 0.0)
