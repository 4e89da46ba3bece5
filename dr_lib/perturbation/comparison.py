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


def paired_comparison(
    rows: pd.DataFrame,
    first: str,
    second: str,
    measure: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """How a measure differs between two methods on the eyes that both reached: median of first −
    second, 95 % interval.

    `rows` needs image_id, patient_id, method, reached and the measure. `p_value` is Wilcoxon's
    signed-rank test (two-sided). Numbers are NaN where no eye was reached by both.
    """
    from scipy.stats import wilcoxon

    reached = rows[rows["reached"].astype(bool)]
    pairs = pd.concat(
        {
            name: reached[reached["method"] == name].set_index("image_id")[measure]
            for name in (first, second)
        },
        axis=1,
    ).dropna()
    a, b = pairs[first].to_numpy(np.float64), pairs[second].to_numpy(np.float64)
    difference = a - b
    answer = {"measure": measure, "first": first, "second": second, "pairs": len(pairs)}
    if len(pairs) == 0:
        return {
            **answer,
            **dict.fromkeys(
                ("median_first", "median_second", "median_difference", "low", "high"), np.nan
            ),
            **dict.fromkeys(("share_lower", "p_value"), np.nan),
        }
    patients = reached.drop_duplicates("image_id").set_index("image_id")["patient_id"]
    bootstrap = PatientBootstrap(patients.loc[pairs.index].to_numpy(str), seed, one_by_one=True)
    weights = bootstrap.weights(resamples).astype(int)
    low, high = interval_95(np.array([np.median(np.repeat(difference, w)) for w in weights]))
    return {
        **answer,
        "median_first": float(np.median(a)),
        "median_second": float(np.median(b)),
        "median_difference": float(np.median(difference)),
        "low": low,
        "high": high,
        "share_lower": float((difference < 0).mean()),
        "p_value": float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
    }


def comparisons(
    rows: pd.DataFrame, firsts: Sequence[str], seconds: Sequence[str], **settings: int
) -> list[dict]:
    """`paired_comparison` of every measure between each of the first methods and each of the
    second.
    """
    return [
        paired_comparison(rows, first, second, measure, **settings)
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
    asked = rows[
        rows["reached"].astype(bool) & (rows["second_stage_before"] != rows["target_stage"])
    ]
    n, hits = len(asked), int((asked["second_stage_after"] == asked["target_stage"]).sum())
    if n == 0:
        return {
            "eyes": 0,
            "transferred": 0,
            "share": np.nan,
            "low": np.nan,
            "high": np.nan,
            "mean_probability_gain": np.nan,
        }
    z = 1.959963984540054
    share, spread = hits / n, z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return {
        "eyes": n,
        "transferred": hits,
        "share": share,
        "low": max(0.0, float(centre - half)),
        "high": min(1.0, float(centre + half)),
        "mean_probability_gain": float(
            (asked["second_probability_after"] - asked["second_probability_before"]).mean()
        ),
    }
