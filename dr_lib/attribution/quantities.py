"""Quantities of interest as small known functions of a few numbers that the network computes.

Splitting a quantity into a network with a handful of outputs and a closed form on top has two
advantages. The derivative of the closed form can be integrated over a whole interval instead of
being sampled at one point, which is what a saturated softmax needs. And linear dependence between
quantities becomes visible: five stages need four backward passes. This module is plain NumPy and
must not know networks or images.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.vocabulary import STAGE_COUNT

# Gauss–Legendre nodes for the derivative between two known points: a softmax whose logits
# move by 30 within one interval is integrated to 1e-6 (tests), and nothing but a few exponentials
# is evaluated.
INNER_NODES = 48


@dataclass(frozen=True)
class QuantityMap:
    """`quantity = probability_weights @ softmax(u) + logit_weights @ u`, one row a quantity, u
    the network's outputs.
    """

    probability_weights: Float64[np.ndarray, "quantity output"]
    logit_weights: Float64[np.ndarray, "quantity output"]

    def values(self, u: Float[np.ndarray, "*rows output"]) -> Float64[np.ndarray, "*rows quantity"]:
        """The quantities, in float64."""
        u = np.asarray(u, np.float64)
        return softmax(u) @ self.probability_weights.T + u @ self.logit_weights.T

    def basis(self) -> "QuantityMap":
        """The fewest of these quantities, in order, whose gradients generate those of all."""
        return QuantityMap(
            self.probability_weights[self._independent], self.logit_weights[self._independent]
        )

    def mix(self) -> Float64[np.ndarray, "quantity basis"]:
        """Every quantity's gradient as a combination of the basis' gradients; rows of the
        identity for the basis itself.
        """
        rows = self._gradient_rows
        mix = np.linalg.lstsq(rows[self._independent].T, rows.T, rcond=None)[0].T
        # Stages combine with whole numbers; the solver's 1e-16 must not keep five maps from summing
        # to 0.
        return np.where(np.abs(mix - np.round(mix)) < 1e-9, np.round(mix), mix) + 0.0

    def constant_cotangents(self) -> Float64[np.ndarray, "quantity output"] | None:
        """As many rows as this basis has quantities, whose combinations hold its derivative
        wherever it is taken: cotangents that are the same at every point.

        Gradients of these instead of the quantities' own leave the weights open until all points
        are known. None where the derivative turns through more directions than there are quantities
        (a single stage's turns through four).
        """
        p, outputs = self.probability_weights, self.probability_weights.shape[1]
        turning = np.ptp(p, axis=1).any()  # equal weights of all probabilities are a constant
        centred = np.eye(outputs) - 1 / outputs if turning else np.zeros((0, outputs))
        rows = np.concatenate([centred, self.logit_weights])
        chosen = _independent_rows(rows)
        return rows[chosen] if len(chosen) == len(p) else None

    def mean_jacobian(
        self, start: Float[np.ndarray, "*rows output"], stop: Float[np.ndarray, "*rows output"]
    ) -> Float64[np.ndarray, "*rows quantity output"]:
        """The quantities' derivative averaged along the straight line from `start` to `stop` in the
        space of outputs.

        Its product with (stop − start) is exactly `values(stop) − values(start)` as far as the
        inner rule is exact.
        """
        if not self.probability_weights.any():
            return np.broadcast_to(
                self.logit_weights, (*np.shape(start)[:-1], *self.logit_weights.shape)
            )
        nodes, weights = np.polynomial.legendre.leggauss(INNER_NODES)
        start, stop = (np.asarray(u, np.float64)[..., None, :] for u in (start, stop))
        p = softmax(start + (stop - start) * ((nodes + 1) / 2)[:, None])
        w = weights / 2
        mean = np.einsum("k,...ki->...i", w, p)
        second = np.einsum("k,...ki,...kj->...ij", w, p, p)
        jacobian = mean[..., None] * np.eye(p.shape[-1]) - second
        return self.probability_weights @ jacobian + self.logit_weights

    @property
    def _gradient_rows(self) -> np.ndarray:
        """Quantities with the same row differ by a constant: probabilities sum to 1, so their
        weights count up to a constant.
        """
        p = self.probability_weights
        return np.concatenate([p - p.mean(axis=1, keepdims=True), self.logit_weights], axis=1)

    @cached_property
    def _independent(self) -> list[int]:
        return _independent_rows(self._gradient_rows) or [0]


def identity_quantities(outputs: int) -> QuantityMap:
    """The quantities of a network whose outputs are the quantities themselves."""
    return QuantityMap(np.zeros((outputs, outputs)), np.eye(outputs))


def stage_quantities(quantities: tuple[str, ...], stages: int = STAGE_COUNT) -> QuantityMap:
    """Named quantities as functions of the stages' logits.

    Parameters
    ----------
    quantities: "stage3" is the probability of stage 3, "referable" that of stages 2 and above,
        "logit3" the logit of stage 3, "logodds3:0" the log-odds of stage 3 against stage 0.
    stages: the number of logits.

    Raises
    ------
    ValueError: for a name of no such form.

    >>> stage_quantities(("stage0", "stage1", "stage2", "stage3", "stage4", "referable")).mix()[-2:]
    array([[-1., -1., -1., -1.],
           [-1., -1.,  0.,  0.]])
    """
    probability, logit = np.zeros((len(quantities), stages)), np.zeros((len(quantities), stages))
    for row, name in enumerate(quantities):
        if name == "referable":
            probability[row, 2:] = 1
            continue
        match = re.fullmatch(r"(stage|logit)(\d)|logodds(\d):(\d)", name)
        kind, *digits = match.groups() if match else (None,)
        numbers = [int(digit) for digit in digits if digit]
        if not numbers or max(numbers) >= stages:
            raise ValueError(
                f'a quantity is "stage0" … "stage{stages - 1}", "referable", "logit3" or'
                f' "logodds3:0", not {name!r}'
            )
        (probability if kind == "stage" else logit)[row, numbers[0]] = 1
        logit[row, numbers[1:]] -= 1
    return QuantityMap(probability, logit)


def _independent_rows(rows: np.ndarray) -> list[int]:
    """The first rows that generate all others."""
    chosen: list[int] = []
    for index in range(len(rows)):
        if np.linalg.matrix_rank(rows[[*chosen, index]], tol=1e-9) > len(chosen):
            chosen.append(index)
    return chosen


def softmax(u: np.ndarray) -> np.ndarray:
    # A network gone wrong answers inf or NaN: the image is then marked, and nothing is raised.
    with np.errstate(invalid="ignore"):
        p = np.exp(u - u.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)
