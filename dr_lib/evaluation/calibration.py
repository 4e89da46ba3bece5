"""Probabilities that mean what they say: corrected on validation eyes, then applied to all.

Temperature scaling (Guo et al. 2017) divides the logits by one number, so no eye's likeliest stage
and no order of eyes by one logit changes. A network trained on balanced mini-batches is also wrong
about how common each stage is; the bias-corrected form (Alexandari et al. 2020) adds one number a
stage, which mends that, too.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Integer

from dr_lib.vocabulary import STAGE_COUNT

Method = Literal["none", "temperature", "bias_corrected"]
# Probabilities below are taken for this: the logarithm of 0 would decide everything.
SMALLEST = 1e-7
# How strongly the biases are drawn to 0, in eyes: keeps a stage without validation eyes possible.
PRIOR_EYES = 1.0


@dataclass(frozen=True)
class Calibration:
    """softmax(log p / temperature + biases); the default changes nothing.

    temperature: over 1 makes answers less sure. biases: (5,), one a stage, on the logit's scale.
    """

    temperature: float = 1.0
    biases: tuple[float, ...] = (0.0,) * STAGE_COUNT

    def apply(self, probabilities: Float[np.ndarray, "eye 5"]) -> Float64[np.ndarray, "eye 5"]:
        """The calibrated probabilities; rows add up to 1."""
        return _softmax(_logarithm(probabilities) / self.temperature + np.array(self.biases))

    def chosen(self) -> dict[str, float]:
        """What was chosen, by name: the temperature and, where there are any, the biases."""
        biases = {f"bias_stage{stage}": value for stage, value in enumerate(self.biases)}
        return {"temperature": self.temperature} | (biases if any(self.biases) else {})


def calibrated_on(
    stages: Integer[np.ndarray, "eye"],
    probabilities: Float[np.ndarray, "eye 5"],
    method: Method = "temperature",
) -> Calibration:
    """The correction with the largest likelihood on these eyes.

    Parameters
    ----------
    stages
        (n,) the true stages 0 … 4 of validation eyes.
    probabilities
        (n, 5), rows adding up to 1.
    method
        "temperature" fits one number, "bias_corrected" one more a stage, "none" nothing.

    Returns
    -------
    Calibration
        Temperatures from 0.05 to 20. Without eyes, or with "none", the one that changes nothing.
    """
    if method == "none" or not len(stages):
        return Calibration()
    from scipy.optimize import minimize

    logarithm, truth = _logarithm(probabilities), np.eye(STAGE_COUNT)[stages]
    free = method == "bias_corrected"

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        inverse, biases = values[0], values[1:] * free
        answer = _softmax(logarithm * inverse + biases)
        likelihood = np.log(np.maximum((answer * truth).sum(axis=1), 1e-300)).sum()
        wrong = answer - truth
        slope = wrong.sum(axis=0) + PRIOR_EYES * biases
        gradient = np.concatenate([[(wrong * logarithm).sum()], slope * free])
        return float(PRIOR_EYES / 2 * biases @ biases - likelihood), gradient

    start = np.concatenate([[1.0], np.zeros(STAGE_COUNT)])
    bounds = [(1 / 20, 20.0)] + [(None, None)] * STAGE_COUNT
    best = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return Calibration(float(1 / best[0]), tuple(float(bias) for bias in best[1:] * free))


def _logarithm(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=1)
