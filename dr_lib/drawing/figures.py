"""Arrays in, 8-bit RGB pictures out: overlays, and the panels that figures consist of (METHOD §6).

Every drawing of an attribution keeps to three rules. Positive is green and negative is red (or blue
and orange); the ground below is grey, so that colour always means attribution; a pixel without
attribution shows the ground untouched. On a grey ground a drawing is linear in (white, positive
colour, negative colour), hence one 3×3 matrix turns a green-red drawing into a blue-orange one:
`recolouring` gives it, and the report applies it as a CSS filter instead of keeping every picture
twice.

This module must not know where pictures are kept; `png` and `jpeg` end at bytes.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dr_lib.vocabulary import HALF_GRAY

Pixels = UInt8[np.ndarray, "y x 3"]
Photo = UInt8[np.ndarray, "h w 3"]  # of any size, beside a fundus
Map = Float[np.ndarray, "y x"]

# (positive, negative) in RGB. Both pairs have about the same luminance contrast on the darkened
# fundus; the second stays apart under protanopia, deuteranopia and tritanopia.
PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "green-red": ((64, 224, 100), (244, 66, 62)),
    "blue-orange": ((70, 160, 255), (255, 154, 30)),
}
# Of the fundus' luminance: dark enough for the colours, light enough to find the vessels.
DARKENED = 0.55
OPACITY = 0.95  # of a pixel at or above the scale
# Strength ∝ |value|^0.7: the eye finds a region's faint rim, while noise near 0 stays near 0.
GAMMA = 0.7


def robust_scale(values: Float[np.ndarray, "..."]) -> float:
    """The magnitude drawn at full strength: the 99.5th percentile of |values|, so that one outlier
    darkens nothing.

    A map with fewer non-zero pixels than that takes its maximum; a map of zeros (or of nothing
    finite) takes 1.

    >>> robust_scale(np.array([0.0, -2.0, 2.0, 2.0]))
    2.0
    """
    magnitude = np.abs(values[np.isfinite(values)])
    if magnitude.size == 0 or magnitude.max() == 0:
        return 1.0
    scale = float(np.percentile(magnitude, 99.5))
    return scale if scale > 0 else float(magnitude.max())


def smooth(attribution: Map, radius_px: float | int) -> Map:
    """The map blurred by a Gaussian of σ = radius_px for the eye; what is not finite counts as 0.

    A single-pixel region of the stem would otherwise be lost when 256 px are shown at 200. For
    drawing only: numbers are always taken from the map itself.
    """
    finite = np.where(np.isfinite(attribution), attribution, 0).astype(np.float32)
    if radius_px <= 0:
        return finite
    # A softmax outcome's map is ~1e-6 a pixel: blur in units of its maximum.
    unit = float(np.abs(finite).max()) or 1.0
    return cv2.GaussianBlur(
        finite / unit, (0, 0), radius_px, borderType=cv2.BORDER_CONSTANT
    ) * np.float32(unit)


def overlay(
    fundus: Pixels,
    attribution: Map,
    *,
    scale: float | int | None = None,
    background: Literal["fundus", "gray"] = "fundus",
    radius_px: float | int = 1.2,
) -> Pixels:
    """The attribution in colour over a grey ground.

    Parameters
    ----------
    scale: the magnitude drawn at full strength; left out: `robust_scale`.
    background: the ground: the darkened grey-scale fundus, or half-gray as the poster had it.
    radius_px: as in `smooth`.
    """
    ground = np.full(fundus.shape[:2], HALF_GRAY, np.float32)
    if background == "fundus":
        ground = np.rint(cv2.cvtColor(fundus, cv2.COLOR_RGB2GRAY) * DARKENED).astype(np.float32)
    opacity = signed_opacity(attribution, scale=scale, radius_px=radius_px)[..., None]
    colour = np.where(opacity > 0, *np.array(PALETTES["green-red"], np.float32))
    base = ground[..., None]
    return np.rint(base + np.abs(opacity) * (colour - base)).astype(np.uint8)


def signed_opacity(
    attribution: Map, *, scale: float | int | None = None, radius_px: float | int = 1.2
) -> Map:
    """How strongly `overlay` covers each pixel, with the attribution's sign: 0 nothing, ±OPACITY
    from `scale` upwards."""
    values = smooth(attribution, radius_px)
    strength = np.clip(np.abs(values) / (robust_scale(values) if scale is None else scale), 0, 1)
    return (np.sign(values) * OPACITY * strength**GAMMA).astype(np.float32)


def recolouring() -> Float[np.ndarray, "3 3"]:
    """The matrix that turns a green-red drawing into the blue-orange one: it keeps grey and maps
    colour to colour.

    >>> positive, negative = np.array(PALETTES["green-red"])
    >>> np.rint(recolouring() @ positive).astype(int).tolist()
    [70, 160, 255]
    >>> np.rint(recolouring() @ [128, 128, 128]).astype(int).tolist()
    [128, 128, 128]
    """
    source, target = (
        np.array([(255, 255, 255), *PALETTES[name]], np.float64).T
        for name in ("green-red", "blue-orange")
    )
    return target @ np.linalg.inv(source)


def fitted(
    image: Pixels, size: int, fill: tuple[int, int, int] = (0, 0, 0)
) -> UInt8[np.ndarray, "s s 3"]:
    """The picture within a square of `size`, its aspect kept, centred on `fill`."""
    height, width = image.shape[:2]
    factor = size / max(height, width)
    inner = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    rim = (top, size - inner[1] - top, left, size - inner[0] - left)
    return cv2.copyMakeBorder(resized, *rim, cv2.BORDER_CONSTANT, value=fill)


class Panel(NamedTuple):
    """A picture of a figure, with the line under it and a second, quieter one; `image` is None
    where there is none. `signed`: drawn green-red on gray."""

    image: Photo | None
    caption: str = ""
    note: str = ""
    signed: bool = False


def signed_difference(original: Pixels, changed: Pixels) -> tuple[Pixels, float]:
    """Where the changed image is brighter (green) or darker (red), on half-gray.

    A pixel's change is the mean over its colours. Changes are of a level or two; full colour is at
    the 99.5th percentile of those that are not 0, at least one level, so that a single strong pixel
    hides nothing.

    Returns
    -------
    The picture, and how many gray levels are drawn in full colour.
    """
    change = changed.astype(np.float32).mean(axis=-1) - original.astype(np.float32).mean(axis=-1)
    moved = change[change != 0]
    levels = max(1.0, robust_scale(moved)) if moved.size else 1.0
    return overlay(original, change, scale=levels, background="gray", radius_px=0), levels


def png(pixels: Pixels) -> bytes:
    """The picture as a PNG file's bytes."""
    # Half the time of the default for a twentieth more bytes: a report draws hundreds.
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), fast)[1].tobytes()


def jpeg(pixels: UInt8[np.ndarray, "y x *colour"], quality: int = 88) -> bytes:
    """The picture, in colour or gray, as a JPEG file's bytes: for photographs, which lose nothing
    to the eye by it."""
    written = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    return cv2.imencode(".jpg", written, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
