"""How far a neuron's active region spreads: the poster's "stem neurons local, dense neurons
scattered", as numbers.
"""

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.evaluation.ratio import ratio


def region_measures(
    regions: Float[np.ndarray, "*neurons y x"], size_px: int
) -> dict[str, Float64[np.ndarray, "*neurons"]]:
    """Four measures of each region, named as the columns of `neurons`.

    - region_total: sum of the region
    - region_extent_px: radius of gyration of |region| about its own centroid; 0 for one pixel,
      ~0.41·size for an even image
    - region_peak: largest |value|
    - region_top1_share: share of Σ|region| in the strongest 1 % of the *image's* pixels, not of the
      window's, so that layers with windows of different sides can be compared; 1 for a region
      smaller than that

    All are NaN for a region that is not finite (padding where a layer has too few neurons of a
    sign); extent and share are NaN for a region of zeros.

    Parameters
    ----------
    regions : windows; beyond them a region is 0
    size_px : side of the image
    """
    lead, (height, width) = regions.shape[:-2], regions.shape[-2:]
    flat = regions.reshape(-1, height * width).astype(np.float64)
    broken = ~np.isfinite(flat).all(axis=1)
    flat[broken] = 0.0
    size = np.abs(flat)
    total = size.sum(axis=1)
    weights = ratio(size, total[:, None], empty=0.0)
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    dy, dx = (axis[None, :] - (weights @ axis)[:, None] for axis in (y, x))
    count = min(max(1, round(0.01 * size_px**2)), height * width)
    extent = np.sqrt((weights * (dy**2 + dx**2)).sum(axis=1))
    share = np.partition(weights, -count, axis=1)[:, -count:].sum(axis=1)
    measures = {
        "region_total": flat.sum(axis=1),
        "region_extent_px": np.where(total > 0, extent, np.nan),
        "region_peak": size.max(axis=1),
        "region_top1_share": np.where(total > 0, share, np.nan),
    }
    return {
        name: np.where(broken, np.nan, values).reshape(lead) for name, values in measures.items()
    }
