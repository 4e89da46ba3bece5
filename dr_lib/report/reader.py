"""One eye on one sheet of A4, for readers without a computer. It has to be legible in black and
white too: what matters is outlined, numbered and written, never coloured alone.
"""

import pathlib
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dr_lib.drawing.figures import Map, signed_opacity
from dr_lib.drawing.plots import INK, STYLE
from dr_lib.formatting import percent, stage_text
from dr_lib.report.entry import EyeEntry
from dr_lib.vocabulary import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

A4 = (8.27, 11.69)
LEFT, WIDE = 0.08, 0.84
LINE = 950  # characters of a line, times points


def reader_sheet(
    eye: EyeEntry, values: Map, regions: pd.DataFrame, words: Sequence[str]
) -> "Figure":
    """The sheet of an eye.

    Parameters
    ----------
    values
        (y, x) the map that is shown; what is positive counts.
    regions
        Its strongest regions, the strongest first: rows of `lesion_regions`.
    words
        Of the eye, of the regions, the regions' table, whose cells vertical bars part, and what the
        page may be used for: each a title and lines.
    """
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    paper, (*blocks, rows, limits) = Figure(figsize=A4), words
    for top, size, text in zip((0.965, 0.44, 0.18), (10, 8, 8), (*blocks, limits), strict=True):
        title, *lines = text.strip().split("\n")
        filled = "\n".join(textwrap.fill(line, LINE // size) for line in lines)
        paper.text(LEFT, top, title, size=1.4 * size, weight="bold", va="top", parse_math=False)
        paper.text(LEFT, top - 0.0026 * size, filled, size=size, va="top", linespacing=1.5)
    strength = signed_opacity(np.maximum(values, 0))
    pictures = {
        "Photograph": eye.photo,
        "Preprocessed": eye.fundus,
        "Map: dark is strong": strength,
    }
    there = {name: picture for name, picture in pictures.items() if picture is not None}
    for place, (name, picture) in enumerate(there.items()):
        side = WIDE / 3 - 0.01
        box = (LEFT + place * WIDE / 3, 0.675, side, side * A4[0] / A4[1])
        axes = paper.add_axes(box, frameon=False, xticks=[], yticks=[], anchor="N")
        axes.set_title(name, size=9, loc="left")
        axes.imshow(picture, cmap="Greys", vmin=0, interpolation="none")
        if picture is not eye.photo:
            _outline(axes, regions)
    bars = paper.add_axes((LEFT + 0.13, 0.49, WIDE - 0.21, 0.12), xlim=(0, 1))
    chances = np.array(eye.probabilities, float)
    drawn = bars.barh(STAGES, chances, color="white", edgecolor=INK, hatch="////")
    drawn[int(eye.predicted)].set(facecolor=INK)
    bars.bar_label(drawn, [percent(chance, 1) for chance in chances], padding=4)
    bars.set_yticks(STAGES, [stage_text(stage) for stage in STAGES])
    bars.set(xlabel="Probability; the grade is black", ylim=(len(chances) - 0.5, -0.5))
    if len(regions):
        cells = [line.split(" | ") for line in rows.strip().split("\n")]
        space = (LEFT, 0.385 - 0.02 * len(cells), WIDE, 0.02 * len(cells))
        axes = paper.add_axes(space, frameon=False, xticks=[], yticks=[])
        table = axes.table(cells, bbox=Bbox.unit(), cellLoc="left", edges="horizontal")
        table.auto_set_font_size(False)
        table.set_fontsize(8)
    return paper


def _outline(axes: "Axes", regions: pd.DataFrame) -> None:
    """A numbered box around each region, black on white so that it is seen on any ground."""
    from matplotlib.patches import Rectangle

    for rank, row in enumerate(regions.itertuples(), 1):
        left, top = row.bbox_left_px - 1.5, row.bbox_top_px - 1.5
        wide, high = row.bbox_right_px - left + 0.5, row.bbox_bottom_px - top + 0.5
        for width, ink in ((2.4, "white"), (0.9, "black")):
            axes.add_patch(Rectangle((left, top), wide, high, fill=False, ec=ink, lw=width))
        paper = {"facecolor": "white", "pad": 0.8, "linewidth": 0.4}
        axes.text(left, top, str(rank), size=6, va="bottom", bbox=paper)


def write_pdf(file: pathlib.Path, sheets: Iterable["Figure"]) -> None:
    """The sheets as pages of one file, each written before the next is drawn. Same sheets, same
    bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    with rc_context(fname=STYLE), PdfPages(file, metadata={"CreationDate": None}) as pdf:
        for sheet in sheets:
            pdf.savefig(sheet)
