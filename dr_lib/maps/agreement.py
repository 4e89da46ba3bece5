"""How far two explanations of the same eyes agree: their maps, their regions, and the units of a
layer, which two trainings number differently.

Results are named as the rows and columns of the table `model_differences`.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from dr_lib.evaluation.ratio import ratio
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.maps.regions import HeatmapParams, find_regions, smoothed
from dr_lib.maps.stats import correlation

SMOOTHING_PX = 2.0
STRONGEST = 0.1  # of the visible disc: what overlaps are taken of
LEAST_CORRELATION = 0.5  # of two units that are taken for the same one
LEAST_EYES = 20


def map_agreement(
    first: Float[np.ndarray, "y x"],
    second: Float[np.ndarray, "y x"],
    *,
    crop: float,
    cut: HeatmapParams | None = None,
) -> dict[tuple[str, str], float]:
    """How alike two maps of one eye are over the visible disc.

    Parameters
    ----------
    first, second
        (y, x) attributions; their units may differ.
    crop
        Of the fundus (`PreprocessParams.crop`).
    cut
        How the positive regions of both are cut out, where these are compared too.

    Returns
    -------
    dict
        A value by measure and column. `map_correlation`: of the pixels, both maps smoothed by a
        Gaussian of `SMOOTHING_PX`, −1 to 1; NaN where a map does not vary or is not finite.
        `map_overlap`: the pixels among the strongest tenth of both over those of either, 0 to 1.
        `regions`: the share of the first's that touch one of the second's (`value_a`), the reverse
        (`value_b`), and the pixels in regions of both over those of either (`agreement`), 0 to 1;
        NaN without regions.
    """
    inside = visible_disc(len(first), crop=crop)
    a, b = (smoothed(each.astype(np.float64), SMOOTHING_PX)[inside] for each in (first, second))
    strong = [each >= np.quantile(each, 1 - STRONGEST) for each in (a, b)]
    found = {
        ("map_correlation", "agreement"): correlation(a, b),
        ("map_overlap", "agreement"): _overlap(*strong),
    }
    if cut is None:
        return found
    labels = [find_regions(each, "positive", cut, crop=crop) for each in (first, second)]
    both = np.logical_and(*labels)
    met = np.array([len(np.unique(each[both])) for each in labels])
    a, b = ratio(met, np.array([each.max() for each in labels])).tolist()
    shares = {"value_a": a, "value_b": b, "agreement": _overlap(*labels)}
    return found | {("regions", column): share for column, share in shares.items()}


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Where both are, over where either is; NaN where neither is anywhere."""
    either = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / either) if either else np.nan


def matched_units(
    first: Float[np.ndarray, "eye first"], second: Float[np.ndarray, "eye second"]
) -> pd.DataFrame:
    """The units of two models' layer matched one to one by what they contribute to the same eyes.

    Contributions are compared by Spearman's correlation over the eyes, since a few eyes hold most
    of a unit's contribution. The pairs are those whose correlations sum to most (Kuhn's method). A
    pair counts if it correlates by `LEAST_CORRELATION` and by more than 95 % of the pairs do when
    the second's eyes are shuffled: of hundreds of units on few eyes, some correlate by chance.
    Units that contribute the same to every eye are left out.

    Parameters
    ----------
    first, second
        Contribution of each unit to each eye.

    Returns
    -------
    DataFrame
        A row `units`: how many each has, and of how many of all the counterpart was found. Then a
        row a unit: `matched`, with the correlation of its pair as `agreement`; `vanished` (of the
        first) and `appeared`, with their highest correlation with any. `chance` is what a pair had
        to reach. Empty for fewer than `LEAST_EYES`.
    """
    from scipy.optimize import linear_sum_assignment

    live_a, live_b = (np.flatnonzero(np.ptp(each, axis=0) > 0) for each in (first, second))
    if len(first) < LEAST_EYES or not (len(live_a) and len(live_b)):
        return pd.DataFrame()
    a, b = _ranked(first[:, live_a]), _ranked(second[:, live_b])
    alike, shuffled = a.T @ b, a.T @ np.random.default_rng(0).permutation(b)
    by_chance = shuffled[linear_sum_assignment(shuffled, maximize=True)]
    least = max(LEAST_CORRELATION, float(np.quantile(by_chance, 0.95)))
    pairs = np.array(linear_sum_assignment(alike, maximize=True))
    row, column = pairs[:, alike[tuple(pairs)] >= least]
    counts = {"value_a": len(live_a), "value_b": len(live_b)}
    share = 2 * len(row) / sum(counts.values())
    of_a = pd.DataFrame({"other_unit": live_a, "agreement": alike.max(axis=1)})
    of_b = pd.DataFrame({"unit": live_b, "agreement": alike.max(axis=0)})
    matched = {"other_unit": live_a[row], "unit": live_b[column], "agreement": alike[row, column]}
    kinds = {
        "units": pd.DataFrame([counts | {"agreement": share}]),
        "matched": pd.DataFrame(matched),
        "vanished": of_a.drop(row),
        "appeared": of_b.drop(column),
    }
    rows = pd.concat([of.assign(measure=name) for name, of in kinds.items()], ignore_index=True)
    return rows.assign(chance=least)


def _ranked(values: Float[np.ndarray, "eye unit"]) -> Float64[np.ndarray, "eye unit"]:
    """The ranks in each column, centred and of length 1: their products are correlations."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(axis=0)
    return ranks / np.linalg.norm(ranks, axis=0)
