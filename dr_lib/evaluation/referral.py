"""What a human second look is worth: the least certain eyes are sent to a person, the network
grades the rest (Leibig et al. 2017).

An eye is the less certain, the nearer its P(stage ≥ 2) lies to the threshold from which on an eye
is called referable, on the scale of log-odds. The threshold is chosen on other eyes.
"""

import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95
from dr_lib.evaluation.ratio import ratio
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
    seed: int = 0,
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
    names, members, right = [], [], []
    for share in SHARES:
        kept = rank >= math.floor(share * len(stages))
        for side, group, hit in zip(SIDES, (positive, ~positive), (called, ~called), strict=True):
            names.append(referral_metric(side, share))
            members.append(kept & group)
            right.append(kept & group & hit)
    below, above = (np.stack(columns, axis=1).astype(np.float64) for columns in (members, right))
    # How often each eye counts: once in the set as it is, then in each resample of patients.
    weights = itertools.chain(
        [np.ones((1, len(stages)))], PatientBootstrap(patients, seed).chunks(resamples)
    )
    rates = np.concatenate([ratio(chunk @ above, chunk @ below) for chunk in weights])
    rows = []
    for name, (value, *sample) in zip(names, rates.T, strict=True):
        low, high = interval_95(np.array(sample))
        rows.append({"metric": name, "value": float(value), "low": low, "high": high})
    return rows


def _log_odds(probability):
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.log(clipped) - np.log1p(-clipped)
