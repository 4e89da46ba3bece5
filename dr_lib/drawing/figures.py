"""Arrays in, 8-bit RGB pictures out: overlays, Fig (a), Fig (b), Hinton diagrams (METHOD §6).

Every drawing of an attribution keeps to three rules. Positive is green and negative is red (or blue
and orange); the ground below is grey, so that colour always means attribution; a pixel without
attribution shows the ground untouched. On a grey ground a drawing is linear in (white, positive
colour, negative colour), hence one 3×3 matrix turns a green-red drawing into a blue-orange one:
`recolouring` gives it, and the report applies it as a CSS filter instead of keeping every picture
twice.

This module must not know where pictures are kept; `png` and `jpeg` end at bytes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from dr_lib.maps import symmetry

Palette = Literal["green-red", "blue-orange"]

# (positive, negative) in RGB. Both pairs have about the same luminance contrast on the darkened
# fundus; the second stays apart under protanopia, deuteranopia and tritanopia.
PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "green-red": ((64, 224, 100), (244, 66, 62)),
    "blue-orange": ((70, 160, 255), (255, 154, 30)),
}
HALF_GRAY = 128
DARKENED = (
    0.55  # of the fundus' luminance: dark enough for the colours, light enough to find the vessels
)
OPACITY = 0.95  # of a pixel at or above the scale
# Strength ∝ |value|^0.7: the eye finds a region's faint rim, while noise near 0 stays near 0.
GAMMA = 0.7
PAPER = (255, 255, 255)
INK = (24, 32, 42)
MUTED = (98, 108, 118)


def robust_scale(values: Float[np.ndarray, "..."], percentile: float = 99.5) -> float:
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
    scale = float(np.percentile(magnitude, percentile))
    return scale if scale > 0 else float(magnitude.max())


def smooth(
    attribution: Float[np.ndarray, "y x"], radius_px: float | int
) -> Float[np.ndarray, "y x"]:
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


def ground(
    fundus: UInt8[np.ndarray, "y x 3"], background: Literal["fundus", "gray"] = "fundus"
) -> UInt8[np.ndarray, "y x"]:
    """What an overlay is drawn on: the darkened grey-scale fundus, or half-gray as the poster
    had it.
    """
    if background == "gray":
        return np.full(fundus.shape[:2], HALF_GRAY, np.uint8)
    return np.rint(cv2.cvtColor(fundus, cv2.COLOR_RGB2GRAY) * DARKENED).astype(np.uint8)


def overlay(
    fundus: UInt8[np.ndarray, "y x 3"],
    attribution: Float[np.ndarray, "y x"],
    *,
    scale: float | int | None = None,
    palette: Palette = "green-red",
    background: Literal["fundus", "gray"] = "fundus",
    radius_px: float | int = 1.2,
) -> UInt8[np.ndarray, "y x 3"]:
    """The attribution in colour over the grey fundus; full strength from `scale` (default:
    `robust_scale`) upwards.
    """
    base = ground(fundus, background)[..., None].astype(np.float32)
    opacity = signed_opacity(attribution, scale=scale, radius_px=radius_px)[..., None]
    positive, negative = (np.asarray(colour, np.float32) for colour in PALETTES[palette])
    colour = np.where(opacity > 0, positive, negative)
    return np.rint(base + np.abs(opacity) * (colour - base)).astype(np.uint8)


def signed_opacity(
    attribution: Float[np.ndarray, "y x"],
    *,
    scale: float | int | None = None,
    radius_px: float | int = 1.2,
) -> Float[np.ndarray, "y x"]:
    """How strongly `overlay` covers each pixel, with the attribution's sign: 0 nothing, ±OPACITY
    from `scale` upwards.
    """
    values = smooth(attribution, radius_px)
    strength = np.clip(np.abs(values) / (robust_scale(values) if scale is None else scale), 0, 1)
    return (np.sign(values) * OPACITY * strength**GAMMA).astype(np.float32)


def recolouring(
    source: Palette = "green-red", target: Palette = "blue-orange"
) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns a drawing in one palette into the other: it keeps grey and maps colour
    to colour.

    >>> positive, negative = np.array(PALETTES["green-red"])
    >>> np.rint(recolouring() @ positive).astype(int).tolist()
    [70, 160, 255]
    >>> np.rint(recolouring() @ [128, 128, 128]).astype(int).tolist()
    [128, 128, 128]
    """

    def basis(palette: str):
        return np.array([(255, 255, 255), *PALETTES[palette]], dtype=np.float64).T

    return basis(target) @ np.linalg.inv(basis(source))


