"""Pearson's correlation of two arrays that may be faint, flat or not finite: one rule for maps
and their checks.
"""

import numpy as np


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two 1-d float64 arrays, −1 to 1; NaN where one does not vary or is not
    finite.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    # Scaled first: the squares of attributions near 1e-170 would underflow, and a map is no less a
    # map for being faint.
    a, b = (values / np.abs(values).max() if values.any() else values for values in (a, b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
