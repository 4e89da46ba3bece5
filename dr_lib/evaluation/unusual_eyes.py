"""Eyes that were decided in an unusual way for their stage: far from the others of the stage in the
space of what each channel of a layer contributed to the grade.
"""

import numpy as np
from jaxtyping import Float, Float64, Shaped

LEAST_EYES = 5  # of a stage: among fewer nothing is usual
# From the median and the mean of absolute deviations to the standard deviation of a normal
# distribution.
MEDIAN_SCALE, MEAN_SCALE = 1.4826, 1.2533


def unusual_distances(
    contributions: Float[np.ndarray, "eye channel"], stages: Shaped[np.ndarray, "eye"]
) -> Float64[np.ndarray, "eye"]:
    """How far each eye lies from the median eye of its predicted stage: the root mean square over
    channels, each in its own spread within the stage.

    The spread is the median absolute deviation, which the unusual eye itself does not widen, or the
    mean one for a channel that is the same in most eyes. NaN for an eye with a contribution that is
    not finite, and in a stage of fewer than five eyes.
    """
    distances = np.full(len(stages), np.nan)
    known = np.isfinite(contributions).all(axis=1)
    for stage in np.unique(stages[known]):
        rows = known & (stages == stage)
        if rows.sum() < LEAST_EYES:
            continue
        away = contributions[rows] - np.median(contributions[rows], axis=0)
        size = np.abs(away)
        middle, mean = MEDIAN_SCALE * np.median(size, axis=0), MEAN_SCALE * size.mean(axis=0)
        spread = np.where(middle > 0, middle, mean)
        standardised = away[:, spread > 0] / spread[spread > 0]
        if standardised.shape[1]:
            distances[rows] = np.sqrt((standardised**2).mean(axis=1))
    return distances
