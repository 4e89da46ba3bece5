"""The checks against models whose answers are known: sums of pixels, linear networks, a softmax
of two.
"""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import spearmanr

from dr_lib.attribution import integrated_gradients
from dr_lib.attribution.evaluator import Evaluator
from tests.unit.attribution_checks import (
    agreement,
    chance_agreement,
    completeness,
    insertion_deletion,
    randomisation,
)

WEIGHTS = np.array([1.0, -2.0, 4.0, 3.0])


def linear(x):
    return x @ WEIGHTS


def two_quantities(x):
    return np.stack([x @ WEIGHTS, -(x @ WEIGHTS)], axis=1)


# Completeness


def test_completeness_is_the_sum_less_the_change_and_relative_to_it():
    x, baseline = np.ones((1, 4)), np.zeros(4)
    exact = completeness(linear, x, baseline, (x * WEIGHTS))
    np.testing.assert_array_equal(exact.gap, [0])
    short = completeness(linear, x, baseline, (x * WEIGHTS) * [1, 1, 1, 0])
    np.testing.assert_allclose([short.gap[0], short.relative[0]], [-3, 3 / 6])


def test_a_change_below_the_floor_is_judged_against_the_floor():
    x = np.array([[1e-6, 0, 0, 0]])
    found = completeness(linear, x, np.zeros(4), np.zeros((1, 4)), floor=1e-3)
    np.testing.assert_allclose(found.relative, [1e-3])


def test_the_engines_own_account_of_its_gap_is_confirmed_from_outside():
    def function(x):
        return ops.stack([ops.sum(ops.sin(3 * x), axis=1), ops.sum(x**3, axis=1)], axis=1)

    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    maps = integrated_gradients(function, x, np.zeros(4, np.float32), points=5)
    found = completeness(function, x, np.zeros(4, np.float32), maps.values)
    assert found.gap.shape == (3, 2)
    assert (np.abs(found.gap) > 1e-3).any()  # five points leave something to confirm
    np.testing.assert_allclose(found.gap, maps.gap, atol=2e-6)  # float32 sums near 1


# Insertion and deletion


def test_insertion_of_a_linear_function_adds_its_terms_largest_first():
    # Terms 1, −2, 4, 3: inserted as 4, 3, 1, −2, so F goes 0, 4, 7, 8, 6; deleted it goes 6, 2, −1,
    # −2, 0.
    x = np.ones((1, 4))
    found = insertion_deletion(linear, x, np.zeros(4), x * WEIGHTS, steps=4)
    np.testing.assert_array_equal(found.insertion, [[0, 4, 7, 8, 6]])
    np.testing.assert_array_equal(found.deletion, [[6, 2, -1, -2, 0]])
    np.testing.assert_allclose(found.insertion_area, [(0 / 2 + 4 + 7 + 8 + 6 / 2) / 4])
    np.testing.assert_allclose(found.deletion_area, [(6 / 2 + 2 - 1 - 2 + 0 / 2) / 4])
    np.testing.assert_array_equal(found.share, [0, 0.25, 0.5, 0.75, 1])


def test_no_ranking_of_a_linear_function_does_better_than_the_exact_one():
    x = np.ones((24, 4))
    rankings = np.array(list(itertools.permutations([1.0, 2.0, 3.0, 4.0])))
    exact = insertion_deletion(linear, x[:1], np.zeros(4), x[:1] * WEIGHTS, steps=4)
    found = insertion_deletion(linear, x, np.zeros(4), rankings, steps=4)
    assert exact.insertion_area[0] == found.insertion_area.max()
    assert exact.deletion_area[0] == found.deletion_area.min()
    assert np.ptp(found.insertion_area) > 1  # the areas tell rankings apart
    # What a term adds when it is inserted it takes when it is deleted: the two areas sum to F(x) +
    # F(x').
    np.testing.assert_allclose(found.insertion_area + found.deletion_area, 6)


def test_a_map_without_colours_hides_all_channels_of_a_pixel_together():
    x = np.arange(1.0, 9.0).reshape(1, 2, 2, 2)  # pixels sum to 3, 7, 11, 15
    found = insertion_deletion(
        lambda x: x.sum(axis=(1, 2, 3)),
        x,
        np.zeros((2, 2, 2)),
        np.array([[[1.0, 2], [3, 4]]]),
        steps=4,
    )
    np.testing.assert_array_equal(found.insertion, [[0, 15, 26, 33, 36]])


def test_hidden_pixels_hold_the_baseline():
    seen = []
    insertion_deletion(
        lambda x: seen.append(x) or x[:, 0],
        np.ones((1, 2)),
        np.array([5.0, 6.0]),
        np.array([[2.0, 1.0]]),
        steps=2,
    )
    rows = {tuple(row) for row in np.concatenate(seen)}
    assert rows == {(5, 6), (1, 6), (5, 1), (1, 1)}


