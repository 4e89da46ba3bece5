"""A known error of calibration is found and undone; a second look at uncertain eyes is counted by
hand.
"""

import math

import numpy as np
import pytest
from scipy.special import softmax

from dr_lib.evaluation.calibration import Calibration, calibrated_on
from dr_lib.evaluation.metrics import evaluate
from dr_lib.evaluation.referral import SHARES, referral_rows


def truthful(eyes, seed=0):
    """Stages drawn from the very probabilities that are given with them."""
    draws = np.random.default_rng(seed)
    probabilities = softmax(2 * draws.normal(size=(eyes, 5)), axis=1)
    stages = (draws.random((eyes, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return np.minimum(stages, 4), probabilities


def test_a_network_that_is_twice_too_sure_gets_temperature_two():
    stages, honest = truthful(20_000)
    too_sure = softmax(2 * np.log(honest), axis=1)
    found = calibrated_on(stages, too_sure)
    assert found.temperature == pytest.approx(2, rel=0.05)  # 20,000 eyes know it to 1.5 %
    assert found.chosen() == {"temperature": found.temperature}
    np.testing.assert_array_equal(found.apply(too_sure).argmax(axis=1), too_sure.argmax(axis=1))
    assert evaluate(stages, too_sure).values["ece"] > 0.1
    assert evaluate(stages, found.apply(too_sure)).values["ece"] < 0.02


def test_biases_undo_the_stages_shares_in_balanced_mini_batches():
    stages, honest = truthful(20_000, seed=1)
    shares = np.array([0.5, 1, 1, 2, 4])
    tilted = honest * shares / (honest * shares).sum(axis=1, keepdims=True)
    found = calibrated_on(stages, tilted, "bias_corrected")
    # Only differences between biases matter; the prior of one eye draws them to a mean near 0.
    biases = np.array(found.biases) - np.mean(found.biases)
    expected = np.mean(np.log(shares)) - np.log(shares)
    np.testing.assert_allclose(biases, expected, atol=0.1)
    assert found.temperature == pytest.approx(1, abs=0.05)
    shares_found = found.apply(tilted).mean(axis=0)
    np.testing.assert_allclose(shares_found, np.bincount(stages) / len(stages), atol=0.01)
    by_temperature = calibrated_on(stages, tilted).apply(tilted).mean(axis=0)
    assert abs(by_temperature - np.bincount(stages) / len(stages)).max() > 0.05


def test_a_stage_without_validation_eyes_stays_possible():
    stages, honest = truthful(60, seed=2)
    few = stages != 3
    found = calibrated_on(stages[few], honest[few], "bias_corrected")
    assert (found.apply(honest)[:, 3] > 0).all()
    assert found.biases[3] > -6


@pytest.mark.parametrize("method", ["none", "temperature", "bias_corrected"])
def test_without_eyes_nothing_changes_and_certainty_stays_finite(method):
    assert calibrated_on(np.array([], np.int64), np.empty((0, 5)), method) == Calibration()
    certain = np.eye(5)[[0, 1, 4]]
    calibrated = calibrated_on(np.array([0, 1, 0]), certain, method).apply(certain)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)


def by_name(rows):
    return {row["metric"]: (row["value"], row["low"], row["high"]) for row in rows}


def test_a_second_look_takes_the_eyes_nearest_to_the_threshold():
    # Nearest to 0.5 are the two that are called wrongly; a fifth of ten eyes are two.
    referable = np.array([0.9, 0.9, 0.9, 0.9, 0.45, 0.1, 0.1, 0.1, 0.1, 0.55])
    stages = np.array([2, 3, 4, 2, 2, 0, 1, 0, 1, 0])
    found = by_name(referral_rows(stages, referable, 0.5, np.arange(10), resamples=60))
    assert found["referral_sensitivity_0.00"][0] == 4 / 5
    assert found["referral_specificity_0.00"][0] == 4 / 5
    assert found["referral_sensitivity_0.20"] == (1, 1, 1)
    assert found["referral_specificity_0.20"] == (1, 1, 1)
    low, high = found["referral_sensitivity_0.00"][1:]
    assert low < 4 / 5 < high
    assert len(found) == 2 * len(SHARES)


def test_certainty_is_a_matter_of_odds_where_few_eyes_are_called():
    # From a threshold of 0.02 on, 0.001 is a surer answer than 0.2 (20 times less against 12 times
    # more likely), though 0.2 lies ten times as far away.
    referable, stages = np.array([0.001, 0.2]), np.array([0, 0])
    found = by_name(referral_rows(stages, referable, 0.02, np.arange(2), resamples=20))
    assert found["referral_specificity_0.00"][0] == 0.5
    assert found["referral_specificity_0.50"][0] == 1
    assert math.isnan(found["referral_sensitivity_0.50"][0])


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_without_a_threshold_nothing_is_told(threshold):
    assert not referral_rows(np.array([0, 2]), np.array([0.1, 0.9]), threshold, np.arange(2))
