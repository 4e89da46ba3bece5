"""Quadrature rules: weights that sum to 1, exactness by degree, and the rule of half as many
points inside each.
"""

import numpy as np
import pytest

from dr_lib.attribution import quadrature
from dr_lib.attribution.quadrature import RULES, halving


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("points", [2, 3, 7, 50, 200])
def test_weights_sum_to_one_and_nodes_rise_within_the_line(rule, points):
    alphas, weights = quadrature(rule, points)
    assert alphas.dtype == weights.dtype == np.float64
    assert alphas.shape == weights.shape == (points,)
    assert abs(weights.sum() - 1) < 1e-12
    assert (np.diff(alphas) > 0).all()
    assert alphas[0] >= 0
    assert alphas[-1] <= 1


@pytest.mark.parametrize(
    ("rule", "degree"),
    [("left", 0), ("right", 0), ("midpoint", 1), ("trapezoid", 1), ("gauss_legendre", 9)],
)
def test_a_rule_integrates_polynomials_up_to_its_degree_and_no_further(rule, degree):
    alphas, weights = quadrature(rule, 5)
    for power in range(degree + 1):  # integral of a^p from 0 to 1 is 1 / (p + 1)
        assert abs(weights @ alphas**power - 1 / (power + 1)) < 1e-14
    assert abs(weights @ alphas ** (degree + 1) - 1 / (degree + 2)) > 1e-7


def test_only_left_and_trapezoid_have_a_node_at_the_baseline():
    assert {rule for rule in RULES if quadrature(rule, 4)[0][0] == 0} == {"left", "trapezoid"}


@pytest.mark.parametrize(
    ("rule", "points", "words"),
    [("simpson", 3, "rule must be"), ("left", 0, "at least 1 point"), ("trapezoid", 1, "2 points")],
)
def test_impossible_rules_are_refused_in_one_line(rule, points, words):
    with pytest.raises(ValueError, match=words):
        quadrature(rule, points)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("points", [2, 8, 9])
def test_halving_is_the_difference_to_a_rule_that_sums_to_one_on_half_the_points(rule, points):
    _, weights = quadrature(rule, points)
    coarse = weights - weights * halving(weights)
    assert abs(coarse.sum() - 1) < 1e-12
    assert (np.abs(coarse) > 1e-15).sum() == (points + 1) // 2