def test_each_quantity_is_judged_by_its_own_map():
    x = np.ones((2, 4))
    maps = np.stack([x * WEIGHTS, -x * WEIGHTS], axis=1)
    both = insertion_deletion(two_quantities, x, np.zeros(4), maps, steps=4)
    assert both.insertion.shape == (2, 2, 5)
    np.testing.assert_array_equal(both.insertion[1, 0], [0, 4, 7, 8, 6])
    np.testing.assert_array_equal(both.insertion[1, 1], [0, 2, 1, -2, -6])


def test_equal_pixels_are_shown_by_lowest_index():
    found = insertion_deletion(linear, np.ones((1, 4)), np.zeros(4), np.zeros((1, 4)), steps=4)
    np.testing.assert_array_equal(found.insertion, [[0, 1, -1, 3, 6]])


def test_steps_share_the_positions_evenly():
    x = np.ones((1, 10))
    found = insertion_deletion(lambda x: x.sum(axis=1), x, np.zeros(10), x, steps=3)
    np.testing.assert_array_equal(found.insertion, [[0, 3, 7, 10]])
    np.testing.assert_array_equal(found.share, [0, 0.3, 0.7, 1])


def test_rows_come_in_full_batches_and_as_many_as_promised():
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return x @ WEIGHTS

    insertion_deletion(
        counted, np.ones((3, 4)), np.zeros(4), np.ones((3, 4)), steps=4, batch_size=7
    )
    assert sizes[0] == 1  # what shape the function answers in
    assert sum(sizes[1:]) == 3 * 2 * (4 + 1)
    assert set(sizes[1:-1]) == {7}


def test_an_evaluator_a_keras_model_and_plain_numpy_agree():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(2)]
    )
    kernel, bias, top, top_bias = [w.astype(np.float64) for w in model.get_weights()]
    rng = np.random.default_rng(1)
    x, maps = (
        rng.normal(size=(2, 4)).astype(np.float32),
        rng.normal(size=(2, 2, 4)).astype(np.float32),
    )
    functions = (model, Evaluator(model, 4), lambda x: np.tanh(x @ kernel + bias) @ top + top_bias)
    found = [
        insertion_deletion(function, x, np.zeros(4, np.float32), maps, steps=4).insertion
        for function in functions
    ]
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    np.testing.assert_allclose(found[1], found[2], atol=1e-6)
    assert np.ptp(found[2]) > 0.1


@pytest.mark.parametrize(
    ("maps", "steps", "message"),
    [
        (np.ones((1, 3)), 2, "do not fit"),
        (np.ones((1, 4, 1)), 2, "do not fit"),
        (np.full((1, 4), np.nan), 2, "finite"),
        (np.ones((1, 4)), 5, "between 1 and the map's 4"),
        (np.ones((1, 4)), 0, "between 1"),
    ],
)
def test_impossible_requests_are_refused_in_a_sentence(maps, steps, message):
    with pytest.raises(ValueError, match=message):
        insertion_deletion(linear, np.ones((1, 4)), np.zeros(4), maps, steps=steps)


# Randomised weights


@pytest.fixture
def net():
    """Two dense layers without activation: the gradient by the input is bottom @ top."""
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, name="bottom")(inputs)
    outputs = keras.layers.Dense(1, name="top")(keras.layers.Dropout(0.5, name="middle")(hidden))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def gradient(model):
    bottom, top = (
        model.get_layer("bottom").get_weights()[0],
        model.get_layer("top").get_weights()[0],
    )
    return (bottom @ top).T


def test_layers_are_shuffled_cumulatively_from_the_top_and_ranks_are_compared(net):
    seen = []

    def explain():
        seen.append(
            (
                gradient(net),
                net.get_layer("bottom").get_weights()[0],
                net.get_layer("top").get_weights()[0],
            )
        )
        return seen[-1][0]

    found = randomisation(net, explain, seed=1)
    assert found.layers == ("top", "bottom")
    (start, bottom, top), (_, bottom1, top1), (_, bottom2, top2) = seen
    np.testing.assert_array_equal(bottom1, bottom)
    np.testing.assert_array_equal(top2, top1)
    for shuffled, own in ((top1, top), (bottom2, bottom)):
        assert (shuffled != own).any()
        np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(own, axis=None))
    for step, (after, _, _) in enumerate(seen[1:]):
        np.testing.assert_allclose(
            found.correlation[step, 0], spearmanr(start[0], after[0]).statistic
        )
        np.testing.assert_allclose(
            found.absolute_correlation[step, 0], spearmanr(*np.abs([start[0], after[0]])).statistic
        )
    assert found.correlation[-1, 0] < 0.9


def test_maps_that_do_not_depend_on_what_the_network_knows_stay_the_same(net):
    edges = np.random.default_rng(3).normal(size=(2, 3, 3))
    found = randomisation(net, lambda: edges)
    np.testing.assert_allclose(found.correlation, 1)
    np.testing.assert_allclose(found.absolute_correlation, 1)


