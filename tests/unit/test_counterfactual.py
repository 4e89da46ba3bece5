"""Counterfactuals: each pixel's move by hand, and the search against thresholds known in closed
form.
"""

import numpy as np
import pytest

from dr_lib.perturbation import counterfactual
from dr_lib.perturbation.counterfactual import (
    METHODS,
    CounterfactualParams,
    perturb,
    strongest,
    strongest_regions,
)
from dr_lib.perturbation.strength_search import (
    LEGAL,
    StrengthResult,
    result_rows,
    search,
    strength_grid,
)

DEFAULT = CounterfactualParams()
SIDE = 8
TOP = 127 / 128


def two_stage_model(score):
    """Probabilities of stages 0 and 1 from a score; stage 1 wins where it is above 0. The other
    stages have none.
    """

    def predict(images):
        p = 1 / (1 + np.exp(-np.asarray([score(image) for image in images], np.float64)))
        return np.stack([1 - p, p, *[np.zeros(len(images))] * 3], axis=1).astype(np.float32)

    return predict


def smallest_strength(
    *values,
    params=DEFAULT,
    method="proportional",
    attribute=np.zeros_like,
    crop=0.1,
):
    return counterfactual.smallest_strength(
        *values, params, method=method, attribute=attribute, crop=crop
    )


def flat_eyes(*values):
    return np.stack([np.full((SIDE, SIDE, 3), value, np.float32) for value in values])


# --- perturb
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "attribution", "form", "strength", "expected"),
    [
        (0.5, +1, "proportional", 0.5, 0.75),  # away, upward
        (-0.5, +1, "proportional", 0.5, -0.75),  # away, downward
        (0.5, -1, "proportional", 0.5, 0.25),  # toward, from above
        (-0.5, -1, "proportional", 0.5, -0.25),  # toward, from below
        (0.5, -1, "proportional", 3.0, 0.0),  # stops at half-gray
        (-0.5, -1, "proportional", 3.0, 0.0),
        (0.5, +1, "proportional", 3.0, TOP),  # clipped at white
        (-0.5, +1, "proportional", 3.0, -1.0),  # clipped at black
        (0.5, +1, "constant", 0.25, 0.75),
        (-0.5, +1, "constant", 0.25, -0.75),
        (0.5, -1, "constant", 0.25, 0.25),
        (-0.5, -1, "constant", 0.25, -0.25),
        (0.125, -1, "constant", 0.25, 0.0),  # stops at half-gray instead of crossing it
        (-0.125, -1, "constant", 0.25, 0.0),
        (0.5, 0, "constant", 0.25, 0.5),  # no attribution, no move
        (0.0, +1, "constant", 0.25, 0.0),  # half-gray has no way "away"
        (0.0, +1, "proportional", 0.25, 0.0),
    ],
)
def test_each_side_and_sign_moves_as_the_method_says(x, attribution, form, strength, expected):
    # Powers of two: float32 is exact. The size of an attribution must not matter, only its sign.
    moved = perturb(
        np.float32([x]), np.float32([0.0]), np.float32([attribution * 1e-7]), strength, form
    )
    assert moved.dtype == np.float32
    assert moved.tolist() == [expected]


def test_directions_are_from_the_baseline_even_where_it_is_not_zero():
    """x = 0.5 lies below a baseline of 0.75: away is downward, toward stops at 0.75."""
    x, baseline = np.float64([0.5, 0.5]), np.float64([0.75, 0.75])
    assert perturb(x, baseline, np.float64([1, -1]), 0.5).tolist() == [0.375, 0.625]
    assert perturb(x, baseline, np.float64([1, -1]), 2.0, "constant").tolist() == [-1.0, 0.75]


def test_one_strength_for_each_image_and_an_attribution_without_channels():
    x = flat_eyes(0.5, 0.5)
    moved = perturb(
        x,
        np.zeros((SIDE, SIDE, 3), np.float32),
        np.ones((2, SIDE, SIDE, 1), np.float32),
        np.float64([0.0, 0.5]),
    )
    np.testing.assert_array_equal(moved, flat_eyes(0.5, 0.75))


def test_strength_zero_changes_nothing_and_the_result_is_always_legal():
    rng = np.random.default_rng(1)
    x = rng.uniform(*LEGAL, size=(4, 5, 5, 3)).astype(np.float32)
    attribution = rng.normal(size=x.shape).astype(np.float32)
    for form in ("proportional", "constant"):
        np.testing.assert_array_equal(perturb(x, 0.0, attribution, 0.0, form), x)
        moved = perturb(x, 0.0, attribution, 1e6, form)
        assert moved.min() >= -1
        assert moved.max() <= TOP
        assert (np.sign(moved) * np.sign(x) >= 0).all(), "nothing crosses half-gray"


