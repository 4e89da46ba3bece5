"""The report's files as they are made: names to contents, and for every picture what its <img> needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from dr_lib.figures import jpeg, png
from dr_lib.plots import Plot
from dr_lib.report.words import label, number, quantity


@dataclass(frozen=True)
class Picture:
    """One <img>: its file, size and words. `signed` pictures are drawn green-red on grey and may be recoloured."""

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    note: str = ""
    signed: bool = False
    download: str = ""  # the same as PNG, where `src` is an SVG


@dataclass
class Folder:
    """Collects files by their name relative to the report's folder; a name is given once."""

    files: dict[str, bytes | str] = field(default_factory=dict)

    def add(self, name: str, content: bytes | str) -> str:
        if name in self.files:
            raise ValueError(f"the report would write {name} twice")
        self.files[name] = content
        return name

    def figure(self, name: str, pixels: UInt8[np.ndarray, "y x 3"], alt: str, **words) -> Picture:
        """A drawing, kept as PNG: figures/<name>.png."""
        src = self.add(f"figures/{name}.png", png(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def photo(self, name: str, pixels: UInt8[np.ndarray, "y x 3"], alt: str, **words) -> Picture:
        """A photograph, kept as JPEG: figures/<name>.jpg."""
        src = self.add(f"figures/{name}.jpg", jpeg(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def plot(self, name: str, plot: Plot, alt: str, **words) -> Picture:
        """A plot, shown as SVG, with the PNG beside it: figures/<name>.svg and .png."""
        # The PNG header's own fields, at 160 dpi; CSS pixels are 96 to the inch.
        width, height = (round(int.from_bytes(plot.png[at : at + 4], "big") * 96 / 160) for at in (16, 20))
        src = self.add(f"figures/{name}.svg", plot.svg)
        return Picture(src, width, height, alt, download=self.add(f"figures/{name}.png", plot.png), **words)


@dataclass(frozen=True)
class Table:
    """A table as text: columns (name, is it numeric), rows of cells, and how many rows were left out."""

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


def table(rows: list[Mapping[str, object]], limit: int = 200) -> Table | None:
    """The rows as text in the order of their columns, or None if there are none."""
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(_is_number(row.get(name)) for row in rows) for name in names}
    cells = tuple(tuple(_cell(name, row.get(name)) for name in names) for row in rows[:limit])
    return Table(tuple((label(name), numeric[name]) for name in names), cells, max(0, len(rows) - limit))


def _cell(name: str, value: object) -> str:
    return quantity(value) if name == "quantity" and isinstance(value, str) else number(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
