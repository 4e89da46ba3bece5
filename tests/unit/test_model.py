"""The same names in every model, the trunk's weights where they belong, and one clear line when
they can't be had.
"""

import dataclasses
import os

import keras
import numpy as np
import pytest

from dr_lib.network.model import (
    BACKBONES,
    ModelParams,
    build,
    layer_names,
    probabilities,
    scaled,
)

# Keras copies TensorFlow's variables when it saves them; TensorFlow 2.21's variables don't know
# NumPy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SMALL = ModelParams(backbone="small", backbone_weights="none", input_size=64, dense=(16, 8))


def names(model):
    return [layer.name for layer in model.layers]


@pytest.fixture(scope="module")
def small():
    return build(SMALL)


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory):
    """Inception V3 without its top, and the weights-only file it wrote."""
    base = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(256, 256, 3)
    )
    draws = np.random.default_rng(0)
    # Running statistics start at 0 and 1: without noise a test could not tell that they were
    # brought along.
    base.set_weights(
        [
            weight + draws.uniform(0, 0.01, weight.shape).astype(np.float32)
            for weight in base.get_weights()
        ]
    )
    path = tmp_path_factory.mktemp("trunk") / "trunk.weights.h5"
    base.save_weights(path)
    return base, path


@pytest.fixture(scope="module")
def inception(trunk_file):
    return build(ModelParams(backbone_weights=str(trunk_file[1])))


@pytest.fixture
def little_inception(monkeypatch):
    """Stands in for keras' Inception V3, which takes seconds to build: five convolutions and one
    named block.
    """

    def create(include_top, weights, input_shape):
        inputs = x = keras.Input(input_shape)
        for _ in range(5):
            x = keras.layers.Conv2D(2, 3, strides=2, padding="same", use_bias=False)(x)
            x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(scale=False)(x))
        x = keras.layers.MaxPooling2D(1)(x)
        return keras.Model(inputs, keras.layers.Concatenate(name="mixed0")([x, x]))

    monkeypatch.setattr(keras.applications, "InceptionV3", create)
    return create


def test_scaling_sends_half_gray_to_zero_exactly():
    np.testing.assert_array_equal(
        scaled(np.array([[0, 64, 128, 192, 255]], np.uint8)), [[-1, -0.5, 0, 0.5, 127 / 128]]
    )
    assert scaled(np.zeros(3, np.uint8)).dtype == np.float32


def test_the_contracts_layers_are_there_in_order(small, inception):
    contract = ["fundus", "stem", "mixed0", "mixed1", "mixed2", "pooled", "fc1"]
    for model in (small, inception):
        assert [name for name in names(model) if name in contract] == contract
        assert names(model)[-1] == "stage"
        assert model.output.shape == (None, 5)
    assert "fc2" in names(small)
    assert "mixed10" in names(inception)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_trunk_has_a_name_for_people_and_the_layers_it_promises_at_its_smallest_input(name):
    trunk = BACKBONES[name]
    params = ModelParams(name, "none", dense=(4,), input_size=trunk.smallest_input)
    built = names(build(params))
    assert [layer for layer in built if layer in layer_names(params)] == list(layer_names(params))
    assert trunk.title
    with pytest.raises(ValueError, match=f"at least {trunk.smallest_input} px for {name}"):
        dataclasses.replace(params, input_size=trunk.smallest_input - 1)


def test_the_stem_of_inception_is_the_fifth_convolutions_activation(inception):
    stem = inception.get_layer("stem")
    assert stem.output.shape == (None, 60, 60, 192)
    assert stem.activation is keras.activations.relu
    before = names(inception)[: names(inception).index("stem")]
    assert sum(isinstance(inception.get_layer(name), keras.layers.Conv2D) for name in before) == 5
    assert inception.get_layer("mixed0").output.shape == (None, 29, 29, 256)
    assert inception.get_layer("pooled").output.shape == (None, 2048)
    assert [inception.get_layer(name).units for name in ("fc1", "fc2", "stage")] == [256, 64, 5]


def test_names_and_first_weights_do_not_depend_on_what_was_built_before(little_inception):
    keras.layers.Conv2D(1, 1)  # moves keras' counters
    for params in (SMALL, ModelParams(backbone_weights="none", dense=(8,))):
        first, second = build(params), build(params)
        assert names(first) == names(second)
        for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert names(second)[:4] == ["fundus", "conv1", "norm1", "relu1"]
    # No two layers draw the same numbers although all come from one seed.
    assert not np.array_equal(
        second.get_layer("conv3").get_weights()[0], second.get_layer("conv4").get_weights()[0]
    )


