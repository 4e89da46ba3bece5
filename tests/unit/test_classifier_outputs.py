"""Probabilities and log-probability gradients of a model, against closed forms of a linear
softmax.
"""

import keras
import numpy as np
import pytest

from dr_lib.network import backend
from dr_lib.network.classifier_outputs import ClassifierOutputs


@pytest.fixture(scope="module")
def linear():
    """A softmax over a linear map of 2×2 RGB images, and its weights (12, 5)."""
    inputs = keras.Input((2, 2, 3), name="fundus")
    dense = keras.layers.Dense(5, activation="softmax", use_bias=False, name="stage")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    weights = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    dense.set_weights([weights])
    return model, weights


def images(count):
    return np.random.default_rng(1).normal(size=(count, 2, 2, 3)).astype(np.float32)


def softmax(u):
    p = np.exp(u - u.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_features_are_the_pooled_layers_activations():
    inputs = keras.Input((4, 4, 3), name="fundus")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="stage")(pooled))
    x = np.random.default_rng(2).normal(size=(3, 4, 4, 3)).astype(np.float32)
    outcomes = ClassifierOutputs(model, batch_size=2)
    np.testing.assert_allclose(outcomes.features(x), x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert outcomes.features(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_probabilities_are_the_softmax_whatever_the_number_of_images(linear, count):
    model, weights = linear
    x = images(count)
    found = ClassifierOutputs(model, batch_size=4).predict(x)
    # float32 exp and log: a few units in the last place
    np.testing.assert_allclose(found, softmax(x.reshape(count, 12) @ weights), rtol=2e-6)


def test_the_gradient_of_a_log_probability_is_its_weights_minus_their_mean(linear):
    """d log p_t / dx = W_t − Σ_s p_s W_s for a linear softmax."""
    model, weights = linear
    x = images(7)
    p = softmax(x.reshape(7, 12) @ weights)
    expected = (weights[:, 3] - p @ weights.T).reshape(7, 2, 2, 3)
    np.testing.assert_allclose(
        ClassifierOutputs(model, batch_size=4).gradient(x, 3), expected, rtol=1e-5, atol=1e-6
    )


def test_a_saturated_stage_still_has_a_gradient(linear):
    model, _ = linear
    x = 200 * images(
        3
    )  # logits of hundreds: the probability of the least likely stage is exactly 0 in float32
    outcomes = ClassifierOutputs(model, batch_size=4)
    p = outcomes.predict(x)
    stage = int(p[0].argmin())
    assert p[0, stage] == 0.0
    assert np.abs(outcomes.gradient(x, stage)[0]).max() > 0.1


def test_batches_are_halved_where_memory_runs_out(linear, monkeypatch):
    model, _ = linear
    x = images(7)
    outcomes, spared = (ClassifierOutputs(model, batch_size=8) for _ in range(2))
    tensor, asked = backend.tensor, []

    def scarce(array):
        asked.append(len(array))
        if len(array) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 12 GiB")
        return tensor(array)

    monkeypatch.setattr(backend, "tensor", scarce)
    found = spared.predict(x), spared.gradient(x, 3)
    assert asked[:3] == [8, 4, 2]
    monkeypatch.undo()
    for few, all_at_once in zip(found, (outcomes.predict(x), outcomes.gradient(x, 3)), strict=True):
        np.testing.assert_allclose(few, all_at_once, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(backend, "tensor", lambda array: scarce(np.zeros(3)))
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        spared.predict(x)
