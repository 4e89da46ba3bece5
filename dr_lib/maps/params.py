"""The settings of the heat-map statistics: how a region is cut out of a map, how many are kept,
how fine the profiles are.
"""

from dataclasses import dataclass
from typing import Literal

from dr_lib.settings import (
    Limit,
    NonNegativeFloat,
    PositiveInt,
    PositiveShare,
    Settings,
    ShareBelow1,
)


@dataclass(frozen=True)
class HeatmapParams(Settings):
    """A region is a connected piece of the smoothed map, within the visible disc, at or above a
    threshold of that map's own.
    """

    smoothing_px: NonNegativeFloat = 2.0  # Gaussian σ; 0: none
    threshold: Literal["fraction", "otsu", "quantile"] = "fraction"
    fraction: PositiveShare = 0.25  # of the smoothed map's largest value of the sign
    quantile: ShareBelow1 = 0.98  # over the visible disc's pixels
    min_area_px: PositiveInt = 8
    max_regions: Limit = 20  # rows kept of each sign, the strongest first; 0: all
    surround_px: PositiveInt = 4  # width of what a region's contrast is measured against
    radial_bins: PositiveInt = 10
    angular_bins: PositiveInt = 12
    unconverged: Literal["keep", "leave_out"] = (
        "keep"  # of the groups' sums; every row of other tables says `converged`
    )
