"""Counterfactuals against adversarial examples: paired differences with intervals, and whether a
change transfers.

Works on the rows of `counterfactuals` and `adversarials` put together. The two eyes of a patient
are not independent, so intervals resample patients, not eyes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95

# Strengths are not among them: a factor of a pixel's own offset and a radius have no common unit.
MEASURES = (
    "l0_share",
    "l1",
    "l2",
    "linf",
    "ssim",
    "total_variation_after",
    "high_frequency_energy",
    "feature_distance_after",
)
RESAMPLES = 2000
COMPARED = (
    *("median_first", "median_second", "median_difference", "low", "high"),
    *("share_lower", "p_value"),
)


def paired_comparison(
    rows: pd.DataFrame,
    first: str,
    second: str,
    measure: str,
) -> dict[str, float | int | str]:
    """How a measure differs between two methods on the eyes that both reached.

    Parameters
    ----------
    rows : with image_id, patient_id, method, reached and the measure

    Returns
    -------
    dict
        The medians, the median of first − second with its 95 % interval over resampled patients,
        the share of eyes where it is negative, and `p_value` of Wilcoxon's signed-rank test
        (two-sided). NaN where no eye was reached by both.
    """
    from scipy.stats import wilcoxon

    reached = rows[rows["reached"].astype(bool)].set_index("image_id")
    pairs = pd.concat(
        {name: reached.loc[reached["method"] == name, measure] for name in (first, second)}, axis=1
    ).dropna()
    a, b = pairs[first].to_numpy(np.float64), pairs[second].to_numpy(np.float64)
    difference = a - b
    answer = {"measure": measure, "first": first, "second": second, "pairs": len(pairs)}
    numbers = dict.fromkeys(COMPARED, np.nan)
    if len(pairs):
        patients = reached["patient_id"].groupby("image_id").first().loc[pairs.index]
        bootstrap = PatientBootstrap(patients.to_numpy(str), seed=0, one_by_one=True)
        weights = bootstrap.weights(RESAMPLES).astype(int)
        medians = np.array([np.median(np.repeat(difference, weight)) for weight in weights])
        values = (
            *(np.median(a), np.median(b), np.median(difference), *interval_95(medians)),
            (difference < 0).mean(),
            wilcoxon(difference).pvalue if difference.any() else 1.0,
        )
        numbers = dict(zip(COMPARED, map(float, values), strict=True))
    return answer | numbers


def comparisons(rows: pd.DataFrame, firsts: Sequence[str], seconds: Sequence[str]) -> list[dict]:
    """`paired_comparison` of every measure between each of the first methods and each of the
    second.
    """
    return [
        paired_comparison(rows, first, second, measure)
        for first in firsts
        for second in seconds
        for measure in MEASURES
    ]


def transfer(rows: pd.DataFrame) -> dict[str, float | int]:
    """Of one method's changed images that reached the target on the first model, how many change a
    second model's mind too.

    `rows` needs reached, target_stage, and second_stage_ and second_probability_ before and after,
    the second model's. Eyes that it gives the target stage unchanged are left out. `share` comes
    with Wilson's 95 % interval; NaN where no eye is left.
    """
    from scipy.stats import binomtest

    asked = rows[
        rows["reached"].astype(bool) & (rows["second_stage_before"] != rows["target_stage"])
    ]
    n, hits = len(asked), int((asked["second_stage_after"] == asked["target_stage"]).sum())
    gain = asked["second_probability_after"] - asked["second_probability_before"]
    low = share = high = np.nan
    if n:
        share = hits / n
        low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return {
        "eyes": n,
        "transferred": hits,
        "share": share,
        "low": float(low),
        "high": float(high),
        "mean_probability_gain": float(gain.mean()),
    }
