"""The settings of the heat-map statistics: how a region is cut out of a map, how many are kept,
how fine the profiles are.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HeatmapParams:
    """A region is a connected piece of the smoothed map, within the visible disc, at or above a
    threshold of that map's own.
    """

    smoothing_px: float = 2.0  # Gaussian σ; 0: none
    threshold: Literal["fraction", "otsu", "quantile"] = "fraction"
    fraction: float = 0.25  # of the smoothed map's largest value of the sign
    quantile: float = 0.98  # over the visible disc's pixels
    min_area_px: int = 8
    max_regions: int = 20  # rows kept of each sign, the strongest first; 0: all
    surround_px: int = 4  # width of the surroundings that a region's contrast is measured against
    radial_bins: int = 10
    angular_bins: int = 12
    unconverged: Literal["keep", "leave_out"] = (
        "keep"  # of the groups' sums; every row of other tables says `converged`
    )

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], not {self.fraction}")
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile must lie in [0, 1), not {self.quantile}")
        for name, least in (
            *(("smoothing_px", 0), ("min_area_px", 1), ("max_regions", 0)),
            *(("surround_px", 1), ("radial_bins", 1), ("angular_bins", 1)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
