"""The report's files as they are made: names to contents, and for every picture what its <img>
needs."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dr_lib.drawing.figures import Panel, Pixels, jpeg, png
from dr_lib.drawing.panels import Grid, sheet
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


class Strip(NamedTuple):
    """Panels that are one figure, its name, a few words on it, and its files."""

    panels: Sequence[Picture]
    name: str
    words: str
    files: Files


def file_name(text: str) -> str:
    """The text as a part of a file's name: letters, digits, `_`, `-` and inner dots only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-") or "eye"


@dataclass
class Folder:
    """Collects files by their name relative to the report's folder; a name is given once."""

    files: dict[str, bytes | str] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def name(self, place: str, text: str) -> str:
        """`place`/ and a file name for what is called `text`: never the same twice, even where
        case does not count.

        >>> folder = Folder()
        >>> [folder.name("eyes", text) for text in ("10_left", "a/b", "a b", "../x", "A-B")]
        ['eyes/10_left', 'eyes/a-b', 'eyes/a-b-2', 'eyes/x', 'eyes/A-B-3']
        """
        base = f"{place}/{file_name(text)}"
        names = itertools.chain([base], (f"{base}-{turn}" for turn in itertools.count(2)))
        name = next(name for name in names if name.lower() not in self._names)
        self._names.add(name.lower())
        return name

    def add(self, name: str, content: bytes | str) -> str:
        """Keeps a file and returns its name. Raises ValueError for a name that is taken."""
        if name in self.files:
            raise ValueError(f"the report would write {name} twice")
        self.files[name] = content
        return name

    def picture(self, name: str, pixels: Pixels, alt: str, **words) -> Picture:
        """A drawing that is part of a figure, kept as PNG: figures/<name>.png."""
        return self._picture(f"{name}.png", png(pixels), pixels, alt, **words)

    def photo(self, name: str, pixels: Pixels, alt: str, **words) -> Picture:
        """A photograph, kept as JPEG: figures/<name>.jpg."""
        return self._picture(f"{name}.jpg", jpeg(pixels), pixels, alt, **words)

    def figure(self, place: str, pixels: Pixels, alt: str, *, caption: str, **words) -> Picture:
        """A drawing that is a figure of its own, named by its caption: figures/<place>/<name>.png,
        and the same with its caption as SVG."""
        name = self.name(place, caption)
        drawn = svg(sheet(Grid([Panel(pixels, caption, words.get("note", ""))])), themed=False)
        files = ("PNG", f"figures/{name}.png"), ("SVG", self.add(f"figures/{name}.svg", drawn))
        return self.picture(name, pixels, alt, caption=caption, files=files, **words)

    def strip(self, name: str, panels: Sequence[Panel], title: str, words: str) -> Strip:
        """Panels of one size that are one figure: one by one, and side by side to take away.

        title: what they show, such as an eye's id; words: a few words more on it.
        """
        pictures = [
            self.picture(
                f"{name}-{file_name(panel.caption).lower()}",
                panel.image,
                f"{panel.caption}: eye {title}",
                caption=panel.caption,
                note=panel.note,
                signed=panel.signed,
            )
            for panel in panels
            if panel.image is not None
        ]
        whole = rendered(sheet(Grid(panels, f"{title}  ·  {words}")), themed=False)
        return Strip(pictures, title, words, self._files(name, whole))

    def plot(self, name: str, drawn: Plot, alt: str, **words) -> Picture:
        """A plot, shown as SVG, which follows the reader's light or dark setting."""
        files = self._files(name, drawn)
        return Picture(files[1][1], drawn.width, drawn.height, alt, files=files, **words)

    def _picture(self, name: str, content: bytes, pixels: Pixels, alt: str, **words) -> Picture:
        height, width = pixels.shape[:2]
        return Picture(self.add(f"figures/{name}", content), width, height, alt, **words)

    def _files(self, name: str, drawn: Plot) -> Files:
        contents = {"png": drawn.png, "svg": drawn.svg}
        return tuple(
            (kind.upper(), self.add(f"figures/{name}.{kind}", content))
            for kind, content in contents.items()
        )