def test_a_map_that_turns_round_keeps_its_magnitudes(net):
    signs = iter([1, -1, 1])
    values = np.random.default_rng(4).normal(size=(1, 50))
    found = randomisation(net, lambda: next(signs) * values)
    np.testing.assert_allclose(found.correlation[:, 0], [-1, 1])
    np.testing.assert_allclose(found.absolute_correlation[:, 0], 1)


def test_the_weights_are_put_back_to_the_bit_even_after_a_failure(net):
    before = net.get_weights()
    randomisation(net, lambda: gradient(net))
    calls = iter([np.ones((1, 2))])
    with pytest.raises(StopIteration):
        randomisation(net, lambda: next(calls))
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_compiled_attributions_follow_the_shuffled_weights_and_return(net):
    x = np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)
    evaluator = Evaluator(lambda x: net(x, training=False)[:, 0], 4)

    def explain():
        return integrated_gradients(evaluator, x, np.zeros(6, np.float32), points=2).values

    before = explain()
    found = randomisation(net, explain, layers=("top", "bottom"))
    assert found.correlation.shape == (2, 2)
    assert (found.correlation < 0.999).all()
    np.testing.assert_array_equal(explain(), before)


def test_a_stop_takes_along_whatever_lies_above_it():
    inputs = keras.Input((4,))
    left, right = (
        keras.layers.Dense(2, name="left")(inputs),
        keras.layers.Dense(2, name="right")(inputs),
    )
    joined = keras.layers.Concatenate(name="joined")([left, right])
    net = keras.Model(
        inputs, keras.layers.Dense(3, name="top")(keras.layers.Dense(3, name="middle")(joined))
    )
    before = {layer.name: layer.get_weights() for layer in net.layers if layer.weights}
    seen = []

    def explain():
        changed = [
            name
            for name, old in before.items()
            if (net.get_layer(name).get_weights()[0] != old[0]).any()
        ]
        seen.append(set(changed))
        return np.ones((1, 2))

    found = randomisation(net, explain, layers=("joined", "left"), seed=3)
    assert seen == [set(), {"middle", "top"}, {"left", "middle", "top"}]
    assert np.isnan(found.correlation).all()  # a map that does not vary has no ranks
    with pytest.raises(ValueError, match="'top' lies above"):
        randomisation(net, explain, layers=("joined", "top"))
    with pytest.raises(ValueError, match="no layer 'stem'"):
        randomisation(net, explain, layers=("stem",))


# Agreement


def test_two_stages_that_share_all_probability_are_complementary_to_the_last_digit():
    def stages(x):
        return ops.softmax(ops.stack([ops.sum(ops.sin(x), axis=1), ops.sum(x**2, axis=1)], axis=1))

    x = np.random.default_rng(6).normal(size=(1, 40)).astype(np.float32)
    maps = integrated_gradients(stages, x, np.zeros(40, np.float32), points=4).values[0]
    found = agreement(maps[0], maps[1])
    np.testing.assert_allclose(
        [found.correlation, found.rank_correlation, found.opposed], [-1, -1, 1], atol=1e-6
    )


def test_exchangeable_maps_that_sum_to_0_agree_by_chance_alone():
    maps = np.random.default_rng(7).normal(size=(5, 40_000))
    maps -= maps.mean(axis=0)
    # The correlation of n independent places has a spread of about 1/√n = 0.005.
    assert agreement(maps[0], maps[4]).correlation == pytest.approx(chance_agreement(5), abs=0.02)
    with pytest.raises(ValueError, match="at least 2"):
        chance_agreement(1)


def test_opposed_weighs_places_by_what_both_maps_say_there():
    # min(|a|, |b|) is 1, 2, 0, 1; the signs differ at the first place only.
    found = agreement(np.array([1.0, 2, 5, -3]), np.array([-4.0, 2, 0, -1]))
    assert found.opposed == 1 / 4


def test_only_places_inside_count_and_ranks_ignore_scale():
    first, second = np.array([[1.0, 2], [3, 100]]), np.array([[1.0, 4], [9, -100]])
    inside = np.array([[True, True], [True, False]])
    found = agreement(first, second, inside)
    assert found.rank_correlation == pytest.approx(1)
    assert found.opposed == 0
    assert agreement(first, second).correlation < 0


def test_a_flat_a_missing_and_a_faint_map():
    values = np.array([1.0, -2, 3])
    assert np.isnan(agreement(values, np.zeros(3)).correlation)
    assert np.isnan(agreement(values, np.zeros(3)).opposed)
    assert np.isnan(agreement(values, np.array([1, np.nan, 2])).rank_correlation)
    assert agreement(values, 1e-170 * values).correlation == pytest.approx(1)
