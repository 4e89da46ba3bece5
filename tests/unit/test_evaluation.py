"""Every measure against a case worked out by hand, and the resampled sums against scikit-learn."""

import math
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from dr_lib.evaluation.bootstrap_metrics import BootstrapMetrics, patient_intervals
from dr_lib.evaluation.metrics import (
    evaluate,
    operating_points,
    reliability,
)

ROUNDING = 1e-12  # sums of a few hundred doubles


def certain(predicted):
    """Probabilities that put everything on one stage."""
    return np.eye(5)[np.asarray(predicted)]


def kappa(stages, grades):
    return evaluate(stages, grades).values["qwk"]


def random_grades(eyes, seed=0):
    draws = np.random.default_rng(seed)
    stages = draws.choice(5, eyes, p=[0.5, 0.15, 0.15, 0.1, 0.1])
    scores = draws.normal(size=(eyes, 5)) * 1.5
    scores[np.arange(eyes), stages] += 1.5
    grades = np.exp(scores)
    return stages, grades / grades.sum(axis=1, keepdims=True)


def test_kappa_of_a_matrix_worked_out_by_hand():
    # Observed squared distances: 0, 1, 0, 4 → 5. Expected: Σ over all 16 pairs of (stage − grade)²,
    # over 4 eyes: stages 0, 1, 2, 4 against grades 0, 0, 2, 2: (0+0+4+4) + (1+1+1+1) + (4+4+0+0) +
    # (16+16+4+4) = 60 → 60/4 = 15.
    stages, predicted = np.array([0, 1, 2, 4]), np.array([0, 0, 2, 2])
    assert kappa(stages, certain(predicted)) == pytest.approx(1 - 5 / 15, abs=ROUNDING)


def test_perfect_reversed_and_constant_grades():
    stages = np.arange(5).repeat(4)
    assert kappa(stages, certain(stages)) == 1
    assert kappa(stages, certain(4 - stages)) == pytest.approx(-1, abs=ROUNDING)
    assert kappa(stages, certain(stages * 0 + 2)) == pytest.approx(0, abs=ROUNDING)


def test_the_expected_stage_is_rounded_half_up():
    # Expectations 0.5, 1.5, 2.49 → 1, 2, 2; the likeliest stages are 0, 1, 2.
    grades = np.array([[0.5, 0.5, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0.51, 0.49, 0]])
    assert evaluate(np.array([1, 2, 2]), grades).values["qwk_expected"] == 1
    assert kappa(np.array([0, 1, 2]), grades) == 1


def test_confusion_rates_and_accuracy_by_hand():
    result = evaluate(np.array([0, 0, 0, 1, 2, 4]), certain([0, 0, 1, 1, 0, 4]))
    expected = np.zeros((5, 5), int)
    expected[[0, 0, 1, 2, 4], [0, 1, 1, 0, 4]] = [2, 1, 1, 1, 1]
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.values["accuracy"] == pytest.approx(4 / 6, abs=ROUNDING)
    for side, rates in (
        ("sensitivity", [2 / 3, 1, 0, np.nan, 1]),
        ("specificity", [2 / 3, 4 / 5, 1, 1, 1]),
    ):
        got = [result.values[f"{side}_stage{stage}"] for stage in range(5)]
        np.testing.assert_allclose(got, rates, atol=ROUNDING)


def test_auc_counts_pairs_in_the_right_order():
    # Referable scores of healthy eyes 0.1, 0.4, of referable eyes 0.4, 0.8: of 4 pairs 3 are right
    # and 1 is a tie.
    referable = np.array([0.1, 0.4, 0.4, 0.8])
    grades = np.zeros((4, 5))
    grades[:, 0], grades[:, 3] = 1 - referable, referable
    result = evaluate(np.array([0, 1, 2, 4]), grades)
    assert result.values["auc_referable"] == pytest.approx(3.5 / 4, abs=ROUNDING)
    assert result.values["auc_any"] == pytest.approx(1, abs=ROUNDING)


