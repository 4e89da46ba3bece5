"""What `dr` prints: tables for people at a terminal, plain values for a pipe. What it needs for
that is imported when something is printed."""

import sys
from collections.abc import Sequence
from typing import Any


def print_rows(rows: Sequence[dict[str, Any]], title: str = "") -> None:
    """Prints rows with the same keys as a table on a terminal, as tab-separated lines in a pipe."""
    from rich.console import Console
    from rich.table import Table

    from dr_lib.formatting import plain

    rows = list(rows)
    if not rows:
        print("nothing")
        return
    if not sys.stdout.isatty():
        print("\t".join(rows[0]))
        for row in rows:
            print("\t".join(plain(value) for value in row.values()))
        return
    table = Table(title=title, title_justify="left", show_edge=False)
    for name, value in rows[0].items():
        table.add_column(
            name, justify="right" if isinstance(value, (int, float)) else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    Console(markup=False, emoji=False).print(table)  # a folder named [b] is no markup


def print_frame(frame: Any, style: str) -> None:
    """Prints a pandas DataFrame as table, csv or json lines."""
    if style == "csv":
        frame.to_csv(sys.stdout, index=False)
    elif style == "json":
        frame.to_json(sys.stdout, orient="records", lines=True, date_format="iso")
    else:
        print_rows(frame.to_dict("records"))


def print_summary(results: Sequence[Any]) -> None:
    """Prints what each step did: images in all, new ones, seconds, and its own closing words."""
    print_rows([result.row for result in results], title="Done")
    for result in results:
        if result.table:
            print_rows(result.table, title=f"\nWhat {result.step} found")
        if result.step == "report":
            print(f"\nReport: {result.message}")  # on a line of its own, which a terminal can open
