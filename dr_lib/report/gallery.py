"""The gallery's rows as scripts of some thousand eyes each: the first is enough for the first view,
the others follow.

A script and not JSON, because a page opened from disk may not read a file. Columns and not rows:
50,000 eyes are 2 MB that a browser reads in a moment. The order is that of the ids, numbers by
their value.
"""

import json

import numpy as np
import pandas as pd

from dr_lib.formatting import finite

CHUNK_EYES = 5000
DIGITS = {"stage": None, "predicted": None, "gap": 4, "share": 3, "symmetry": 3}  # None: whole


def ordered(eyes: pd.DataFrame) -> pd.DataFrame:
    """The eyes in the gallery's order: 2_left before 10_left."""

    def padded(names: pd.Series) -> pd.Series:
        return names.str.replace("[0-9]+", lambda digits: digits[0].zfill(20), regex=True)

    return eyes.sort_values("image_id", key=padded, kind="stable", ignore_index=True)


def chunk_names(count: int) -> list[str]:
    """The scripts that hold so many eyes."""
    return [f"gallery/{number:03d}.js" for number in range(-(-count // CHUNK_EYES))]


def gallery_files(eyes: pd.DataFrame) -> dict[str, str]:
    """The scripts by name; `eyes` in the gallery's order, with the columns that
    `dr_lib.report.render` names."""
    columns = {"key": eyes["key"].tolist(), "id": eyes["image_id"].tolist()}
    for name, digits in DIGITS.items():
        values = [finite(value) for value in eyes[name]] if name in eyes else []
        if digits is None or any(value is not None for value in values):
            columns[name] = [None if value is None else round(value, digits) for value in values]
    if "patient" in eyes:
        fellow = np.full(len(eyes), -1)
        for rows in eyes.groupby("patient").indices.values():
            if len(rows) == 2:
                fellow[rows] = rows[::-1]
        columns["fellow"] = fellow.tolist()
    scripts = {}
    for number, name in enumerate(chunk_names(len(eyes))):
        span = slice(number * CHUNK_EYES, (number + 1) * CHUNK_EYES)
        chunk = {key: values[span] for key, values in columns.items()}
        scripts[name] = f"report.rows({number},{json.dumps(chunk, separators=(',', ':'))});\n"
    return scripts
