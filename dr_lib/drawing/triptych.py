"""The panels of a triptych that are drawn: what a counterfactual changed, signed, and the
probabilities before and after.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dr_lib.drawing.figures import INK, MUTED, PAPER, Palette, overlay, robust_scale, write
from dr_lib.drawing.plots import STAGE_NAMES

BEFORE = (176, 186, 196)  # of a bar; the one after is in ink


def signed_difference(
    original: UInt8[np.ndarray, "y x 3"],
    changed: UInt8[np.ndarray, "y x 3"],
    palette: Palette = "green-red",
) -> tuple[UInt8[np.ndarray, "y x 3"], float]:
    """(picture, grey levels at full colour): where the changed image is brighter (green) or darker
    (red), on half-gray.

    A pixel's change is the mean over its colours. Changes are of a level or two; full colour is at
    the 99.5th percentile of those that are not 0, at least one level, so that a single strong pixel
    hides nothing.
    """
    change = changed.astype(np.float32).mean(axis=-1) - original.astype(np.float32).mean(axis=-1)
    moved = change[change != 0]
    levels = max(1.0, robust_scale(moved)) if moved.size else 1.0
    return (
        overlay(original, change, scale=levels, palette=palette, background="gray", radius_px=0),
        levels,
    )


def probability_bars(
    before: Float[np.ndarray, "stage"], after: Float[np.ndarray, "stage"], size: int = 256
) -> UInt8[np.ndarray, "size size 3"]:
    """Each stage's probability before (light) and after (dark) as a pair of bars with their
    numbers.
    """
    canvas = np.full((size, size, 3), PAPER, np.uint8)
    text, left, right = max(9, size // 20), round(0.42 * size), round(0.84 * size)
    height = size / len(before)
    for stage, pair in enumerate(zip(before, after, strict=True)):
        top = stage * height
        write(canvas, f"{stage} {STAGE_NAMES[stage]}", 2, round(top + 0.58 * height), size=text)
        for place, (value, colour, ink) in enumerate(
            zip(pair, (BEFORE, INK), (MUTED, INK), strict=True)
        ):
            value = float(value) if np.isfinite(value) else 0.0
            upper = round(top + (0.16 + 0.36 * place) * height)
            lower = round(upper + 0.28 * height)
            end = left + max(1, round(value * (right - left)))
            cv2.rectangle(canvas, (left, upper), (end, lower), colour, cv2.FILLED)
            write(canvas, f"{value:.2f}", end + 3, lower, size=text - 1, colour=ink)
    return canvas
