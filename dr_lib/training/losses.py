"""What a mini-batch is trained on: cross-entropy, to which the ordinal loss adds how far off the
stage is.
"""

from typing import Any

from dr_lib.training.params import TrainingParams


def loss_of(params: TrainingParams) -> Any:
    """The Keras loss of (target, predicted) probabilities, (n, 5) each, its mean over the
    mini-batch.

    "crossentropy" charges a stage 0 called 4 as much as one called 1. "ordinal" adds
    `ordinal_weight` times the squared earth mover's distance `Σ_k (Σ_{s≤k} predicted_s −
    target_s)²`: for certain stages the number of stages between the two. It stands beside
    cross-entropy, not in its place, since by itself its gradient vanishes where a softmax is
    certain and wrong (L. Hou, C.-P. Yu, D. Samaras: Squared earth mover's distance-based loss for
    training deep neural networks, 2016). Both have their minimum at predicted = target.
    """
    import keras

    if params.loss == "crossentropy":
        return keras.losses.CategoricalCrossentropy()

    def ordinal(target: Any, predicted: Any) -> Any:
        apart = keras.ops.cumsum(predicted - target, axis=-1)
        distance = keras.ops.sum(keras.ops.square(apart), axis=-1)
        return (
            keras.losses.categorical_crossentropy(target, predicted)
            + params.ordinal_weight * distance
        )

    return ordinal
