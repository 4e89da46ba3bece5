"""Scores of many eyes to rows: means over eyes with intervals over patients, chance on the same
eyes beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95
from dr_lib.localisation.params import LocalisationParams
from dr_lib.localisation.scores import Score

MINIMUM_FOR_INTERVAL = 2  # patients; of one alone nothing is known of the others


def score_rows(
    scores: Sequence[Mapping[tuple[str, str], Score]],
    patients: Sequence[str],
    params: LocalisationParams = LocalisationParams(),
) -> list[dict[str, Any]]:
    """One map's scores in many eyes as rows of lesion, metric, value, low, high, chance, images.

    Parameters
    ----------
    scores : of each eye, as `Judge.scores` gives them
    patients : whose eye each is

    Returns
    -------
    list of dict
        value: the mean over those eyes in which the measure is defined, `images` of them. low,
        high: 2.5th and 97.5th percentile over resampled patients; NaN for fewer than two.

    Raises
    ------
    ValueError
        Where eyes and patients do not match.
    """
    if len(scores) != len(patients):
        raise ValueError(f"{len(scores)} eyes do not match {len(patients)} patients")
    rows = []
    for lesion, metric in dict.fromkeys(key for eye in scores for key in eye):
        pairs = {
            place: eye[lesion, metric]
            for place, eye in enumerate(scores)
            if (lesion, metric) in eye and np.isfinite(eye[lesion, metric].value)
        }
        if not pairs:
            continue
        values, chances = np.array(list(zip(*pairs.values(), strict=True)))
        low, high = interval(
            values, [patients[place] for place in pairs], params.resamples, params.seed
        )
        rows.append(
            {
                "lesion": lesion,
                "metric": metric,
                "value": float(values.mean()),
                "low": low,
                "high": high,
                "chance": float(chances.mean()),
                "images": len(pairs),
            }
        )
    return rows


def interval(
    values: np.ndarray, patients: Sequence[str], resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of the mean, from drawing patients (with all their eyes) with replacement.

    >>> interval(np.array([0.5, 0.5, 0.5]), ["a", "a", "b"], 100, 0)
    (0.5, 0.5)
    """
    bootstrap = PatientBootstrap(np.asarray(patients), seed)
    if bootstrap.patients < MINIMUM_FOR_INTERVAL:
        return float("nan"), float("nan")
    weights = bootstrap.weights(resamples)
    return interval_95(weights @ values / weights.sum(axis=1))
