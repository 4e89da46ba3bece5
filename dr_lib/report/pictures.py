"""The report's files as they are made: names to contents, and for every picture what its <img>
needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Shaped, UInt8

from dr_lib.drawing.figures import Caption, hinton, jpeg, panels, png
from dr_lib.drawing.plots import Plot
from dr_lib.drawing.svg import hinton_svg, panels_svg
from dr_lib.report.words import label, number, quantity


@dataclass(frozen=True)
class Picture:
    """One <img>: its file, size and words. `signed` pictures are drawn green-red on grey and may be
    recoloured.

    files: the same to take away, as (format, file).
    """

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    note: str = ""
    signed: bool = False
    files: tuple[tuple[str, str], ...] = ()


@dataclass
class Folder:
    """Collects files by their name relative to the report's folder; a name is given once."""

    files: dict[str, bytes | str] = field(default_factory=dict)

    def add(self, name: str, content: bytes | str) -> str:
        if name in self.files:
            raise ValueError(f"the report would write {name} twice")
        self.files[name] = content
        return name

    def picture(self, name: str, pixels: UInt8[np.ndarray, "y x 3"], alt: str, **words) -> Picture:
        """A drawing that is part of a figure, kept as PNG: figures/<name>.png."""
        src = self.add(f"figures/{name}.png", png(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def figure(
        self, name: str, pixels: UInt8[np.ndarray, "y x 3"], alt: str, *, caption: str, **words
    ) -> Picture:
        """A drawing that is a figure of its own: figures/<name>.png, and the same with its
        caption as SVG.
        """
        made = self.picture(name, pixels, alt, caption=caption, **words)
        drawn = panels_svg([pixels], [Caption(caption, words.get("note", ""))])
        return replace(
            made, files=(("PNG", made.src), ("SVG", self.add(f"figures/{name}.svg", drawn)))
        )

    def sheet(
        self,
        name: str,
        images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
        captions: Sequence[str],
        *,
        title: str = "",
    ) -> tuple[tuple[str, str], ...]:
        """Pictures side by side with captions and a title, to take away: figures/<name>.png and
        .svg, as (format, file).
        """
        drawn = (
            png(panels(images, captions, title=title)),
            panels_svg(images, captions, title=title),
        )
        return tuple(
            (kind.upper(), self.add(f"figures/{name}.{kind}", content))
            for kind, content in zip(("png", "svg"), drawn, strict=True)
        )

    def hinton(
        self,
        name: str,
        values: Shaped[np.ndarray, "..."],
        alt: str,
        *,
        scale: float | None = None,
        **words,
    ) -> Picture:
        """A Hinton diagram: figures/<name>.png, and drawn as such in the SVG beside it."""
        made = self.picture(name, hinton(values, scale=scale), alt, signed=True, **words)
        drawn = self.add(f"figures/{name}.svg", hinton_svg(values, scale=scale))
        return replace(made, files=(("PNG", made.src), ("SVG", drawn)))

    def photo(self, name: str, pixels: UInt8[np.ndarray, "y x 3"], alt: str, **words) -> Picture:
        """A photograph, kept as JPEG: figures/<name>.jpg."""
        src = self.add(f"figures/{name}.jpg", jpeg(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def plot(self, name: str, plot: Plot, alt: str, **words) -> Picture:
        """A plot, shown as SVG, with the PNG beside it: figures/<name>.svg and .png."""
        # The PNG header's own fields, at 160 dpi; CSS pixels are 96 to the inch.
        width, height = (
            round(int.from_bytes(plot.png[at : at + 4], "big") * 96 / 160) for at in (16, 20)
        )
        src = self.add(f"figures/{name}.svg", plot.svg)
        files = (("SVG", src), ("PNG", self.add(f"figures/{name}.png", plot.png)))
        return Picture(src, width, height, alt, files=files, **words)


@dataclass(frozen=True)
class Table:
    """A table as text: columns (name, is it numeric), rows of cells, and how many rows were left
    out.
    """

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


def table(rows: Sequence[Mapping[str, object]], limit: int = 200) -> Table | None:
    """The rows as text in the order of their columns, or None if there are none."""
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(_is_number(row.get(name)) for row in rows) for name in names}
    cells = tuple(tuple(_cell(name, row.get(name)) for name in names) for row in rows[:limit])
    return Table(
        tuple((label(name), numeric[name]) for name in names), cells, max(0, len(rows) - limit)
    )


def _cell(name: str, value: object) -> str:
    return quantity(value) if name == "quantity" and isinstance(value, str) else number(value)


def _is_number(value: object) -> bool:
    return value is None or (
        isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    )