def test_running_statistics_remember_ten_mini_batches_in_every_trunk(small, inception):
    norms = [
        layer
        for model in (small, inception)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 94 + 15
    assert {layer.momentum for layer in norms} == {0.9}


def test_another_seed_is_another_start(small):
    other = build(dataclasses.replace(SMALL, seed=1))
    kernel = "conv1_conv"
    assert not np.array_equal(
        small.get_layer(kernel).get_weights()[0], other.get_layer(kernel).get_weights()[0]
    )


def test_the_trunks_file_gives_the_trunks_features_exactly(trunk_file, inception):
    base, _ = trunk_file
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    ours = keras.Model(inception.inputs[0], inception.get_layer("mixed10").output)
    # The same operations in the same order on the same numbers.
    np.testing.assert_array_equal(
        np.asarray(ours(pixels, training=False)), np.asarray(base(pixels, training=False))
    )


def test_small_stem_sees_15_px_and_has_stride_4(small):
    stem = keras.Model(small.inputs[0], small.get_layer("stem").output)
    assert stem.output.shape == (None, 16, 16, 32)
    draws = np.random.default_rng(0)
    quiet = draws.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    reach = set()
    for x in range(64):
        touched = quiet.copy()
        touched[0, :, x] += 1
        changed = np.asarray(stem(touched))[0, 8, 8] != np.asarray(stem(quiet))[0, 8, 8]
        reach |= {x} if changed.any() else set()
    assert max(reach) - min(reach) + 1 == 15
    assert stem(quiet).numpy().min() == 0


def test_probabilities_pad_the_last_batch_and_do_not_change_the_answer(small):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3)).astype(np.uint8)
    whole = np.asarray(small(scaled(pixels), training=False))
    for batch_size in (1, 3, 16):
        got = probabilities(small, pixels, batch_size)
        assert got.shape == (7, 5)
        # Float32 sums in another order for another batch size: a few units in the last place.
        np.testing.assert_allclose(got, whole, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert probabilities(small, pixels[:0]).shape == (0, 5)


def test_probabilities_use_neither_dropout_nor_the_batchs_statistics(small):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    before = [np.array(variable) for variable in small.variables]
    first = probabilities(small, pixels, 4)
    np.testing.assert_array_equal(first, probabilities(small, pixels, 4))
    # An eye's answer does not depend on its neighbours in the batch.
    np.testing.assert_allclose(
        first[:1],
        probabilities(small, np.concatenate([pixels[:1], 255 - pixels[1:]]), 4)[:1],
        rtol=2e-5,
    )
    for old, new in zip(before, small.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_one_shape_is_compiled_once(small):
    pixels = np.zeros((9, 64, 64, 3), np.uint8)
    seen = []
    model = keras.Model(
        small.inputs[0], keras.layers.Lambda(lambda x: seen.append(x.shape) or x)(small.output)
    )
    seen.clear()
    for eyes in (9, 4, 1, 7):
        probabilities(model, pixels[:eyes], 4)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_mixed_precision_keeps_weights_and_answer_in_float32(kind):
    model = build(
        ModelParams(
            backbone="small",
            backbone_weights="none",
            input_size=32,
            dense=(4,),
            mixed_precision=kind,
        )
    )
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert model.get_layer("stem").compute_dtype == kind
    assert model.get_layer("stage").compute_dtype == "float32"


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path, little_inception, small):
    base = little_inception(False, None, (96, 96, 3))
    right = tmp_path / "right.weights.h5"
    base.save_weights(right)
    build(ModelParams(backbone_weights=str(right), input_size=96))
    torn = tmp_path / "torn.weights.h5"
    torn.write_bytes(right.read_bytes()[:1000])
    other = tmp_path / "other.weights.h5"
    small.save_weights(other)
    poisoned = tmp_path / "poisoned.weights.h5"
    base.layers[1].set_weights([np.full_like(base.layers[1].get_weights()[0], np.nan)])
    base.save_weights(poisoned)
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"\x80\x04")
    for source, message in (
        (torn, "does not hold the weights"),
        (other, "does not hold the weights"),
        (poisoned, "not finite"),
        (pickled, "not a weights-only"),
        (tmp_path / "none.weights.h5", "no file"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            build(ModelParams(backbone_weights=str(source), input_size=96))
        assert "\n" not in str(caught.value)
        assert str(source) in str(caught.value)


def test_imagenet_without_a_network_is_one_clear_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("URL fetch failure\nand more")

    monkeypatch.setattr(keras.applications, "InceptionV3", fail)
    with pytest.raises(
        ValueError,
        match=r"ImageNet weights could not be downloaded \(URL fetch failure\): give .* a path",
    ):
        build(ModelParams())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_size": 64}, "at least 75 px"),
        ({"dense": ()}, "at least one layer"),
        ({"dense": (0,)}, r"dense must be at least 1 \(units of a layer\), not 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"backbone_weights": ""}, "not empty"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModelParams(**wrong)


REAL_TRUNK = os.environ.get("DR_TRUNK_WEIGHTS", "")


@pytest.mark.skipif(not os.path.isfile(REAL_TRUNK), reason="DR_TRUNK_WEIGHTS names no file")
def test_the_real_trunk_loads():
    model = build(ModelParams(backbone_weights=REAL_TRUNK))
    assert model.get_layer("conv1").get_weights()[0].std() > 0
