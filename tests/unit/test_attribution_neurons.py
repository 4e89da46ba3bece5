"""Neurons in bulk: chosen by rank, attributed on windows to the last bit, summed into
resultants.
"""

import functools

import attribution_reference as reference
import keras
import numpy as np
import pytest

from dr_lib.attribution import (
    Regions,
    integrated_gradients,
    neuron_regions,
    quadrature,
    receptive_field,
    resultant,
    split_at,
    strongest_neurons,
    window_side,
)
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import RefinementMaker, attributions
from dr_lib.attribution.neurons import NeuronEngine, weighted_sums
from dr_lib.attribution.quantities import identity_quantities
from dr_lib.attribution.receptive import window_origin
from dr_lib.network.graph import rectified
from dr_lib.network.model import ModelParams, build
from tests.unit.counting import counted

# Choosing


def test_strongest_are_sorted_and_ties_go_to_the_lowest_flat_index():
    values = np.zeros((2, 3, 2))
    values[0, 2, 1] = values[1, 0, 0] = values[0, 0, 1] = 5
    values[1, 2, 1], values[1, 1, 1], values[0, 0, 0] = 7, -2, -2
    positive, negative = strongest_neurons(values, 3)
    assert positive.tolist() == [[1, 2, 1], [0, 0, 1], [0, 2, 1]]
    assert negative.tolist() == [[0, 0, 0], [1, 1, 1]]  # only two are negative; zeros have no sign


def test_strongest_agree_with_a_full_sort_on_many_ties():
    values = np.random.default_rng(0).integers(-3, 4, (20, 20, 8)).astype(np.float32)
    for k in (1, 7, 500, 3000):
        for sign, found in zip((1, -1), strongest_neurons(values, k), strict=True):
            flat = sign * values.ravel()
            order = [
                i for i in sorted(range(flat.size), key=lambda i: (-flat[i], i)) if flat[i] > 0
            ][:k]
            assert np.ravel_multi_index(tuple(found.T), values.shape).tolist() == order


def test_values_that_are_not_finite_have_no_order():
    with pytest.raises(ValueError, match="finite"):
        strongest_neurons(np.array([1, np.nan]), 1)


# By hand and against the reference


def test_a_neuron_you_can_integrate_by_hand():
    # h = relu(x_left + 2 x_right − 3) per position of a 1×2 kernel: from 0 to (3, 3) it opens at a
    # = 1/3, so 3·2/3 and 6·2/3.
    inputs = keras.Input((1, 4, 1))
    conv = keras.layers.Conv2D(1, (1, 2), activation="relu", name="units")
    lower = keras.Model(inputs, conv(inputs))
    conv.set_weights([np.array([1, 2], np.float32).reshape(1, 2, 1, 1), np.array([-3], np.float32)])
    x = np.full((1, 1, 4, 1), 3, np.float32)
    found = neuron_regions(
        lower, x, np.zeros((1, 4, 1), np.float32), [np.array([[0, 1, 0]])], points=30
    )
    np.testing.assert_allclose(found.values[0, 0, 0, :, 0], [0, 2, 4, 0], atol=2e-6)
    assert abs(found.gap[0, 0]) < 2e-6


@pytest.fixture(scope="module")
def strided():
    """A reference net of stride 2 and its Keras twin: units see 3×3 px of a 24×24 image."""
    rng = np.random.default_rng(2)
    plain = reference.Net(
        rng.normal(size=(3, 3, 2, 3)),
        rng.normal(size=3) * 0.3,
        np.zeros((108, 5)),
        np.zeros(5),
        stride=2,
    )
    inputs = keras.Input((24, 24, 2))
    lower = keras.Model(
        inputs, keras.layers.Conv2D(3, 3, strides=2, padding="same", activation="relu")(inputs)
    )
    lower.set_weights([plain.kernel, plain.bias])
    images = rng.normal(size=(3, 24, 24, 2)).astype(np.float32)
    return plain, lower, images


EDGES = np.array(
    [
        [0, 0, 0],
        [0, 11, 1],
        [11, 0, 2],
        [11, 11, 0],
        [0, 5, 1],
        [5, 0, 2],
        [11, 6, 1],
        [6, 11, 0],
        [5, 6, 2],
    ]
)


