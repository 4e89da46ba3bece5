"""The report's files as they are made: names to contents, and for every picture what its <img>
needs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped

from dr_lib.drawing.figures import Panel, Pixels, jpeg, png
from dr_lib.drawing.panels import Grid, hinton, sheet
from dr_lib.drawing.plots import Plot, rendered, svg

Files = tuple[tuple[str, str], ...]  # a figure to take away, as (format, file)


@dataclass(frozen=True)
class Picture:
    """One <img>: its file, size and words. `signed` pictures are drawn green-red on gray and may be
    recoloured."""

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    note: str = ""
    signed: bool = False
    files: Files = ()


@dataclass
class Folder:
    """Collects files by their name relative to the report's folder; a name is given once."""

    files: dict[str, bytes | str] = field(default_factory=dict)

    def add(self, name: str, content: bytes | str) -> str:
        if name in self.files:
            raise ValueError(f"the report would write {name} twice")
        self.files[name] = content
        return name

    def picture(self, name: str, pixels: Pixels, alt: str, **words) -> Picture:
        """A drawing that is part of a figure, kept as PNG: figures/<name>.png."""
        src = self.add(f"figures/{name}.png", png(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def photo(self, name: str, pixels: Pixels, alt: str, **words) -> Picture:
        """A photograph, kept as JPEG: figures/<name>.jpg."""
        src = self.add(f"figures/{name}.jpg", jpeg(pixels))
        return Picture(src, pixels.shape[1], pixels.shape[0], alt, **words)

    def figure(self, name: str, pixels: Pixels, alt: str, *, caption: str, **words) -> Picture:
        """A drawing that is a figure of its own: figures/<name>.png, and the same with its caption
        as SVG."""
        drawn = svg(sheet(Grid([Panel(pixels, caption, words.get("note", ""))])), themed=False)
        files = ("PNG", f"figures/{name}.png"), ("SVG", self.add(f"figures/{name}.svg", drawn))
        return self.picture(name, pixels, alt, caption=caption, files=files, **words)

    def strip(
        self, place: str, panels: Mapping[str, Panel], title: str, of: str, *, signed: Sequence[str]
    ) -> tuple[list[Picture], Files]:
        """Panels of one size that are one figure, by their file's name: one by one, and side by
        side to take away.

        title: over all of them; of: what they show, such as an eye's name; signed: the names of
        those that may be recoloured.
        """
        pictures = [
            self.picture(
                f"{place}-{name}",
                panel.image,
                f"{panel.caption}: eye {of}",
                caption=panel.caption,
                note=panel.note,
                signed=name in signed,
            )
            for name, panel in panels.items()
            if panel.image is not None
        ]
        return pictures, self._both(
            place, rendered(sheet(Grid(list(panels.values()), title)), themed=False)
        )

    def hinton(
        self, name: str, values: Shaped[np.ndarray, "..."], alt: str, *, scale: float, **words
    ) -> Picture:
        """A Hinton diagram, shown as PNG, which can be recoloured."""
        drawn = rendered(hinton(values, scale=scale), themed=False)
        files = self._both(name, drawn)
        return Picture(
            files[0][1], drawn.width, drawn.height, alt, signed=True, files=files, **words
        )

    def plot(self, name: str, drawn: Plot, alt: str, **words) -> Picture:
        """A plot, shown as SVG, which follows the reader's light or dark setting."""
        files = self._both(name, drawn)
        return Picture(files[1][1], drawn.width, drawn.height, alt, files=files, **words)

    def _both(self, name: str, drawn: Plot) -> Files:
        kinds = {"png": drawn.png, "svg": drawn.svg}
        return tuple(
            (kind.upper(), self.add(f"figures/{name}.{kind}", content))
            for kind, content in kinds.items()
        )


def slugs(names: Iterable[str]) -> list[str]:
    """A file name for each: letters, digits, `_`, `-` and inner dots only, and no two alike, even
    where case does not count.

    >>> slugs(["10_left", "a/b", "a b", "../x", "A-B"])
    ['10_left', 'a-b', 'a-b-2', 'x', 'A-B-3']
    """
    made: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(name)).strip(".-") or "eye"
        candidate, turn = base, 1
        while candidate.lower() in made:
            turn += 1
            candidate = f"{base}-{turn}"
        made[candidate.lower()] = candidate
    return list(made.values())