def test_calibration_error_by_hand():
    # Bins of 1/15: 0.97 and 0.95 share the last (0.9333, 1], 0.5 lies in (0.4667, 0.5333].
    grades = np.array([[0.97, 0.03, 0, 0, 0], [0.95, 0, 0.05, 0, 0], [0.2, 0.5, 0.3, 0, 0]])
    stages = np.array([0, 1, 1])
    by_hand = 2 / 3 * abs(0.96 - 0.5) + 1 / 3 * abs(0.5 - 1)
    ece = evaluate(stages, grades).values["ece"]
    assert ece == pytest.approx(by_hand, abs=ROUNDING)
    confidence, accuracy, count = reliability(stages, grades)
    assert (count[14], count[7], count.sum()) == (2, 1, 3)
    assert (confidence[14], accuracy[14]) == pytest.approx((0.96, 0.5), abs=ROUNDING)
    assert np.isnan(confidence[0])


def test_a_bin_is_closed_on_the_right():
    # A top probability of exactly 0.2 = 3/15 belongs to bin 2, (2/15, 3/15].
    _, _, count = reliability(np.array([0]), np.full((1, 5), 0.2))
    assert count[2] == 1


def test_operating_points_by_hand():
    # Ten healthy eyes score 0.0 … 0.9; four referable eyes 0.05, 0.55, 0.85, 0.95.
    score = np.concatenate([np.arange(10) / 10, [0.05, 0.55, 0.85, 0.95]])
    points = {(p.fixed, p.target): p for p in operating_points(np.arange(14) >= 10, score)}
    # One false alarm (0.9) is allowed at specificity 0.90: threshold 0.85. None at 0.95 and 0.98:
    # threshold 0.95.
    assert points["specificity", 0.90][2:] == pytest.approx((0.85, 2 / 4, 9 / 10))
    assert points["specificity", 0.95][2:] == pytest.approx((0.95, 1 / 4, 1))
    assert points["specificity", 0.98][2:] == pytest.approx((0.95, 1 / 4, 1))
    # Nine tenths of four eyes are all four: threshold 0.05, which lets healthy eye 0.0 alone pass.
    assert points["sensitivity", 0.90][2:] == pytest.approx((0.05, 1, 1 / 10))


def test_without_a_useful_threshold_nobody_is_called():
    point = operating_points(np.array([False, False, True]), np.array([0.9, 0.8, 0.1]))[1]
    assert (point.threshold, point.sensitivity, point.specificity) == (math.inf, 0, 1)


@pytest.mark.parametrize("weights", ["ones", "resample"])
def test_weighted_sums_equal_scikit_learns(weights):
    stages, grades = random_grades(300)
    grades = np.round(grades, 2)  # ties
    grades[:, 0] += 1 - grades.sum(axis=1)
    sums = BootstrapMetrics(stages, grades)
    weight = (
        np.ones(300)
        if weights == "ones"
        else np.random.default_rng(1).integers(0, 3, 300).astype(float)
    )
    got = {name: value[0] for name, value in sums.metrics(weight[np.newaxis]).items()}
    predicted, referable = grades.argmax(axis=1), grades[:, 2:].sum(axis=1)
    matrix = sk.confusion_matrix(stages, predicted, sample_weight=weight, labels=range(5))
    false_positive, sensitivity, _ = sk.roc_curve(
        stages >= 2, referable, sample_weight=weight, drop_intermediate=False
    )
    wanted = {
        "qwk": sk.cohen_kappa_score(
            stages, predicted, weights="quadratic", labels=range(5), sample_weight=weight
        ),
        "qwk_expected": sk.cohen_kappa_score(
            stages, sums.expected, weights="quadratic", labels=range(5), sample_weight=weight
        ),
        "accuracy": sk.accuracy_score(stages, predicted, sample_weight=weight),
        "auc_referable": sk.roc_auc_score(stages >= 2, referable, sample_weight=weight),
        "auc_any": sk.roc_auc_score(stages >= 1, 1 - grades[:, 0], sample_weight=weight),
        "sensitivity_stage3": matrix[3, 3] / matrix[3].sum(),
        "specificity_stage1": (
            1 - (matrix[:, 1].sum() - matrix[1, 1]) / (matrix.sum() - matrix[1].sum())
        ),
        "sensitivity_at_specificity_0.95": sensitivity[1 - false_positive >= 0.95 - 1e-9].max(),
        "specificity_at_sensitivity_0.90": (1 - false_positive)[sensitivity >= 0.9 - 1e-9].max(),
    }
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=ROUNDING), name
    whole = evaluate(stages.repeat(weight.astype(int)), grades.repeat(weight.astype(int), axis=0))
    for name, value in whole.values.items():
        assert got[name] == pytest.approx(value, abs=ROUNDING), name


