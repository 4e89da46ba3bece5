"""Contact sheets: many photographs at a glance, each with its words; 8-bit RGB in and out.

A sheet is drawn for a column of about 600 CSS pixels at twice that resolution, so its letters are
larger than a figure's.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from dr_lib.drawing.figures import Panel, Photo, Pixels, fitted, jpeg
from dr_lib.drawing.panels import OUTSIDE, Grid, pixels, placard, sheet

DISC = (120, 220, 255)  # a line seen on retina and on black alike
PAIR_PX, ASIDE_PX, TEXT_PX = 190, 280, 19


@dataclass(frozen=True)
class BeforeAfter:
    """A photograph beside what preprocessing made of it. `disc`: centre (y, x) and width in pixels
    of `photo`, and its aspect."""

    image_id: str
    photo: Photo
    fundus: Pixels
    notes: tuple[str, ...] = ()
    disc: tuple[float, float, float, float] | None = None

    @property
    def circled(self) -> Photo:
        """The photograph with its disc drawn."""
        return self.photo if self.disc is None else circled(self.photo, *self.disc)


@dataclass(frozen=True)
class SetAside:
    """A photograph that could not be used, and why; `photo` is None where nothing can be
    decoded."""

    image_id: str
    reason: str  # in words
    detail: str = ""
    photo: Photo | None = None

    def square(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The photograph, or its reason in words."""
        return (
            placard(self.reason, size) if self.photo is None else fitted(self.photo, size, OUTSIDE)
        )


def circled(
    photo: Pixels, centre_y: float, centre_x: float, diameter: float, aspect: float = 1.0
) -> UInt8[np.ndarray, "s s 3"]:
    """The photograph with its disc drawn (centre and width in pixels of `photo`, `aspect` its
    height over its width), on a square that holds both.

    Where the frame cuts the retina the circle goes on outside it, so that a wrong disc cannot hide
    there.
    """
    height, width = photo.shape[:2]
    half = np.array([diameter * aspect, diameter]) / 2
    centre = np.array([centre_y, centre_x])
    low = np.floor(np.minimum(0, centre - half)).astype(int)
    high = np.ceil(np.maximum([height, width], centre + half)).astype(int)
    side = int((high - low).max())
    top, left = (-low + (side - (high - low)) // 2).tolist()
    canvas = np.full((side, side, 3), OUTSIDE, np.uint8)
    canvas[top : top + height, left : left + width] = photo
    place = (round(left + centre_x), round(top + centre_y))
    axes = (round(diameter / 2), round(diameter * aspect / 2))
    return cv2.ellipse(canvas, place, axes, 0, 0, 360, DISC, max(2, side // 110), cv2.LINE_AA)


def before_after_sheet(samples: Sequence[BeforeAfter]) -> Pixels:
    """A contact sheet of pairs: the photograph with its disc drawn, and the normalised fundus."""
    panels = []
    for sample in samples:
        pair = [fitted(image, PAIR_PX, OUTSIDE) for image in (sample.circled, sample.fundus)]
        panels.append(Panel(np.hstack(pair), sample.image_id, "\n".join(sample.notes)))
    return pixels(sheet(Grid(panels, columns=3, text_px=TEXT_PX)))


def set_aside_sheet(photographs: Sequence[SetAside]) -> Pixels:
    """A contact sheet of photographs set aside, each with its reason; a placard where nothing can
    be decoded."""
    panels = []
    for photograph in photographs:
        lines = [photograph.image_id, *textwrap.wrap(photograph.detail, 28, max_lines=2)]
        panels.append(Panel(photograph.square(ASIDE_PX), photograph.reason, "\n".join(lines)))
    return pixels(sheet(Grid(panels, text_px=TEXT_PX)))


def small_jpeg(picture: Pixels, most_bytes: int) -> bytes:
    """A JPEG of at most so many bytes, at the best quality that allows it: halved in size where
    even the worst does not."""
    for quality in (88, 80, 70, 60):
        if len(file := jpeg(picture, quality)) <= most_bytes:
            return file
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return small_jpeg(half, most_bytes)