def test_regions_agree_with_the_reference_at_corners_borders_and_inside(strided):
    plain, lower, images = strided
    baseline = np.full((24, 24, 2), 0.1, np.float32)
    assert window_side(lower, 24) == 4
    found = neuron_regions(
        lower, images, baseline, [EDGES, EDGES[::-1], EDGES], points=9, batch_size=2
    )
    assert found.values.shape == (3, 9, 4, 4, 2)
    laid = [resultant(Regions(found.values[:, r : r + 1], found.origin[:, r : r + 1], found.gap[:, r : r + 1]), np.ones((3, 1)), (24, 24))
            for r in range(9)]  # fmt: skip
    for image, rank in np.ndindex(3, 9):
        unit = EDGES[::-1][rank] if image == 1 else EDGES[rank]
        one_hot = np.zeros((12, 12, 3))
        one_hot[tuple(unit)] = 1
        gradient = functools.partial(plain.units_vjp, cotangent=one_hot)
        exact = reference.integrated(gradient, images[image], baseline, *quadrature("midpoint", 9))
        np.testing.assert_allclose(laid[rank][image], exact, atol=1e-5)
        change = plain.units(images[image])[tuple(unit)] - plain.units(baseline)[tuple(unit)]
        assert (
            abs(found.values[image, rank].sum(dtype=np.float64) - change - found.gap[image, rank])
            < 1e-5
        )
    assert np.ptp(np.abs(found.values).sum(axis=(2, 3, 4))) > 1  # live units


def test_a_layer_without_positions_takes_one_number_a_neuron_and_shares_passes():
    inputs = keras.Input((6, 6, 1))
    lower = keras.Model(
        inputs, keras.layers.Dense(20, activation="relu")(keras.layers.Flatten()(inputs))
    )
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 1)).astype(np.float32)
    zeros, units = (
        np.zeros((6, 6, 1), np.float32),
        [
            np.arange(11)[:, None],
            np.arange(9, 20)[:, None],
        ],
    )
    engine = NeuronEngine(lower, 4)
    evaluator = counted(engine.evaluator)
    found = engine.regions(x, zeros, units, RefinementMaker(6))
    every = integrated_gradients(lower, x, zeros, points=6, batch_size=4)
    np.testing.assert_allclose(found.values[0], every.values[0, :11], atol=1e-6)
    np.testing.assert_allclose(found.values[1], every.values[1, 9:], atol=1e-6)
    np.testing.assert_allclose(found.gap, [every.gap[0, :11], every.gap[1, 9:]], atol=1e-6)
    # A forward at both ends and at each of 6 points; then a pass back for every six neurons awake
    # at a point.
    assert evaluator.forward_rows == 2 * (2 + 6)
    awake = np.array([[[activations(lower, (k + 0.5) / 6 * image)[u] > 0 for u in own[:, 0]] for k in range(6)]
                      for image, own in zip(x, units, strict=True)])  # fmt: skip
    assert 0 < awake.sum() < awake.size
    assert evaluator.gradient_rows == np.ceil(awake.sum(axis=2) / 6).sum()


@pytest.mark.parametrize("shape", [(5,), (4, 3)], ids=["a vector", "a sequence"])
@pytest.mark.parametrize("tolerance", [None, 0.01], ids=["fixed points", "points that adapt"])
def test_an_input_that_is_no_image_is_the_region_of_every_neuron(shape, tolerance):
    rng = np.random.default_rng(4)
    inputs = keras.Input(shape)
    hidden = keras.layers.Dense(6, activation="tanh")(keras.layers.Flatten()(inputs))
    lower = keras.Model(inputs, keras.layers.Dense(8, activation="relu")(hidden))
    x, zeros = rng.normal(size=(3, *shape)).astype(np.float32), np.zeros(shape, np.float32)
    neurons = [rng.permutation(8)[:, None] for _ in x]
    settings = {"points": 64, "tolerance": tolerance, "max_points": 64}
    found = neuron_regions(lower, x, zeros, neurons, **settings)
    every = integrated_gradients(lower, x, zeros, points=64)
    assert found.values.shape == (3, 8, *shape)
    assert found.origin.shape == (3, 8, len(shape))
    assert (found.origin == 0).all()
    for image, order in enumerate(neurons):
        np.testing.assert_allclose(
            found.values[image], every.values[image, order[:, 0]], atol=0.02 if tolerance else 1e-6
        )
    # IG is linear in the neurons: their weighted sum is the IG of the weighted sum.
    weights = rng.normal(size=(3, 8))
    np.testing.assert_allclose(
        resultant(found, weights, shape),
        np.einsum("nk,nk...->n...", weights, found.values),
        atol=1e-5,
    )


def activations(lower, x):
    return np.asarray(lower(x[None], training=False))[0]


