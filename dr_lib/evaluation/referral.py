"""What a human second look is worth: the least certain eyes are sent to a person, the network
grades the rest (Leibig et al. 2017).

An eye is the less certain, the nearer its P(stage ≥ 2) lies to the threshold from which on an eye
is called referable, on the scale of log-odds. The threshold is chosen on other eyes.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from dr_lib.evaluation.patient_bootstrap import mean_intervals
from dr_lib.vocabulary import REFERABLE

# Shares of the eyes that are sent to a person.
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SIDES = ("sensitivity", "specificity")


def referral_metric(side: str, share: float) -> str:
    """The name of a side at a share.

    >>> referral_metric("sensitivity", 0.1)
    'referral_sensitivity_0.10'
    """
    return f"referral_{side}_{share:.2f}"


def referral_rows(
    stages: Integer[np.ndarray, "eye"],
    referable: Float[np.ndarray, "eye"],
    threshold: float,
    patients: Shaped[np.ndarray, "eye"],
    *,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Sensitivity and specificity for referable disease of the eyes that are not sent to a person.

    Parameters
    ----------
    stages
        (n,) the true stages 0 … 4.
    referable
        (n,) P(stage ≥ 2).
    threshold
        An eye is called referable from here on, 0 … 1; NaN or infinite: no rows.
    patients
        (n,) whose eye each is, for 95 % intervals over patients.

    Returns
    -------
    list of dict
        A row a side and share of `SHARES`: metric, value, low, high; NaN where no such eye is left.
    """
    if not math.isfinite(threshold) or not len(stages):
        return []
    certainty = np.abs(_log_odds(referable) - _log_odds(threshold))
    rank = np.empty(len(stages), np.int64)
    rank[np.argsort(certainty, kind="stable")] = np.arange(len(stages))
    positive, called = stages >= REFERABLE, referable >= threshold
    rates = {}
    for share in SHARES:
        kept = rank >= math.floor(share * len(stages))
        for side, group, hit in zip(SIDES, (positive, ~positive), (called, ~called), strict=True):
            rates[referral_metric(side, share)] = np.where(kept & group, hit, np.nan)
    found = mean_intervals(np.stack([*rates.values()], axis=1), patients, resamples)
    return [
        {"metric": name, "value": value, "low": low, "high": high}
        for name, (value, low, high) in zip(rates, found.T.tolist(), strict=True)
    ]


def _log_odds(probability):
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.log(clipped) - np.log1p(-clipped)