def test_intervals_resample_patients_and_not_eyes():
    # The fellow eyes are copies: over patients the accuracy of 200 patients, over eyes that of 400
    # independent ones.
    stages, grades = random_grades(200)
    stages, grades = stages.repeat(2), grades.repeat(2, axis=0)
    patients = np.arange(200).repeat(2)
    low, high = evaluate(stages, grades, bootstrap_patients=patients).intervals["accuracy"]
    low_eyes, high_eyes = evaluate(stages, grades, bootstrap_patients=np.arange(400)).intervals[
        "accuracy"
    ]
    accuracy = (stages == grades.argmax(axis=1)).mean()
    # The normal interval of a share; 1,000 resamples know a percentile to about 5 % of the width.
    width = 2 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / 200)
    assert high - low == pytest.approx(width, rel=0.12)
    assert high_eyes - low_eyes == pytest.approx(width / math.sqrt(2), rel=0.12)
    assert low < accuracy < high


def test_intervals_are_the_same_for_the_same_seed_and_cover_every_value():
    stages, grades = random_grades(120)
    patients = np.array([f"p{number // 2}" for number in range(120)])
    first = evaluate(stages, grades, bootstrap_patients=patients, resamples=60)
    second = evaluate(stages, grades, bootstrap_patients=patients, resamples=60)
    assert first.intervals == second.intervals
    assert set(first.intervals) == set(first.values)
    assert all(low <= high for low, high in first.intervals.values())


def test_one_patient_gives_intervals_without_width():
    stages, grades = random_grades(40)
    result = evaluate(stages, grades, bootstrap_patients=np.zeros(40, int), resamples=20)
    for name, value in result.values.items():
        assert result.intervals[name] == pytest.approx((value, value), abs=ROUNDING), name


def test_a_missing_stage_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(
            np.zeros(6, int),
            certain(np.zeros(6, int)),
            bootstrap_patients=np.arange(6),
            resamples=10,
        )
        empty = evaluate(np.zeros(0, int), np.zeros((0, 5)), bootstrap_patients=np.zeros(0, int))
    undefined = {
        "qwk",
        "auc_referable",
        "auc_any",
        "sensitivity_stage1",
        "specificity_stage0",
        "sensitivity_at_specificity_0.90",
    }
    rows = {row["metric"]: row for row in result.rows()}
    assert all(
        math.isnan(rows[name][part]) for name in undefined for part in ("value", "low", "high")
    )
    assert (rows["accuracy"]["value"], rows["accuracy"]["low"]) == (1, 1)
    assert math.isnan(empty.values["qwk"])
    assert empty.eyes == 0


def test_rows_are_long_unique_and_carry_the_confusion():
    stages, grades = random_grades(100)
    rows = evaluate(stages, grades).rows()
    names = [row["metric"] for row in rows]
    assert len(set(names)) == len(names)
    assert all(
        set(row) == {"metric", "value", "low", "high"} and isinstance(row["value"], float)
        for row in rows
    )
    assert sum(row["value"] for row in rows if row["metric"].startswith("confusion_")) == 100


@pytest.mark.parametrize(
    ("stages", "grades", "message"),
    [
        ([0, 5], certain([0, 1]), "0 to 4"),
        ([0], np.full((1, 5), 0.3), "add up to 1"),
        ([0], np.full((1, 5), np.nan), "finite"),
    ],
)
def test_what_is_no_grade_is_refused(stages, grades, message):
    with pytest.raises(ValueError, match=message):
        evaluate(np.array(stages), grades)


def test_a_thousand_resamples_of_ten_thousand_eyes_stay_affordable():
    stages, grades = random_grades(10_000)
    sums = BootstrapMetrics(stages, grades)
    begin = time.perf_counter()
    patient_intervals(
        dict.fromkeys(sums.metrics(np.ones((1, 10_000))), 0.0), sums, np.arange(10_000) // 2, 100
    )
    # A tenth of the resamples in a tenth of the 20 s that the whole may take.
    assert time.perf_counter() - begin < 2