def test_neurons_of_many_images_fill_batches_and_compile_once(strided):
    _, lower, images = strided
    engine = NeuronEngine(lower, 4)
    evaluators = counted(engine.evaluator), counted(engine.inner)
    for _ in range(2):
        engine.regions(
            images, np.zeros((24, 24, 2), np.float32), [EDGES[:5]] * 3, RefinementMaker(8)
        )
    # Two of five see only the image: the rest need their window's padding.
    for evaluator, neurons in zip(evaluators, (9, 6), strict=True):
        assert evaluator.batch_size == 144  # windows of 4×4 px: as many as fill four images
        assert evaluator.forward_rows == 2 * neurons * 2
        assert evaluator.gradient_rows == 2 * neurons * 8
        assert evaluator.calls <= 2 * (neurons * 10 / 144 + 3)


def without_windows(monkeypatch):
    """Every engine made from now on runs its neurons on the whole image."""
    monkeypatch.setattr("dr_lib.attribution.neurons.window_side", lambda lower, size: size)


def test_points_at_which_a_neuron_sleeps_are_skipped_exactly(strided, monkeypatch):
    without_windows(monkeypatch)
    _, lower, images = strided
    zeros, passes, found = np.zeros((24, 24, 2), np.float32), [], []
    for skipping in (True, False):
        engine = NeuronEngine(lower, 4)
        assert engine.rectified
        engine.rectified = skipping
        evaluator = counted(engine.evaluator)
        found.append(engine.regions(images, zeros, [EDGES] * 3, RefinementMaker(8)))
        passes.append(evaluator.gradient_rows)
    np.testing.assert_allclose(found[0].values, found[1].values, atol=1e-6)
    np.testing.assert_allclose(found[0].gap, found[1].gap, atol=1e-6)
    assert passes[0] < passes[1] == 3 * 8 * 2  # nine neurons are two groups of at most six


def test_a_network_says_whether_its_zeros_are_asleep():
    inputs = keras.Input((8, 8, 2))
    linear = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    relu = keras.layers.Activation("relu")(linear)
    ends = {
        "linear": (linear, False),
        "relu": (relu, True),
        "layer": (keras.layers.ReLU()(linear), True),
        "leaky": (keras.layers.ReLU(negative_slope=0.1)(linear), False),
        "above a threshold": (keras.layers.ReLU(threshold=1.0)(linear), False),
        "joined": (
            keras.layers.Concatenate()([relu, keras.layers.MaxPooling2D(3, 1, "same")(relu)]),
            True,
        ),
        "joined with linear": (keras.layers.Concatenate()([relu, linear]), False),
        "pooled": (keras.layers.GlobalAveragePooling2D()(relu), True),
        "dense": (keras.layers.Dense(3, activation="relu")(keras.layers.Flatten()(linear)), True),
        "elu": (keras.layers.Dense(3, activation="elu")(keras.layers.Flatten()(relu)), False),
        "the image itself": (keras.layers.Identity()(inputs), False),
    }
    assert {name: rectified(keras.Model(inputs, end)) for name, (end, _) in ends.items()} == {
        n: e for n, (_, e) in ends.items()
    }


def test_neurons_that_adapt_keep_their_promise(strided):
    _, lower, images = strided
    zeros = np.zeros((24, 24, 2), np.float32)
    found = neuron_regions(
        lower, images, zeros, [EDGES] * 3, points=4, tolerance=0.01, max_points=200
    )
    exact = neuron_regions(lower, images, zeros, [EDGES] * 3, points=400)
    change = exact.values.sum(axis=(2, 3, 4)) - exact.gap
    assert (np.abs(found.gap) <= 0.01 * np.maximum(np.abs(change), 1e-3) + 1e-6).all()
    size = np.abs(exact.values).sum(axis=(2, 3, 4))
    assert (np.abs(found.values - exact.values).sum(axis=(2, 3, 4)) <= 0.1 * size + 1e-3).all()


def test_units_outside_the_layer_are_refused(strided):
    _, lower, images = strided
    for bad in ([12, 0, 0], [0, 0, 3], [-1, 0, 0]):
        with pytest.raises(ValueError, match=r"index into \(12, 12, 3\)"):
            neuron_regions(lower, images[:1], images[0] * 0, [np.array([bad])])
    with pytest.raises(ValueError, match="one index array for each input"):
        neuron_regions(lower, images, images[0] * 0, [EDGES])


# Resultants


