"""What `dr` prints: tables for people at a terminal, plain values for a pipe."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_rows(rows: Sequence[dict[str, Any]], title: str = "") -> None:
    """Prints rows with the same keys as a table on a terminal, as tab-separated lines in a pipe."""
    rows = list(rows)
    if not rows:
        print("nothing")
        return
    if not sys.stdout.isatty():
        print("\t".join(rows[0]))
        for row in rows:
            print("\t".join(text(value) for value in row.values()))
        return
    table = Table(title=title, title_justify="left", show_edge=False)
    for name, value in rows[0].items():
        table.add_column(
            name, justify="right" if isinstance(value, (int, float)) else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(text(value) for value in row.values()))
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
    from tasks.run.progress import duration

    print_rows(
        [
            {
                "step": result.step,
                "images": result.images,
                "new": result.new_images,
                "time": duration(result.seconds),
                "a minute": (
                    round(60 * result.new_images / result.seconds, 1)
                    if result.new_images and result.seconds
                    else ""
                ),
                "result": result.message,
            }
            for result in results
        ],
        title="Done",
    )
    for result in results:
        if result.table:
            print_rows(result.table, title=f"\nWhat {result.step} found")
        if result.step == "report":
            print(f"\nReport: {result.message}")  # on a line of its own, which a terminal can open


def text(value: Any) -> str:
    """A value as people read it: no trailing digits, nothing for what is missing.

    >>> text(0.123456), text(float("nan")), text(None), text(12000), text(56516.2)
    ('0.1235', '', '', '12,000', '56,516')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
