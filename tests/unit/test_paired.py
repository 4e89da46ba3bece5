"""Two models on the same eyes: differences, intervals and tests against cases worked out by hand."""

import numpy as np
import pytest

from dr_lib.evaluation.metrics import evaluate
from dr_lib.evaluation.paired import MEASURES, mcnemar, paired_differences
from dr_lib.evaluation.patient_bootstrap import mean_intervals

EYES = 60
STAGES = np.arange(EYES) % 5
PATIENTS = (np.arange(EYES) // 2).astype(str)


def sure(grades):
    """Probabilities that put most on one stage."""
    return np.where(np.arange(5) == np.asarray(grades)[:, None], 0.8, 0.05)


def by_measure(first, second, resamples=200):
    rows = paired_differences(STAGES, first, second, PATIENTS, resamples=resamples)
    return {row["measure"]: row for row in rows}


def test_a_model_beside_itself_differs_by_nothing_from_nothing_to_nothing():
    answers = np.random.default_rng(0).dirichlet(np.ones(5), EYES)
    rows = by_measure(answers, answers)
    assert tuple(rows) == MEASURES
    for row in rows.values():
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    assert rows["accuracy"]["p_value"] == 1


def test_a_model_that_is_better_on_twelve_of_sixty_eyes_is_so_by_a_fifth():
    wrong = np.where(np.arange(EYES) % 5 == 0, 4, STAGES)  # all twelve of stage 0 are called 4
    row = by_measure(sure(wrong), sure(STAGES))["accuracy"]
    assert row["value_b"] == 1
    assert row["difference"] == pytest.approx(12 / 60, abs=1e-12)
    assert 0 < row["low"] <= 0.2 <= row["high"]
    assert row["p_value"] == pytest.approx(2 * 0.5**12, rel=1e-9)
    back = by_measure(sure(STAGES), sure(wrong))["accuracy"]
    assert (back["difference"], back["low"]) == (-row["difference"], -row["high"])


def test_values_are_those_of_each_model_alone():
    draws = np.random.default_rng(1)
    first, second = (draws.dirichlet(np.ones(5), EYES) for _ in range(2))
    for name, row in by_measure(first, second).items():
        alone = [evaluate(STAGES, answers).values[name] for answers in (first, second)]
        assert [row["value_a"], row["value_b"]] == pytest.approx(alone, abs=1e-12)


def test_both_models_share_the_draws_of_patients():
    """A shift of every eye by the same amount has no interval, though each model's own is wide."""
    draws = np.random.default_rng(2).dirichlet(np.ones(5), EYES)
    turned = draws[:, [1, 0, 2, 3, 4]]  # P(stage >= 2), and so the AUC, stays eye by eye
    row = by_measure(draws, turned)["auc_referable"]
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    patients = evaluate(STAGES, draws, bootstrap_patients=PATIENTS, resamples=200)
    low, high = patients.intervals["auc_referable"]
    assert high - low > 0.1


def test_a_measure_that_the_eyes_leave_undefined_has_no_interval():
    rows = paired_differences(np.zeros(4, int), sure([0] * 4), sure([1] * 4), np.arange(4), 20)
    auc = next(row for row in rows if row["measure"] == "auc_referable")
    assert np.isnan([auc["difference"], auc["low"], auc["high"]]).all()


def test_mcnemar_is_twice_the_smaller_tail():
    # 1 of 9: (1 + 9) / 2^9 in the tail.
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * 10 / 512, rel=1e-12)


def test_means_leave_out_what_is_not_known_and_resample_patients():
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan], [2.0, 5.0, np.nan]])
    mean, low, high = mean_intervals(values, np.array(["a", "a", "b"]))
    assert mean[:2].tolist() == [2, 5]
    assert (low[1], high[1]) == (5, 5)
    # A patient's eyes are drawn together: (1 + 3) / 2 and 2 are the same mean in every draw.
    assert (low[0], high[0]) == (2, 2)
    assert np.isnan([mean[2], low[2], high[2]]).all()
