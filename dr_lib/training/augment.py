"""Changes of a fundus that leave its stage as it is: a disc may be turned, mirrored, and
slightly zoomed and toned.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from dr_lib.vocabulary import HALF_GRAY

LEVELS = np.arange(256) - HALF_GRAY


@dataclass(frozen=True)
class AugmentParams:
    """How far the changes go: `zoom`, `contrast` and `tone` (each colour by itself) are factors
    from 1/(1+a) to 1+a.

    All are kept small: the retina's diameter is already the image's, and the local tone already
    removed.
    """

    rotate: bool = True
    flip: bool = True
    zoom: float = 0.08
    contrast: float = 0.15
    tone: float = 0.05


def augmented(
    pixels: UInt8[np.ndarray, "image y x 3"],
    seed: tuple[int, ...],
    params: AugmentParams = AugmentParams(),
) -> UInt8[np.ndarray, "image y x 3"]:
    """Each fundus turned by any angle, mirrored at random, slightly zoomed and toned; new corners
    are half-gray.

    A pure function of the pixels and `seed`. Contrast and tone stretch the distance from half-gray,
    so that half-gray, the baseline's value, stays exactly what it is; there is no change of
    brightness, which would move it.
    """
    draws = np.random.default_rng(seed)
    result = np.empty_like(pixels)
    size_y, size_x = pixels.shape[1:3]
    for number, image in enumerate(pixels):
        angle = draws.uniform(0, 360) if params.rotate else 0.0
        mirrored = bool(draws.integers(2)) and params.flip
        zoom = (1 + params.zoom) ** draws.uniform(-1, 1)
        contrast = (1 + params.contrast) ** draws.uniform(-1, 1) * (
            1 + params.tone
        ) ** draws.uniform(-1, 1, 3)
        turn = cv2.getRotationMatrix2D(((size_x - 1) / 2, (size_y - 1) / 2), angle, zoom)
        if mirrored:
            # Mirror first: x → (width − 1) − x. With any angle, one mirror gives every mirrored
            # pose.
            turn = turn @ np.array([[-1, 0, size_x - 1], [0, 1, 0], [0, 0, 1.0]])
        warped = cv2.warpAffine(
            image,
            turn,
            (size_x, size_y),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(HALF_GRAY,) * 3,
        )
        table = np.rint(HALF_GRAY + LEVELS[:, np.newaxis] * contrast)
        result[number] = cv2.LUT(warped, np.clip(table, 0, 255).astype(np.uint8)[np.newaxis])
    return result
