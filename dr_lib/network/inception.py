"""The backbone Inception V3 of `keras.applications`, its layers named by their place."""

import pathlib
import warnings
from typing import Any

import numpy as np

from dr_lib.network.backbone import NORM_MOMENTUM, Backbone, next_seed

SHORT_NAMES = {
    "Conv2D": "conv",
    "BatchNormalization": "norm",
    "Activation": "relu",
    "MaxPooling2D": "maxpool",
    "AveragePooling2D": "avgpool",
    "Concatenate": "concat",
}


def _build(
    input_size: int, weights: str, policy: str, seeds: np.random.Generator
) -> tuple[Any, Any]:
    """Input and pooled features of Inception V3 without its top, every layer renamed by its
    place.
    """
    import keras

    base = _base(input_size, weights)
    names = _names_by_place(base)

    def renamed(layer: Any) -> Any:
        config = layer.get_config() | {"name": names[layer.name], "dtype": policy}
        if "momentum" in config:
            config["momentum"] = NORM_MOMENTUM
        if "kernel_initializer" in config:
            config["kernel_initializer"] = keras.initializers.GlorotUniform(seed=next_seed(seeds))
        return layer.__class__.from_config(config)

    inputs = keras.Input((input_size, input_size, 3), name="fundus")
    network = keras.models.clone_model(base, input_tensors=inputs, clone_function=renamed)
    if weights != "none":
        for layer in base.layers[1:]:
            network.get_layer(names[layer.name]).set_weights(layer.get_weights())
    return inputs, keras.layers.GlobalAveragePooling2D(name="pooled", dtype=policy)(
        network.outputs[0]
    )


def _base(input_size: int, weights: str) -> Any:
    """Keras' own `InceptionV3(include_top=False)`, filled from its ImageNet file, a weights-only
    file, or random.
    """
    import keras

    def inception(file: str | None) -> Any:
        shape = (input_size, input_size, 3)
        return keras.applications.InceptionV3(include_top=False, weights=file, input_shape=shape)

    if weights == "imagenet":
        try:
            return inception("imagenet")
        except Exception as error:
            raise ValueError(
                f"the ImageNet weights could not be downloaded ({_one_line(error)}): give"
                " backbone_weights a path, or none"
            ) from error
    base = inception(None)
    if weights != "none":
        _load_weights(base, weights)
    return base


def _names_by_place(base: Any) -> dict[str, str]:
    """Each layer's name in our scheme: its class and its number in the order of creation; `stem` is
    the fifth activation.

    Keras numbers layers by a counter of the whole process, so its own names differ from model to
    model.
    """

    def creation(layer: Any) -> int:
        tail = layer.name.rsplit("_", 1)[-1]
        return int(tail) if tail.isdigit() else 0

    names, counts = {}, dict.fromkeys(SHORT_NAMES, 0)
    for layer in sorted(base.layers, key=creation):
        kind = type(layer).__name__
        if layer.name.startswith("mixed"):
            names[layer.name] = layer.name
        elif kind == "InputLayer":
            names[layer.name] = "fundus"
        else:
            counts[kind] += 1
            names[layer.name] = f"{SHORT_NAMES[kind]}{counts[kind]}"
    return {old: "stem" if new == "relu5" else new for old, new in names.items()}


def _load_weights(base: Any, source: str) -> None:
    """Fill a fresh backbone from a weights-only file, or say in one line why it can't be."""
    path = pathlib.Path(source)
    if not path.is_file():
        raise ValueError(
            f"backbone_weights: no file {source} (give imagenet, none, or the path of a .weights.h5"
            " file)"
        )
    if path.suffix != ".h5":
        raise ValueError(f"backbone_weights: {source} is not a weights-only .h5 file")
    try:
        # Keras only warns of layers that a file leaves out, and they would stay random.
        with warnings.catch_warnings(action="error", category=UserWarning):
            base.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"backbone_weights: {source} does not hold the weights of InceptionV3 without its top"
            f" ({_one_line(error)})"
        ) from error
    if not all(np.isfinite(weight).all() for weight in base.get_weights()):
        raise ValueError(f"backbone_weights: {source} holds numbers that are not finite")


def _one_line(error: Exception) -> str:
    """The first line of an error's message, short enough for one line of a terminal."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


# Below 75 px the last blocks would have no position left (keras.applications' own limit).
INCEPTION_V3 = Backbone("Inception V3", 75, 11, _build)
