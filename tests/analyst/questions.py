"""The page of worked questions, read and filled in: docs/questions.md.

    python -m tests.analyst.questions WORKSPACE

writes that workspace's answers into the page.
"""

import pathlib
import re
import sys
from dataclasses import dataclass

import pandas as pd

from storage import open_workspace
from storage.admin.catalog import query

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "questions.md"
SHOWN = 8
_QUESTION = re.compile(
    r"^## (\d+)\. (.+?)\n\n```sql\n(.+?)\n```\n(?P<answer>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Question:
    """One question of the page: its SQL, and the answer's columns as the page shows them (none
    where it has no answer).
    """

    number: int
    text: str
    sql: str
    columns: tuple[str, ...]


def questions() -> list[Question]:
    """The page's questions in their order."""
    found = []
    for match in _QUESTION.finditer(PAGE.read_text(encoding="utf-8")):
        head = next((line for line in match["answer"].splitlines() if line.startswith("|")), "")
        columns = tuple(name.strip() for name in head.strip("|").split("|")) if head else ()
        found.append(Question(int(match[1]), match[2], match[3], columns))
    return found


def as_text(answer: pd.DataFrame) -> str:
    """A Markdown table of the first rows; numbers to three digits."""
    lines = ["| " + " | ".join(answer.columns) + " |", "|" + "---|" * len(answer.columns)]
    lines += [
        "| " + " | ".join(map(_cell, row)) + " |"
        for row in answer.head(SHOWN).itertuples(index=False)
    ]
    if answer.empty:
        lines.append("|" + " – |" * len(answer.columns))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def filled_in(workspace: str) -> str:
    """The page with the answers of a workspace."""
    place = open_workspace(workspace)

    def with_answer(match: re.Match) -> str:
        return (
            f"## {match[1]}."
            f" {match[2]}\n\n```sql\n{match[3]}\n```\n\n{as_text(query(place, match[3]))}\n\n"
        )

    return _QUESTION.sub(with_answer, PAGE.read_text(encoding="utf-8")).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(filled_in(sys.argv[1]), encoding="utf-8")
