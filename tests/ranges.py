"""Tests values against a column's range, as columns.toml writes it: an interval of numbers, closed,
and open at ∞; the words that a text may be; or `text`.

So the page of tables cannot promise what the tables do not hold.
"""

import re
from collections.abc import Iterable

import numpy as np

# Float32 may end a hair beyond a bound that holds for the number it was rounded from.
ROUNDING = 1e-5


def outside(range_: str, values: Iterable) -> list:
    """The values that a range does not allow; nulls and NaN are in every range.

    >>> (
    ...     outside("[0, 1]", [0.5, None, 1.5]),
    ...     outside("left | right", ["left", "up"]),
    ...     outside("text", ["anything"]),
    ... )
    ([1.5], ['up'], [])
    """
    lists = [value if isinstance(value, list | np.ndarray) else [value] for value in values]
    known = [value for part in lists for value in part if value is not None and value == value]
    if " | " in range_:
        words = range_.split(" | ")
        return [
            value
            for value in known
            if (str(value).lower() if isinstance(value, bool) else value) not in words
        ]
    interval = re.fullmatch(r"[\[(](.+), (.+)[\])]", range_)
    if interval is None:
        return []
    low, high = (_end(text) for text in interval.groups())
    return [value for value in known if not low - ROUNDING <= value <= high + ROUNDING]


def _end(text: str) -> float:
    return float(text.replace("∞", "inf")) if "∞" in text else float(text)
