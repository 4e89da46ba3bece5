"""Special units one by one: on networks whose every weight is written by hand."""

import keras
import numpy as np
import pandas as pd
import pytest

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.neurons import weighted_sums
from dr_lib.linearity import LinearityParams, special_units, unit_effects, unit_region

# Unit 0 argues for stage 1, unit 1 against it and for stage 0, unit 2 for nothing.
WEIGHTS = np.array([[0, 2, 0, 0, 0], [1.5, -1, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
PARAMS = LinearityParams(layers=("fc1",), points=64, conv_points=64, special_units=2)


def softmax(u):
    p = np.exp(u - u.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def above(shape):
    """A softmax over the units (of a convolutional layer: over its channels' means)."""
    inputs = keras.Input(shape)
    h = keras.layers.GlobalAveragePooling2D()(inputs) if len(shape) == 3 else inputs
    dense = keras.layers.Dense(5, activation="softmax", use_bias=False)
    model = keras.Model(inputs, dense(h))
    dense.set_weights([WEIGHTS])
    return model


def test_a_unit_s_rows_say_what_it_argues_for_and_what_is_without_it():
    """On softmax(W h): attributions sum to p(h) − p(h'), and without unit j the outcome is
    softmax(W h) with h_j = h'_j.
    """
    h, h0 = np.float32([[1.0, 0.5, 3.0], [0.2, 2.0, 3.0]]), np.float32([0.1, 0.0, 3.0])
    verdicts = {0: "reversed", 1: "constant", 2: "constant"}
    rows = pd.DataFrame(
        unit_effects(["1_left", "1_right"], "fc1", above((3,)), h, h0, verdicts, PARAMS)
    )
    assert len(rows) == 6
    whole = softmax(h @ WEIGHTS)
    for image, image_id in enumerate(("1_left", "1_right")):
        part = rows[rows["image_id"] == image_id].set_index("unit")
        maps = part[[f"attribution_stage{stage}" for stage in range(5)]].to_numpy()
        # 64 midpoints: their error falls with the square of their number.
        np.testing.assert_allclose(
            maps.sum(axis=0), whole[image] - softmax(h0 @ WEIGHTS), atol=5e-5
        )
        for unit in range(3):
            changed = h[image].copy()
            changed[unit] = h0[unit]
            effect = part.loc[unit, [f"effect_stage{stage}" for stage in range(5)]].to_numpy(float)
            np.testing.assert_allclose(effect, softmax(changed @ WEIGHTS) - whole[image], atol=1e-6)
            assert part.loc[unit, "predicted_after"] == softmax(changed @ WEIGHTS).argmax()
        np.testing.assert_allclose(part["activation_difference"], h[image] - h0, atol=1e-6)
    first = rows[(rows["unit"] == 0) & (rows["rank"] == 0)].iloc[0]
    assert (first["image_id"], first["predicted_before"], first["predicted_after"]) == (
        "1_left",
        1,
        0,
    )
    assert first["attribution_stage1"] > 0 > first["attribution_stage0"]
    assert (rows.loc[rows["unit"] == 1, "attribution_stage0"] > 0).all()
    nothing = rows[rows["unit"] == 2]
    assert (nothing[["attribution_stage1", "effect_stage1"]].to_numpy() == 0).all()
    assert (nothing["predicted_before"] == nothing["predicted_after"]).all()


def test_a_channel_is_set_to_its_baseline_at_every_position():
    h = np.random.default_rng(0).uniform(0, 1, (2, 4, 5, 3)).astype(np.float32)
    h0 = np.random.default_rng(1).uniform(0, 0.2, (4, 5, 3)).astype(np.float32)
    rows = unit_effects(
        ["1_left", "1_right"], "mixed0", above((4, 5, 3)), h, h0, {0: "reversed"}, PARAMS
    )
    means, start = h.mean(axis=(1, 2)), h0.mean(axis=(0, 1))
    for row in rows:
        image = ["1_left", "1_right"].index(row["image_id"])
        changed = means[image].copy()
        changed[0] = start[0]
        effect = [row[f"effect_stage{stage}"] for stage in range(5)]
        np.testing.assert_allclose(
            effect, softmax(changed @ WEIGHTS) - softmax(means[image] @ WEIGHTS), atol=1e-6
        )
        assert row["activation_difference"] == pytest.approx(means[image, 0] - start[0], abs=1e-6)


def test_a_region_is_the_unit_s_own_weights_times_the_pixels_offset():
    """Below: an average pool of 2 × 2 and 1 × 1 weights. A channel's mean is then its weights'
    dot with the image's mean.
    """
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.AveragePooling2D(2)(inputs)
    conv = keras.layers.Conv2D(2, 1, use_bias=False)
    lower = keras.Model(inputs, conv(pooled))
    weights = np.array([[1.0, 0.5], [2.0, -1.0], [-3.0, 0.25]], np.float32)
    conv.set_weights([weights[None, None]])
    x, blank = (
        np.random.default_rng(2).normal(size=(8, 8, 3)).astype(np.float32),
        np.zeros((8, 8, 3), np.float32),
    )
    params = LinearityParams(region_points=4)
    region = unit_region(Evaluator(weighted_sums(lower), 2), x, blank, (4, 4, 2), 1, params)
    np.testing.assert_allclose(region, (x * weights[:, 1]).sum(axis=-1) / 64, rtol=1e-4, atol=1e-6)
    flat = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(lower(inputs)))
    region = unit_region(Evaluator(weighted_sums(flat), 2), x, blank, (2,), 1, params)
    np.testing.assert_allclose(region, (x * weights[:, 1]).sum(axis=-1) / 64, rtol=1e-4, atol=1e-6)


def test_special_units_are_the_constant_and_reversed_ones_largest_first():
    verdicts = pd.DataFrame(
        {
            "layer": ["fc1"] * 5 + ["fc2"],
            "unit": [0, 1, 2, 3, 4, 0],
            "verdict": ["linear", "constant", "reversed", "constant", "dead", "linear"],
            "mean_attribution": [9.0, 0.1, -0.3, 0.1, 0.0, 1.0],
        }
    )
    assert special_units(verdicts, PARAMS) == {"fc1": [2, 1]}
    assert special_units(verdicts, LinearityParams(special_units=9)) == {"fc1": [2, 1, 3]}
    assert special_units(verdicts, LinearityParams(special_units=0)) == {}
