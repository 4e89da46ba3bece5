"""The complete explanation of a few eyes: every array of the store, in agreement with the
engine's parts.
"""

from dataclasses import asdict

import numpy as np
import pytest

from dr_lib.attribution import (
    AttributionParams,
    explain,
    integrated_gradients,
    neuron_regions,
    resultant,
    split_at,
    strongest_neurons,
)
from dr_lib.attribution.receptive import receptive_field
from dr_lib.network.model import ModelParams, build, scaled

STAGES = ("stage0", "stage1", "stage2", "stage3", "stage4")
SIZE, N, K, DEEP = 64, 3, 3, 2


@pytest.fixture(scope="module")
def model():
    """A small net sharpened like a trained one, so that outcomes differ between eyes."""
    model = build(ModelParams(backbone="small", input_size=SIZE, seed=3))
    stage = model.get_layer("stage")
    kernel, bias = stage.get_weights()
    stage.set_weights([kernel * 2, bias + np.array([1, 0, 0.5, 0, 0], np.float32)])
    rng = np.random.default_rng(0)
    for (
        layer
    ) in model.layers:  # thresholds, without which a net of ReLUs is linear along the line from 0
        if layer.name.endswith("_norm"):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, rng.normal(size=beta.shape) * 0.2 - 0.1, mean, variance])
    return model


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (N, SIZE, SIZE, 3)).astype(np.uint8)


PARAMS = AttributionParams(
    layers=("stem", "fc1"),
    neurons=K,
    deep_neurons=DEEP,
    resultant_neurons=40,
    neuron_points=8,
    batch_size=4,
    tolerance=0.02,
    residual_tolerance=0.02,
    layer_points=16,
)


@pytest.fixture(scope="module")
def explainer(model):
    return explain.Explainer(model, PARAMS)


@pytest.fixture(scope="module")
def arrays(explainer, pixels):
    found = explainer.explain(pixels)
    assert set(explainer.seconds) == {"pixels", "stem", "fc1", "lesion"}
    return found


def test_every_array_has_the_stores_name_shape_and_type(model, arrays):
    shapes = explain.layer_shapes(model, PARAMS)
    fields = {name: asdict(receptive_field(split_at(model, name)[0])) for name in ("stem", "fc1")}
    assert shapes["stem"] == explain.LayerShape((16, 16, 32), 16, K, fields["stem"])
    assert shapes["fc1"] == explain.LayerShape((256,), 64, DEEP, fields["fc1"])
    expected = {
        "pixels/attribution": ((N, 6, SIZE, SIZE), "float32"),
        "pixels/failed": ((N,), "bool"),
    }
    expected |= {
        f"pixels/{key}": ((N, 6), "float32")
        for key in ("outcome", "baseline_outcome", "gap", "map_error")
    }
    expected |= {"pixels/points": ((N, 6), "int32"), "pixels/converged": ((N, 6), "bool")}
    expected |= {"lesion/map": ((N, SIZE, SIZE), "float32")}
    for name, shape in shapes.items():
        layer = {
            "neuron": ((N, 2, shape.neurons, len(shape.unit_shape)), "int16"),
            "region_origin": ((N, 2, shape.neurons, 2), "int16"),
        }
        layer |= dict.fromkeys(
            ("neuron_attribution", "activation", "baseline_activation", "neuron_gap"),
            ((N, 2, shape.neurons), "float32"),
        )
        layer |= {
            "region": ((N, 2, shape.neurons, shape.window, shape.window), "float32"),
            "resultant": ((N, 2, SIZE, SIZE), "float32"),
        }
        layer |= {
            "channel_attribution": ((N, shape.unit_shape[-1]), "float32"),
            "channel_activation": ((N, shape.unit_shape[-1]), "float32"),
            "channel_place": ((N, shape.unit_shape[-1], 2, 2), "int16"),
            "gap": ((N,), "float32"),
            "points": ((N,), "int32"),
        }
        expected |= {f"layers/{name}/{key}": value for key, value in layer.items()}
    assert {path: (array.shape, str(array.dtype)) for path, array in arrays.items()} == expected
    assert not arrays["pixels/failed"].any()


