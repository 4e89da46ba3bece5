"""How to name the numbers, and how to get at the tables behind them."""

from types import SimpleNamespace

from dr_lib.report.data import Citation
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from dr_lib.report.words import number, records


def view(folder: Folder, part: Citation) -> SimpleNamespace:
    """Each table with its size, and its rows as CSV where it is small enough to travel with the
    report.
    """
    rows = [
        SimpleNamespace(
            name=str(row["name"]),
            about=str(row.get("description") or "").replace("`", ""),
            rows=number(row.get("rows")),
            path=str(row.get("path", "")),
            csv=(
                folder.add(f"tables/{row['name']}.csv", part.csv[row["name"]])
                if row["name"] in part.csv
                else ""
            ),
        )
        for row in records(part.tables)
    ]
    return SimpleNamespace(text=part.text, tables=rows, queries=part.queries)


SECTION = Section("cite", "Cite and download", Citation, view)