@pytest.mark.parametrize(
    ("attribution", "strength", "form", "message"),
    [
        (1.0, -0.5, "constant", "from 0 up"),
        (1.0, float("nan"), "constant", "from 0 up"),
        (float("nan"), 0.5, "constant", "not numbers"),
    ],
)
def test_a_move_without_meaning_is_refused(attribution, strength, form, message):
    with pytest.raises(ValueError, match=message):
        perturb(np.float32([0.5]), 0.0, np.float32([attribution]), strength, form)


def test_strongest_keeps_ties_zeros_and_broken_maps():
    attribution = np.float32([[2.0, -2.0], [1.0, 0.0]])
    assert strongest(attribution, 1 / 3).tolist() == [
        [2.0, -2.0],
        [0.0, 0.0],
    ], "both values at the threshold stay"
    assert strongest(attribution, 1.0) is attribution
    assert np.isnan(strongest(np.float32([np.nan, 1.0]), 0.5)[0])


# --- the search
# ----------------------------------------------------------------------------------------------------


def test_the_smallest_strength_of_a_linear_model_is_its_known_threshold():
    """Stage 1 wins where the mean exceeds 0.6. From a flat x, proportional needs c = 0.6/x − 1,
    constant c = 0.6 − x.
    """
    predict = two_stage_model(lambda image: image.mean() - 0.6)
    x = np.array([0.5, 0.3, 0.1])
    eyes, params = flat_eyes(*x), CounterfactualParams(bisections=14)
    for form, expected in (("proportional", 0.6 / x - 1), ("constant", 0.6 - x)):
        result = smallest_strength(
            predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1, params=params, method=form
        )
        assert result.reached.all()
        # The last bracket's width is at most the strength times 2⁻¹⁴, and its upper end is what is
        # given.
        excess = result.strength - expected
        assert (excess > -1e-6).all()
        assert (excess <= expected * 2**-13 + 1e-6).all()
        np.testing.assert_array_equal(
            result.images,
            perturb(eyes, 0.0, np.ones_like(eyes), result.strength, form),
            "images belong to the strength",
        )
        np.testing.assert_array_equal(predict(result.images), result.after)
        assert (result.after.argmax(axis=1) == 1).all()
        assert (result.before.argmax(axis=1) == 0).all()


def test_not_reached_is_a_result_with_the_best_probability_and_its_strength():
    """The score −(mean − 0.75)² peaks, still negative, at c = 0.5, which is a strength of the
    grid.
    """
    predict = two_stage_model(lambda image: -1 - (image.mean() - 0.75) ** 2)
    eyes = flat_eyes(0.5)
    result = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1)
    assert not result.reached[0]
    assert not result.failed[0]
    assert result.strength[0] == 0.5
    assert result.best_probability[0] == pytest.approx(1 / (1 + np.e), rel=1e-6)
    np.testing.assert_array_equal(result.images[0], np.full((SIDE, SIDE, 3), 0.75))


def test_nothing_that_helps_leaves_the_original_with_strength_zero():
    predict = two_stage_model(lambda image: -1 - image.mean())
    eyes = flat_eyes(0.5)
    result = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1)
    assert result.strength[0] == 0
    np.testing.assert_array_equal(result.images, eyes)
    assert result.best_probability[0] == result.before[0, 1]


def test_an_eye_already_at_the_target_needs_no_strength():
    predict = two_stage_model(lambda image: image.mean() - 0.4)
    eyes = flat_eyes(0.5, 0.3)
    result = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1)
    assert result.reached.tolist() == [True, True]
    assert result.strength[0] == 0
    assert result.strength[1] == pytest.approx(1 / 3, abs=1e-3)


def test_decided_eyes_are_not_evaluated_again():
    """One eye reaches at the first strength, one never: calls are counted, so recomputation
    cannot creep in.
    """
    seen = []

    def predict(images):
        seen.append(len(images))
        return two_stage_model(lambda image: image.mean() - 0.501)(images)

    eyes = flat_eyes(0.5, 0.5, -0.5)
    attribution = np.ones_like(eyes)
    grid = strength_grid(0.25, 1.0, 2.0)
    result = search(
        predict,
        eyes,
        lambda rows, c: perturb(eyes[rows], 0.0, attribution[rows], c),
        1,
        grid=grid,
        bisections=2,
    )
    assert result.reached.tolist() == [True, True, False]
    # Before · first strength · the last eye · bisection of the two.
    assert seen == [3] + [3] + [1, 1] + [2, 2]