def test_pixel_maps_are_those_of_the_probabilities(model, pixels, arrays):
    x, zeros = scaled(pixels), np.zeros((SIZE, SIZE, 3), np.float32)
    exact = integrated_gradients(model, x, zeros, points=256).values.sum(axis=-1)
    found = arrays["pixels/attribution"]
    error = np.abs(found[:, :5] - exact).sum(axis=(2, 3)) / np.abs(exact).sum(axis=(2, 3))
    # Two approximations of one integral, of which one stops at a gap of 2 %. That bounds a sum, not
    # a map: decisions to cut fall one way or the other by rounding, so the worst of the fifteen is
    # 0.075 with some kernels and 0.116 with others.
    assert error.mean() < 0.06
    assert error.max() < 0.15
    np.testing.assert_allclose(arrays["pixels/outcome"][:, :5], np.asarray(model(x)), atol=1e-6)
    difference = arrays["pixels/outcome"] - arrays["pixels/baseline_outcome"]
    np.testing.assert_allclose(found.sum(axis=(2, 3)) - difference, arrays["pixels/gap"], atol=1e-5)
    assert arrays["pixels/converged"].all()
    assert (
        np.abs(arrays["pixels/gap"]) <= 0.05 * np.maximum(np.abs(difference), PARAMS.floor) + 1e-6
    ).all()
    largest = np.abs(found).max()
    assert np.abs(found[:, :5].sum(axis=1)).max() < 1e-5 * largest
    np.testing.assert_allclose(found[:, 5], found[:, 2:5].sum(axis=1), atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["stem", "fc1"])
def test_layer_arrays_agree_with_the_parts_they_are_made_of(model, pixels, arrays, name):
    x, zeros = scaled(pixels), np.zeros((SIZE, SIZE, 3), np.float32)
    lower, upper = split_at(model, name)
    h, h0 = np.asarray(lower(x)), np.asarray(lower(zeros[None]))[0]
    predicted = np.asarray(model(x)).argmax(axis=1)
    part = {
        key.rsplit("/", 1)[1]: value
        for key, value in arrays.items()
        if key.startswith(f"layers/{name}/")
    }
    whole = integrated_gradients(upper, h, h0, points=256)
    kept = {"stem": K, "fc1": DEEP}[name]
    for image, stage in enumerate(predicted):
        exact = whole.values[image, stage]
        scale = np.abs(exact).max()
        channels = exact.reshape(-1, exact.shape[-1]).sum(axis=0)
        np.testing.assert_allclose(
            part["channel_attribution"][image], channels, atol=0.1 * np.abs(channels).max()
        )
        active = h[image].reshape(-1, h.shape[-1])
        np.testing.assert_allclose(part["channel_activation"][image], active.max(axis=0), atol=1e-5)
        found = part["channel_place"][image]
        if name == "stem":
            alive = np.flatnonzero(active.max(axis=0) > 0)
            place = (*found[alive, 1].T, alive)
            np.testing.assert_allclose(h[image][place], active.max(axis=0)[alive], atol=1e-5)
            largest = np.abs(exact).max(axis=(0, 1))[alive]
            error = largest - np.abs(exact[(*found[alive, 0].T, alive)])
            assert error.max() < 0.05 * scale
        else:
            assert (found == -1).all(), "a dense layer has no places"
        for sign, neurons in enumerate(strongest_neurons(exact, kept)):
            chosen = tuple(part["neuron"][image, sign].T)
            np.testing.assert_allclose(
                part["neuron_attribution"][image, sign], exact[tuple(neurons.T)], atol=0.05 * scale
            )
            np.testing.assert_allclose(part["activation"][image, sign], h[image][chosen], atol=1e-5)
            np.testing.assert_allclose(
                part["baseline_activation"][image, sign], h0[chosen], atol=1e-5
            )
    # Both signs together: deep neurons share their points with their neighbours. A quarter of the
    # most to start with.
    neurons = list(part["neuron"].reshape(N, 2 * kept, -1).astype(int))
    settings = {"points": 2, "max_points": 8, "tolerance": PARAMS.tolerance, "batch_size": 4}
    settings |= {"floor": PARAMS.floor, "residual_tolerance": 100.0}
    regions = neuron_regions(lower, x, zeros, neurons, **settings)
    np.testing.assert_array_equal(regions.origin, part["region_origin"].reshape(N, 2 * kept, 2))
    exact = regions.values.sum(axis=-1)
    np.testing.assert_allclose(
        part["region"].reshape(exact.shape), exact, atol=1e-5 * np.abs(exact).max()
    )
    np.testing.assert_allclose(part["neuron_gap"].reshape(N, 2 * kept), regions.gap, atol=1e-5)


