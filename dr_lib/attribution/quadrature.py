"""Quadrature rules on [0, 1] as pure pairs (alphas, weights), and which nodes stand for a rule
of half as many points.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64

RULES = ("left", "right", "midpoint", "trapezoid", "gauss_legendre")


def quadrature(
    rule: str, points: int
) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"]]:
    """A quadrature rule on [0, 1].

    ReLU networks are only piecewise smooth along the line, so no rule gains from its order of
    accuracy. A flat baseline ties every max-pool window at alpha 0: prefer rules without a node
    there (midpoint, gauss_legendre).

    Parameters
    ----------
    rule: "left", "right", "midpoint", "trapezoid" or "gauss_legendre".
    points: how many nodes; at least 1, of a trapezoid 2.

    Returns
    -------
    alphas, weights: float64 (points,) each: nodes in [0, 1] in rising order; weights that sum to 1.

    Raises
    ------
    ValueError: for an unknown rule or too few points.

    >>> quadrature("midpoint", 2)
    (array([0.25, 0.75]), array([0.5, 0.5]))
    >>> quadrature("trapezoid", 3)
    (array([0. , 0.5, 1. ]), array([0.25, 0.5 , 0.25]))
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    least = 2 if rule == "trapezoid" else 1
    if points < least:
        raise ValueError(
            f"the {rule} rule needs at least {least} point{'s' * (least > 1)}, not {points}"
        )
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(points)
        return (nodes + 1) / 2, weights / weights.sum()
    if rule == "trapezoid":
        weights = np.full(points, 1 / (points - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, points), weights
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (np.arange(points) + offset) / points, np.full(points, 1 / points)


def halving(weights: Float64[np.ndarray, "points"]) -> Float64[np.ndarray, "points"]:
    """Factors that turn weighted gradients into the difference between this rule and one of half as
    many points.

    Of every two neighbours one is left out and the other takes over its weight. A last node without
    a neighbour stays as it is.

    >>> halving(np.full(4, 0.25))
    array([-1.,  1.,  1., -1.])
    """
    factors = np.zeros(len(weights))
    for kept, dropped in neighbour_pairs(np.ones(len(weights), bool)):
        factors[kept] = -weights[dropped] / weights[kept]
        factors[dropped] = 1
    return factors


def neighbour_pairs(chosen: Bool[np.ndarray, "points"]) -> Iterator[tuple[int, int]]:
    """(kept, dropped) of every two neighbours that are both chosen; which of the two is dropped
    alternates from pair to pair, so that the coarse rule leans to neither end.
    """
    first, pairs = 0, 0
    while first + 1 < len(chosen):
        if chosen[first] and chosen[first + 1]:
            yield (first, first + 1) if pairs % 2 == 0 else (first + 1, first)
            first, pairs = first + 2, pairs + 1
        else:
            first += 1
