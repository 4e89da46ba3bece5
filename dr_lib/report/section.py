"""What a section of the report is: a title, a template, and the values that the template names.

templates/sections/<id>.html.j2 sets `finding`, what the run found in a sentence, and may set
`tiles`, numbers for the head of the overview as (name, value, note); the rest of it is the
section's page. It is put together from the macros of templates/blocks.html.j2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import pandas as pd

from dr_lib.formatting import label, number, quantity
from dr_lib.report.pictures import Picture

Rows = pd.DataFrame | Sequence[Mapping[str, object]]


class Pair(NamedTuple):
    """A photograph before and after, with its name and lines of words."""

    before: Picture
    after: Picture
    name: str
    notes: Sequence[str] = ()


class Pairs(NamedTuple):
    """Photographs before and after, one by one and as a contact sheet."""

    pairs: Sequence[Pair]
    sheet: Picture


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
    """Columns (name, is it numeric), rows of cells, and how many rows were left out."""

    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str | Share | Whisker | Address]]
    left_out: int


def table(rows: Rows, limit: int = 200, titles: Mapping[str, str] | None = None) -> Table:
    """The rows as text. titles: of the columns that are shown, by name; left out, all columns by
    their own names (`dr_lib.formatting.label`)."""
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    titles = titles or {name: label(name) for row in records for name in row}
    columns = [
        (
            title,
            all(
                isinstance(value := row.get(name), Real | None) and not isinstance(value, bool)
                for row in records
            ),
        )
        for name, title in titles.items()
    ]
    cells = [[_cell(name, row.get(name)) for name in titles] for row in records[:limit]]
    return Table(columns, cells, max(0, len(records) - limit))


def _cell(name: str, value: object) -> str | Share | Whisker | Address:
    if isinstance(value, Share | Whisker | Address):
        return value
    return quantity(value) if name == "quantity" and isinstance(value, str) else number(value)


@dataclass(frozen=True)
class Subpage:
    """A page below a section's: its address within the report, its title, and the values of its
    template, templates/sections/<template>.html.j2."""

    address: str
    title: str
    template: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """What a section's template names, and the pages below the section's own."""

    values: Mapping[str, Any]
    below: Sequence[Subpage] = ()


@dataclass(frozen=True)
class Section:
    """One part of the report, on a page of its own: `<id>.html`."""

    id: str
    title: str
    content: Content

    @property
    def page(self) -> str:
        return f"{self.id}.html"
