"""Contact sheets: many small photographs at a glance, each with its words; 8-bit RGB in and out.

A sheet is drawn for a column of about 600 CSS pixels at twice that resolution, so its letters are
larger than a figure's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from dr_lib.drawing.figures import INK, MUTED, PAPER, fitted, jpeg, write

DISC = (120, 220, 255)  # a line seen on retina and on black alike
OUTSIDE = (38, 44, 52)  # beyond a photograph's frame: told from the black border within it
WORDS = (214, 220, 226)


def circled(
    photo: UInt8[np.ndarray, "y x 3"], centre_y: float, centre_x: float, diameter: float
) -> UInt8[np.ndarray, "s s 3"]:
    """The photograph with its disc drawn (centre and diameter in pixels of `photo`), on a square
    that holds both.

    Where the frame cuts the retina the circle goes on outside it, so that a wrong disc cannot hide
    there.
    """
    height, width = photo.shape[:2]
    radius = diameter / 2
    low = np.floor([min(0.0, centre_y - radius), min(0.0, centre_x - radius)]).astype(int)
    high = np.ceil([max(height, centre_y + radius), max(width, centre_x + radius)]).astype(int)
    side = int((high - low).max())
    top, left = (-low + (side - (high - low)) // 2).tolist()
    canvas = np.full((side, side, 3), OUTSIDE, np.uint8)
    canvas[top : top + height, left : left + width] = photo
    centre = (round(left + centre_x), round(top + centre_y))
    return cv2.circle(canvas, centre, round(radius), DISC, max(2, side // 110), cv2.LINE_AA)


class Tile(NamedTuple):
    """A cell of a contact sheet: pictures side by side, and under them a line in ink and quieter
    ones.
    """

    images: tuple[UInt8[np.ndarray, "_h _w 3"], ...]
    text: str
    notes: tuple[str, ...] = ()


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int, size: int = 190, text_px: int = 19
) -> UInt8[np.ndarray, "h w 3"]:
    """Many small pictures at a glance, each in a square of `size`; every tile has as many as the
    first.
    """
    gap, line = max(4, size // 12), round(text_px * 1.35)
    across = len(tiles[0].images) * size
    foot = line * (1 + max(len(tile.notes) for tile in tiles)) + gap
    columns, rows = min(columns, len(tiles)), -(-len(tiles) // columns)
    canvas = np.full(
        (gap + rows * (size + foot + gap), gap + columns * (across + gap), 3), PAPER, np.uint8
    )
    for place, tile in enumerate(tiles):
        top, left = (
            gap + (place // columns) * (size + foot + gap),
            gap + (place % columns) * (across + gap),
        )
        for index, image in enumerate(tile.images):
            canvas[top : top + size, left + index * size : left + (index + 1) * size] = fitted(
                image, size, OUTSIDE
            )
        for number, text in enumerate((tile.text, *tile.notes), 1):
            colour, weight = (INK, 600) if number == 1 else (MUTED, 400)
            fitting = shortened(text, across, text_px, weight)
            write(
                canvas,
                fitting,
                left,
                top + size + number * line,
                size=text_px,
                colour=colour,
                weight=weight,
            )
    return canvas


def shortened(text: str, width_px: int, size: int, weight: int = 400) -> str:
    """The text, cut where it would be wider than `width_px`.

    >>> shortened("10_left", 200, 16), shortened("a very long reason indeed", 90, 16)
    ('10_left', 'a very lon…')
    """
    whole = text
    while text and text_width(text if text == whole else f"{text}…", size, weight) > width_px:
        text = text[:-1]
    return text if text == whole else f"{text.rstrip()}…"


def text_width(text: str, size: int, weight: int = 400) -> int:
    """How many pixels `write` takes for a line."""
    return cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)[2]


def placard(text: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A plain square with words in its middle, where there is no picture to show."""
    canvas, text_px = np.full((size, size, 3), OUTSIDE, np.uint8), max(10, size // 9)
    fitting = shortened(text, size - text_px, text_px)
    left = (size - text_width(fitting, text_px)) // 2
    write(canvas, fitting, left, (size + text_px) // 2, size=text_px, colour=WORDS)
    return canvas


def small_jpeg(pixels: UInt8[np.ndarray, "y x 3"], most_bytes: int) -> bytes:
    """A JPEG of at most so many bytes, at the best quality that allows it: halved in size where
    even the worst does not.
    """
    for quality in (88, 80, 70, 60):
        if len(found := jpeg(pixels, quality)) <= most_bytes:
            return found
    return small_jpeg(
        cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), most_bytes
    )
