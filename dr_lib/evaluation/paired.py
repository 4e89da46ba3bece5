"""Two models on the same eyes: by how much one is better.

Both are measured in the same resamples of patients, so that what makes an eye easy or hard for both
falls out of the difference. Its interval is therefore narrower than those of the two models
suggest.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from dr_lib.evaluation.bootstrap_metrics import BootstrapMetrics
from dr_lib.evaluation.patient_bootstrap import with_intervals

MEASURES = ("qwk", "auc_referable", "accuracy")


def paired_differences(
    stages: Integer[np.ndarray, "eye"],
    first: Float[np.ndarray, "eye 5"],
    second: Float[np.ndarray, "eye 5"],
    patients: Shaped[np.ndarray, "eye"],
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Each of `MEASURES` of both models, and second − first with its 95 % interval over patients.

    Parameters
    ----------
    stages
        (n,) the true stages 0 … 4; at least one eye.
    first, second
        (n, 5) the probabilities by the two models of the same eyes; rows add up to 1.
    patients
        (n,) whose eye each is.

    Returns
    -------
    list of dict
        measure, value_a, value_b, difference, low, high; NaN where the eyes leave a measure
        undefined. A model beside itself differs by 0, from 0 to 0. With the accuracy `p_value` of
        McNemar's exact test, which takes the two eyes of a patient for independent.
    """
    known = stages.astype(np.int64)
    models = [BootstrapMetrics(known, given.astype(np.float64)) for given in (first, second)]

    def measured(weights: np.ndarray) -> np.ndarray:
        found = [model.metrics(weights) for model in models]
        of = [np.stack([values[name] for name in MEASURES]) for values in found]
        difference = np.round(of[1] - of[0], 12) + 0.0  # rounding and −0 have no sign to tell
        return np.concatenate([*of, difference]).T

    columns = np.split(with_intervals(measured, patients, resamples), 3, axis=1)
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(MEASURES):
        (a, *_), (b, *_), (difference, low, high) = (of[:, index].tolist() for of in columns)
        row = {"value_a": a, "value_b": b, "difference": difference, "low": low, "high": high}
        rows.append({"measure": name} | row)
    right_a, right_b = (model.predicted == known for model in models)
    rows[-1]["p_value"] = mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))
    return rows


def mcnemar(first_alone: int, second_alone: int) -> float:
    """McNemar's exact test, two-sided: how likely so uneven a split of the eyes that only one model
    grades right is by chance.

    >>> mcnemar(0, 5), mcnemar(3, 3), mcnemar(0, 0)
    (0.0625, 1.0, 1.0)
    """
    from scipy.stats import binomtest

    total = first_alone + second_alone
    return float(binomtest(first_alone, total).pvalue) if total else 1.0
