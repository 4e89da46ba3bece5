"""What a section of the report is: a title, what the run found in a sentence, and blocks, one below
the other.

A block is drawn by the macro of its class's name, in small letters, in templates/blocks.html.j2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import pandas as pd

from dr_lib.formatting import label, number, quantity
from dr_lib.report.pictures import Picture

Rows = pd.DataFrame | Sequence[Mapping[str, object]]


class Heading(NamedTuple):
    """A line over what follows."""

    text: str


class Text(NamedTuple):
    """A paragraph."""

    words: str


class Prose(NamedTuple):
    """Paragraphs that are the same in every report: the file templates/prose/<name>.html.j2.
    about: what they name as `block.about`, such as a layer."""

    name: str
    about: str = ""


class Missing(NamedTuple):
    """Why there is nothing to see, and the step of the pipeline that changes that."""

    words: str
    step: str = ""


class Key(NamedTuple):
    """Which colour raises something, such as the model's answer, and which lowers it."""

    what: str = "the model’s answer"


class Facts(NamedTuple):
    """Names and their values; folded: the words on which they open."""

    rows: Sequence[tuple[str, str]]
    folded: str = ""


class Bars(NamedTuple):
    """Names, each with its number and a bar of that part of the largest, in percent."""

    rows: Sequence[tuple[str, str, float]]


class Code(NamedTuple):
    """Text to copy, which opens on a line."""

    text: str
    caption: str


class Links(NamedTuple):
    """Pages of this report: their address, what they are called, and a few words more."""

    rows: Sequence[tuple[str, str, str]]


class Grid(NamedTuple):
    """Pictures that are figures of their own. kind: how large, a class of report.css."""

    pictures: Sequence[Picture]
    kind: str = "grid"


class Plots(NamedTuple):
    """Plots, side by side or, if wide, each in a line of its own."""

    pictures: Sequence[Picture]
    wide: bool = False


class Pairs(NamedTuple):
    """Photographs before and after, each pair with its name and lines of words."""

    pairs: Sequence[tuple[Picture, Picture, str, Sequence[str]]]


class Download(NamedTuple):
    """A file to take away."""

    file: str
    words: str


class Share(NamedTuple):
    """A table's cell: a bar of so many percent, and words."""

    words: str
    share: float


class Whisker(NamedTuple):
    """A table's cell: a dot at `value` and a line from `low` to `high`, all of an axis from 0 to
    1."""

    low: float
    high: float
    value: float


class Address(NamedTuple):
    """A table's cell: words that lead to a file."""

    words: str
    file: str


class Table(NamedTuple):
    """Columns (name, is it numeric), rows of cells, and how many rows were left out; folded: it
    opens on its caption."""

    caption: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str | Share | Whisker | Address]]
    left_out: int = 0
    folded: bool = False


def table(rows: Rows, caption: str = "", *, limit: int = 200, folded: bool = False) -> Table | None:
    """The rows as text, their columns by name in their order; None if there are no rows."""
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    if not records:
        return None
    names = list(dict.fromkeys(name for row in records for name in row))
    columns = [(label(name), all(_is_number(row.get(name)) for row in records)) for name in names]
    cells = [[_cell(name, row.get(name)) for name in names] for row in records[:limit]]
    return Table(caption, columns, cells, max(0, len(records) - limit), folded)


def bars(counts: pd.Series) -> Bars:
    """Counts by name, in their order, each with its bar."""
    largest = counts.max()
    rows = [(label(name), number(count), 100 * count / largest) for name, count in counts.items()]
    return Bars(rows)


def _cell(name: str, value: object) -> str | Share | Whisker | Address:
    if isinstance(value, Share | Whisker | Address):
        return value
    return quantity(value) if name == "quantity" and isinstance(value, str) else number(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def under(heading: str, *blocks: Any) -> list[Any]:
    """The blocks below a heading; an empty list where the last of them has nothing to show."""
    return [Heading(heading), *blocks] if blocks[-1] and blocks[-1][0] else []


@dataclass(frozen=True)
class Subpage:
    """A page below a section's: its address within the report, what it is about, and its blocks;
    None is no block."""

    page: str
    title: str
    lede: str
    blocks: Sequence[Any] = ()


@dataclass(frozen=True)
class Content:
    """What a section found, in a sentence for the overview, and what its page shows; None is no
    block.

    tiles: numbers for the head of the overview, as (name, value, note).
    """

    finding: str
    blocks: Sequence[Any] = ()
    subpages: Sequence[Subpage] = ()
    tiles: Sequence[tuple[str, str, str]] = ()


def nothing(words: str, step: str = "") -> Content:
    """What a section shows that has found nothing: why, and the step that changes that."""
    return Content(words, [Missing(words, step)])


@dataclass(frozen=True)
class Section:
    """One part of the report, on a page of its own: `<id>.html`."""

    id: str
    title: str
    content: Content = field(default_factory=lambda: Content(""))

    @property
    def page(self) -> str:
        return f"{self.id}.html"
