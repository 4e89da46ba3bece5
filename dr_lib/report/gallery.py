"""The gallery's rows as scripts of some thousand eyes each: the first is enough for the first view,
the others follow.

A script and not JSON, because a page opened from disk may not read a file. Columns and not rows:
50,000 eyes are 2 MB that a browser reads in a moment. The order is that of the ids, numbers by
their value.
"""

import json
import re

import numpy as np
import pandas as pd

CHUNK_EYES = 5000
DIGITS = {"gap": 4, "share": 3, "symmetry": 3}


def ordered(eyes: pd.DataFrame) -> pd.DataFrame:
    """The eyes in the gallery's order: 2_left before 10_left."""
    keys = [
        [(not part.isdigit(), int(part) if part.isdigit() else part) for part in _parts(name)]
        for name in eyes["image_id"]
    ]
    return eyes.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def _parts(name: str) -> list[str]:
    # isdigit also holds for digits that int() refuses, such as ²: only ASCII ones are numbers here.
    return [part for part in re.split(r"([0-9]+)", name) if part] if name.isascii() else [name]


def chunk_names(count: int) -> list[str]:
    """The scripts that hold so many eyes."""
    return [f"gallery/{number:03d}.js" for number in range(-(-count // CHUNK_EYES))]


def gallery_files(eyes: pd.DataFrame) -> dict[str, str]:
    """The scripts by name; `eyes` in the gallery's order, with the columns of `GallerySection`."""
    columns = {"key": eyes["key"].tolist(), "id": eyes["image_id"].tolist()}
    columns |= {
        name: [None if pd.isna(value) else int(value) for value in eyes[name]]
        for name in ("stage", "predicted")
    }
    for name, digits in DIGITS.items():
        values = eyes[name].to_numpy(np.float64) if name in eyes else np.full(len(eyes), np.nan)
        if np.isfinite(values).any():
            columns[name] = [
                round(value, digits) if np.isfinite(value) else None for value in values.tolist()
            ]
    if "patient" in eyes:
        columns["fellow"] = _fellows(eyes["patient"].tolist())
    scripts = {}
    for number, name in enumerate(chunk_names(len(eyes))):
        chunk = {key: values[_span(number)] for key, values in columns.items()}
        scripts[name] = f"report.rows({number},{_json(chunk)});\n"
    return scripts


def _span(number: int) -> slice:
    return slice(number * CHUNK_EYES, (number + 1) * CHUNK_EYES)


def _fellows(patients: list[object]) -> list[int]:
    """For each row that of the patient's other eye, or −1."""
    seen: dict[object, list[int]] = {}
    for row, patient in enumerate(patients):
        seen.setdefault(patient, []).append(row)
    pairs = {
        row: rows[1 - place]
        for rows in seen.values()
        if len(rows) == 2
        for place, row in enumerate(rows)
    }
    return [pairs.get(row, -1) for row in range(len(patients))]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
