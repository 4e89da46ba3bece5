"""Baseline maps against the closed forms of a network small enough to differentiate by hand."""

import keras
import numpy as np
import pytest

from dr_lib.attribution.receptive import ReceptiveField, enlarged
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.localisation.baseline_maps import BaselineMaps, centre_prior, local_contrast
from dr_lib.network.model import scaled

SIZE = 32


@pytest.fixture(scope="module")
def network():
    """x → max(x · k, 0) at every pixel → mean over pixels → five logits → softmax."""
    inputs = keras.Input((SIZE, SIZE, 3), name="fundus")
    h = keras.layers.Conv2D(2, 1, activation="relu", use_bias=False, name="stem")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(h)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="stage")(pooled))
    rng = np.random.default_rng(0)
    model.get_layer("stem").set_weights([rng.normal(size=(1, 1, 3, 2)).astype(np.float32)])
    model.get_layer("stage").set_weights(
        [rng.normal(size=(2, 5)).astype(np.float32), np.zeros(5, np.float32)]
    )
    return model


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def test_gradient_maps_are_those_of_the_closed_form(network, pixels):
    """F = Σ_c v_c · mean_p max(x_p · k_c, 0), so ∂F/∂x_p = Σ_c v_c · k_c · [x_p · k_c > 0] /
    pixels.
    """
    kernel = network.get_layer("stem").get_weights()[0][0, 0]
    v = network.get_layer("stage").get_weights()[0][:, 3]
    x = scaled(pixels)
    h = np.maximum(x @ kernel, 0)
    gradient = (v * (h > 0)) @ kernel.T / SIZE**2
    found = BaselineMaps(network, "logit3", ("stem",)).maps(pixels, crop=0.1)
    assert list(found) == ["gradient", "gradient_input", "gradcam_stem", "centre", "contrast"]
    np.testing.assert_allclose(
        found["gradient"], np.abs(gradient).sum(axis=2), rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(
        found["gradient_input"], (x * gradient).sum(axis=2), rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(
        found["gradcam_stem"], np.maximum(h @ (v / SIZE**2), 0), rtol=1e-5, atol=1e-9
    )


def test_a_probabilitys_gradient_is_that_of_its_softmax(network, pixels):
    """P(stage ≥ 2) has ∂F/∂u_j = p_j · ([j ≥ 2] − P): a mixture of the logits' own gradients."""
    logits = [
        BaselineMaps(network, f"logit{stage}", ()).maps(pixels, crop=0.1)["gradient_input"]
        for stage in range(5)
    ]
    p = np.asarray(network(scaled(pixels)[None]))[0].astype(np.float64)
    slopes = p * ((np.arange(5) >= 2) - p[2:].sum())
    expected = np.tensordot(slopes, np.stack(logits), axes=1)
    found = BaselineMaps(network, "referable", ()).maps(pixels, crop=0.1)["gradient_input"]
    np.testing.assert_allclose(
        found, expected, rtol=1e-3, atol=1e-7 * np.abs(expected).max() + 1e-9
    )


def test_layers_without_positions_are_refused(network):
    with pytest.raises(ValueError, match="'pooled' has no positions"):
        BaselineMaps(network, "referable", ("pooled",))


def test_contrast_and_centre_know_no_network():
    blank = np.full((64, 64, 3), 128, np.uint8)
    spot = blank.copy()
    spot[20:23, 40:43] = 0
    contrast = local_contrast(spot)
    assert not local_contrast(blank).any()
    assert contrast.sum() == pytest.approx(9.0, rel=1e-6)
    prior = centre_prior(64, crop=0.1)
    assert (prior[~visible_disc(64, crop=0.1)] == 0).all()
    assert prior[32, 32] > prior[32, 40] > prior[32, 56] > 0


def test_a_layers_map_lies_on_the_centres_of_what_its_units_see():
    """Units every 8 px that see 15, the first from −2: centres at 5, 13, 21 …; linear between,
    constant beyond.
    """
    field = ReceptiveField(size=(15, 15), stride=(8, 8), offset=(-2, -2))
    values = np.add.outer(np.arange(5.0), 10 * np.arange(5.0)).astype(np.float32)
    found = enlarged(values, field, 64)
    for unit in range(5):
        assert found[5 + 8 * unit, 5] == pytest.approx(unit)
        assert found[5, 5 + 8 * unit] == pytest.approx(10 * unit)
    assert found[9, 5] == pytest.approx(0.5)
    assert found[0, 5] == 0
    assert found[63, 63] == pytest.approx(44)