def test_an_eye_that_breaks_is_marked_and_the_others_go_on():
    predict = two_stage_model(lambda image: image.mean() - 0.6)
    eyes = flat_eyes(0.5, 0.5)
    attribution = np.ones_like(eyes)
    attribution[0, 0, 0, 0] = np.nan
    result = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), attribution, 1)
    assert result.failed.tolist() == [True, False]
    assert result.reached.tolist() == [False, True]
    row = result_rows(["1_left", "2_left"], "proportional", 1, eyes, result)[0]
    assert not row["reached"]
    assert np.isnan(row["strength"])
    assert np.isnan(row["ssim"])


def test_a_model_that_answers_nan_never_passes_for_the_target():
    """argmax of a row of NaN at the target's place is the target: the search must not believe
    it.
    """

    def predict(images):
        p = np.tile(np.float32([0.9, 0.1, 0, 0, 0]), (len(images), 1))
        p[images.mean(axis=(1, 2, 3)) > 0.6, 1] = np.nan
        return p

    eyes = flat_eyes(0.5)
    result = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1)
    assert result.failed.tolist() == [True]
    assert not result.reached[0]
    assert np.isfinite(result.after).all()


def test_recomputed_attribution_can_turn_around_on_the_way():
    """The score falls above a mean of 0.6 and the attribution says so: the path stops short of
    where a fixed one overshoots.

    Two coordinates: left half must rise to 0.7, right half (also 0.5) must fall to 0.3. The first
    attribution points everything up; recomputed ones know better.
    """
    left = np.zeros((SIDE, SIDE, 1), bool)
    left[:, : SIDE // 2] = True

    def score(image):
        return (
            0.05
            - max(0.7 - image[:, : SIDE // 2].mean(), 0)
            - max(image[:, SIDE // 2 :].mean() - 0.3, 0)
        )

    predict, eyes = two_stage_model(score), flat_eyes(0.5)
    wrong = np.ones_like(eyes)
    fixed = smallest_strength(predict, eyes, np.zeros_like(eyes[0]), wrong, 1)
    assert not fixed.reached[0]
    asked = []

    def attribute(images):
        asked.append(len(images))
        return np.broadcast_to(np.where(left, 1.0, -1.0), images.shape).astype(np.float32)

    anew = {"method": "proportional_recomputed"}
    result = smallest_strength(
        predict, eyes, np.zeros_like(eyes[0]), wrong, 1, **anew, attribute=attribute
    )
    assert result.reached[0]
    assert set(asked) == {1}
    np.testing.assert_array_equal(eyes, flat_eyes(0.5), "the caller's originals stay as they are")
    np.testing.assert_array_equal(wrong, np.ones_like(eyes), "and so do their attributions")


def test_only_the_strongest_share_moves():
    predict = two_stage_model(lambda image: image[0, 0, 0] - 0.6)
    eyes = flat_eyes(0.5)
    attribution = np.full_like(eyes, 0.1)
    attribution[0, 0, 0, 0] = 5.0
    params = CounterfactualParams(strongest_share=1 / attribution.size)
    result = smallest_strength(
        predict,
        eyes,
        np.zeros_like(eyes[0]),
        attribution,
        1,
        params=params,
        method="proportional_strongest",
    )
    row = result_rows(["1_left"], "proportional_strongest", 1, eyes, result)[0]
    assert row["reached"]
    assert row["l0_share"] == 1 / SIDE**2
    assert row["l1"] == pytest.approx(0.1, abs=1e-3)


def test_only_the_strongest_regions_move():
    """Two positive blobs and a negative one of 6 × 6 pixels: with one region of each sign the
    weaker positive one stays.
    """
    side = 64
    attribution = np.zeros((1, side, side, 1), np.float32)
    strong, weak, negative = (
        (slice(20, 26), slice(20, 26)),
        (slice(40, 46), slice(20, 26)),
        (slice(30, 36), slice(40, 46)),
    )
    attribution[0][strong], attribution[0][weak], attribution[0][negative] = 3.0, 2.0, -1.0
    kept = strongest_regions(attribution[0], 1, crop=0.1)
    assert (kept[strong] == 3.0).all()
    assert (kept[negative] == -1.0).all()
    assert (kept[weak] == 0).all()
    assert np.isnan(
        strongest_regions(np.full((side, side, 1), np.nan, np.float32), 1, crop=0.1)
    ).all()
    eyes = np.full((1, side, side, 3), 0.25, np.float32)
    predict = two_stage_model(lambda image: image[22, 22, 0] - 0.5)
    params = CounterfactualParams(strongest_regions=1)
    found = smallest_strength(
        predict,
        eyes,
        np.zeros_like(eyes[0]),
        attribution,
        1,
        params=params,
        method="constant_regions",
        crop=0.1,
    )
    assert found.reached[0]
    change = (found.images - eyes)[0, ..., 0]
    assert change[strong].min() == change[strong].max() == pytest.approx(0.25, abs=1e-3)
    assert change[negative].max() < 0
    assert np.count_nonzero(change) <= np.count_nonzero(kept)
    assert (change[weak] == 0).all()


def test_every_method_is_a_form_and_a_treatment_and_an_unknown_one_is_refused():
    assert {method.partition("_")[0] for method in METHODS} == {"proportional", "constant"}
    assert {method.partition("_")[2] for method in METHODS} == {
        "",
        "strongest",
        "regions",
        "recomputed",
    }
    eyes = flat_eyes(0.5)
    with pytest.raises((ValueError, TypeError), match="method"):
        smallest_strength(
            two_stage_model(np.mean),
            eyes,
            np.zeros_like(eyes[0]),
            np.ones_like(eyes),
            1,
            method="sideways",
        )


# --- rows and settings
# ---------------------------------------------------------------------------------------------

COLUMNS = [
    *("image_id", "method", "target_stage", "reached", "strength", "best_probability"),
    *(f"probability_before_stage{stage}" for stage in range(5)),
    *(f"probability_after_stage{stage}" for stage in range(5)),
    *(
        "l0_share",
        "l1",
        "l2",
        "linf",
        "ssim",
        "total_variation_before",
        "total_variation_after",
        "high_frequency_energy",
    ),
]


def test_rows_have_the_tables_columns_and_the_result_s_numbers():
    predict = two_stage_model(lambda image: image.mean() - 0.6)
    eyes = flat_eyes(0.5)
    result = smallest_strength(
        predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1, method="constant"
    )
    (row,) = result_rows(["10_left"], "constant", 1, eyes, result)
    assert sorted(row) == sorted(COLUMNS)  # the table's schema orders them
    assert (row["image_id"], row["method"], row["target_stage"], row["reached"]) == (
        "10_left",
        "constant",
        1,
        True,
    )
    assert row["linf"] == pytest.approx(row["strength"], rel=1e-6)
    assert row["probability_before_stage1"] == pytest.approx(1 / (1 + np.exp(0.1)), rel=1e-6)
    assert row["best_probability"] >= row["probability_after_stage1"] > 0.5


def test_no_eye_qualifies_and_the_answer_is_empty_not_an_error():
    none = np.zeros((0, SIDE, SIDE, 3), np.float32)
    result = smallest_strength(
        lambda images: 1 / 0, none, np.zeros((SIDE, SIDE, 3), np.float32), none, 1
    )
    assert isinstance(result, StrengthResult)
    assert result.before.shape == (0, 5)
    assert result_rows([], "constant", 1, none, result) == []


def test_a_stage_the_model_does_not_have_is_refused():
    eyes = flat_eyes(0.5)
    with pytest.raises(IndexError):
        smallest_strength(
            two_stage_model(np.mean), eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 7
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_stage": 5}, r"target_stage must be from 0 to 4 \(a stage\), not 5"),
        ({"target_stage": 0}, "predicts already"),
        ({"methods": ()}, "at least one"),
        ({"strongest_regions": 0}, "strongest_regions"),
        ({"smallest_strength": 0.0}, "0 < smallest"),
        ({"largest_strength": 1e-3}, "0 < smallest"),
        ({"growth": 1.0}, "growth > 1"),
        ({"strongest_share": 0.0}, "strongest_share"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message):
        CounterfactualParams(**settings)


def test_the_grid_ends_at_the_largest_and_the_constant_form_stops_where_nothing_moves():
    assert strength_grid(0.25, 0.25, 2.0) == (0.25,)
    assert strength_grid(0.25, 1.0, 2.0) == (0.25, 0.5, 1.0)
    tried = []

    def predict(images):
        tried.append(images)
        return np.tile(np.float32([1, 0, 0, 0, 0]), (len(images), 1))

    eyes = flat_eyes(1 / 128, -1 / 128)
    for form in ("constant", "proportional"):
        smallest_strength(predict, eyes, np.zeros_like(eyes[0]), np.ones_like(eyes), 1, method=form)
        np.testing.assert_array_equal(
            tried[-1], flat_eyes(TOP, -1.0), "the last strength saturates even the smallest offset"
        )
