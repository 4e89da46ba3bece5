"""The lesion map: closed form in a network without bends, symmetry under the eye's poses."""

import keras
import numpy as np
import pytest

from dr_lib.attribution import AttributionParams
from dr_lib.evaluation.grading import posed
from dr_lib.maps.lesion_map import LesionMapper, unposed
from dr_lib.network.layers import logits_model
from dr_lib.network.model import ModelParams, build, scaled

SIZE = 32


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def logits():
    model = build(ModelParams(backbone="small", input_size=SIZE, dense=(16,), seed=1))
    return logits_model(model)


def test_of_a_linear_network_it_is_weight_times_pixel(pixels):
    """Logits (0, a, −∞, −∞, −∞), a = Σ w·x: the log-odds are a itself, and every pixel's share
    is |w_c · x_c|, in any pose.
    """
    inputs = keras.Input((SIZE, SIZE, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(5)
    network = keras.Model(inputs, dense(mean))
    kernel = np.zeros((3, 5), np.float32)
    kernel[:, 1] = w = [2.0, -1.0, 0.5]
    dense.set_weights([kernel, np.array([0, 0, -1e9, -1e9, -1e9], np.float32)])
    expected = np.abs(scaled(pixels) * w).sum(axis=-1) / SIZE**2
    for poses in (1, 4):
        found = LesionMapper(network, poses=poses, points=1, batch_size=2).maps(pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_with_eight_poses_a_turned_eye_has_the_turned_map(logits, pixels):
    """The poses are a group: in another order the same eight maps are averaged. One pose alone
    has no such symmetry.
    """
    eight, one = (LesionMapper(logits, poses=poses, points=2, batch_size=4) for poses in (8, 1))
    straight, single = eight.maps(pixels), one.maps(pixels)
    for number in (1, 2, 5):
        turned = unposed(eight.maps(posed(pixels, number)), number)
        np.testing.assert_allclose(turned, straight, rtol=1e-3, atol=1e-5 * straight.max())
    assert np.abs(unposed(one.maps(posed(pixels, 2)), 2) - single).max() > 0.01 * single.max()


def test_the_enlarged_fundus_adds_a_map_of_the_same_evidence(pixels):
    """Logits (0, a, −∞, −∞, −∞), a = Σ w·x over all pixels divided by their number: an even fundus
    has the same log-odds at any size, so both maps are the same and so is their mean.
    """
    inputs = keras.Input((SIZE, SIZE, 3))
    dense = keras.layers.Dense(5)
    network = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(inputs)))
    kernel = np.zeros((3, 5), np.float32)
    kernel[:, 1] = w = [2.0, -1.0, 0.5]
    dense.set_weights([kernel, np.array([0, 0, -1e9, -1e9, -1e9], np.float32)])
    even = np.full((1, SIZE, SIZE, 3), 200, np.uint8)
    mapper = LesionMapper(network, poses=8, points=1, batch_size=4, enlargement=1.5)
    expected = np.abs(scaled(even) * w).sum(axis=-1) / SIZE**2
    np.testing.assert_allclose(mapper.maps(even), expected, rtol=1e-5)
    assert mapper.maps(pixels).shape == pixels.shape[:3]


def test_impossible_settings_are_refused():
    with pytest.raises((ValueError, TypeError), match="lesion_poses"):  # beartype's, in tests
        AttributionParams(lesion_poses=3)
    with pytest.raises(ValueError, match="needs at least 1 point"):
        AttributionParams(lesion_points=0)
