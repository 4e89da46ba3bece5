"""Cutting networks, and the receptive fields and windows derived from their layers."""

import keras
import numpy as np
import pytest

from dr_lib.attribution import receptive_field, split_at, window_side
from dr_lib.network.graph import rebuilt
from dr_lib.network.layers import logits_model
from dr_lib.network.model import ModelParams, build


@pytest.fixture(scope="module")
def small():
    return build(ModelParams(backbone="small", input_size=64))


@pytest.mark.parametrize("name", ["stem", "mixed0", "mixed1", "mixed2", "pooled", "fc1", "fc2"])
def test_upper_after_lower_is_the_model_at_every_named_layer(small, name):
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    lower, upper = split_at(small, name)
    h = lower(x, training=False)
    np.testing.assert_allclose(upper(h, training=False), small(x, training=False), atol=1e-6)
    assert not set(map(id, upper.layers)) & (
        set(map(id, lower.layers)) - {id(small.get_layer(name))}
    )


def test_a_layer_that_others_go_round_is_refused_by_their_names(small):
    with pytest.raises(
        ValueError,
        match=(
            r"'mixed0_three_relu' does not cut the model in two: .*mixed0_one_relu,"
            r" mixed0_five_relu"
        ),
    ):
        split_at(small, "mixed0_three_relu")


def test_a_shortcut_is_named_even_when_it_is_the_input_itself():
    inputs = keras.Input((4,), name="eye")
    h = keras.layers.Dense(4, name="half")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([h, inputs]))
    with pytest.raises(ValueError, match="'half' does not cut the model in two: eye lead"):
        split_at(model, "half")


@pytest.mark.parametrize(
    ("name", "words"), [("fundus", "input"), ("stage", "output"), ("fc9", "no layer 'fc9'")]
)
def test_input_output_and_unknown_layers_are_refused(small, name, words):
    with pytest.raises(ValueError, match=words):
        split_at(small, name)


def test_a_layer_called_twice_is_refused():
    inputs = keras.Input((4,))
    twice = keras.layers.Dense(4, name="twice")
    with pytest.raises(ValueError, match="called 2 times"):
        split_at(keras.Model(inputs, keras.layers.Dense(1)(twice(twice(inputs)))), "twice")


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="functional"):
        split_at(Own(), "any")


def test_logits_are_the_model_without_its_softmax_and_follow_its_weights(small):
    x = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    logits = logits_model(small)
    before = small.get_layer("stage").get_weights()
    for scale in (1, 3):
        small.get_layer("stage").set_weights([scale * before[0], before[1] + 1])
        np.testing.assert_allclose(
            keras.ops.softmax(logits(x, training=False)), small(x, training=False), atol=1e-6
        )
    small.get_layer("stage").set_weights(before)


def test_logits_of_a_separate_softmax_layer_and_refusal_of_other_ends():
    inputs = keras.Input((4,))
    h = keras.layers.Dense(3, name="d")(inputs)
    separate = keras.Model(inputs, keras.layers.Activation("softmax")(h))
    assert logits_model(separate).outputs[0] is separate.layers[-2].output
    with pytest.raises(ValueError, match="must end in a softmax"):
        logits_model(keras.Model(inputs, h))


# Receptive fields


def field_by_experiment(lower, unit):
    """First and last pixel, per axis, whose change can change a unit: every weight 1, so that
    nothing hides by chance.
    """
    size = lower.inputs[0].shape[1]
    field = receptive_field(lower)
    start = [field.offset[axis] + unit[axis] * field.stride[axis] for axis in (0, 1)]
    base = np.asarray(lower(np.zeros((1, size, size, 1), np.float32)))[0, unit[0], unit[1], 0]
    seen = np.zeros((size, size), bool)
    batch = np.zeros((size * size, size, size, 1), np.float32)
    batch[np.arange(size * size), np.arange(size * size) // size, np.arange(size * size) % size] = 1
    seen[:] = (np.asarray(lower(batch))[:, unit[0], unit[1], 0] != base).reshape(size, size)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    found = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    derived = tuple(
        (max(start[axis], 0), min(start[axis] + field.size[axis], size)) for axis in (0, 1)
    )
    return found, derived


@pytest.mark.parametrize("size", [24, 25, 27])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_derived_field_is_what_an_experiment_finds(size, padding):
    ones = {"kernel_initializer": "ones", "bias_initializer": "zeros"}
    inputs = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(1, 3, strides=2, padding=padding, **ones)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.MaxPooling2D(2, strides=2, padding=padding)(x)
    left = keras.layers.Conv2D(1, (1, 3), padding="same", dilation_rate=(1, 2), **ones)(x)
    right = keras.layers.AveragePooling2D(3, strides=1, padding="same")(x)
    x = keras.layers.Activation("relu")(keras.layers.Concatenate()([left, right]))
    x = keras.layers.Conv2D(1, 1, **ones)(x)
    model = keras.Model(inputs, x)
    units = model.outputs[0].shape[1]
    found, derived = field_by_experiment(model, (units // 2, units // 2))
    assert found == derived
    for unit in ((0, 0), (units - 1, 1)):
        found, derived = field_by_experiment(model, unit)
        for axis in (
            0,
            1,
        ):  # strides may leave out the last pixels of an edge: the derived cone may only be larger
            assert derived[axis][0] <= found[axis][0] < found[axis][1] <= derived[axis][1]


def test_dense_layers_and_unknown_layers_see_everything(small):
    assert receptive_field(split_at(small, "fc1")[0]).whole
    inputs = keras.Input((16, 16, 3))
    unknown = keras.layers.Lambda(lambda x: x[:, ::-1], output_shape=(16, 16, 3))(inputs)
    assert window_side(keras.Model(inputs, unknown), 16) == 16


def test_a_rebuilt_model_shares_weights_and_leaves_the_first_alone(small):
    lower, _ = split_at(small, "stem")
    window = rebuilt(lower, 32)
    assert window.inputs[0].shape == (None, 32, 32, 3)
    assert {id(w) for w in window.weights} == {id(w) for w in lower.weights}
    assert lower.outputs[0].shape[1:] == (16, 16, 32)
    assert small.get_layer("stem").output.shape[1:] == (16, 16, 32)
