"""Where the larger vessels lie in a normalised fundus: on dark lines that go on for long.

No labels are used, so this is a mask for counting, not a segmentation: thin branches are missed,
and now and then the dark rim of a large exudate is taken for a vessel.
"""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from dr_lib.fundus.anatomy import anatomy
from dr_lib.vocabulary import HALF_GRAY

GREEN = 1
WIDTH_SHARE = 1 / 28  # of the fundus: a vessel is narrower
DARKEST_SHARE = 0.1  # of the visible disc's pixels that are taken for lines
LENGTH_SHARE = 1 / 6  # of the fundus: a haemorrhage is shorter


def vessels(fundus: UInt8[np.ndarray, "y x 3"], *, crop: float) -> Bool[np.ndarray, "y x"]:
    """True on the larger vessels of a square normalised fundus.

    Black-hat filter on green, the darkest tenth, and of its connected pieces those that are long.

    Parameters
    ----------
    crop : of the fundus (`PreprocessParams.crop`)
    """
    size = len(fundus)
    inside = anatomy(size, "right", crop=crop).radius_share < 0.95
    width = 2 * max(1, round(size * WIDTH_SHARE / 2)) + 1
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    # Exudates are cut off, or the gaps between them would be dark lines.
    green = np.minimum(fundus[..., GREEN], HALF_GRAY)
    lines = cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, shape).astype(np.float32)
    lines = cv2.GaussianBlur(lines, (0, 0), max(size / 256, 0.5))
    dark = inside & (lines > max(np.quantile(lines[inside], 1 - DARKEST_SHARE), 1.0))
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    long = boxes[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= size * LENGTH_SHARE
    long[0] = False
    return long[pieces]
