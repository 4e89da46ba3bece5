"""Pictures set as a page: panels with captions, Hinton diagrams, bars and placards, drawn by
matplotlib at whole pixels.

A `Plot` of panels has its words as text in the SVG, and every pixel as it was given in both
formats. Same input, same bytes.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from dr_lib.drawing.figures import PALETTES, Panel, Pixels, robust_scale
from dr_lib.drawing.plots import INK, MUTED
from dr_lib.vocabulary import HALF_GRAY, STAGE_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
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
    placed, down, width = [], 0, 0
    for grid in grids:
        shown = [panel for panel in grid.panels if panel.image is not None]
        sizes = [panel.image.shape[:2] for panel in shown if panel.image is not None]
        (high, wide), line = sizes[0], round(1.4 * grid.text_px)
        gap, columns = line, min(grid.columns, len(shown))
        lines = max(1 + panel.note.count("\n") + bool(panel.note) for panel in shown)
        down += gap
        if grid.title:
            placed.append(
                (
                    gap,
                    down,
                    None,
                    grid.title,
                    {"size": 1.2 * grid.text_px, "weight": "bold", "color": INK},
                )
            )
            down += 2 * line
        for place, panel in enumerate(shown):
            left = gap + place % columns * (wide + gap)
            top = down + place // columns * (high + lines * line + gap)
            placed.append((left, top, panel.image, "", {}))
            below, most = top + high + line // 4, int(wide / (0.52 * grid.text_px))
            for number, text in enumerate([panel.caption, *panel.note.split("\n")]):
                style = {
                    "size": (0.88 if number else 1) * grid.text_px,
                    "color": MUTED if number else INK,
                }
                placed.append((left, below + number * line, wide, _cut(text, most), style))
        down += -(-len(shown) // columns) * (high + lines * line + gap)
        width = max(width, gap + columns * (wide + gap))
    return _placed(placed, width, down)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _placed(placed: list, width: int, height: int) -> "Figure":
    """Pictures and words at their pixels (left, top, picture or the words' greatest width, words,
    their style)."""
    from matplotlib.transforms import Bbox

    made = blank(width, height, "white")
    for left, top, what, text, style in placed:
        if isinstance(what, np.ndarray):
            high, wide = what.shape[:2]
            place = (left / width, 1 - (top + high) / height, wide / width, high / height)
            axes = made.add_axes(place, frameon=False, xticks=[], yticks=[])
            axes.imshow(what, interpolation="none", aspect="auto")
            continue
        style["size"] *= 72 / DPI
        words = made.text(left / width, 1 - top / height, text, va="top", parse_math=False, **style)
        if what:
            words.set_clip_box(Bbox.from_bounds(left, 0, what, height))
            words.set_clip_on(True)
    return made


def blank(width: int, height: int, colour) -> "Figure":
    """An empty figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=colour)


def pixels(made: "Figure") -> Pixels:
    """The figure as it is drawn, pixel by pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(made)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def hinton(
    values: Shaped[np.ndarray, "..."], *, scale: float | None = None, cell_px: int = 24
) -> "Figure":
    """A Hinton diagram: one square a unit, its area ∝ |value|, its colour the sign, on half-gray.

    values: (rows, columns), or (units,), then laid out row by row in a square. The largest (or
    `scale`) fills its cell but for a pixel's rim; a value that is not finite stays empty.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    grid = np.asarray(values, np.float64)
    if grid.ndim == 1:
        columns = max(1, int(np.ceil(np.sqrt(grid.size))))
        padded = np.full(-(-max(1, grid.size) // columns) * columns, np.nan)
        padded[: grid.size] = grid
        grid = padded.reshape(-1, columns)
    largest = robust_scale(grid, 100.0) if scale is None else scale
    height, width = (cell_px * count for count in grid.shape)
    made = blank(width, height, f"#{HALF_GRAY:02x}{HALF_GRAY:02x}{HALF_GRAY:02x}")
    axes = made.add_axes(
        (0, 0, 1, 1), frameon=False, xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[]
    )
    squares, colours = [], []
    for (row, column), value in np.ndenumerate(grid):
        side = (
            round((cell_px - 2) * min(1.0, float(np.sqrt(abs(value) / largest))))
            if np.isfinite(value)
            else 0
        )
        if side:
            inset = (cell_px - side) // 2
            squares.append(Rectangle((column * cell_px + inset, row * cell_px + inset), side, side))
            colours.append(np.divide(PALETTES["green-red"][0 if value > 0 else 1], 255))
    axes.add_collection(
        PatchCollection(squares, facecolors=colours, linewidths=0, antialiaseds=False)
    )
    return made


def probability_bars(
    before: Float[np.ndarray, "stage"], after: Float[np.ndarray, "stage"], size: int = 256
) -> UInt8[np.ndarray, "size size 3"]:
    """Each stage's probability before (light) and after (dark) as a pair of bars with their
    numbers."""
    made, text_px = blank(size, size, "white"), size / 20 * 72 / DPI
    axes = made.add_axes(
        (0.42, 0, 0.42, 1), frameon=False, xlim=(0, 1), ylim=(len(before) - 0.5, -0.5), xticks=[]
    )
    for values, offset, colour, ink in ((before, -0.18, BEFORE, MUTED), (after, 0.18, INK, INK)):
        bars = axes.barh(np.arange(len(before)) + offset, np.nan_to_num(values), 0.28, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=2, size=text_px, color=ink)
    axes.set_yticks(
        range(len(before)), [f"{stage} {STAGE_NAMES[stage]}" for stage in range(len(before))]
    )
    axes.tick_params(length=0, labelsize=text_px, labelcolor=INK)
    return pixels(made)


def placard(text: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A plain square with words in its middle, where there is no picture to show."""
    made = blank(size, size, np.divide(OUTSIDE, 255))
    words = textwrap.fill(text, 16, max_lines=4)
    made.text(
        0.5,
        0.5,
        words,
        ha="center",
        va="center",
        color=WORDS,
        size=size / 12 * 72 / DPI,
        parse_math=False,
    )
    return pixels(made)