def test_the_weighted_sum_of_regions_is_one_attribution_of_the_weighted_sum(strided):
    _, lower, images = strided
    zeros, rng = np.zeros((24, 24, 2), np.float32), np.random.default_rng(3)
    weights = rng.normal(size=(3, 2, 9))
    regions = neuron_regions(lower, images, zeros, [EDGES] * 3, points=16)
    dense = np.zeros((3, 2, 12, 12, 3), np.float32)
    for image, sign in np.ndindex(3, 2):
        dense[(image, sign, *EDGES.T)] = weights[image, sign]
    evaluator = counted(Evaluator(weighted_sums(lower), 8))
    refinement = RefinementMaker(16, "midpoint", None, 16)
    extras = (dense.reshape(3, 2, -1),)
    found = list(
        attributions(evaluator, identity_quantities(2), images, zeros, refinement, extras=extras)
    )
    assert evaluator.gradient_rows == 3 * 16  # both sums of an image share their passes
    for one in found:
        for sign in (0, 1):
            by_sum = resultant(regions, weights[:, sign], (24, 24))[one.index]
            np.testing.assert_allclose(one.values[sign], by_sum, atol=1e-5 * np.abs(by_sum).max())


def test_overlapping_windows_add_up():
    values = np.ones((1, 2, 2, 2, 1), np.float32)
    found = resultant(
        Regions(values, np.array([[[0, 0], [1, 1]]]), np.zeros((1, 2))),
        np.array([[1.0, -3.0]]),
        (3, 3),
    )
    assert found[0, ..., 0].tolist() == [[1, 1, 0], [1, -2, -3], [0, -3, -3]]


# Window against whole image, on the real architecture


@pytest.fixture(scope="module")
def inception():
    return build(ModelParams(backbone="inception_v3", backbone_weights="none", input_size=256))


@pytest.fixture(scope="module")
def inception_stem(inception):
    rng = np.random.default_rng(4)
    lower, _ = split_at(inception, "stem")
    for layer in (
        lower.layers
    ):  # a fresh normalisation does nothing: give each unit its own scale and threshold
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [
                    rng.normal(size=w.shape) * 0.2 + (i == len(layer.get_weights()) - 1)
                    for i, w in enumerate(layer.get_weights())
                ]
            )
    x = rng.normal(size=(1, 256, 256, 3)).astype(np.float32)
    h = np.asarray(lower(x, training=False))[0]
    return lower, x, h


def test_inception_fields_and_windows_at_256_px(inception):
    stem = receptive_field(split_at(inception, "stem")[0])
    assert stem.size == (23, 23)
    assert stem.stride == (4, 4)
    sides = {}
    for name in ("stem", "mixed0", "mixed1", "mixed2", "mixed3", "mixed4", "fc1"):
        lower, _ = split_at(inception, name)
        side = sides[name] = window_side(lower, 256)
        field = receptive_field(lower)
        if side < 256:
            assert (256 - side) % field.stride[0] == 0
            units = lower.outputs[0].shape[1]
            for unit in range(units):  # the whole cone, or the image's edge
                start, _ = window_origin(field, side, 256, (unit, 0))
                first = field.offset[0] + unit * field.stride[0]
                assert start % field.stride[0] == 0
                assert start <= max(first, 0)
                assert start + side >= min(first + field.size[0], 256)
    assert sides["stem"] <= 32
    assert sides["mixed2"] <= 144
    assert sides["mixed3"] <= 192
    assert sides["mixed4"] == sides["fc1"] == 256


def test_windows_of_inception_give_the_numbers_of_the_whole_image(inception_stem, monkeypatch):
    lower, x, h = inception_stem
    last = h.shape[0] - 1
    positions = [
        (0, 0),
        (0, last),
        (last, 0),
        (last, last),
        (0, 30),
        (31, 0),
        (last, 29),
        (28, last),
        (30, 31),
    ]
    # At each place the unit that is most alive, so that no equality is one of zeros.
    units = np.array([(y, x_, h[y, x_].argmax()) for y, x_ in positions])
    baseline = np.zeros((256, 256, 3), np.float32)
    windows = neuron_regions(lower, x, baseline, [units], points=4, batch_size=2)
    assert windows.values.shape[2] <= 32
    laid = np.zeros((9, 256, 256, 3), np.float32)
    for rank, (y, x_) in enumerate(windows.origin[0]):
        laid[rank, y : y + windows.values.shape[2], x_ : x_ + windows.values.shape[3]] = (
            windows.values[0, rank]
        )
    without_windows(monkeypatch)
    exact = NeuronEngine(lower, 4).regions(x, baseline, [units], RefinementMaker(4)).values[0]
    sizes = np.abs(exact).sum(axis=(1, 2, 3))
    assert sizes.min() > 1e-3
    assert len(set(sizes.tolist())) == 9
    # The same terms. Some processors' kernels add them in another order for another width, which
    # moves a few last bits (there 468 of 1.8 million numbers, by 2e-9); others give the very bits.
    np.testing.assert_allclose(laid, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
