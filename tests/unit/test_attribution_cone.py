"""A unit from its receptive field alone: the same value and gradient as from the whole image,
wherever nothing is padded.
"""

import keras
import numpy as np
import pytest

from dr_lib.attribution import receptive_field, split_at
from dr_lib.attribution.receptive import cone
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build

RANDOM = np.random.default_rng(8)


def alive(params: ModelParams) -> keras.Model:
    """A network whose normalisations give each channel a scale and a threshold of its own."""
    model = build(params)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            *others, variance = layer.get_weights()
            layer.set_weights(
                [w + RANDOM.normal(size=w.shape) * 0.2 for w in others]
                + [variance * RANDOM.uniform(0.1, 0.5)]
            )
    return model


@pytest.fixture(scope="module")
def small():
    return alive(ModelParams(backbone="small", input_size=192))


@pytest.fixture(scope="module")
def inception():
    return alive(ModelParams(backbone="inception_v3", backbone_weights="none", input_size=160))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("small", "stem"), ("small", "mixed1"), ("inception", "stem"), ("inception", "mixed0")],
)
def test_a_cone_gives_the_unit_and_the_gradient_of_the_whole_image(name, layer, request):
    lower, _ = split_at(request.getfixturevalue(name), layer)
    field, size = receptive_field(lower), int(lower.inputs[0].shape[1])
    middle = int(lower.outputs[0].shape[1]) // 2
    rows, columns = field.pixels((middle, middle + 1))
    assert min(rows.start, columns.start) >= 0
    assert max(rows.stop, columns.stop) <= size
    x = RANDOM.normal(size=(2, size, size, 3)).astype(np.float32)
    unit = cone(lower)

    def whole(image):
        return lower(image, training=False)[:, middle, middle + 1]

    cotangent = RANDOM.normal(size=(2, lower.outputs[0].shape[-1])).astype(np.float32)
    exact, gradient = (
        np.array(a) for a in backend.vjp(whole, backend.tensor(x), backend.tensor(cotangent))
    )
    inside = backend.tensor(x[:, rows, columns].copy())
    found, inner = (np.asarray(a) for a in backend.vjp(unit, inside, backend.tensor(cotangent)))
    assert (found > 0).any()
    assert np.ptp(gradient[:, rows, columns]) > 0
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    np.testing.assert_allclose(
        inner, gradient[:, rows, columns], rtol=0, atol=5e-6 * np.abs(gradient).max()
    )
    gradient[:, rows, columns] = 0
    assert not gradient.any()  # and nothing else moves it


def test_branches_with_padding_strides_and_holes_of_their_own():
    inputs = keras.Input((40, 40, 2))
    x = keras.layers.Conv2D(4, 3, 2, "same", activation="relu")(inputs)
    wide = keras.layers.Conv2D(3, (5, 1), dilation_rate=(2, 1), padding="same")(x)
    pooled = keras.layers.AveragePooling2D(3, 1, "same")(x)
    joined = keras.layers.Concatenate()([wide, pooled, keras.layers.Conv2D(2, 1)(x)])
    lower = keras.Model(inputs, keras.layers.MaxPooling2D(3, 2)(joined))
    image = RANDOM.normal(size=(1, 40, 40, 2)).astype(np.float32)
    exact, unit = np.asarray(lower(image)), cone(lower)
    for place in ((4, 4), (3, 5)):
        rows, columns = receptive_field(lower).pixels(place)
        found = np.asarray(unit(backend.tensor(image[:, rows, columns].copy())))
        np.testing.assert_allclose(found[0], exact[0][place], atol=1e-5)


def test_what_has_no_cone_says_so(small):
    assert cone(split_at(small, "fc1")[0]) is None  # sees everything
    inputs = keras.Input((16, 16, 2))
    assert (
        cone(keras.Model(inputs, keras.layers.DepthwiseConv2D(3)(inputs))) is None
    )  # a layer that it does not know
