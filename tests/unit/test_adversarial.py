"""FGSM and PGD against their closed forms on a linear model; balls, masks, and broken gradients."""

import numpy as np
import pytest

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.perturbation.adversarial import (
    METHODS,
    AdversarialParams,
    ascent,
    fgsm,
    pgd,
    smallest_epsilon,
)
from dr_lib.perturbation.strength_search import LEGAL

SIDE = 16
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(SIDE, SIDE, 3)).astype(np.float32)
INSIDE = visible_disc(SIDE, crop=0.1)
MASKED = np.where(INSIDE[..., None], WEIGHTS, 0).astype(np.float64)
MARGIN = 1.5


def gradient(images, target_stage):
    """The score of stage 1 is w·x − margin: its gradient is w everywhere."""
    assert target_stage == 1
    return np.broadcast_to(WEIGHTS, images.shape)


def predict(images):
    score = np.einsum("nyxc,yxc->n", images.astype(np.float64), WEIGHTS.astype(np.float64)) - MARGIN
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p, *[np.zeros(len(images))] * 3], axis=1).astype(np.float32)


DEFAULT = AdversarialParams()
EYES = np.zeros((2, SIDE, SIDE, 3), np.float32)
# Half-gray eyes need a gain of the margin. Under |δ| ≤ ε the most is ε·‖w‖₁, under ‖δ‖₂ ≤ ε it is
# ε·‖w‖₂.
THRESHOLD = {"linf": MARGIN / np.abs(MASKED).sum(), "l2": MARGIN / np.sqrt((MASKED**2).sum())}


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_radius_of_a_linear_model_is_its_dual_norm_distance(method):
    params = AdversarialParams(bisections=12)
    result = smallest_epsilon(predict, gradient, EYES, 1, params, method=method, inside=INSIDE)
    norm = method.split("_")[1]
    assert result.reached.all()
    # The bracket shrinks to 2⁻¹² of the strength; the model's float32 probability ties at 0.5 ±
    # 6e-8.
    np.testing.assert_allclose(result.strength, THRESHOLD[norm], rtol=2**-11)
    assert (result.strength >= THRESHOLD[norm] * (1 - 1e-5)).all()
    change = result.images.astype(np.float64)
    assert (change[:, ~INSIDE] == 0).all(), "the half-gray surround stays"
    expected = np.sign(MASKED) if norm == "linf" else MASKED / np.sqrt((MASKED**2).sum())
    np.testing.assert_allclose(
        change, np.broadcast_to(expected, change.shape) * result.strength[0], atol=1e-7
    )


def test_without_the_mask_the_surround_moves_too():
    result = smallest_epsilon(
        predict,
        gradient,
        EYES,
        1,
        AdversarialParams(inside_only=False, bisections=12),
        method="fgsm_linf",
        inside=INSIDE,
    )
    np.testing.assert_allclose(
        result.strength, MARGIN / np.abs(WEIGHTS.astype(np.float64)).sum(), rtol=2**-11
    )
    half = np.zeros((SIDE, SIDE), bool)
    half[:, : SIDE // 2] = True
    result = smallest_epsilon(predict, gradient, EYES, 1, DEFAULT, method="fgsm_linf", inside=half)
    assert (result.images[:, :, SIDE // 2 :] == 0).all()
    assert result.reached.all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_the_ball_and_the_legal_range_whatever_the_gradient_does(norm):
    x = RNG.uniform(*LEGAL, size=(3, 6, 6, 3)).astype(np.float32)
    epsilon = np.array([0.0, 0.3, 2.0])
    moved = pgd(
        x,
        lambda images: RNG.normal(size=images.shape).astype(np.float32),
        epsilon,
        norm,
        steps=7,
        step_share=0.9,
    )
    change = (moved - x).astype(np.float64)
    length = (
        np.abs(change).max(axis=(1, 2, 3))
        if norm == "linf"
        else np.sqrt((change**2).sum(axis=(1, 2, 3)))
    )
    assert (length <= epsilon + 1e-6).all()
    assert moved.min() >= LEGAL[0]
    assert moved.max() <= LEGAL[1]
    np.testing.assert_array_equal(moved[0], x[0])


def test_pgd_follows_a_bend_that_one_step_misses():
    """The score −|a − 0.4| + b peaks at a = 0.4: one signed step of 0.8 overshoots a, projected
    steps come back to it.
    """

    def bent(images):
        slope = np.zeros_like(images)
        slope[:, 0, 0, 0] = -np.sign(images[:, 0, 0, 0] - 0.4)
        slope[:, 0, 1, 0] = 1.0
        return slope

    x, epsilon = np.zeros((1, 2, 2, 3), np.float32), np.array([0.8])
    one, many = fgsm(x, bent(x), epsilon), pgd(x, bent, epsilon, steps=41, step_share=0.05)
    assert abs(one[0, 0, 0, 0] - 0.4) == pytest.approx(0.4, abs=1e-6)
    assert abs(many[0, 0, 0, 0] - 0.4) <= 0.05 * 0.8 + 1e-6  # within one step of the peak
    assert one[0, 0, 1, 0] == pytest.approx(0.8, abs=1e-6)
    assert many[0, 0, 1, 0] == pytest.approx(0.8, abs=1e-6)


def test_a_gradient_as_faint_as_a_saturated_softmax_still_gives_a_unit_direction():
    """Squares of 1e-30 underflow in float32; the direction of w must not depend on w's scale."""
    faint = (WEIGHTS[None] * np.float32(1e-30)).astype(np.float32)
    np.testing.assert_allclose(
        ascent(faint, "l2"), ascent(WEIGHTS[None], "l2"), rtol=1e-5, atol=1e-9
    )
    assert np.sqrt((ascent(faint, "l2").astype(np.float64) ** 2).sum()) == pytest.approx(
        1, rel=1e-6
    )
    assert (ascent(np.zeros_like(faint), "l2") == 0).all()
    assert (ascent(np.zeros_like(faint), "linf") == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_gradient_marks_its_eye_and_no_other(method, bad):
    def broken(images, target_stage):
        slope = gradient(images, target_stage).copy()
        slope[images[:, 0, 0, 0] != 0, SIDE // 2, SIDE // 2, 0] = bad
        return slope

    eyes = EYES.copy()
    eyes[0, 0, 0, 0] = 0.25  # outside the disc: the mark by which the broken eye is known
    result = smallest_epsilon(predict, broken, eyes, 1, DEFAULT, method=method, inside=INSIDE)
    assert result.failed.tolist() == [True, False]
    assert result.reached.tolist() == [False, True]


def test_fgsm_asks_for_the_gradient_of_an_eye_once():
    asked = []

    def counted(images, target_stage):
        asked.append(len(images))
        return gradient(images, target_stage)

    smallest_epsilon(predict, counted, EYES, 1, DEFAULT, method="fgsm_l2", inside=INSIDE)
    assert sum(asked) == len(EYES)


def test_a_target_out_of_reach_is_a_result():
    params = AdversarialParams(largest_linf=1 / 2048)
    result = smallest_epsilon(predict, gradient, EYES, 1, params, method="fgsm_linf", inside=INSIDE)
    assert not result.reached.any()
    assert (result.strength == 1 / 2048).all()
    assert (result.best_probability > result.before[:, 1]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smallest_linf": 0.0}, "0 < smallest"),
        ({"largest_l2": 0.01}, "0 < smallest"),
        ({"growth": 0.5}, "growth > 1"),
        ({"steps": 0}, "steps"),
        ({"step_share": 0.0}, "step_share"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message):
        AdversarialParams(**settings)
