"""A quotient that may be undefined."""

import numpy as np


def ratio(above: np.ndarray | np.floating, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """above / below, element by element; `empty` where below is 0.

    >>> ratio(np.array([3.0, 3.0]), np.array([2.0, 0.0]))
    array([1.5, nan])
    """
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, out=np.full(shape, empty), where=below != 0)
