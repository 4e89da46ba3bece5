"""Changes of a fundus that leave its stage as it is: a disc may be turned, mirrored, and
slightly zoomed and toned.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

from dr_lib.vocabulary import HALF_GRAY

DEGREES = 360
# Factors from 1 / (1 + a) to 1 + a, `TONE` of each colour by itself. All are small: the retina's
# diameter is already the image's, and the local tone already removed.
ZOOM = 0.08
CONTRAST = 0.15
TONE = 0.05
# What another camera may do: the same factors, the blur of a lens in px of a fundus of 256 px, and
# how often somebody has equalised its colours before publishing.
OTHER_CONTRAST = 0.5
OTHER_TONE = 0.4
OTHER_BLUR_PX = 1.2
EQUALISED = 0.25
LEVELS = np.arange(256) - HALF_GRAY


def augmented(
    pixels: UInt8[np.ndarray, "image y x 3"], seed: tuple[int, ...], other_cameras: float = 0.0
) -> UInt8[np.ndarray, "image y x 3"]:
    """Each fundus turned by any angle, mirrored at random, slightly zoomed and toned; new corners
    are half-gray.

    other_cameras: the share of the fundi, 0 … 1, whose colours, contrast and sharpness also become
    those of another camera.

    A pure function of the pixels and `seed`. Contrast and tone stretch the distance from half-gray,
    so that half-gray, the baseline's value, stays exactly what it is; there is no change of
    brightness, which would move it.
    """
    draws = np.random.default_rng(seed)
    result = np.empty_like(pixels)
    size_y, size_x = pixels.shape[1:3]
    for number, image in enumerate(pixels):
        angle = draws.uniform(0, DEGREES)
        mirrored = draws.integers(2)
        zoom = (1 + ZOOM) ** draws.uniform(-1, 1)
        contrast = (1 + CONTRAST) ** draws.uniform(-1, 1)
        contrast = contrast * (1 + TONE) ** draws.uniform(-1, 1, 3)
        turn = cv2.getRotationMatrix2D(((size_x - 1) / 2, (size_y - 1) / 2), angle, zoom)
        if mirrored:
            # Mirror first: x → (width − 1) − x. With any angle, this mirror alone gives every
            # mirrored pose.
            turn = turn @ np.array([[-1, 0, size_x - 1], [0, 1, 0], [0, 0, 1.0]])
        warped = cv2.warpAffine(
            image, turn, (size_x, size_y), flags=cv2.INTER_LINEAR, borderValue=(HALF_GRAY,) * 3
        )
        if other_cameras and draws.random() < other_cameras:
            contrast = contrast * (1 + OTHER_CONTRAST) ** draws.uniform(-1, 1)
            contrast = contrast * (1 + OTHER_TONE) ** draws.uniform(-1, 1, 3)
            sigma = max(draws.uniform(0, OTHER_BLUR_PX) * size_x / 256, 1e-3)
            warped = cv2.GaussianBlur(warped, (0, 0), sigma)
            if draws.random() < EQUALISED:
                warped = equalised(warped)
        table = np.rint(HALF_GRAY + LEVELS[:, np.newaxis] * contrast)
        result[number] = cv2.LUT(warped, np.clip(table, 0, 255).astype(np.uint8)[np.newaxis])
    return result


def equalised(image: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """Each colour's values spread evenly to both sides of half-gray, which stays what it is."""
    tables = np.empty((1, 256, 3), np.uint8)
    for colour in range(3):
        count = np.bincount(image[..., colour].ravel(), minlength=256).astype(np.float64)
        count[HALF_GRAY] = 0  # what lies outside the disc
        below, above = count[:HALF_GRAY], count[HALF_GRAY:]
        low = HALF_GRAY * (1 - below[::-1].cumsum()[::-1] / max(below.sum(), 1))
        high = HALF_GRAY + (255 - HALF_GRAY) * above.cumsum() / max(above.sum(), 1)
        tables[0, :, colour] = np.rint(np.concatenate([low, high])).astype(np.uint8)
    return cv2.LUT(image, tables)