def test_the_resultant_is_the_weighted_sum_of_the_regions_when_no_more_neurons_are_in_it(
    model, pixels
):
    params = AttributionParams(
        layers=("stem",),
        neurons=4,
        resultant_neurons=4,
        neuron_points=64,
        tolerance=0.0,
        layer_points=64,
    )
    arrays = explain.Explainer(model, params).explain(pixels[:1])
    lower, _ = split_at(model, "stem")
    x, zeros = scaled(pixels[:1]), np.zeros((SIZE, SIZE, 3), np.float32)
    for sign in (0, 1):
        neurons = arrays["layers/stem/neuron"][:, sign].astype(int)
        regions = neuron_regions(lower, x, zeros, list(neurons), points=64)
        exact = resultant(
            regions, arrays["layers/stem/neuron_attribution"][:, sign], (SIZE, SIZE)
        ).sum(axis=-1)
        np.testing.assert_allclose(
            arrays["layers/stem/resultant"][:, sign], exact, atol=1e-5 * np.abs(exact).max()
        )


def test_images_do_not_depend_on_the_batch_they_come_in(explainer, pixels, arrays):
    alone = explainer.explain(pixels[1:2])
    for path, array in alone.items():
        np.testing.assert_array_equal(array[0], arrays[path][1], err_msg=path)


def test_an_eye_that_is_not_finite_is_marked_and_the_others_are_untouched(
    explainer, pixels, arrays, monkeypatch
):

    def spoilt(batch):
        x = scaled(batch)
        x[1] = np.nan
        return x

    monkeypatch.setattr(explain, "scaled", spoilt)
    found = explainer.explain(pixels)
    assert found["pixels/failed"].tolist() == [False, True, False]
    for path, array in found.items():
        if array.dtype.kind == "f":
            assert np.isnan(array[1]).all(), path
        np.testing.assert_array_equal(array[[0, 2]], arrays[path][[0, 2]], err_msg=path)
    assert (found["layers/stem/neuron"][1] == -1).all()
    assert not found["pixels/converged"][1].any()


def test_fewer_neurons_than_asked_for_are_padded(model, pixels):
    params = AttributionParams(
        quantities=("stage2",),
        layers=("fc2",),
        layer_quantity="referable",
        neurons=64,
        deep_neurons=0,
        neuron_points=2,
    )
    found = explain.Explainer(model, params).explain(pixels[:1])
    neuron, value = found["layers/fc2/neuron"][0, ..., 0], found["layers/fc2/neuron_attribution"][0]
    missing = neuron < 0
    assert missing.any()
    assert not missing.all()
    np.testing.assert_array_equal(np.isnan(value), missing)
    np.testing.assert_array_equal(
        np.isnan(found["layers/fc2/region"][0]).all(axis=(-2, -1)), missing
    )
    assert (found["layers/fc2/region_origin"][0][missing] == -1).all()
    assert (value[0][~missing[0]] > 0).all()
    assert (value[1][~missing[1]] < 0).all()
    assert not found["pixels/failed"].any()


def test_a_layer_that_is_no_cut_is_refused_before_any_work(model):
    with pytest.raises(ValueError, match="does not cut the model in two"):
        explain.layer_shapes(model, AttributionParams(layers=("mixed0_three_relu",)))


def test_the_batch_size_follows_the_free_memory(model):
    assert explain.suggested_batch_size(model, 10**12) == 4
    assert explain.suggested_batch_size(model, 10**6) == 1
    sizes = [explain.suggested_batch_size(model, 2**k) for k in range(20, 36)]
    assert sizes == sorted(sizes)


def test_an_accelerator_gets_larger_batches(model, monkeypatch):
    monkeypatch.setattr("dr_lib.network.backend.device", lambda: "1 GPU")
    assert explain.suggested_batch_size(model, 10**12) == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantities": ("stage7",)}, "a quantity is"),
        ({"quantities": ()}, "at least one"),
        ({"layers": ("stem", "stem")}, "named once"),
        ({"layer_quantity": "most"}, "a quantity is"),
        ({"tolerance": 1.5}, "below 1"),
        ({"rule": "left"}, "tolerance = 0"),
        ({"rule": "simpson", "tolerance": 0.0}, "rule must be"),
        ({"floor": 0.0}, "floor"),
        ({"max_points": 4}, "max_points"),
        ({"neurons": 0}, "at least 1"),
        ({"batch_size": -1}, "batch_size"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(ValueError, match=words) as refusal:
        AttributionParams(**settings)
    assert "\n" not in str(refusal.value)
