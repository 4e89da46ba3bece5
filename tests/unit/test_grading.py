"""Poses that are the same eye, fellows that find each other, thresholds where they are known to
be.
"""

import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from dr_lib.evaluation.grading import (
    GradingParams,
    averaged_probabilities,
    decided,
    expected_stage,
    fellow_share,
    fellows,
    kappa_thresholds,
    posed,
    with_fellow,
)
from dr_lib.evaluation.metrics import evaluate


def kappa(stages, predicted):
    return cohen_kappa_score(stages, predicted, weights="quadratic", labels=range(5))


def eyes(count=3, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def graded(stage, rest=0.0):
    """Probabilities of 1 − rest for the stage, the rest for stage 0."""
    found = np.zeros((len(stage), 5))
    found[:, 0] = rest
    found[np.arange(len(stage)), stage] += 1 - rest
    return found


# --- poses


def test_the_eight_poses_are_the_squares_eight_symmetries():
    image = eyes(1)
    poses = [posed(image, number) for number in range(8)]
    np.testing.assert_array_equal(poses[0], image)
    np.testing.assert_array_equal(poses[1], image[:, :, ::-1])
    np.testing.assert_array_equal(poses[4], image[:, ::-1, ::-1])
    for one, other in itertools.combinations(poses, 2):
        assert (one != other).any()
    # A group: whatever is done to a pose gives one of the eight again.
    known = {pose.tobytes() for pose in poses}
    assert {posed(pose, number).tobytes() for pose in poses for number in range(8)} == known


@pytest.mark.parametrize(
    ("poses", "symmetries"), [(1, [0]), (2, [0, 1]), (4, [0, 2, 4, 6]), (8, range(8))]
)
@pytest.mark.parametrize("count", [1, 16, 19])
def test_the_mean_is_over_each_eyes_own_poses(poses, symmetries, count):
    pixels, calls = eyes(count), []

    def predict(images):
        """Two pixels off the middle decide: every pose answers differently."""
        calls.append(len(images))
        corner = images[:, 1, 2, 0].astype(np.float32) / 255
        return np.stack([1 - corner, corner, *[0 * corner] * 3], axis=1)

    found = averaged_probabilities(predict, pixels, poses)
    wanted = np.mean([posed(pixels, number)[:, 1, 2, 0] / 255 for number in symmetries], axis=0)
    np.testing.assert_allclose(found[:, 1], wanted, atol=1e-6)  # float32
    # Few fundi at a time, all their poses together.
    assert calls == [poses * min(16, count - start) for start in range(0, count, 16)]


def test_one_pose_is_the_networks_own_answer_bit_for_bit():
    answer = np.random.default_rng(1).dirichlet(np.ones(5), 5).astype(np.float32)
    np.testing.assert_array_equal(averaged_probabilities(lambda _: answer, eyes(5), 1), answer)


def test_all_poses_of_an_eye_get_one_grade():
    def predict(images):
        found = images[:, :4, :3].reshape(len(images), -1)[:, :5].astype(np.float32) + 1
        return found / found.sum(axis=1, keepdims=True)

    first, turned = (
        averaged_probabilities(predict, posed(eyes(2), number), 8) for number in (0, 3)
    )
    np.testing.assert_allclose(first, turned, atol=1e-7)


# --- both eyes


def test_fellows_find_each_other_and_single_eyes_themselves():
    patients = np.array(["7", "3", "7", "9", "3", "5", "5", "5"])
    found = fellows(patients)
    # Three photographs of one patient: which would be the fellow is not known.
    np.testing.assert_array_equal(found, [2, 4, 0, 3, 1, 5, 6, 7])
    np.testing.assert_array_equal(fellows(np.array([], str)), [])


def test_the_fellow_is_mixed_in_by_its_share_and_alone_an_eye_stays_itself():
    found = graded([0, 4, 2])
    mixed = with_fellow(found, np.array([1, 0, 2]), 0.25)
    np.testing.assert_allclose(
        mixed, [[0.75, 0, 0, 0, 0.25], [0.25, 0, 0, 0, 0.75], [0, 0, 1, 0, 0]], atol=1e-15
    )


def test_a_fellow_that_knows_better_is_mixed_in_and_one_that_does_not_is_left_out():
    # Every patient's left eye is graded rightly, the right one at random: only the fellow can tell
    # a right eye's stage.
    draws = np.random.default_rng(0)
    stage = draws.integers(0, 5, 60)
    stages, patients = stage.repeat(2), np.arange(60).repeat(2)
    found = graded(stages, 0.1)
    found[1::2] = draws.dirichlet(np.ones(5), 60)
    everyone, right = np.ones(120, bool), np.arange(120) % 2 == 1
    fellow = fellows(patients)
    # At 0.4 of the fellow all are in order.
    assert fellow_share(stages, found, fellow, right) == 0.4
    # And eyes graded without a mistake gain nothing: the smallest of equals is no share at all.
    assert fellow_share(stages, graded(stages, 0.1), fellow, everyone) == 0.0


def test_the_share_looks_at_no_eye_that_is_not_to_be_graded():
    stages = np.array([0, 0, 4, 4, -1, -1])
    found, fellow, known = (
        graded([0, 0, 4, 4, 3, 1]),
        np.array([1, 0, 3, 2, 5, 4]),
        np.arange(6) < 4,
    )
    assert fellow_share(stages, found, fellow, known) == 0.0
    # One stage only: nothing to rank.
    assert fellow_share(np.zeros(6, int), found, fellow, known) == 0.0
    assert fellow_share(stages, found, fellow, np.zeros(6, bool)) == 0.0


def test_ranking_is_the_mean_of_both_areas():
    stages, found = np.array([0, 1, 2, 0]), graded([0, 2, 1, 1], 0.2)
    whole = evaluate(stages, found)
    assert whole.ranking == (whole.values["auc_any"] + whole.values["auc_referable"]) / 2
    assert np.isnan(evaluate(np.zeros(4, int), found).ranking)


# --- thresholds


def test_a_stage_is_the_number_of_thresholds_passed():
    thresholds = np.array([0.5, 0.5, 2.5, 5.0])
    np.testing.assert_array_equal(
        decided(np.array([0.0, 0.49, 0.5, 2.5, 4.0]), thresholds), [0, 0, 2, 3, 3]
    )


def test_the_expected_stage_is_the_mean_under_the_probabilities():
    assert expected_stage(np.float32([[0.5, 0, 0, 0, 0.5], [0.2] * 5])) == pytest.approx(
        [2, 2], abs=1e-6
    )


def test_known_borders_are_found_between_the_stages_they_part():
    # Expected stages crowd in five bands that are nowhere near 0, 1, 2, 3, 4: with a few eyes each,
    # any other cut costs kappa.
    centres = np.array([0.1, 0.3, 0.9, 1.6, 1.8])
    stages = np.arange(5).repeat(12)
    expected = centres[stages] + np.linspace(-0.05, 0.05, 12)[np.arange(60) % 12]
    thresholds = kappa_thresholds(stages, expected, np.arange(60) // 2)
    assert (thresholds > centres[:4] + 0.05).all()
    assert (thresholds < centres[1:] - 0.05).all()
    assert kappa(stages, decided(expected, thresholds)) == 1


def test_thresholds_beat_rounding_on_patients_they_have_not_seen():
    def draw(patients, seed):
        draws = np.random.default_rng(seed)
        stages = draws.choice(5, patients, p=[0.7, 0.1, 0.14, 0.03, 0.03]).repeat(2)
        latent = stages + draws.normal(0, 0.7, 2 * patients)
        # A model trained on balanced mini-batches: everything is called about one stage too high.
        return stages, 4 / (1 + np.exp(-(latent - 1))), np.arange(patients).repeat(2)

    stages, expected, _ = draw(2000, 0)
    rounded = kappa(stages, np.rint(expected).astype(int))
    kappas = [
        kappa(stages, decided(expected, kappa_thresholds(*draw(32, seed)))) for seed in range(1, 5)
    ]
    assert min(kappas) > rounded + 0.1


def test_thresholds_are_a_pure_function_and_rise():
    draws = np.random.default_rng(3)
    stages, expected, patients = (
        draws.integers(0, 5, 40),
        draws.uniform(0, 4, 40),
        draws.integers(0, 20, 40),
    )
    first, second = (kappa_thresholds(stages, expected, patients) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (np.diff(first) >= 0).all()


@pytest.mark.parametrize(
    ("stages", "expected"),
    [([0, 0, 0], [0.1, 0.2, 0.3]), ([2], [1.0]), ([0, 4], [1.0, 1.0])],
    ids=["one", "eye", "equal"],
)
def test_eyes_that_tell_nothing_still_give_thresholds(stages, expected):
    thresholds = kappa_thresholds(np.array(stages), np.array(expected), np.arange(len(stages)))
    assert np.isfinite(thresholds).all()
    with pytest.raises(ValueError, match="validation eyes"):
        kappa_thresholds(np.array([], int), np.array([]), np.array([], int))


def test_stages_decided_otherwise_change_what_is_decided_and_nothing_else():
    stages, found = np.array([0, 1, 2, 4]), graded([0, 0, 2, 4], 0.3)
    own, other = (
        evaluate(stages, found),
        evaluate(stages, found, predicted=np.array([0, 1, 2, 4]), bootstrap_patients=stages),
    )
    assert (own.values["accuracy"], other.values["accuracy"], other.values["qwk"]) == (0.75, 1, 1)
    assert (other.values["sensitivity_stage1"], other.intervals["qwk"]) == (1, (1, 1))
    for name in ("qwk_expected", "auc_referable", "auc_any", "ece"):
        assert own.values[name] == other.values[name]
    assert own.operating_points == other.operating_points
    # The error of calibration is that of the likeliest stage, in the resamples, too: 3 of 4 right
    # at 0.7, 0.7, 0.7 and 1.
    low, high = other.intervals["ece"]
    assert low < own.values["ece"] < high


def test_impossible_gradings_are_refused():
    assert GradingParams(poses=8, fellow_eye=True, decision="thresholds").poses == 8
    with pytest.raises(Exception, match="poses"):
        GradingParams(poses=3)