def fitted(
    image: UInt8[np.ndarray, "y x 3"], size: int, fill: tuple[int, int, int] = (0, 0, 0)
) -> UInt8[np.ndarray, "s s 3"]:
    """The picture within a square of `size`, its aspect kept, centred on `fill`."""
    height, width = image.shape[:2]
    factor = size / max(height, width)
    inner = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )
    canvas = np.full((size, size, 3), fill, np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas


class Caption(NamedTuple):
    """A line under a panel, and a second, quieter one."""

    text: str
    note: str = ""


def write(
    canvas: np.ndarray,
    text: str,
    left: int,
    baseline: int,
    *,
    size: int,
    colour=INK,
    weight: int = 400,
) -> None:
    """Draws one line of text into the canvas, in the typeface that OpenCV carries (the same on
    every machine).
    """
    cv2.putText(canvas, text, (left, baseline), colour, cv2.FontFace("sans"), size, weight)


def panels(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    captions: Sequence[Caption | str],
    *,
    title: str = "",
    columns: int | None = None,
    size: int = 256,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> UInt8[np.ndarray, "height width 3"]:
    """The pictures in a grid on white paper, a caption under each, a title on top."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures need as many captions, not {len(captions)}")
    columns = max(1, min(columns or len(images), len(images)))
    rows = -(-len(images) // columns)
    captions = [Caption(caption) if isinstance(caption, str) else caption for caption in captions]
    text_px = max(11, size // 16)
    gap, margin, head = max(6, size // 21), max(12, size // 10), (2 * text_px + 8 if title else 0)
    foot = round(text_px * (3.2 if any(caption.note for caption in captions) else 1.9))
    canvas = np.full(
        (
            2 * margin + head + rows * (size + foot),
            2 * margin + columns * size + (columns - 1) * gap,
            3,
        ),
        PAPER,
        np.uint8,
    )
    if title:
        write(canvas, title, margin, margin + text_px + 2, size=round(text_px * 1.2), weight=600)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top = margin + head + (place // columns) * (size + foot)
        left = margin + (place % columns) * (size + gap)
        canvas[top : top + size, left : left + size] = fitted(image, size, fill)
        write(canvas, caption.text, left, top + size + round(text_px * 1.35), size=text_px)
        if caption.note:
            write(
                canvas,
                caption.note,
                left,
                top + size + round(text_px * 2.6),
                size=round(text_px * 0.88),
                colour=MUTED,
            )
    return canvas


def figure_a(
    photo: UInt8[np.ndarray, "h w 3"],
    fundus: UInt8[np.ndarray, "y x 3"],
    positive: Float[np.ndarray, "y x"],
    negative: Float[np.ndarray, "y x"],
    *,
    title: str = "",
    palette: Palette = "green-red",
    size: int = 256,
) -> UInt8[np.ndarray, "height width 3"]:
    """Fig (a): original · preprocessed · resultant of the most positive neurons · of the most
    negative.

    Each resultant is drawn on its own scale, in the colour of each pixel's own sign.
    """
    images = [
        photo,
        fundus,
        *(overlay(fundus, resultant, palette=palette) for resultant in (positive, negative)),
    ]
    return panels(
        images,
        ["Original", "Preprocessed", "Most positive neurons", "Most negative neurons"],
        title=title,
        size=size,
    )


def figure_b(
    fundus: UInt8[np.ndarray, "y x 3"],
    first: Float[np.ndarray, "y x"],
    second: Float[np.ndarray, "y x"],
    *,
    crop: float,
    labels: tuple[str, str] = ("Toward stage 0", "Toward stage 4"),
    title: str = "",
    palette: Palette = "green-red",
    size: int = 256,
) -> UInt8[np.ndarray, "height width 3"]:
    """Fig (b): preprocessed · attribution toward one stage · toward another, with the
    correlation of the two maps (`dr_lib.maps.symmetry`) where there is one.
    """
    images = [fundus, *(overlay(fundus, values, palette=palette) for values in (first, second))]
    correlation = symmetry(first, second, crop=crop)
    note = "" if np.isnan(correlation) else f"correlation {correlation:+.2f}".replace("-", "−")
    captions = [Caption("Preprocessed"), Caption(labels[0]), Caption(labels[1], note)]
    return panels(images, captions, title=title, size=size)


def hinton(
    values: Shaped[np.ndarray, "..."],
    *,
    scale: float | int | None = None,
    cell_px: int = 24,
    palette: Palette = "green-red",
) -> UInt8[np.ndarray, "height width 3"]:
    """A Hinton diagram: one square a unit, its area ∝ |value|, its colour the sign, on half-gray.

    values: (rows, columns), or (units,), then laid out row by row in a square. The largest (or
    `scale`) fills its cell but for a pixel's rim; a value that is not finite stays empty.
    """
    (rows, columns), squares = hinton_squares(values, scale=scale, cell_px=cell_px)
    canvas = np.full((rows * cell_px, columns * cell_px, 3), HALF_GRAY, np.uint8)
    for top, left, side, positive in squares:
        canvas[top : top + side, left : left + side] = PALETTES[palette][0 if positive else 1]
    return canvas


def hinton_squares(
    values: Shaped[np.ndarray, "..."], *, scale: float | int | None = None, cell_px: int = 24
) -> tuple[tuple[int, int], list[tuple[int, int, int, bool]]]:
    """((rows, columns), [(top, left, side, is it positive)]) of a Hinton diagram, in pixels; see
    `hinton`.
    """
    grid = np.asarray(values, np.float64)
    if grid.ndim == 1:
        columns = max(1, int(np.ceil(np.sqrt(grid.size))))
        padded = np.full(-(-max(1, grid.size) // columns) * columns, np.nan)
        padded[: grid.size] = grid
        grid = padded.reshape(-1, columns)
    largest = robust_scale(grid, 100.0) if scale is None else scale
    squares = []
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            side = round((cell_px - 2) * min(1.0, float(np.sqrt(abs(value) / largest))))
            inset = (cell_px - side) // 2
            squares.append((row * cell_px + inset, column * cell_px + inset, side, bool(value > 0)))
    return grid.shape, squares


def png(pixels: UInt8[np.ndarray, "y x 3"]) -> bytes:
    """The picture as a PNG file's bytes."""
    # Half the time of the default for a twentieth more bytes: a report draws hundreds.
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), fast)[1].tobytes()


def jpeg(pixels: UInt8[np.ndarray, "y x 3"], quality: int = 88) -> bytes:
    """The picture as a JPEG file's bytes: for photographs, which lose nothing to the eye by it."""
    return cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1].tobytes()
