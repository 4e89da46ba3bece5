"""The small backbone: it learns from a few hundred eyes in a minute on two cores."""

import functools
from typing import Any

import numpy as np

from dr_lib.network.backbone import NORM_MOMENTUM, Backbone, next_seed


def _build(
    blocks: tuple[int, ...], input_size: int, weights: str, policy: str, seeds: np.random.Generator
) -> tuple[Any, Any]:
    """The input and the pooled features.

    `stem` has stride 4 and sees 15×15 px: the largest lesions fit, and a neuron's region stays
    small. Three concatenation blocks follow, at strides 4·2, 4·4 and 4·8.
    """
    import keras

    def convolution(
        x: Any, filters: int, size: int, strides: int, name: str, relu: str | None = None
    ) -> Any:
        start = keras.initializers.HeNormal(seed=next_seed(seeds))
        x = keras.layers.Conv2D(
            filters,
            size,
            strides,
            "same",
            use_bias=False,
            kernel_initializer=start,
            name=f"{name}_conv",
            dtype=policy,
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=NORM_MOMENTUM, name=f"{name}_norm", dtype=policy
        )(x)
        return keras.layers.Activation("relu", name=relu or f"{name}_relu", dtype=policy)(x)

    def block(x: Any, filters: int, name: str) -> Any:
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool", dtype=policy)(x)
        point = convolution(x, filters, 1, 1, f"{name}_one")
        three = convolution(x, filters, 3, 1, f"{name}_three")
        squeezed = convolution(x, filters // 2, 1, 1, f"{name}_squeeze")
        five = convolution(squeezed, filters, 5, 1, f"{name}_five")
        return keras.layers.Concatenate(name=name, dtype=policy)([point, three, five])

    inputs = keras.Input((input_size, input_size, 3), name="fundus")
    x = convolution(inputs, 16, 3, 2, "conv1")
    x = convolution(x, 24, 3, 2, "conv2")
    x = convolution(x, 32, 3, 1, "conv3", relu="stem")
    for number, filters in enumerate(blocks):
        x = block(x, filters, f"mixed{number}")
    # A lesion a few pixels wide vanishes in an average over the eye: each channel's largest
    # activation is kept, too.
    average = keras.layers.GlobalAveragePooling2D(name="pooled_average", dtype=policy)(x)
    strongest = keras.layers.GlobalMaxPooling2D(name="pooled_max", dtype=policy)(x)
    return inputs, keras.layers.Concatenate(name="pooled", dtype=policy)([average, strongest])


def small_trunk(blocks: tuple[int, ...] = (24, 32, 48)) -> Backbone:
    """The small backbone. blocks: filters of each concatenation block."""
    return Backbone("A small network", 32, len(blocks), functools.partial(_build, blocks))


SMALL = small_trunk()
