"""Numbers of one attribution map: how much there is, how concentrated it is, where it lies, how it
mirrors another; and how far a neuron's active region spreads (the poster's "stem neurons local,
dense neurons scattered").

Totals run over the whole map, as completeness does; concentration and place over the visible disc.
A map of zeros has totals of 0 and no distribution (NaN: undefined); a map with a value that is not
finite has NaN everywhere.
"""

import math

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.evaluation.ratio import ratio
from dr_lib.fundus.anatomy import RINGS, Anatomy, visible_disc
from dr_lib.fundus.optic_disc import OpticDisc
from dr_lib.vocabulary import QUADRANTS

TOP_SHARE = 0.01
BORDER = 0.9  # of the visible disc's radius


def map_stats(
    values: Float[np.ndarray, "y x"], retina: Anatomy, disc: OpticDisc | None = None
) -> dict[str, float]:
    """Numbers of one map, named as the columns of `heatmap_stats`.

    Shares are of the absolute sum within the visible disc, so the four quadrants add up to 1, and
    so do the three rings. The border is the outer tenth of the visible radius, where tone and cut
    edges leave their marks.

    Parameters
    ----------
    place : the anatomy of the eye
    disc : the optic disc, where it was found
    """
    values = values.astype(np.float64)
    finite = bool(np.isfinite(values).all())
    size = np.abs(values[retina.inside])
    size = size if np.isfinite(size).all() else np.zeros_like(size)

    def shares(part: np.ndarray, count: int) -> list[float]:
        sums = np.bincount(part[retina.inside].astype(np.int8), weights=size, minlength=count)
        return (sums / _total(size)).tolist()

    quadrants, rings = shares(retina.quadrant, len(QUADRANTS)), shares(retina.ring, RINGS)
    return {
        "positive_total": float(values[values > 0].sum()) if finite else np.nan,
        "negative_total": float(values[values < 0].sum()) if finite else np.nan,
        "top1_share": top_share(size, max(1, round(TOP_SHARE * size.size))),
        "entropy": entropy_bit(size),
        "gini": gini(size),
        **{f"share_{name}": share for name, share in zip(QUADRANTS, quadrants, strict=True)},
        **{f"share_ring{ring}": share for ring, share in enumerate(rings)},
        "share_optic_disc": shares(disc.mask(len(values)), 2)[1] if disc else np.nan,
        "share_border": shares(retina.radius_share > BORDER, 2)[1],
        "optic_disc_y_px": disc.centre_y_px if disc else np.nan,
        "optic_disc_x_px": disc.centre_x_px if disc else np.nan,
    }


def top_share(size: Float[np.ndarray, "value"], count: int) -> float:
    """Share of the sum held by the `count` largest of non-negative values; NaN if the sum is 0 or
    not finite.

    >>> top_share(np.array([4.0, 1.0, 3.0, 0.0]), 2)
    0.875
    """
    return float(np.partition(size, -count)[-count:].sum() / _total(size))


def entropy_bit(size: Float[np.ndarray, "value"]) -> float:
    """Shannon entropy in bits of non-negative values taken as a distribution; 0 for one value
    alone, log2(n) for n equal ones.

    >>> entropy_bit(np.array([1.0, 1.0, 2.0, 0.0]))
    1.5
    """
    p = size / _total(size)
    p = p[p != 0]  # a value so small that its share underflows adds nothing
    return float(-(p * np.log2(p)).sum()) + 0.0


def gini(size: Float[np.ndarray, "value"]) -> float:
    """Gini coefficient of non-negative values: 0 where all are equal, 1 − 1/n where one holds
    everything.

    Half the mean absolute difference of all pairs over the mean, computed from the sorted values.

    >>> gini(np.array([1.0, 3.0]))
    0.25
    """
    n = size.size
    return float(((2 * np.arange(1, n + 1) - n - 1) * np.sort(size)).sum() / (n * _total(size)))


def _total(size: np.ndarray) -> float:
    """The sum; NaN, so that shares of it are undefined, where it is 0 or not finite."""
    total = float(size.sum())
    return total if math.isfinite(total) and total else np.nan


def symmetry(
    first: Float[np.ndarray, "y x"], second: Float[np.ndarray, "y x"], *, crop: float
) -> float:
    """Correlation of two maps over the visible disc; −1 where they are complementary, NaN where one
    does not vary.

    Fig (b) of METHOD §6: attribution toward stage 0 beside stage 4.
    """
    inside = visible_disc(len(first), crop=crop)
    a, b = (values[inside].astype(np.float64) for values in (first, second))
    return correlation(a, b)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two 1-d float64 arrays, −1 to 1; NaN where one does not vary, is not
    finite or is empty.
    """
    if not (a.size and np.isfinite(a).all() and np.isfinite(b).all()):
        return np.nan
    # Scaled first: the squares of attributions near 1e-170 would underflow, and a map is no less a
    # map for being faint.
    a, b = (values / np.abs(values).max() if values.any() else values for values in (a, b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


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
