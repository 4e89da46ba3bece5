"""Pictures set as a page: panels with captions, Hinton diagrams, bars and placards, drawn by
matplotlib at whole pixels.

A `Plot` of panels has its words as text in the SVG, and every pixel as it was given in both
formats. Same input, same bytes.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from dr_lib.drawing.figures import PALETTES, Panel, Pixels
from dr_lib.drawing.plots import INK, MUTED
from dr_lib.formatting import stage_text
from dr_lib.vocabulary import HALF_GRAY, STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 72  # a point of matplotlib is a pixel, and in an SVG too
OUTSIDE = (38, 44, 52)  # beyond a photograph's frame: told from the black border within it
WORDS, BEFORE = "#d6dce2", "#b0bac4"


@dataclass(frozen=True)
class Grid:
    """Panels row by row under a title. Their pictures have the size of the first; those without one
    are left out."""

    panels: Sequence[Panel]
    title: str = ""
    columns: int = 4
    text_px: int = 15


def sheet(*grids: Grid) -> "Figure":
    """The grids, one below the other, on white paper; words that are too long end at their panel's
    edge."""
    from matplotlib.transforms import Bbox

    paper = blank(1, 1, "white")
    axes = paper.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    down, width = 0, 0
    style: dict[str, Any] = {"va": "top", "parse_math": False, "clip_on": True}
    for grid in grids:
        filled = [(panel, panel.image) for panel in grid.panels if panel.image is not None]
        (high, wide), line = filled[0][1].shape[:2], round(1.4 * grid.text_px)
        columns, most = min(grid.columns, len(filled)), int(wide / (0.52 * grid.text_px))
        lines = max(1 + panel.note.count("\n") + bool(panel.note) for panel, _ in filled)
        down += line
        if grid.title:
            large = {"size": 1.2 * grid.text_px, "weight": "bold", "color": INK}
            axes.text(line, down, grid.title, **style, **large)
            down += 2 * line
        for place, (panel, image) in enumerate(filled):
            left = line + place % columns * (wide + line)
            top = down + place // columns * (high + lines * line + line)
            extent = (left, left + wide, top + high, top)
            axes.imshow(image, extent=extent, interpolation="none")
            edge = Bbox.from_bounds(left, 0, wide, 1e6)
            for number, text in enumerate([panel.caption, *panel.note.split("\n")]):
                cut = text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
                words = axes.text(left, top + high + line // 4 + number * line, cut, **style)
                words.set(size=(0.88 if number else 1) * grid.text_px, clip_box=edge)
                words.set_color(MUTED if number else INK)
        down += -(-len(filled) // columns) * (high + lines * line + line)
        width = max(width, line + columns * (wide + line))
    axes.set(xlim=(0, width), ylim=(down, 0), aspect="auto")
    paper.set_size_inches(width / DPI, down / DPI)
    return paper


def blank(width: int, height: int, colour: Any) -> "Figure":
    """An empty figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=colour)


def pixels(drawing: "Figure") -> Pixels:
    """The figure as it is drawn, pixel by pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def hinton(values: Float[np.ndarray, "units"], *, scale: float, cell_px: int = 24) -> Pixels:
    """A Hinton diagram: one square a unit, its area ∝ |value|, its colour the sign, on half-gray.

    The units stand row by row in a square. A value that is not finite stays empty.

    Parameters
    ----------
    scale: the magnitude that fills its cell but for a pixel's rim.
    """
    columns = max(1, math.ceil(math.sqrt(values.size)))
    rows = max(1, math.ceil(values.size / columns))
    known = np.where(np.isfinite(values), values, 0)
    sides = np.rint((cell_px - 2) * np.sqrt(np.minimum(1, np.abs(known) / scale))).astype(int)
    drawn = np.full((rows * cell_px, columns * cell_px, 3), HALF_GRAY, np.uint8)
    for unit, side in enumerate(sides.tolist()):
        top, left = (cell_px * cell + (cell_px - side) // 2 for cell in divmod(unit, columns))
        colour = PALETTES["green-red"][0 if known[unit] > 0 else 1]
        drawn[top : top + side, left : left + side] = colour
    return drawn


def probability_bars(
    before: Float[np.ndarray, "stage"], after: Float[np.ndarray, "stage"], size: int = 256
) -> UInt8[np.ndarray, "size size 3"]:
    """Each stage's probability before (light) and after (dark) as a pair of bars with their
    numbers."""
    drawing, text_px = blank(size, size, "white"), size / 20
    axes = drawing.add_axes(
        (0.42, 0, 0.42, 1), frameon=False, xlim=(0, 1), ylim=(len(before) - 0.5, -0.5), xticks=[]
    )
    for values, offset, colour, ink in ((before, -0.18, BEFORE, MUTED), (after, 0.18, INK, INK)):
        bars = axes.barh(np.arange(len(before)) + offset, np.nan_to_num(values), 0.28, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=2, size=text_px, color=ink)
    axes.set_yticks(STAGES, [stage_text(stage) for stage in STAGES])
    axes.tick_params(length=0, labelsize=text_px, labelcolor=INK)
    return pixels(drawing)


def placard(text: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A plain square with words in its middle, where there is no picture to show."""
    drawing = blank(size, size, np.divide(OUTSIDE, 255))
    words = textwrap.fill(text, 16, max_lines=4)
    drawing.text(
        0.5, 0.5, words, color=WORDS, size=size / 12, ha="center", va="center", parse_math=False
    )
    return pixels(drawing)
