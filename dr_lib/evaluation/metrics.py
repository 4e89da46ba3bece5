"""How good the grades are, as the field measures it: agreement, discrimination, calibration, with
honest intervals.

The whole set is the resample in which every eye counts once
(`dr_lib.evaluation.bootstrap_metrics`). 95 % intervals come from resampling patients, not eyes: the
two eyes of a patient agree so often that intervals over eyes would be too narrow.

A metric that the data leave undefined (the sensitivity of a stage of which there is no eye) is NaN,
without a warning.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer, Shaped

from dr_lib.evaluation.bootstrap_metrics import (
    ECE_BINS,
    OPERATING_TARGETS,
    OTHER_SIDE,
    ROUNDING,
    BootstrapMetrics,
    bin_of,
    patient_intervals,
)
from dr_lib.vocabulary import REFERABLE, STAGE_COUNT


class OperatingPoint(NamedTuple):
    """Calling an eye referable when P(stage ≥ 2) is at least `threshold` gives this sensitivity and
    specificity.

    It is the best threshold for the other side among those that reach `target` on the side `fixed`.
    """

    fixed: str
    target: float
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Evaluation:
    """The grades of a set of eyes against their stages.

    `values`: every metric by name, `sensitivity_stage0` … being a stage against all others, NaN
    where the data leave it undefined. `confusion`: (5, 5) counts, rows the true stage. `intervals`:
    metric → (low, high), 95 %, empty without patients.
    """

    eyes: int
    values: dict[str, float]
    confusion: Int64[np.ndarray, "true predicted"]
    operating_points: tuple[OperatingPoint, ...]
    intervals: dict[str, tuple[float, float]]

    @property
    def ranking(self) -> float:
        """The mean AUC of any and of referable disease: how well eyes are ordered, whatever the
        thresholds; NaN without both sides.
        """
        return (self.values["auc_any"] + self.values["auc_referable"]) / 2

    def rows(self) -> list[dict[str, Any]]:
        """The long form: metric, value, low, high; with the thresholds, the confusion's cells and
        the number of eyes.

        Those last have no interval: low and high are NaN.
        """
        values = self.values | {"eyes": float(self.eyes)}
        for point in self.operating_points:
            values[f"threshold_at_{point.fixed}_{point.target:.2f}"] = point.threshold
        for (true, predicted), count in np.ndenumerate(self.confusion):
            values[f"confusion_true{true}_predicted{predicted}"] = float(count)
        rows = []
        for name, value in values.items():
            low, high = self.intervals.get(name, (math.nan, math.nan))
            rows.append({"metric": name, "value": value, "low": low, "high": high})
        return rows


def evaluate(
    stages: Integer[np.ndarray, "eye"],
    probabilities: Float[np.ndarray, "eye 5"],
    *,
    predicted: Integer[np.ndarray, "eye"] | None = None,
    bootstrap_patients: Shaped[np.ndarray, "eye"] | None = None,
    resamples: int = 1000,
) -> Evaluation:
    """Every measure of the grades of a set of eyes.

    Parameters
    ----------
    stages: (n,) the true stages 0 … 4.
    probabilities: (n, 5), rows adding up to 1. `qwk_expected` uses their expected stage, rounded.
    predicted: (n,) stages that another rule made of the probabilities; without it the likeliest.
    bootstrap_patients: (n,) whose eye each is; adds 95 % intervals over `resamples` of patients.

    Returns
    -------
    Evaluation: values without unit, 0 … 1 (kappas −1 … 1); NaN where the data leave one undefined.

    Raises
    ------
    ValueError: for stages outside 0 … 4, or rows that do not add up to 1.
    """
    _check(stages, probabilities)
    stages = stages.astype(np.int64)
    probabilities = probabilities.astype(np.float64)
    sums = BootstrapMetrics(stages, probabilities, predicted)
    once = np.ones((1, len(stages)))
    values = {name: float(value[0]) for name, value in sums.metrics(once).items()}
    intervals = {}
    if bootstrap_patients is not None and len(stages):
        intervals = patient_intervals(values, sums, bootstrap_patients, resamples)
    return Evaluation(
        len(stages),
        values,
        sums.confusion(once, sums.predicted)[0].astype(np.int64),
        operating_points(stages >= REFERABLE, probabilities[:, REFERABLE:].sum(axis=1)),
        intervals,
    )


def reliability(
    stages: Integer[np.ndarray, "eye"], probabilities: Float[np.ndarray, "eye 5"]
) -> tuple[Float64[np.ndarray, "bin"], Float64[np.ndarray, "bin"], Int64[np.ndarray, "bin"]]:
    """How sure and how right the grades are, in `ECE_BINS` equal bins of the largest
    probability.

    Returns
    -------
    confidence, accuracy, count: (bin,) each: the mean largest probability, the share of right
        grades, and the number of eyes. Bins are closed on the right, as is customary. An empty bin
        has NaN, NaN and 0.
    """
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == stages
    bins = bin_of(top)
    count = np.bincount(bins, minlength=ECE_BINS)
    filled = np.where(count, count, np.nan)
    confidence, accuracy = (np.bincount(bins, x, ECE_BINS) / filled for x in (top, right))
    return confidence, accuracy, count


def operating_points(
    positive: Shaped[np.ndarray, "eye"], score: Float[np.ndarray, "eye"]
) -> tuple[OperatingPoint, ...]:
    """The thresholds that a screening programme would use, at `OPERATING_TARGETS`.

    Parameters
    ----------
    positive: (n,) whether each eye is referable. score: (n,) P(stage ≥ 2).

    Returns
    -------
    A point for each target; NaN where positive or negative eyes are missing. A threshold above
    every score, which calls no eye, is +infinity.
    """
    from sklearn.metrics import roc_curve

    if len(np.unique(positive)) < 2:
        unknown = (math.nan, math.nan, math.nan)
        return tuple(OperatingPoint(*wanted, *unknown) for wanted in OPERATING_TARGETS)
    false_positive, sensitivity, threshold = roc_curve(positive, score, drop_intermediate=False)
    sides = {"sensitivity": sensitivity, "specificity": 1 - false_positive}
    points = []
    for fixed, target in OPERATING_TARGETS:
        reached = np.flatnonzero(sides[fixed] >= target - ROUNDING)
        best = reached[np.argmax(sides[OTHER_SIDE[fixed]][reached])]
        numbers = (float(values[best]) for values in (threshold, *sides.values()))
        points.append(OperatingPoint(fixed, target, *numbers))
    return tuple(points)


def _check(stages: np.ndarray, probabilities: np.ndarray) -> None:
    if len(stages) != len(probabilities):
        raise ValueError(
            f"{len(stages)} stages do not match {len(probabilities)} rows of probabilities"
        )
    if len(stages) and (stages.min() < 0 or stages.max() >= STAGE_COUNT):
        raise ValueError(
            f"stages must be 0 to {STAGE_COUNT - 1}, found {stages.min()} to {stages.max()}"
        )
    if not np.isfinite(probabilities).all() or (abs(probabilities.sum(axis=1) - 1) > 1e-3).any():
        raise ValueError("each row of probabilities must be finite and add up to 1")
