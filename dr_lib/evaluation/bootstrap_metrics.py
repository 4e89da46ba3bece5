"""Every measure of the grades as a weighted sum over eyes, which makes a thousand resamples
affordable.

A resample of patients is a weight for each eye: how often its patient was drawn. In this form a
thousand resamples are a few matrix products instead of a thousand calls of scikit-learn, against
whose values the tests hold these sums.
"""

import math

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95
from dr_lib.evaluation.ratio import ratio
from dr_lib.vocabulary import REFERABLE, STAGE_COUNT, STAGES

ECE_BINS = 15
# Screening programmes fix the one side at a target and read off the other.
OPERATING_TARGETS = (
    ("specificity", 0.90),
    ("specificity", 0.95),
    ("specificity", 0.98),
    ("sensitivity", 0.90),
    ("sensitivity", 0.97),
)
OTHER_SIDE = {"specificity": "sensitivity", "sensitivity": "specificity"}
# 9 healthy eyes of 10 are a specificity of 0.9, whatever 1 − 0.1 is in binary.
ROUNDING = 1e-9


def bin_of(top: Float64[np.ndarray, "eye"]) -> Int64[np.ndarray, "eye"]:
    """The bin, of `ECE_BINS` equal ones closed on the right, of each largest probability."""
    return np.clip(np.ceil(top * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


class BootstrapMetrics:
    """What all resamples share: each eye's cell in every table that a metric sums over.

    Parameters
    ----------
    stages: (n,) int64, 0 … 4. probabilities: (n, 5) float64.
    predicted: (n,) stages that another rule made of the probabilities; without it the likeliest.
    """

    def __init__(
        self, stages: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray | None = None
    ) -> None:
        self.stages = stages
        self.likeliest = probabilities.argmax(axis=1)
        self.predicted = self.likeliest if predicted is None else predicted.astype(np.int64)
        # Half goes up: numpy's rint would send 0.5 to 0 but 1.5 to 2.
        self.expected = np.floor(probabilities @ np.arange(STAGE_COUNT) + 0.5).astype(np.int64)
        self.top = probabilities.max(axis=1)
        self.referable = _Ranked(stages >= REFERABLE, probabilities[:, REFERABLE:].sum(axis=1))
        self.any = _Ranked(stages >= 1, 1 - probabilities[:, 0])

    def metrics(self, weights: Float64[np.ndarray, "resample eye"]) -> dict[str, np.ndarray]:
        """Every metric of every resample: name → (resample,)."""
        confusion = self.confusion(weights, self.predicted)
        # How much too sure each eye's grade is, in the column of its bin.
        too_sure = self.top - (self.stages == self.likeliest)
        excess = too_sure[:, np.newaxis] * np.eye(ECE_BINS)[bin_of(self.top)]
        total = weights.sum(axis=1)
        sensitivity, specificity = _rates(confusion)
        curve = self.referable.curve(weights)
        result = {
            "qwk": kappa_of(confusion),
            "qwk_expected": kappa_of(self.confusion(weights, self.expected)),
            "accuracy": ratio(np.trace(confusion, axis1=1, axis2=2), total),
            "auc_referable": _auc(*curve),
            "auc_any": _auc(*self.any.curve(weights)),
            "ece": ratio(abs(weights @ excess).sum(axis=1), total),
        }
        for side, values in (("sensitivity", sensitivity), ("specificity", specificity)):
            result |= {f"{side}_stage{stage}": values[:, stage] for stage in STAGES}
        return result | _read_off(*curve)

    def confusion(self, weights: np.ndarray, called: np.ndarray) -> np.ndarray:
        """The weight of each true and called stage: (resample, 5, 5)."""
        cells = np.eye(STAGE_COUNT * STAGE_COUNT)[self.stages * STAGE_COUNT + called]
        return (weights @ cells).reshape(-1, STAGE_COUNT, STAGE_COUNT)


class _Ranked:
    """Eyes sorted by falling score, equal scores as one group: the order that every resample
    shares.
    """

    def __init__(self, positive: np.ndarray, score: np.ndarray) -> None:
        self.order = np.argsort(-score, kind="stable")
        ranked = score[self.order]
        self.starts = np.flatnonzero(np.diff(ranked, prepend=np.inf))
        self.positive = positive[self.order]

    def curve(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivity and false-positive rate (resample, group + 1) as the threshold falls, from
        (0, 0) to (1, 1).
        """
        ranked = weights[:, self.order]
        rates = []
        for member in (self.positive, ~self.positive):
            grown = np.cumsum(np.add.reduceat(ranked * member, self.starts, axis=1), axis=1)
            grown = np.concatenate([np.zeros((len(grown), 1)), grown], axis=1)
            rates.append(ratio(grown, grown[:, -1:]))
        return rates[0], rates[1]


def _auc(sensitivity: np.ndarray, false_positive: np.ndarray) -> np.ndarray:
    """The area under each resample's curve."""
    heights = sensitivity[:, 1:] + sensitivity[:, :-1]
    return (np.diff(false_positive, axis=1) * heights / 2).sum(axis=1)


def _read_off(sensitivity: np.ndarray, false_positive: np.ndarray) -> dict[str, np.ndarray]:
    """The best of the other side where a side reaches its target, by the metric's name."""
    sides = {"sensitivity": sensitivity, "specificity": 1 - false_positive}
    defined = np.isfinite(sensitivity[:, 0] + sides["specificity"][:, 0])
    result = {}
    for fixed, target in OPERATING_TARGETS:
        reached = sides[fixed] >= target - ROUNDING
        other = OTHER_SIDE[fixed]
        best = np.where(reached, sides[other], 0).max(axis=1)
        result[f"{other}_at_{fixed}_{target:.2f}"] = np.where(defined, best, np.nan)
    return result


def _rates(confusion: Float64[np.ndarray, "resample 5 5"]) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity and specificity of each stage against all others: (resample, 5) each."""
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    total = confusion.sum(axis=(1, 2))[:, np.newaxis]
    return ratio(right, true), ratio(total - true - predicted + right, total - true)


def kappa_of(confusion: Float64[np.ndarray, "resample 5 5"]) -> np.ndarray:
    """The quadratic weighted kappa of each table: 1 − observed over expected squared distance."""
    stage = np.arange(STAGE_COUNT)
    distance = (stage[:, np.newaxis] - stage) ** 2
    observed = (confusion * distance).sum(axis=(1, 2))
    chance = np.einsum("ri,rj,ij->r", confusion.sum(axis=2), confusion.sum(axis=1), distance)
    return 1 - ratio(observed * confusion.sum(axis=(1, 2)), chance)


def patient_intervals(
    values: dict[str, float],
    sums: BootstrapMetrics,
    patients: Shaped[np.ndarray, "eye"],
    resamples: int,
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric over resampled patients.

    Parameters
    ----------
    values: the metrics of the whole set; where a metric is NaN, its interval is NaN.
    patients: (n,) whose eye each is.

    Returns
    -------
    name → (low, high).
    """
    parts = [sums.metrics(chunk) for chunk in PatientBootstrap(patients, 0).chunks(resamples)]
    return {
        name: (
            (math.nan, math.nan)
            if math.isnan(value)
            else interval_95(np.concatenate([part[name] for part in parts]))
        )
        for name, value in values.items()
    }
